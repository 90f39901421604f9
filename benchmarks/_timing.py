"""Paired timing: every round runs each function once, in a new order, and ratios are of medians.

A shared machine drifts by tens of per cent within a minute, so a single time says little. Runs
next to each other in one process see the same drift. The order is shuffled because the
function that runs after a large allocation pays for its pages.
"""

import random
import time
from typing import NamedTuple

import jax
import numpy as np


class Times(NamedTuple):
    """Times of one function, in ms.

    Attributes:
        median: median over the rounds.
        low: lower quartile.
        high: upper quartile.
    """

    median: float
    low: float
    high: float


def paired(functions, arguments, *, rounds, seconds, progress=None):
    """Times functions side by side.

    Args:
        functions: callables by name. Each is called twice before it is timed.
        arguments: passed to every function.
        rounds: number of rounds, at most.
        seconds: no new round begins after this time.
        progress: called after each round with its number.

    Returns:
        `Times` by name.
    """
    for function in functions.values():
        for _ in range(2):
            jax.block_until_ready(function(*arguments))
    taken = {name: [] for name in functions}
    order, shuffle = list(functions), random.Random(0).shuffle
    started = time.perf_counter()
    for number in range(rounds):
        shuffle(order)
        for name in order:
            taken[name].append(_once(functions[name], arguments))
        if progress is not None:
            progress(number)
        if time.perf_counter() - started > seconds:
            break
    return {name: _times(values) for name, values in taken.items()}


def _once(function, arguments):
    # Calls of microseconds are timed in batches, because the clock and the loop take longer.
    repeat = 1
    while True:
        started = time.perf_counter()
        for _ in range(repeat):
            result = function(*arguments)
        jax.block_until_ready(result)
        spent = time.perf_counter() - started
        if spent > 2e-4 or repeat >= 64:
            return spent / repeat
        repeat *= 4


def _times(values):
    low, median, high = np.percentile(np.array(values) * 1e3, (25, 50, 75))
    return Times(float(median), float(low), float(high))
