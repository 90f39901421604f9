"""The command line: which sections, how long, where the results go."""

import argparse
import os
import pathlib
from typing import NamedTuple

os.environ.setdefault("KERAS_BACKEND", "jax")  # Keras reads it at its first import

import jax
from tqdm import tqdm

from benchmarks import (
    _attention,
    _costs,
    _decode,
    _elementwise,
    _gpu,
    _import,
    _monte_carlo,
    _passes,
    _programs,
    _recurrent_step,
    _report,
    _residual,
    _thinned,
    _tpu,
)

_SECTIONS = {
    "forward": _elementwise.forward,
    "backward": _elementwise.backward,
    "shapes": _elementwise.shapes,
    "rates": _elementwise.rates,
    "keys": _elementwise.keys,
    "draw": _programs.draw,
    "kept": _programs.kept,
    "temporaries": _programs.temporaries,
    "compilation": _programs.compilation,
    "training": _programs.training,
    "recurrent": _recurrent_step.recurrent,
    "attention": _attention.attention,
    "long": _attention.long,
    "residual": _residual.residual,
    "costs": _costs.costs,
    "mc": _monte_carlo.monte_carlo,
    "decode": _decode.decode,
    "passes": _passes.passes,
    "thinned": _thinned.thinned,
    "import": _import.imports,
    "gpu": _gpu.gpu,
    "tpu": _tpu.tpu,
}


class Budget(NamedTuple):
    """How much is measured.

    Attributes:
        large: shape of the large array.
        net: batch and width of the net whose temporaries are counted.
        depth: layers of the encoder that is compiled.
        rounds: rounds of paired timing, at most.
        seconds: time after which no new round of a case begins.
        compilations: how often each training step is compiled.
        encoder: width and (batch, length) of the encoder that is trained.
        layers: number of layers of that encoder.
        recurrent: width, batch and time steps of the recurrent net.
        stride: every ``stride``-th small shape is timed.
        attention: (B, T, N, H) of the attention that is timed.
        tokens: length of the attention whose temporaries are counted.
        blocks: width and (batch, length) of the blocks whose branches are left out.
        width: width of the layers of the net that is sampled.
        samples: number of Monte-Carlo passes of that net.
        passes: nets and repetitions that compare balanced passes with independent ones.
        decode: width, length and layers of the decoder.
    """

    large: tuple[int, int]
    net: tuple[int, int]
    depth: int
    rounds: int
    seconds: float
    compilations: int
    encoder: tuple[int, tuple[int, int]]
    layers: int
    recurrent: tuple[int, int, int]
    stride: int
    attention: tuple[int, int, int, int]
    tokens: int
    blocks: tuple[int, tuple[int, int]]
    width: int
    samples: int
    passes: _passes.Effort
    decode: tuple[int, int, int]


_FULL = Budget(
    large=(4096, 4096),
    net=(8192, 1024),
    depth=24,
    rounds=25,
    seconds=30.0,
    compilations=3,
    encoder=(256, (8, 128)),
    layers=4,
    recurrent=(200, 20, 35),
    stride=1,
    attention=(1, 4096, 8, 64),
    tokens=32768,
    blocks=(256, (16, 128)),
    width=1024,
    samples=100,
    passes=_passes.FULL,
    decode=(128, 64, 4),
)
_QUICK = Budget(
    large=(512, 512),
    net=(512, 128),
    depth=2,
    rounds=3,
    seconds=0.3,
    compilations=1,
    encoder=(64, (2, 32)),
    layers=1,
    recurrent=(32, 4, 8),
    stride=4,
    attention=(1, 128, 2, 16),
    tokens=1024,
    blocks=(32, (4, 16)),
    width=64,
    samples=20,
    passes=_passes.QUICK,
    decode=(32, 8, 1),
)


def main(arguments=None):
    """Measures, prints, saves and draws."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What dropout costs: jaxdrop beside a copy of the array and beside the other "
        "libraries that are installed. Ratios of medians from paired runs in one process.",
    )
    parser.add_argument("--quick", action="store_true", help="small arrays, a minute or two")
    parser.add_argument("--only", metavar="A,B", help=f"sections, of: {', '.join(_SECTIONS)} (all)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="save the rows")
    parser.add_argument("--picture", type=pathlib.Path, metavar="FILE", help="draw the ratios")
    parser.add_argument(
        "--data", type=pathlib.Path, metavar="DIR", help="mnist.npz, energy of UCI: nets in passes"
    )
    options = parser.parse_args(arguments)
    chosen = options.only.split(",") if options.only else list(_SECTIONS)
    for name in chosen:
        if name not in _SECTIONS:
            parser.error(f"--only: expected some of {', '.join(_SECTIONS)}, got {name!r}")

    facts = _report.context()
    _report.print_context(facts)
    budget = _QUICK if options.quick else _FULL
    budget = budget._replace(passes=budget.passes._replace(data=options.data))
    rows = []
    with tqdm(chosen, unit="section", ncols=78) as bar:
        for name in bar:
            bar.set_description(name)
            found = list(_SECTIONS[name](budget))
            with bar.external_write_mode():
                _report.print_rows(found)
            rows += found
            jax.clear_caches()
    if options.json:
        _report.save_json(options.json, facts, rows)
        print(f"\nrows: {options.json}")
    if options.picture and _report.draw(options.picture, facts, rows):
        print(f"\npicture: {options.picture}")


if __name__ == "__main__":
    main()
