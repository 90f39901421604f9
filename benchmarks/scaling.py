"""``python -m benchmarks.scaling``: dropout in a transformer layer, compiled for up to 256 chips.

Compiles the training step of one layer for TPU v5e chips and prints what each chip would do:
its share of the draw, of memory traffic and of temporaries, and every collective. This needs the
compiler that ``pip install "jax[tpu]"`` installs, but not a TPU.
"""

import argparse
import importlib.util
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from tqdm import tqdm

import jaxdrop
from benchmarks import _report, _tpu
from benchmarks._report import count

_TOPOLOGIES = {1: "v5e:2x2", 8: "v5e:2x4", 64: "v5e:8x8", 256: "v5e:16x16"}
_RATE = 0.1
_KINDS = {"without": (0.0, 0.0), "branches": (_RATE, 0.0), "and hidden units": (_RATE, _RATE)}


class Layer(nn.Module):
    """A pre-norm transformer layer with dropout on both branches, as in Vaswani et al. 2017, 5.4.

    Attributes:
        heads: number of attention heads.
        rate: dropout rate on the output of each branch.
        hidden_rate: dropout rate on the hidden units of the second branch, 0 in that paper.
    """

    heads: int
    rate: float
    hidden_rate: float

    @nn.compact
    def __call__(self, x):
        def drop(x, rate=self.rate):
            return jaxdrop.linen.Dropout(rate, deterministic=False)(x) if rate else x

        width = x.shape[-1]
        attention = nn.MultiHeadDotProductAttention(self.heads, dtype=x.dtype)
        x = x + drop(attention(nn.LayerNorm(dtype=x.dtype)(x)))
        y = nn.gelu(nn.Dense(4 * width, dtype=x.dtype)(nn.LayerNorm(dtype=x.dtype)(x)))
        return x + drop(nn.Dense(width, dtype=x.dtype)(drop(y, self.hidden_rate)))


def main(arguments=None):
    """Compiles, prints, saves; returns the rows."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description="What dropout adds to a training step of a transformer layer on each of many "
        "TPU v5e chips, from the figures of the TPU compiler. A TPU is not needed.",
    )
    parser.add_argument("--batch", type=count, default=256, metavar="B", help="examples (256)")
    parser.add_argument("--length", type=count, default=512, metavar="L", help="tokens each (512)")
    parser.add_argument("--width", type=count, default=1024, metavar="D", help="features (1024)")
    parser.add_argument("--heads", type=count, default=16, metavar="N", help="attention heads (16)")
    parser.add_argument(
        "--chips", type=_chips, default="1,8,64,256", metavar="N,N", help="chips (1,8,64,256)"
    )
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="save the rows")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("libtpu") is None:
        parser.exit(1, 'The TPU compiler is missing: pip install "jax[tpu]"\n')
    facts = _report.context()
    _report.print_context(facts)
    rows, draws = [], {}
    for number in tqdm(options.chips, unit="mesh", ncols=78, file=sys.stderr):
        rows += list(_rows(number, options, draws))
    rows += _report.rows_of("operations of the draw", "a chip", draws, "", next(iter(draws)))
    _report.print_rows(rows)
    if options.json:
        _report.save_json(options.json, facts, rows)
    return rows


def _chips(text):
    """Numbers of chips in a list such as ``1,8``."""
    known = {str(number): number for number in _TOPOLOGIES}
    try:
        return [known[number.strip()] for number in text.split(",")]
    except KeyError:
        raise argparse.ArgumentTypeError(
            f"expected some of {', '.join(known)}, with commas between them, got {text!r}"
        ) from None


def _rows(chips, options, draws):
    mesh = Mesh(np.array(_tpu.devices(_TOPOLOGIES[chips])[:chips]), ("data",))
    shape = (options.batch, options.length, options.width)
    case = f"bfloat16 {shape}, {chips} chip{'s' if chips > 1 else ''}"
    programs = {
        name: _step(Layer(options.heads, *rates), shape, mesh) for name, rates in _KINDS.items()
    }
    draws[f"{chips} chips"] = _draw(shape, mesh).cost_analysis()["flops"]
    for title, unit, figure in (
        ("vector operations", "", lambda p: p.cost_analysis()["flops"]),
        ("bytes moved", "B", lambda p: p.cost_analysis()["bytes accessed"]),
        ("temporaries", "B", lambda p: p.memory_analysis().temp_size_in_bytes),
        ("collectives", "", lambda p: len(_tpu.collectives(p))),
    ):
        figures = {name: figure(program) for name, program in programs.items()}
        yield from _report.rows_of(f"a chip's {title}", case, figures, unit, "without")


def _step(layer, shape, mesh):
    """Output and gradients of a layer; each chip has a part of the batch and all weights.

    The gradient of the output is an array, as inside a network. If it were constant, the compiler
    could leave out what reads it, but only in the program without dropout.
    """

    def step(variables, key, x, above):
        def output(variables, x):
            return layer.apply(variables, x, rngs={"dropout": key})

        y, pull = jax.vjp(output, variables, x)
        return y, pull(above)

    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, P("data")))
    key = _on_each(jax.eval_shape(lambda: jax.random.key(0)), mesh)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(layer.init, keys, jnp.zeros((1, *shape[1:]), jnp.bfloat16))
    variables = jax.tree.map(lambda leaf: _on_each(leaf, mesh), variables)
    return jax.jit(step).lower(variables, key, x, x).compile()


def _draw(shape, mesh):
    """The words of a mask for the largest array of the layer."""
    key = _on_each(jax.eval_shape(lambda: jax.random.key(0)), mesh)
    shape = (*shape[:2], 4 * shape[2])

    def words(key):
        return jaxdrop.masks.sample(key, _RATE, shape).words

    return jax.jit(words, out_shardings=NamedSharding(mesh, P("data"))).lower(key).compile()


def _on_each(aval, mesh):
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, sharding=NamedSharding(mesh, P()))


if __name__ == "__main__":
    main()
