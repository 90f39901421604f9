"""Runs the notebooks, and keeps what is committed of them the same on every machine.

``python -m tests.support.notebooks [NAME ...]`` executes them, all or those named, in place. Edit a
notebook in Jupyter, run this, look at the result, commit. Kept are the results; what differs from
run to run or is no result goes: progress bars (all of stderr), versions, metadata of the editor.
"""

import contextlib
import json
import os
import pathlib
import sys
import tempfile

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient

# For what runs for an instant: most of its time is that of compiling it.
COMPILE_FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
ROOT = pathlib.Path(__file__).parents[2]
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))

_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# In cells alone: the kernel itself warns while it starts, and while it ends.
_WARNINGS_ARE_ERRORS = (
    "import warnings; events = get_ipython().events; "
    "events.register('pre_run_cell', lambda info: warnings.simplefilter('error')); "
    "events.register('post_run_cell', lambda result: warnings.simplefilter('ignore'))"
)


def read(path):
    """A notebook from its file."""
    return nbformat.read(path, as_version=4)


def execute(notebook, *, quick):
    """Runs all cells, in place, with this interpreter and this clone; warnings are errors."""
    with tempfile.TemporaryDirectory() as folder:
        environment = dict(os.environ, PYTHONPATH=str(ROOT), IPYTHONDIR=folder)
        # Whoever tests has devices of their own; a notebook begins as it does for its reader.
        for name in ("XLA_FLAGS", "JAXDROP_QUICK"):
            environment.pop(name, None)
        if quick:
            environment["JAXDROP_QUICK"] = "1"
            environment["XLA_FLAGS"] = COMPILE_FAST
        client = NotebookClient(notebook, km=_manager(folder), timeout=300)
        # A kernel by a manager that it is given, the client would leave running.
        client.execute(cwd=folder, env=environment, cleanup_kc=True)
    return notebook


def _manager(folder):
    """Of a kernel that is this interpreter, whichever kernels else are installed."""
    spec = pathlib.Path(folder) / "kernels" / "python3"
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    command.append("--log-level=ERROR")
    command.append(f"--IPKernelApp.exec_lines={_WARNINGS_ARE_ERRORS}")
    details = {"argv": command, "display_name": "Python 3", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(details), "utf-8")
    kernels = KernelSpecManager(kernel_dirs=[str(spec.parent)], ensure_native_kernel=False)
    return AsyncKernelManager(kernel_name="python3", kernel_spec_manager=kernels)


def clean(notebook):
    """The notebook without what differs from run to run."""
    notebook = nbformat.from_dict({**notebook, "metadata": _METADATA, "nbformat_minor": 5})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            cell.outputs = _joined(one for one in cell.outputs if one.get("name") != "stderr")
            for output in cell.outputs:
                if "metadata" in output:
                    # The size at which a picture of twice as many points is to be shown.
                    size = {k: v for k, v in output.metadata.items() if k == "image/png"}
                    output.metadata = nbformat.from_dict(size)
                if "image/png" in output.get("data", {}):
                    output.data.pop("text/plain", None)  # the object's name, with its size
    return notebook


def _joined(outputs):
    """Outputs with neighbouring pieces of text as one: how they are cut is an accident."""
    kept = []
    for output in outputs:
        if kept and output.get("name") == kept[-1].get("name") == "stdout":
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def text(notebook):
    """The notebook as it stands in its file."""
    return nbformat.writes(notebook) + "\n"


def main(names):
    """Executes the notebooks whose names begin with one of those given, or all."""
    for path in PATHS:
        if not names or any(path.name.startswith(name) for name in names):
            print(path.name, flush=True)
            notebook = clean(execute(read(path), quick=False))
            nbformat.validate(notebook)
            path.write_text(text(notebook), "utf-8")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(sys.argv[1:])
