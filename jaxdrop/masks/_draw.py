"""The one place that draws bits: packed words whose bits are 1 with an exact probability.

Bit-slicing. A word holds the decisions of 32 entries, and an entry is dropped when a uniform
32-bit integer u lies below the threshold t. Compare from the least to the most significant bit,
w being the plane of that bit of all 32 u's: where the bit of t is 1, ``keep & w`` holds what is
still "u >= t"; where it is 0, ``keep | w``. A uniform bit and its complement are the same to us:
the planes below are the complements of w. Those below the last set bit of t cost nothing.

Plane 31 - 2 p and plane 30 - 2 p of word number i are the two words of the Threefry-2x32 block
with the counter (i, p), so that a word depends on the key, its number and the threshold alone:
not on who else is drawn, in what order, or where.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop.masks import _keys, _rate, _sharding
from jaxdrop.masks._layout import Layout, pack

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)
_PAIRS = 12  # of planes: the threshold has 24 bits at most
# jax.random counts its blocks from 0 in both counter words: the top bit keeps ours apart.
_DOMAIN = np.uint32(1 << 31)
_ENTRY_DOMAIN = np.uint32(1 << 30)  # of whole numbers for each entry
# From here on two threads draw faster than one, the cost of waking them included.
_MANY_WORDS = 1 << 16


def keep_words(key, rate, layout: Layout, sharding=None, least_bits=16):
    """Packed words, uint32 of ``layout.words_shape``: each bit is 1 where the entry survives.

    Args:
        key: one PRNG key.
        rate: a Python float, or an array that broadcasts to the mask shape.
        layout: where the words lie in the mask.
        sharding: sharding of the mask on an Explicit mesh, or None.
        least_bits: of the threshold.
    """
    words, used = _keys.words(key)
    sharding = _sharding.words_sharding(layout, sharding)
    numbers = _word_numbers(layout.words_shape, sharding)
    used = _counted(used, rate)
    return compare(_cipher_key(words), numbers, rate, layout, sharding, least_bits, used=used)


def cipher_words(key, rate):
    """The two words that stand for a key in `compare`, as one array; uses the key up."""
    words, used = _keys.words(key)
    stacked, used = jnp.stack(_cipher_key(words)), _counted(used, rate)
    return stacked if used is None else stacked ^ (used & np.uint32(0))


def _counted(used, rate):
    """What a result has to depend on for the use of the key to be seen, or None.

    Seen by the newest jax only if the result depends on it; with a static rate it sees it anyway,
    and takes a use in the result for a second one where checkpoint computes again.
    """
    return None if isinstance(rate, float) else used


def compare(cipher_key, numbers, rate, layout, sharding, least_bits=16, used=None, align=None):
    """Packed words of ``layout`` from the planes of the words with these numbers.

    Args:
        cipher_key: two uint32 scalars.
        numbers: of the words that are hashed, as `word_numbers` gives them.
        rate: as in `keep_words`.
        layout: of the result.
        sharding: of the result's words on an Explicit mesh, or None.
        least_bits: of the threshold.
        used: a uint32 that the result is to depend on, or None.
        align: from a plane of the words that are hashed to one of the result's, or None.
    """
    if isinstance(rate, float):
        limit, everything = (np.asarray(a) for a in _rate.threshold(rate, np, least_bits))
    else:
        if rate.ndim:
            rate = rate.reshape((1,) * (len(layout.shape) - rate.ndim) + rate.shape)
            rate = _sharding.whole_runs(rate, layout)
        limit, everything = _rate.threshold(rate, least_bits=least_bits)
    (key0, key1), (low, high) = cipher_key, numbers
    high = high * np.uint32(_PAIRS) + _DOMAIN
    threaded = math.prod(layout.words_shape) >= _MANY_WORDS

    def step(i, keep):
        pair = pairs - 1 - (_on_all_threads(i) if threaded else i)
        planes = threefry2x32(key0, key1, low, high + jnp.uint32(pair))
        first, second = planes if align is None else map(align, planes)
        for plane, shift in ((second, 30 - 2 * pair), (first, 31 - 2 * pair)):
            bit = _bit_words(limit >> jnp.uint32(shift) & np.uint32(1), layout)
            keep = (keep & ~plane) | (~bit & (keep | ~plane))
        return keep

    # Inside shard_map the carry has to vary over the mesh axes that key and rate vary over.
    varying = key0 | limit.sum(dtype=jnp.uint32)
    if used is not None:
        varying = varying | used
    ones = jnp.full(layout.words_shape, 2**32 - 1, jnp.uint32) ^ (varying & np.uint32(0))
    if sharding is not None:
        ones = jax.sharding.reshard(ones, sharding)
    pairs = _pairs(limit)
    keep = lax.fori_loop(0, pairs, step, ones)
    if isinstance(rate, float):
        return jnp.zeros_like(keep) if everything else keep
    return keep & ~_bit_words(everything, layout)


def entry_integers(key, shape, sharding=None):
    """A uniform uint32 for each entry of ``shape``: the first word of a block of its own."""
    words, used = _keys.words(key)
    low, high = _word_numbers(shape, sharding)
    first, _ = threefry2x32(*_cipher_key(words), low, high + _ENTRY_DOMAIN)
    return first ^ (used & np.uint32(0))


def _cipher_key(words):
    """Two words from those of a key of any implementation; those of a threefry2x32 key as they are.

    JAX's own bits of the others are dearer, differ between backends, and under vmap those of rbg
    keys depend on the whole batch.
    """
    words = [*words, np.uint32(0)] if len(words) % 2 else words
    cipher_key = words[0], words[1]
    for more in zip(words[2::2], words[3::2]):
        cipher_key = threefry2x32(*cipher_key, *more)
    return cipher_key


def _on_all_threads(i):
    """The counter ``i`` of a loop, in such a way that XLA runs the loop on all threads of a CPU.

    The XLA of jax 0.12 takes every loop of element-wise operations for a small one and compiles it
    into a function for one thread, twice as slow on two cores; one that holds a sort is spared.
    """

    def sorted_first(i):
        return lax.sort(jnp.stack([i, jnp.full_like(i, np.iinfo(np.int32).max)]))[0]

    return lax.platform_dependent(i, cpu=sorted_first, default=lambda i: i)


def _pairs(limit):
    """Number of plane pairs down to the last set bit of the threshold, at most `_PAIRS`."""
    if isinstance(limit, np.ndarray):
        trailing = 32 if limit == 0 else (int(limit) & -int(limit)).bit_length() - 1
        # XLA unrolls a loop of one step, then fuses the hash into the element-wise consumer and
        # computes it again for every entry. The planes of a second step change no bit.
        return max(2, (33 - trailing) // 2)
    if limit.ndim:
        return _PAIRS  # the largest over all entries would cost a collective on a sharded rate
    trailing = lax.population_count((limit & (np.uint32(0) - limit)) - np.uint32(1))
    return ((33 - trailing.astype(jnp.int32)) // 2).astype(jnp.int32)


def _bit_words(bit, layout):
    """A 0/1 value for each entry as words; all ones or zeros where whole words agree."""
    if bit.ndim == 0:
        return np.uint32(0) - bit.astype(jnp.uint32)
    return pack(bit, layout)


def _word_numbers(shape, sharding):
    """Row-major number of each word of an array of this shape, as `word_numbers` gives it."""
    axes = range(len(shape))
    positions = [lax.broadcasted_iota(jnp.uint32, shape, a, out_sharding=sharding) for a in axes]
    return word_numbers(shape, positions)


def word_numbers(shape, positions):
    """Row-major number of the words at ``positions`` as ``(low 32 bits, the rest)``.

    The rest counts whole leading axes: as many trailing axes as 32 bits can number go into the
    low part.

    Args:
        shape: of all words.
        positions: along each axis of it, uint32 arrays that broadcast to each other.
    """
    low, high, stride, leading = jnp.uint32(0), jnp.uint32(0), 1, 1
    for size, position in zip(reversed(shape), reversed(positions)):
        if leading == 1 and stride * size <= 1 << 32:
            low = low + position * np.uint32(stride)
            stride *= size
        else:
            high = high + position * np.uint32(leading)
            leading *= size
    if leading > (1 << 31) // _PAIRS:
        raise ValueError(f"shape: expected at most 2**57 words, got words of shape {shape}")
    return low, high


def threefry2x32(key0, key1, x0, x1):
    """The Threefry-2x32 block cipher with 20 rounds, element-wise on uint32 arrays.

    Written out because JAX's own primitive lowers to a loop over whole arrays on the CPU, and
    because the bits may not change with the version of JAX.

    References:
        Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011, section 4.1.
    """
    schedule = (key0, key1, key0 ^ key1 ^ _PARITY)
    x0, x1 = x0 + key0, x1 + key1
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = x1 << np.uint32(rotation) | x1 >> np.uint32(32 - rotation)
            x1 = x0 ^ x1
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + schedule[(group + 2) % 3] + np.uint32(group + 1)
    return x0, x1
