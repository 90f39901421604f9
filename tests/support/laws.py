"""Prints which function each law is asked of, so that none is lost where tests are rearranged.

    python -m tests.support.laws [PATH ...]

A law is a test over a table. One that has a row for a function in the slow run alone is marked.
"""

import collections
import itertools
import sys

import pytest

from jaxdrop import functional


def _function(argument, value):
    """The function of a row of a table, or the name of the row; None of what is not a row."""
    if argument == "name":  # the tables of floor 3 and of batches are dicts
        return str(value)
    fn = getattr(value, "fn", getattr(value, "f", None))
    if fn is None or not hasattr(value, "name"):
        return None
    name = getattr(fn, "__name__", "").strip("_")
    return name if name in functional.__all__ else value.name


class Laws:
    """A plugin that keeps the rows of each test, and runs none."""

    def __init__(self):
        self.rows = collections.defaultdict(lambda: collections.defaultdict(list))

    def pytest_collection_modifyitems(self, items):
        for item in items:
            arguments = item.callspec.params.items() if hasattr(item, "callspec") else ()
            for name in filter(None, itertools.starmap(_function, arguments)):
                slow = item.get_closest_marker("slow") is not None
                self.rows[f"{item.path.stem}::{item.originalname}"][name].append(slow)

    def pytest_report_collectionfinish(self):
        lines = []
        for law, functions in sorted(self.rows.items()):
            names = (f"{name}{' (slow)' * all(slow)}" for name, slow in sorted(functions.items()))
            lines.append(f"{law}: {', '.join(names)}")
        return lines


def main(paths):
    options = ["--collect-only", "-qq", "--numprocesses=0", "-m", "slow or not slow"]
    return pytest.main([*options, *(paths or ["tests"])], plugins=[Laws()])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
