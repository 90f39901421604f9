"""Which rows of a test run with the fast tests; the others are marked slow.

The fast run asks every law of one function per family, and every other value of an argument once.
The slow run asks the rest, but for what is marked `combination`. A new function needs no line here:
the laws in `EVERY_FUNCTION` run over it with the fast tests, all others with the slow ones. With
``--every-row`` nothing is marked.

How long a test takes decides, too. `seconds.txt` holds what a first run took. To record it again:

    pytest -m "not shown and not combination" --junitxml times.xml
    python -m tests.support.selection times.xml
"""

import collections
import pathlib
import sys
import xml.etree.ElementTree
import zlib

import pytest

_TIMES = pathlib.Path(__file__).parent / "seconds.txt"

# Names of rows in `cases`: for each family, one of each table that has it. And models of users.
FAMILIES = {
    "element-wise": ("dropout",),
    "structured": ("drop_block",),
    "noise": ("gaussian",),
    "sequence and cell": ("zoneout",),
    "attention": ("attention", "attention_keys_3"),
    "weights": ("drop_connect",),
    "residual, tokens and layers": ("drop_path", "token_dropout", "layer_drop"),
    "models": ("Mixer", "nnx Mixer"),
}
_REPRESENTATIVES = {name for names in FAMILIES.values() for name in names}

# The bits of every function.
EVERY_FUNCTION = {
    "test_decisions_are_those_of_the_reference",
    "test_equation_of_the_paper_on_the_noise_of_the_reference",
}

# Files of hundreds of rows that together take a second.
_CHEAP = {"test_errors", "test_english", "test_order", "test_structure", "test_mc_messages"}

# Seconds of a test on one row, in a run that finds no compiled programs, if they are many.
SECONDS = {
    test: float(seconds) for test, seconds in map(str.split, _TIMES.read_text("utf-8").splitlines())
}
_FEW_ROWS = 0.5  # a test that takes longer runs on one row with the fast tests
_MOST = 1.0  # a test that takes longer leaves even that to the slow run

# Laws over functions and over sizes, dtypes or meshes. The fast and the slow run together ask them
# of every function and of every size, but not of every pair: those are marked `combination`.
COMBINATIONS = {
    "test_a_batch_over_devices_draws_the_same_and_each_device_its_part",
    "test_a_batch_whose_size_is_not_known_gets_the_masks_of_one_that_is",
    "test_a_numpy_array_counts_as_what_jax_makes_of_it",
    "test_decisions_are_those_of_every_dtype",
    "test_mean_over_keys",
    "test_rates_may_be_an_array",
    "test_the_mask_of_an_example_does_not_depend_on_the_size_of_the_batch",
    "test_values_and_gradients_are_those_of_one_device",
    "test_values_and_gradients_on_a_mesh_are_those_of_one_device",
    "test_whatever_numbers_there_are_are_drawn",
}


def mark(items):
    """Marks what the fast run leaves out, and of that what the slow run leaves out."""
    tests = collections.defaultdict(list)
    for item in items:
        if "shown" not in item.path.parts:
            tests[item.path, item.originalname].append(item)
    for (path, name), rows in tests.items():
        quick = [row for row in rows if not any(row.iter_markers("slow"))]
        fast = _fast_rows(path.stem, name, quick) if quick else []
        for row in quick:
            if row not in fast:
                row.add_marker(pytest.mark.slow)
        if name in COMBINATIONS:
            enough = _each_value_once(rows, fast)
            for row in rows:
                if row not in enough:
                    row.add_marker(pytest.mark.combination)


def other_parts(items, number, parts):
    """The slow tests that are not in a part, for 1 <= number <= parts; a part is a fair sample."""
    slow = [item for item in items if item.get_closest_marker("slow")]
    return [item for item in slow if zlib.crc32(item.nodeid.encode()) % parts != number - 1]


def _fast_rows(file, name, rows):
    seconds = SECONDS.get(f"{file}::{name}", 0.0)
    if seconds > _MOST:
        return []
    chosen = _of_each_kind(file, name, rows)
    return chosen[:1] if seconds > _FEW_ROWS else chosen


def _of_each_kind(file, name, rows):
    if name in EVERY_FUNCTION or file in _CHEAP or not hasattr(rows[0], "callspec"):
        return rows
    laws = [row for row in rows if _names(row) & _REPRESENTATIVES]
    return _each_value_once(laws or rows)


def _names(row):
    """The names that the arguments of a row have, or are."""
    values = row.callspec.params.values()
    return {name for value in values if isinstance(name := getattr(value, "name", value), str)}


def _each_value_once(rows, kept=()):
    """The kept rows, and so many more that every value of every argument is among them.

    Values are used in turns, so that a row for a function is not always that with the first mesh.
    """
    values = {row: {(k, id(v)) for k, v in row.callspec.params.items()} for row in rows}
    kept = list(kept)
    used = collections.Counter(value for row in kept for value in values[row])
    while missing := set().union(*values.values()) - used.keys():

        def gain(row):
            return len(missing & values[row]), -sum(used[value] for value in values[row])

        best = max((row for row in rows if row not in kept), key=gain)
        kept.append(best)
        used.update(values[best])
    return kept


def record(reports):
    """Writes `seconds.txt` anew from reports of runs; what did not run stays as it is."""
    found = collections.defaultdict(list)
    for report in reports:
        for case in xml.etree.ElementTree.parse(report).getroot().iter("testcase"):
            file, name = case.get("classname").split(".")[-1], case.get("name").split("[")[0]
            found[f"{file}::{name}"].append(float(case.get("time")))
    means = {test: sum(times) / len(times) for test, times in found.items()}
    kept = {test: seconds for test, seconds in (SECONDS | means).items() if seconds > _FEW_ROWS}
    lines = (f"{test} {seconds:.1f}\n" for test, seconds in sorted(kept.items()))
    _TIMES.write_text("".join(lines), "utf-8")


if __name__ == "__main__":
    record(sys.argv[1:])
