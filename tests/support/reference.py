"""The draw once more, slowly, in NumPy and exact fractions; it shares no code with the library.

Entry by entry: its 32-bit integer u is put together from the planes, and it is dropped if u lies
below the threshold t: with probability t / 2**32.
"""

import math
from fractions import Fraction

import numpy as np


def threshold(rate, least_bits=16):
    """Integer in [0, 2**32]: the float32 rate in steps of 2**-16, to 2**-24 near 0 and 1."""
    rate = np.float32(rate)
    exact, least = Fraction(float(rate)), float(min(rate, np.float32(1) - rate))
    steps = least_bits
    if least > 0:
        steps = min(max(least_bits, 8 - math.frexp(least)[1]), 24)
    return round(exact * 2**steps) * 2 ** (32 - steps)  # halves go to the even step


def keep_probability(rate):
    """The exact probability that an entry survives, a fraction."""
    return 1 - Fraction(threshold(rate), 2**32)


SATURATION = -1.7580993408473766


def alpha_map(keep):
    """The two numbers ``(a, b)`` of alpha dropout (Klambauer et al. 2017, section 3)."""
    a = (keep + SATURATION**2 * keep * (1 - keep)) ** -0.5
    return a, -a * (1 - keep) * SATURATION


def _alpha(x, keep):
    a, b = alpha_map(keep)
    return a * x + b


# What the table says of alpha dropout.
ALPHA = {
    "lost": lambda rate, keep: _alpha(SATURATION, keep) if keep else 0.0,
    "survivor": lambda x, rate, keep: _alpha(x, keep),
    "affine": True,
}


def philox4x32(key, counter):
    """Philox-4x32 with 10 rounds (Salmon et al. 2011, section 4.3), in products of 64 bits."""
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    key = [np.asarray(word, np.uint64) for word in key]
    x = [np.asarray(word, np.uint64) for word in counter]
    for _ in range(10):
        first, second = x[0] * np.uint64(0xD2511F53), x[2] * np.uint64(0xCD9E8D57)
        x = [
            second >> shift ^ x[1] ^ key[0],
            second & mask,
            first >> shift ^ x[3] ^ key[1],
            first & mask,
        ]
        key = [key[0] + np.uint64(0x9E3779B9) & mask, key[1] + np.uint64(0xBB67AE85) & mask]
    return tuple(word.astype(np.uint32) for word in x)


def cipher_key(words):
    """The two words that the draw is keyed with, from those of a key of any implementation."""
    words = np.pad(np.asarray(words, np.uint32), (0, len(words) % 2))
    pairs = words.reshape(-1, 2, 1)
    key = pairs[0]
    for pair in pairs[1:]:
        key = philox4x32(key, (0, pair[0], 2, pair[1]))[:2]
    return np.ravel(key)


def packed_axes(shape):
    """Axes ``(start, stop)`` that are packed into words, in row-major order."""
    rank = len(shape)
    order = [rank - 2, rank - 1, *reversed(range(max(rank - 2, 0)))]
    for axis in order:
        if axis > 0 and shape[axis] % 32 == 0:
            return axis, axis + 1
    for start in reversed(range(1, rank)):
        size = math.prod(shape[start:])
        if math.ceil(size / 32) * 32 <= 1.25 * size:
            return start, rank
    return 0, rank


def places(shape):
    """Word number and lane of each entry, uint32 arrays of ``shape``."""
    start, stop = packed_axes(shape)
    before, run, after = (
        math.prod(part) for part in (shape[:start], shape[start:stop], shape[stop:])
    )
    row, entry, column = (a.reshape(shape) for a in np.indices((before, run, after)))
    number = (row * math.ceil(run / 32) + entry // 32) * after + column
    return number.astype(np.uint32), (entry % 32).astype(np.uint32)


def integers(key_words, shape):
    """The uniform 32-bit integer of each entry."""
    number, lane = places(shape)
    u = np.zeros(shape, np.uint32)
    for block in range(8):
        for offset, words in enumerate(
            philox4x32(key_words, (block, number.ravel(), 0, number.ravel()))
        ):
            bit = words.reshape(shape) >> lane & np.uint32(1)
            u |= bit << np.uint32(31 - 4 * block - offset)
    return u


def blocks(key_words, shape):
    """Four words for each entry, those that four neighbours along the last axis share.

    And the place of the entry among the four.
    """
    *rows, last = shape or (1,)
    row, place = np.indices((math.prod(rows), last))
    number = row * math.ceil(last / 4) + place // 4
    words = philox4x32(key_words, (0, number, 1, number))
    return [word.reshape(shape) for word in words], (place % 4).reshape(shape)


def entry_integers(key_words, shape):
    """The uniform 32-bit integer of each entry that has one of its own."""
    words, place = blocks(key_words, shape)
    return np.choose(place, words)


def uniform(key_words, shape):
    """Uniform numbers in (0, 1), float64: 24 bits of each entry's integer."""
    return ((entry_integers(key_words, shape) >> np.uint32(8)) | np.uint32(1)) / 2**24


def normal(key_words, shape):
    """Standard normal numbers, float64, by the formula of Box and Muller (1958)."""
    words, place = blocks(key_words, shape)
    radius, angle = (np.choose(place // 2, (words[i], words[i + 2])) for i in (0, 1))
    share = (radius.astype(np.float64) + 0.5) / 2**32
    turns = angle / 2**32 + place / 4
    return np.sqrt(-2 * np.log(share)) * np.cos(2 * np.pi * turns)


def keep(key_words, rate, shape, least_bits=16):
    """Booleans: True where the entry survives; ``rate`` broadcasts to ``shape``."""
    limit = np.vectorize(threshold, otypes=[np.uint64], excluded={1})
    limits = limit(np.asarray(rate, np.float32), least_bits)
    return integers(key_words, shape).astype(np.uint64) >= limits


def keep_of_pairs(key_words, rate, shape, pairs):
    """Booleans of ``shape`` (E, 1, ...): by the word whose number has a pair as its two halves."""
    low, high = np.sort(np.asarray(pairs, np.uint32), axis=0)
    u = np.zeros(shape[0], np.uint64)
    for block in range(8):
        for word in philox4x32(key_words, (block, low, 0, low + high)):
            u = u << np.uint64(1) | word & np.uint64(1)
    limit = np.vectorize(threshold, otypes=[np.uint64])
    return u.reshape(shape) >= limit(np.asarray(rate, np.float32))


# DropBlock. An entry survives if none of the blocks that cover it, math.prod(block) in number, has
# a seed; blocks hang over the edges. ``block`` has a size for each axis, 1 beside those in space.


def seed_rate(rate, block):
    """Probability of a seed that drops entries with probability ``rate``."""
    return -math.expm1(math.log1p(-rate) / math.prod(block))


def keep_probability_of_blocks(rate, block):
    """The exact probability that an entry survives, a fraction."""
    seed = Fraction(threshold(seed_rate(rate, block), 24), 2**32)
    return (1 - seed) ** math.prod(block)


def keep_of_blocks(key_words, rate, shape, block):
    """Booleans: True where the entry survives; seed by seed."""
    grid = tuple(size + extent - 1 for size, extent in zip(shape, block))
    seeds = ~keep(key_words, seed_rate(rate, block), grid, 24)
    kept = np.ones(shape, bool)
    for seed in np.argwhere(seeds):  # the last entry of its block
        kept[tuple(slice(max(0, i - b + 1), i + 1) for i, b in zip(seed, block))] = False
    return kept


# Equations of continuous noise, from x, normal numbers z or uniform ones u, and the level.


def gaussian_dropout(x, z, rate):
    """Srivastava et al. 2014, section 10."""
    return x * (1 + np.sqrt(rate / (1 - rate)) * z)


def gaussian_noise(x, z, stddev):
    return x + stddev * z


def neftune_noise(x, u, alpha):
    """Jain et al. 2024, algorithm 1."""
    return x + (2 * u - 1) * alpha / math.sqrt(x.shape[-2] * x.shape[-1])


def concrete_dropout(x, u, rate_logit, temperature=1.0):
    """Gal, Hron & Kendall 2017, eq. 5."""
    rate = 1 / (1 + np.exp(-rate_logit))
    argument = np.log(rate) - np.log(1 - rate) + np.log(u) - np.log(1 - u)
    z = 1 / (1 + np.exp(-argument / temperature))
    return x * (1 - z) / (1 - rate)


class Concrete:
    """Distribution of what an entry of 1 becomes, at a temperature of 1."""

    def __init__(self, rate_logit):
        self.rate = 1 / (1 + np.exp(-rate_logit))

    def cdf(self, y):
        """z >= 1 - y (1 - rate) where u >= (1 - rate) z / (rate + (1 - 2 rate) z)."""
        z = 1 - np.asarray(y, np.float64) * (1 - self.rate)
        return 1 - (1 - self.rate) * z / (self.rate + (1 - 2 * self.rate) * z)


def variational_gaussian_dropout(x, z, log_alpha):
    """Kingma, Salimans & Welling 2015, section 3.1."""
    return x * (1 + np.sqrt(np.exp(log_alpha)) * z)
