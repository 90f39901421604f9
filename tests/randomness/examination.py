"""Streams put through all tests of chance: one p-value for each stream, rate and test."""

import itertools

import jax
import numpy as np

from tests.randomness import statistics, streams

RATES = (0.5, 0.25, 0.1, 0.37, 0.9, 1e-3)
# Chance that the whole examination finds fault with fair bits; each test gets an equal share.
FALSE_ALARM = 1e-6


def examine(stream, rate, chunks, keep_probability, seed=0):
    """p-values by test of so many chunks of a stream at a rate."""
    tests = dict(statistics.TESTS)
    if rate == 0.5:
        tests.update(statistics.FAIR_TESTS)
    totals = dict.fromkeys(tests, 0)
    for number in range(chunks):
        words = np.asarray(stream(jax.random.key(seed), np.uint32(number), rate))
        for name, test in tests.items():
            totals[name] = totals[name] + test.count(words)
    chance = float(keep_probability)
    return {name: test.p_value(totals[name], chance) for name, test in tests.items()}


def examine_planes(chunks, seed=0, stream=streams.one_mask):
    """p-values of pairs of planes, of a word and of its neighbours."""
    totals, test = {}, statistics.pairs(lambda pair: pair)
    for number in range(chunks):
        found = streams.planes(jax.random.key(seed), np.uint32(number), stream)
        for (i, first), (j, second) in itertools.combinations(enumerate(found), 2):
            for shift in (0, 1):
                words = first, np.roll(second, shift, axis=1)
                name = f"planes {i} and {j}, {shift} words apart"
                totals[name] = totals.get(name, 0) + test.count(words)
    return {name: test.p_value(counts, 0.5) for name, counts in totals.items()}


def too_small(p_values):
    """Those of the p-values that fair bits have but once in `FALSE_ALARM` examinations."""
    return {name: p for name, p in p_values.items() if not p > FALSE_ALARM / len(p_values)}
