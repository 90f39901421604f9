"""Runs the tests that are meant to see a fault in the one file that differs from the last commit.

    python -m tests.mutation.chosen

Those that are likeliest to fail, and quickest, come first; the run ends with the first failure.
"""

import pathlib
import subprocess
import sys

import pytest

_MASKS = ("test_masks", "test_laws", "test_windows", "test_laws_noise", "test_laws_program")
_FUNCTIONS = ("test_laws", "test_laws_program", "test_errors")
# Files that have no test of their own name.
_TESTS = {
    "_alpha_dropout.py": ("test_alpha_dropout", *_FUNCTIONS),
    "_attention_arguments.py": ("test_dot_product_attention",),
    "_attention_blocks.py": ("test_dot_product_attention",),
    "_attention_dense.py": ("test_dot_product_attention",),
    "_attention_logits.py": ("test_dot_product_attention",),
    "_cells.py": ("test_cells",),
    "_gaussian_dropout.py": ("test_gaussian", "test_laws_noise", "test_errors"),
    "_gaussian_noise.py": ("test_gaussian", "test_laws_noise", "test_errors"),
    "_perturb.py": ("test_laws_noise", "test_gaussian"),
    "_variational_cell.py": ("test_cells",),
    "_weight_drop_cell.py": ("test_cells",),
    "_zoneout_cell.py": ("test_cells",),
    "_sharding.py": ("test_laws_sharding", *_MASKS),
    "_blocks.py": ("test_drop_block", "test_laws", "test_laws_sharding"),
    "_root.py": ("test_drop_block", "test_masks", "test_laws"),
    "_noise.py": ("test_laws_noise",),
}


def tests_for(path):
    """The files of tests for a file of the package, as paths."""
    name, tests = pathlib.PurePath(path).name, pathlib.Path(__file__).parents[1]
    own = f"test{name.removesuffix('.py')}"
    default = _MASKS if "/masks/" in path else (own, *_FUNCTIONS)
    files = [tests / f"{test}.py" for test in _TESTS.get(name, default)]
    return [str(file) for file in files if file.exists()]


def main():
    changed = subprocess.run(
        ["git", "diff", "--name-only", "jaxdrop"], check=True, capture_output=True, text=True
    ).stdout.split()
    files = tests_for(changed[0]) if changed else []
    return pytest.main(["-x", "-q", "--numprocesses=0", *files]) if files else 0


if __name__ == "__main__":
    sys.exit(main())
