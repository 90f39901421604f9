"""Tests of chance for words of independent bits, each of which is 1 with the same probability.

A test counts, chunk by chunk, in an array of words (rows, words of a row), and finds the p-value of
the sum: how likely fair bits are to stray as far. Pairs never overlap, so that the numbers of hits
are binomial; the other laws hold for as many bits as `tests.laws.test_randomness` takes.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy import stats

_BIRTHDAYS = 1 << 12  # in a year of 2**32 days: 4 coincidences on average
_CELLS = 64  # of lengths of gaps


class Statistic(NamedTuple):
    """A test of chance.

    Attributes:
        count: from words to counts, which add up over chunks.
        p_value: from the sum of the counts and the probability of a 1.
    """

    count: Callable
    p_value: Callable


def two_sided(distribution, value):
    """The p-value of a number that may be too small or too large."""
    return min(1.0, 2 * min(distribution.cdf(value), distribution.sf(value - 1)))


def chi_square(observed, chances):
    """The p-value of counts of cells; those that expect fewer than 10 are one cell."""
    observed, chances = np.asarray(observed, np.float64), np.asarray(chances)
    rare = chances * observed.sum() < 10
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        chances = np.append(chances[~rare], chances[rare].sum())
    expected = chances * observed.sum()
    value = np.sum((observed - expected) ** 2 / np.maximum(expected, 1e-9))
    return float(stats.chi2.sf(value, len(chances) - 1))


def ones(words):
    return int(np.bitwise_count(words).sum(dtype=np.int64))


def bits_of(words):
    """The bits of each row one after the other, as bytes of 0 and 1."""
    flat = np.ascontiguousarray(words, "<u4").view(np.uint8)
    return np.unpackbits(flat, bitorder="little")


def pairs(cut, width=32):
    """A test of independence between the two arrays that ``cut`` makes of words, bit against bit.

    Counted are the pairs of ones and those of zeros: the rarer of both shows a correlation best.
    ``width`` of the bits of a word take part.
    """

    def count(words):
        first, second = cut(words)
        zeros = width * first.size - ones(first | second)
        return np.array([ones(first & second), zeros, width * first.size])

    def p_value(counts, chance):
        both, neither, draws = counts
        hits, least = (both, chance) if chance <= 0.5 else (neither, 1 - chance)
        return two_sided(stats.binom(draws, least**2), hits)

    return Statistic(count, p_value)


def _lanes(distance, lower):
    """Bits of a word against those ``distance`` above them, where ``lower`` has a 1."""
    lower = np.uint32(lower)
    return pairs(lambda words: (words & lower, words >> np.uint32(distance) & lower), 16)


def _halves(words, axis):
    size = words.shape[axis] // 2
    return words.take(range(size), axis), words.take(range(size, 2 * size), axis)


def _of_lanes(words):
    return np.append(bits_of(words).reshape(-1, 32).sum(axis=0, dtype=np.int64), words.size)


def _of_lanes_p_value(counts, chance):
    *hits, draws = counts
    errors = (np.array(hits) - draws * chance) / np.sqrt(draws * chance * (1 - chance))
    return float(stats.chi2.sf(np.sum(errors**2), 32))


def _bytes(words):
    return np.bincount(np.ascontiguousarray(words).view(np.uint8).ravel(), minlength=256)


def _bytes_p_value(counts, chance):
    number = np.bitwise_count(np.arange(256, dtype=np.uint8)).astype(np.float64)
    return chi_square(counts, chance**number * (1 - chance) ** (8 - number))


def _changes(words):
    """Neighbours in a row that differ: one less than there are runs."""
    within = ones((words ^ words >> np.uint32(1)) & np.uint32(2**31 - 1))
    between = ones(words[:, :-1] >> np.uint32(31) ^ words[:, 1:] & np.uint32(1))
    return np.array([within + between, *words.shape])


def _runs(words):
    changes, rows, width = _changes(words)
    return np.array([changes, rows * (32 * width - 1), rows * (32 * width - 2)])


def _runs_p_value(counts, chance):
    """Wald and Wolfowitz, for a known probability; two neighbours share an entry."""
    changes, neighbours, triples = counts
    odds = chance * (1 - chance)
    variance = neighbours * 2 * odds * (1 - 2 * odds) + triples * 2 * (odds - 4 * odds**2)
    return float(2 * stats.norm.sf(abs(changes - neighbours * 2 * odds) / variance**0.5))


def _gaps(value):
    """Distances between a bit of this value and the next one."""

    def count(words):
        gaps = np.diff(np.flatnonzero(bits_of(words) == value))
        return np.bincount(np.minimum(gaps, 1 << 16), minlength=(1 << 16) + 1)

    def p_value(counts, chance):
        chance = chance if value else 1 - chance
        law = stats.geom(chance)
        edges = np.unique(law.ppf(np.arange(1, _CELLS) / _CELLS).astype(int))
        edges = np.array([0, *edges[edges < 1 << 16], 1 << 16])
        observed = np.add.reduceat(counts, edges[:-1] + 1)
        return chi_square(observed, np.diff(np.append(law.cdf(edges[:-1]), 1)))

    return Statistic(count, p_value)


def _birthdays(words):
    """Coincidences among the spacings of sorted words (Marsaglia and Tsang 2002)."""
    years = words.reshape(-1, _BIRTHDAYS)
    spacings = np.sort(np.diff(np.sort(years, axis=1), axis=1), axis=1)
    return np.array([np.sum(spacings[:, 1:] == spacings[:, :-1]), len(years)])


def _birthdays_p_value(counts, chance):
    coincidences, years = counts
    return two_sided(stats.poisson(float(years) * _BIRTHDAYS**3 / 2**34), coincidences)


TESTS = {
    "ones": Statistic(
        lambda words: np.array([ones(words), 32 * words.size]),
        lambda counts, chance: two_sided(stats.binom(counts[1], chance), counts[0]),
    ),
    "lanes of a word": Statistic(_of_lanes, _of_lanes_p_value),
    "bytes": Statistic(_bytes, _bytes_p_value),
    "runs": Statistic(_runs, _runs_p_value),
    "gaps between ones": _gaps(1),
    "gaps between zeros": _gaps(0),
    "lanes 1 apart": _lanes(1, 0x55555555),
    "lanes 2 apart": _lanes(2, 0x33333333),
    "lanes 4 apart": _lanes(4, 0x0F0F0F0F),
    "lanes 8 apart": _lanes(8, 0x00FF00FF),
    "lanes 16 apart": _lanes(16, 0x0000FFFF),
    "neighbouring words": pairs(lambda words: (words[:, 0::2], words[:, 1::2])),
    "words half a row apart": pairs(lambda words: _halves(words, 1)),
    "neighbouring rows": pairs(lambda words: (words[0::2], words[1::2])),
    "rows half of all apart": pairs(lambda words: _halves(words, 0)),
}
# Of words as integers, which only fair bits spread evenly.
FAIR_TESTS = {"birthday spacings": Statistic(_birthdays, _birthdays_p_value)}
