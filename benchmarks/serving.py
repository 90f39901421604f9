"""``python -m benchmarks.serving``: the time to a first answer, with a model's code and without.

Each start is a process of its own, whose compiled programs are not kept. Starts are taken in turns,
because a busy machine then slows both of them.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

from benchmarks import _report

_COMMON = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
steps, marks = {}, [(time.perf_counter(), time.process_time())]
def done(name):
    marks.append((time.perf_counter(), time.process_time()))
    steps[name] = [b - a for a, b in zip(*marks[-2:])]
import numpy as np
import jax
import jax.export
def answer(predict, size):
    x = np.random.default_rng(0).normal(size=(size, 784)).astype(np.float32)
    jax.block_until_ready(predict(jax.random.key(1), x))
"""
_ANSWERS = """
for name, size in (("first answer", 32), ("next answer", 32), ("first of another batch", 7)):
    answer(predict, size)
    done(name)
print(json.dumps(steps))
"""
_MODEL = """
from flax import linen as nn
from jaxdrop import mc
class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(3):
            x = nn.Dropout(0.1, deterministic=True)(nn.relu(nn.Dense(1024)(x)))
        return nn.Dense(10)(x)
def served(params):
    fn = mc.from_linen(Net(), {"params": params})
    return fn, {"summary": mc.classification(), "num_samples": 100}
"""
_MAKE = """
params = Net().init(jax.random.key(0), np.zeros((1, 784), np.float32))["params"]
(folder / "params").write_bytes(flax.serialization.to_bytes(params))
fn, options = served(params)
x = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 784"), np.float32)
(folder / "served").write_bytes(mc.export(fn, x, **options).serialize())
"""
_STARTS = {
    "model": _MODEL
    + """
import flax.serialization
done("imports")
params = flax.serialization.msgpack_restore((folder / "params").read_bytes())
fn, options = served(params)
predict = lambda key, x: mc.predict(fn, key, x, **options)
done("load")
""",
    "program": """
done("imports")
predict = jax.export.deserialize((folder / "served").read_bytes()).call
done("load")
""",
}


def main(arguments=None):
    """Prints the medians of wall and of processor time, and returns them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--starts", type=int, default=5, help="processes of each kind (5)")
    starts = parser.parse_args(arguments).starts
    _report.print_context(_report.context())
    found = {kind: [] for kind in _STARTS}
    with tempfile.TemporaryDirectory() as folder:
        _run(_COMMON + _MODEL + "import flax.serialization\n" + _MAKE, folder)
        size = (pathlib.Path(folder) / "served").stat().st_size
        print(f"784-1024x3-10 ReLU, 100 passes, batch 32; the program has {size / 2**20:.1f} MiB\n")
        for _ in range(starts):
            for kind, code in _STARTS.items():
                found[kind].append(json.loads(_run(_COMMON + code + _ANSWERS, folder)))
    medians = {kind: _medians(runs) for kind, runs in found.items()}
    print("seconds, wall (processor)".ljust(26), *(kind.rjust(18) for kind in medians))
    for step in next(iter(medians.values())):
        cells = [f"{m[step][0]:.3f} ({m[step][1]:.3f})" for m in medians.values()]
        print(step.ljust(26), *(cell.rjust(18) for cell in cells))
    return medians


def _medians(runs):
    """Of each step, and of a start as a whole up to its first answer."""
    start = [[sum(t) for t in zip(*list(run.values())[:3])] for run in runs]
    runs = [{**run, "start to first answer": whole} for run, whole in zip(runs, start)]
    return {
        step: [statistics.median(times) for times in zip(*(run[step] for run in runs))]
        for step in runs[0]
    }


def _run(code, folder):
    """What a process of its own prints, that compiles everything."""
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, "-c", code, folder]
    kept = {"check": True, "stdout": subprocess.PIPE, "text": True}
    return subprocess.run(command, env=environment, **kept).stdout


if __name__ == "__main__":
    main()
