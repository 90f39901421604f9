"""Mask bits pass tests of chance, and bits with a fault do not: `tests.randomness` by the chunk.

``python -m tests.randomness`` puts 2**30 bits of each stream through the same; RANDOMNESS.md has
what it and batteries of tests found.
"""

import jax
import numpy as np
import pytest

from tests.randomness import examination, streams
from tests.support import reference


def p_values_of(stream, rate):
    chance = reference.keep_probability(rate)
    return examination.examine(stream, rate, 1, chance)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.5, 0.1])
@pytest.mark.parametrize("name", streams.STREAMS)
def test_bits_are_fair(name, rate):
    assert not examination.too_small(p_values_of(streams.STREAMS[name], rate))


@pytest.mark.slow
def test_planes_are_independent():
    assert not examination.too_small(examination.examine_planes(1))


def fair(rate):
    return np.array(streams.one_mask(jax.random.key(1), 0, rate))


def _biased(words):
    """One word in 62 has its first bit set."""
    words[:: 2000 // 32] |= np.uint32(1)
    return words


def _repeated_word(words):
    words[:, 1::2] = words[:, 0::2]
    return words


def _repeated_row(words):
    words[1::2] = words[0::2]
    return words


def _repeated_key(words):
    half = len(words) // 2
    words[half:] = words[:half]
    return words


def _tied_lanes(words):
    low = words & np.uint32(0x55555555)
    return low | low << np.uint32(1)


def _few_words(words):
    return words & np.uint32(0x00FFFFFF) | np.uint32(0x5A000000)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "test"),
    [
        (_biased, "lanes of a word"),
        (_repeated_word, "neighbouring words"),
        (_repeated_row, "neighbouring rows"),
        (_repeated_key, "rows half of all apart"),
        (_tied_lanes, "lanes 1 apart"),
        (_few_words, "birthday spacings"),
    ],
)
def test_a_planted_fault_is_found(fault, test):
    found = examination.too_small(p_values_of(lambda key, number, rate: fault(fair(rate)), 0.5))
    assert test in found


@pytest.mark.slow
def test_a_rate_that_is_off_is_found():
    stream = lambda key, number, rate: fair(0.101)  # noqa: E731
    assert "ones" in examination.too_small(p_values_of(stream, 0.1))
