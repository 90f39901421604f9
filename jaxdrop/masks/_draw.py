"""The one place that draws bits: packed words whose bits are 1 with an exact probability.

Bit-slicing: a word holds 32 decisions. Each element has a uniform 32-bit integer u and is dropped
if u lies below the threshold t. Plane b of a word holds bit b of its 32 integers. Compare from
the least to the most significant plane w: where the bit of t is 1, ``keep & w`` holds what is still
"u >= t"; where it is 0, ``keep | w``. Planes below the last set bit of t cost nothing.

Planes 31 - 4 p to 28 - 4 p of word number i are the four words that Philox-4x32 gives for a counter
that holds i and p. So a word depends on the key, its number and the threshold alone: not on who
else is drawn, in what order, or where.

With a key of a pass of a block, the first planes are those of a rank (see `_balanced`). All else is
the same for the passes of a block, and what is computed from it does not depend on the pass.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding

from jaxdrop.masks import _balanced, _keys, _sharding
from jaxdrop.masks._balanced import CipherKey
from jaxdrop.masks._layout import Layout, is_known, pack
from jaxdrop.masks._philox import philox4x32, wide_product
from jaxdrop.masks._rate import Odds

_PLANES = 4  # of one evaluation of the cipher
_MOST_PLANES = 24  # of a threshold
_USUAL = 4  # evaluations per threshold, for rates that are not close to 0 or 1
_SHORT = 8  # words of a row
# What the cipher is evaluated for: one word of its counter.
_MASKS, ELEMENTS, _KEYS, _RANKS = map(np.uint32, range(4))

DECISIONS = "jaxdrop.decisions"  # the scope in which they are drawn

Numbers = Sequence[Any]  # of words, their low and their high 32 bits
Sharding = NamedSharding | None  # of an array on an Explicit mesh


def keep_words(key: jax.Array, odds: Odds, layout: Layout, sharding: Sharding = None) -> jax.Array:
    """Packed words, uint32 of ``layout.words_shape``: each bit is 1 where the element survives.

    Args:
        key: one PRNG key.
        odds: of a rate that broadcasts to the mask shape.
        layout: where the words lie in the mask.
        sharding: sharding of the mask on an Explicit mesh, or None.
    """
    sharding = _sharding.words_sharding(layout, sharding)
    numbers = _all_numbers(layout.words_shape, sharding)
    return draw_planes(decision_key(key, odds.known), numbers, odds, layout, sharding)


def decision_key(key: jax.Array, known_rate: bool = False) -> CipherKey:
    """What decisions come from, from a key of any implementation or of a pass; uses the key up."""
    kind = _balanced.kind_of(key)
    if kind is None:
        return CipherKey(cipher_key(key, known_rate))
    words, consumed = _keys.key_words(key)
    words[-1] = words[-1] if known_rate else words[-1] ^ (consumed & np.uint32(0))
    return _balanced.cipher_key_of_block(words, kind)


def cipher_key(key: jax.Array, known_rate: bool = False) -> tuple[Any, Any]:
    """The two words that key the cipher, from a key of any implementation; uses the key up.

    A key of two words is taken as it is. JAX's own bits of the other implementations are dearer,
    differ between backends, and under vmap those of rbg keys depend on the whole batch.
    """
    words, consumed = _keys.key_words(key)
    words = [*words, np.uint32(0)] if len(words) % 2 else words
    pair = words[0], words[1]
    for more in zip(words[2::2], words[3::2]):
        pair = philox4x32(pair, (jnp.uint32(0), more[0], jnp.uint32(_KEYS), more[1]))[:2]
    if known_rate:
        # The key-reuse checker of the newest jax counts a use only if the result depends on it.
        # With a static rate it already does, and a second dependency would be reported as reuse
        # when checkpoint recomputes.
        return pair
    return pair[0] ^ (consumed & np.uint32(0)), pair[1]


def draw_planes(
    cipher_key: CipherKey,
    numbers: Numbers,
    odds: Odds,
    layout: Layout,
    sharding: Sharding,
    align: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    """Packed words of ``layout`` from the planes of the words with these numbers.

    Args:
        cipher_key: from `decision_key`.
        numbers: of the words that are hashed, as `word_numbers` gives them.
        odds: as in `keep_words`.
        layout: of the result.
        sharding: of the result's words on an Explicit mesh, or None.
        align: from a plane of the words that are hashed to one of the result's, or None.
    """
    limit, words, ranked = odds.limit, cipher_key.words, cipher_key.bits
    count = -(-max(_num_planes(odds) - ranked, 0) // _PLANES)
    bit_of, all_dropped = _limit_words(odds, ranked + _PLANES * count, layout)

    def step(i: Any, keep: jax.Array, numbers: Numbers, backend: str) -> jax.Array:
        number = count - 1 - i
        planes = _decided(words, counter(numbers, _MASKS, number), backend)
        for place, plane in reversed(list(enumerate(planes))):
            bit = bit_of(_PLANES * number + (ranked + place))
            keep = _compared(keep, plane if align is None else align(plane), bit)
        return keep

    # Inside shard_map the words have to vary over the mesh axes that key and rate vary over.
    varying = (words[0] | limit.sum(dtype=jnp.uint32)) & np.uint32(0)
    ones = jnp.full(layout.words_shape, 2**32 - 1, jnp.uint32) ^ varying
    if sharding is not None:
        ones = jax.sharding.reshard(ones, sharding)
    alike = limit.ndim == 0 and align is None and sharding is None
    usual = None if odds.known or limit.ndim else (limit & np.uint32(0xFFFF)) == np.uint32(0)
    keep = _repeat(count, step, ones, numbers, alike, usual) if count else ones
    if ranked:
        most = min(ranked, _num_planes(odds))
        keep = _with_ranks(cipher_key, numbers, most, keep, bit_of, align)
    return keep & ~all_dropped


def _decided(key: Any, counter: Any, backend: str) -> Any:
    """The cipher, noted as that of decisions."""
    with jax.named_scope(DECISIONS):
        return philox4x32(key, counter, backend)


def _compared(keep: jax.Array, plane: jax.Array, bit: Any) -> jax.Array:
    """What is still at least the threshold, after a plane that is more significant."""
    if isinstance(bit, np.generic):
        return keep & plane if bit else keep | plane
    return keep & plane | ~bit & (keep | plane)


def _with_ranks(
    cipher_key: CipherKey,
    numbers: Numbers,
    most: int,
    keep: jax.Array,
    bit_of: Callable[[Any], Any],
    align: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:
    """The words of a pass, from the comparison of what is below the ranks.

    Args:
        cipher_key: of the pass.
        numbers: as in `draw_planes`.
        most: number of planes of a rank that matter.
        keep: the comparison so far, the same in all passes of the block.
        bit_of: as `_limit_words` gives it.
        align: as in `draw_planes`.
    """
    bits, words = cipher_key.bits, cipher_key.words
    count = -(-(2 * bits + most) // _PLANES)

    def hashed(number: Any, backend: str) -> list[jax.Array]:
        planes = _decided(words, counter(numbers, _RANKS, number), backend)
        return [plane if align is None else align(plane) for plane in planes]

    def written_out(keep: jax.Array) -> list[jax.Array]:
        planes = [plane for number in range(count) for plane in hashed(number, "gpu")]
        return lax.optimization_barrier(shared(planes, keep))

    def in_loop(keep: jax.Array, backend: str) -> list[jax.Array]:
        fours = lax.map(lambda number: jnp.stack(hashed(number, backend)), jnp.arange(count))
        return shared(list(fours.reshape(-1, *keep.shape)), keep)

    def shared(planes: list[jax.Array], keep: jax.Array) -> list[jax.Array]:
        slope, offset = planes[: 2 * bits], planes[2 * bits : 2 * bits + most]
        return [*_balanced.slopes(slope), *offset, keep]

    *planes, keep = lax.platform_dependent(
        keep,
        cpu=lambda keep: _behind_loop(in_loop(keep, "cpu")),
        tpu=functools.partial(in_loop, backend="tpu"),
        default=written_out,
    )
    of_pass = _balanced.ranks(planes[:bits], planes[bits:], cipher_key.number)
    for place, plane in reversed(list(enumerate(of_pass))):
        keep = _compared(keep, plane, bit_of(place))
    return lax.platform_dependent(keep, cpu=_behind_loop, default=lambda words: words)


def counter(numbers: Numbers, purpose: np.uint32, number: Any = 0) -> tuple[Any, ...]:
    """The counter of one evaluation of the cipher, number ``number`` of the words it is for.

    The low word of the number stands in both words that the first round does not multiply, so
    that from the second on both products are those of arrays: a GPU would compute a product of
    scalars in a kernel of its own.
    """
    low, high = numbers
    return jnp.asarray(number, jnp.uint32), low, jnp.uint32(purpose), low + high


def _repeat(
    count: int,
    step: Callable[..., jax.Array],
    start: jax.Array,
    numbers: Numbers,
    alike: bool,
    usual: Any,
) -> jax.Array:
    """``step(i, words, numbers, backend)`` for each i below ``count``, as each backend likes it.

    Written out on a GPU, where every trip of a loop costs several launches, and on a CPU, where the
    loop is slower. In a loop on a TPU, whose compiler takes a minute for what is written out.

    Args:
        count: number of steps.
        step: gives the words after one step more.
        start: the words before the first.
        numbers: of the words, as `word_numbers` gives them.
        alike: whether a step treats all words alike, in whatever shape.
        usual: whether only the last `_USUAL` steps change anything; None if that is not asked.
    """

    def written_out(
        words: jax.Array, numbers: Numbers, backend: str, steps: range = range(count)
    ) -> jax.Array:
        for i in steps:
            words = step(i, words, numbers, backend)
        return words

    def on_gpu(words: jax.Array) -> jax.Array:
        return written_out(words, numbers, "gpu")

    def on_cpu(words: jax.Array) -> jax.Array:
        rows = _with_long_rows(words.shape) if alike else words.shape
        merged = [n.reshape(rows) if n.ndim and alike else n for n in numbers]
        keep, steps = words.reshape(rows), range(count)
        if usual is not None:
            first, steps = steps[:-_USUAL], steps[-_USUAL:]
            more = lambda words: written_out(words, merged, "cpu", first)  # noqa: E731
            keep = lax.cond(usual, lambda words: words, more, keep)
        return _behind_loop(written_out(keep, merged, "cpu", steps)).reshape(words.shape)

    def in_loop(words: jax.Array) -> jax.Array:
        # A loop of one step would be written out, unless its length is not known.
        length = lax.optimization_barrier(np.int32(1)) if count == 1 else count
        return lax.fori_loop(0, length, lambda i, words: step(i, words, numbers, "tpu"), words)

    return lax.platform_dependent(start, cpu=on_cpu, tpu=in_loop, default=on_gpu)


def _behind_loop(words: Any) -> Any:
    """Words, one array or a list, behind a loop that never runs: XLA does not fuse across a loop.

    Else it fuses, on a CPU, the draw into what applies the words, and computes each of them 32
    times. Before jax 0.12 an optimization barrier alone does not hinder it.
    """
    never = lax.optimization_barrier(np.uint32(0))
    flip = lambda s: (s[0], jax.tree.map(jnp.invert, s[1]))  # noqa: E731
    return lax.while_loop(lambda s: s[0] > np.uint32(1), flip, (never, words))[1]


def _num_planes(odds: Odds) -> int:
    """Number of planes down to the last set bit of the threshold."""
    if not odds.known:
        return _MOST_PLANES
    limit = int(odds.limit)
    return 33 - (limit & -limit).bit_length() if limit else 0


def _limit_words(odds: Odds, count: int, layout: Layout) -> tuple[Callable[[Any], Any], Any]:
    """The threshold as words, of all ones or zeros where the elements of a word agree.

    Returns:
        A function of i that gives bit 31 - i of the threshold, for i below ``count``; and the
        words that are 1 where everything is dropped. A bit is a NumPy value if threshold and i are.
    """
    limit, everything = odds.limit, odds.everything
    if limit.ndim == 0:
        ones = np.uint32(0xFFFFFFFF)
        spread = lambda bit: (bit.astype(np.uint32) & np.uint32(1)) * ones  # noqa: E731
        place = lambda i: np.uint32(i) if isinstance(i, int) else i.astype(np.uint32)  # noqa: E731
        bit_of = lambda i: spread(limit >> (np.uint32(31) - place(i)))  # noqa: E731
        return bit_of, spread(everything)
    # A threshold leaves the lowest bits free: bit 0 says that everything is dropped.
    values = limit | everything.astype(jnp.uint32)
    values = values.reshape((1,) * (len(layout.shape) - values.ndim) + values.shape)
    values = _sharding.whole_runs(values, layout)

    def planes(values: jax.Array) -> jax.Array:
        whole = jnp.broadcast_to(values, (count + 1, *values.shape))
        plane = lax.broadcasted_iota(jnp.uint32, whole.shape, 0)
        shift = jnp.where(plane == np.uint32(count), np.uint32(0), np.uint32(31) - plane)
        return whole >> shift & np.uint32(1)

    words = pack(values, layout, planes)
    words = lax.platform_dependent(words, cpu=_behind_loop, default=lambda words: words)
    word_of = lambda i: lax.dynamic_index_in_dim(words, i, 0, keepdims=False)  # noqa: E731
    return word_of, word_of(count)


def iotas(shape: tuple[int, ...], sharding: Sharding) -> list[jax.Array]:
    """The place of each element of an array of ``shape`` along each of its axes."""
    if 0 not in shape and any(is_known(size) and size > 1 << 32 for size in shape):
        raise ValueError(
            f"shape: expected at most 2**32 words or numbers to draw along an axis, got {shape}; "
            "spread the elements over several axes with x.reshape"
        )
    axes = range(len(shape))
    return [lax.broadcasted_iota(jnp.uint32, shape, a, out_sharding=sharding) for a in axes]


def merged_places(
    shape: tuple[int, ...], sharding: Sharding
) -> tuple[tuple[int, ...], list[jax.Array]]:
    """Sizes of axes, and the place of each element along them; those before the last as one axis.

    A GPU would compute places in a kernel per axis. They stay apart on an Explicit mesh.
    """
    *rows, last = iotas(shape, sharding)
    size = math.prod(shape[:-1])
    if sharding is None and is_known(size) and size <= 1 << 32:
        return (size, shape[-1]), [lax.iota(jnp.uint32, size).reshape(*shape[:-1], 1), last]
    return shape, [*rows, last]


def _with_long_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with short last axes merged: a CPU vectorises along the last one."""
    while len(shape) > 1 and is_known(shape[-1]) and shape[-1] < _SHORT:
        shape = (*shape[:-2], shape[-2] * shape[-1])
    return shape


def _all_numbers(shape: tuple[int, ...], sharding: Sharding) -> Numbers:
    """The number of each word of an array of ``shape``, as `word_numbers` gives it."""
    size = math.prod(shape)
    if sharding is None and is_known(size) and size <= 1 << 32:
        return lax.iota(jnp.uint32, size).reshape(shape), np.uint32(0)
    return word_numbers(shape, iotas(shape, sharding))


def word_numbers(shape: tuple[int, ...], positions: Sequence[Any]) -> Numbers:
    """Row-major number of the words at ``positions``, as its low and its high 32 bits.

    It does not depend on the size of the first axis.

    Args:
        shape: of all words.
        positions: along each axis of it, uint32 arrays that broadcast to each other.
    """
    low, high, stride = np.uint32(0), np.uint32(0), 1
    below, above = np.uint32(1), np.uint32(0)  # the stride, as its low and its high 32 bits
    for size, position in zip(reversed(shape), reversed(positions)):
        step = low + position * below
        end = stride * size
        if not is_known(end) or end > 1 << 32:
            high = high + wide_product(position, below)[0]
            high = high + position * above + (step < low).astype(jnp.uint32)
        low, stride = step, end
        below, above = _halves(below, above, size, end)
    return low, high


def _halves(below: Any, above: Any, size: Any, end: Any) -> tuple[Any, Any]:
    """A stride, ``below`` and ``above`` of it, times a size: ``end``, as two words again.

    A program knows symbolic sizes as numbers of 31 bits, and so not their product.
    """
    if is_known(end):
        return np.uint32(end & 0xFFFFFFFF), np.uint32(end >> 32 & 0xFFFFFFFF)
    number = jnp.asarray(size).astype(jnp.uint32)
    high, low = wide_product(number, below)
    return low, high + above * number
