"""What an import costs: new processes take turns."""

import subprocess
import sys

from benchmarks._report import rows_of
from benchmarks._timing import paired


def imports(budget):
    """``import jaxdrop``, compared with the import of the libraries that it is built on."""
    names = {
        "flax": "import flax",
        "flax linen, nnx": "import flax.linen, flax.nnx",
        "jaxdrop": "import jaxdrop",
    }
    functions = {name: _fresh(statement) for name, statement in names.items()}
    times = paired(functions, (), rounds=budget.rounds, seconds=2 * budget.seconds)
    yield from rows_of("import", "fresh processes, start-up included", times, "ms", "flax")


def _fresh(statement):
    return lambda: subprocess.run([sys.executable, "-c", statement], check=True)
