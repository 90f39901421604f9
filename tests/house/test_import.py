"""What ``import jaxdrop`` brings in: JAX and Flax, and nothing that is an extra."""

import subprocess
import sys

import pytest

import jaxdrop

_EXTRAS = {"matplotlib", "optax", "tqdm", "sklearn", "pandas", "IPython", "pytest"}


def _printed(program):
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    return run.stdout.split()


def _modules_after(statement):
    names = "(name.split('.')[0] for name in sys.modules)"
    return set(_printed(f"import sys; {statement}; print(*{names})"))


def test_no_extra_is_imported():
    flax = _modules_after("import flax.linen, flax.nnx")
    assert not (_modules_after("import jaxdrop") & _EXTRAS) - flax


def test_flax_nnx_is_loaded_by_whoever_uses_it():
    start = "import sys, jaxdrop; before = 'flax.nnx' in sys.modules"
    for use in ("jaxdrop.nnx.Dropout", "jaxdrop.nnx.__all__", "dir(jaxdrop.nnx)"):
        assert _printed(f"{start}; {use}; print(before, 'flax.nnx' in sys.modules)") == [
            "False",
            "True",
        ]


def test_names_of_the_nnx_floor_arrive_in_every_form():
    names = set(jaxdrop.nnx.__all__)
    assert names <= set(dir(jaxdrop.nnx)) and len(names) > 20
    assert set(_printed("from jaxdrop.nnx import *; print(*globals())")) >= names
    assert _printed("from jaxdrop.nnx import DropPath; print(DropPath.__name__)") == ["DropPath"]
    with pytest.raises(AttributeError, match=r"'jaxdrop\.nnx' has no attribute 'DropPaths'"):
        _ = jaxdrop.nnx.DropPaths
    assert not hasattr(jaxdrop.nnx, "_missing")


def test_the_program_tells_its_version():
    command = [sys.executable, "-m", "jaxdrop", "--version"]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == f"jaxdrop {jaxdrop.__version__}\n"
