"""Writes words of masks at rate 0.5 to standard output without end, for batteries of tests.

    python -m tests.randomness.words | dieharder -a -g 200

A word is 32 decisions. ``--words`` says how many come from one key: few of them stand for a
training run of many small masks, many for a large one.
"""

import argparse
import functools
import sys

import jax
import numpy as np

from jaxdrop import masks

_BATCH = 1 << 20  # words drawn at once


@functools.partial(jax.jit, static_argnames=("keys", "words"))
def drawn(key, first, keys, words):
    """Words of ``keys`` masks, whose keys are folded in from ``first`` on: one row each."""

    def one(number):
        return masks.sample(jax.random.fold_in(key, number), 0.5, (32 * words,)).words

    return jax.vmap(one)(first + jax.numpy.arange(keys, dtype=jax.numpy.uint32))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--words", type=int, default=1 << 20, help="of one key (default 2**20)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    keys = max(1, _BATCH // arguments.words)
    for first in range(0, 1 << 32, keys):
        batch = drawn(jax.random.key(arguments.seed), np.uint32(first), keys, arguments.words)
        try:
            sys.stdout.buffer.write(np.asarray(batch).tobytes())
        except BrokenPipeError:  # the battery has seen enough
            return


if __name__ == "__main__":
    main()
