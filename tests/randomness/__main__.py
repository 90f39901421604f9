"""Puts many bits of each stream at each rate through all tests of chance, and prints the p-values.

    python -m tests.randomness --bits 30

Ends with an error if the bits are not fair: once in a million examinations that is a false alarm.
"""

import argparse
import sys

from tests.randomness import examination, streams
from tests.support import reference


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.randomness", description=__doc__)
    parser.add_argument("--bits", type=int, default=30, help="of a stream, in powers of 2")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chunks = max(1, 2**arguments.bits // (32 * streams.CHUNK))
    print(f"{chunks * streams.CHUNK * 32} bits of each stream at each rate, seed {arguments.seed}")
    found = {}
    for rate in examination.RATES:
        for name, stream in streams.STREAMS.items():
            keep = reference.keep_probability(rate)
            p_values = examination.examine(stream, rate, chunks, keep, arguments.seed)
            print(f"rate {rate}, {name}: smallest {least(p_values)}", flush=True)
            found |= {(rate, name, test): p for test, p in p_values.items()}
    p_values = examination.examine_planes(max(1, chunks // 8), arguments.seed)
    print(f"planes: smallest {least(p_values)}")
    found |= {("planes", test): p for test, p in p_values.items()}
    small = sum(p < 0.01 for p in found.values())
    print(f"{len(found)} p-values, {small} of them below 0.01; smallest {least(found)}")
    for name, p in examination.too_small(found).items():
        sys.exit(f"not fair: {name}, p = {p:.1e}")


def least(p_values):
    name = min(p_values, key=p_values.get)
    return f"{p_values[name]:.4f} ({name})"


if __name__ == "__main__":
    main()
