"""What one dropout costs on a TPU, from the figures of its compiler; a TPU is not needed.

``pip install "jax[tpu]"`` installs the compiler. Without it the section is empty.
"""

import importlib.util
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxdrop
from benchmarks import _peers
from benchmarks._report import rows_of

_COLLECTIVE = re.compile(
    r"= .* (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)
_TRIPS = 4  # trips of the loop that draws at a rate of 0.1, with four of 16 planes in each


def tpu(budget):
    """Bytes and vector operations of a dropout on one chip, and on each of 256."""
    if importlib.util.find_spec("libtpu") is None or jax.default_backend() == "tpu":
        return
    rows, columns = budget.large
    for topology, chips, shape in (
        ("v5e:2x2", 1, (rows, columns)),
        ("v5e:16x16", 256, (rows, columns)),
        ("v5e:16x16", 256, (2 * rows, columns)),
    ):
        place = _places(topology, chips)
        case = f"bfloat16 {shape[0]}x{shape[1]}, {chips} chip{'s' if chips > 1 else ''}"
        names = ("copy", "jaxdrop", "flax linen")
        functions = dict(zip(names, (_peers.copy, _peers.ours(0.1), _peers.flax_linen(0.1))))
        programs = {name: _compile(fn, shape, place) for name, fn in functions.items()}
        costs = {name: program.cost_analysis() for name, program in programs.items()}
        moved = {name: cost["bytes accessed"] for name, cost in costs.items()}
        yield from rows_of("TPU v5e, a chip's bytes", case, moved, "B", "copy")
        done = {name: costs[name]["flops"] for name in names[1:]}
        if chips == 1:
            # The compiler counts the body of a loop once. This adds the other trips of the draw.
            words = _compile(_words, shape, place).cost_analysis()["flops"]
            done["jaxdrop, all trips"] = done["jaxdrop"] + (_TRIPS - 1) * words
            # The matrix unit spreads the words. The compiler counts its operations with the others.
            product = 2 * shape[0] * (shape[1] // 8) * shape[1]
            done["the same on vectors"] = done["jaxdrop, all trips"] - product
        yield from rows_of("TPU v5e, a chip's operations", case, done, "", "flax linen")
        found = {name: len(collectives(p)) for name, p in programs.items()}
        yield from rows_of("TPU v5e, collectives", case, found, "", "copy")


def devices(topology):
    """The devices of a TPU topology, as its compiler describes them."""
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices


def collectives(program):
    """The kind of each collective in a compiled program."""
    return _COLLECTIVE.findall(program.as_text())


def _words(key, x):
    return jaxdrop.masks.sample(key, 0.1, x.shape).words


def _places(topology, chips):
    """Shardings ``(x, key)`` over the first chips of a topology, rows of x split."""
    mesh = Mesh(np.array(devices(topology)[:chips]), ("data",))
    return NamedSharding(mesh, P("data")), NamedSharding(mesh, P())


def _compile(function, shape, place):
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place[0])
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=place[1])
    return jax.jit(function).lower(key, x).compile()
