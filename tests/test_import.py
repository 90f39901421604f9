"""What ``import jaxdrop`` brings in: JAX and Flax, and nothing that is an extra."""

import subprocess
import sys

_EXTRAS = {"matplotlib", "optax", "tqdm", "sklearn", "pandas", "IPython", "pytest"}


def _modules_after(statement):
    program = f"import sys; {statement}; print(*(name.split('.')[0] for name in sys.modules))"
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_no_extra_is_imported():
    flax = _modules_after("import flax.linen, flax.nnx")
    assert not (_modules_after("import jaxdrop") & _EXTRAS) - flax
