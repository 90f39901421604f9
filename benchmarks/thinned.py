"""``python -m benchmarks.thinned``: MNIST with no dropout, with dropout, and with thinned layers.

The net is that of ``python -m benchmarks.mnist``. All three are trained in the same way, so error
and time are comparable: with Adam, because its steps tolerate the noise of one sub-network for a
whole batch. Momentum diverges at the rate that is used there.
"""

import argparse
import json
import pathlib
import time
from typing import NamedTuple

import numpy as np
import optax
from flax import linen as nn
from tqdm import tqdm

from benchmarks import _report, _thinned, mnist
from benchmarks._report import count
from jaxdrop import linen

_INPUT_RATE, _HIDDEN_RATE, _LEARNING_RATE = 0.2, 0.5, 2e-3


class ThinnedNet(nn.Module):
    """Dense ReLU layers thinned together, with dropout of the inputs."""

    hidden: int
    layers: int
    num_groups: int
    rates: tuple[float, float] = (_INPUT_RATE, _HIDDEN_RATE)
    features: int = 10

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = linen.Dropout(self.rates[0])(x, deterministic=deterministic)
        widths = (self.hidden,) * self.layers
        thinned = linen.ThinnedMLP(
            widths,
            self.features,
            self.rates[1],
            activation=nn.relu,
            num_groups=self.num_groups,
        )
        return thinned(x, deterministic=deterministic)


def main(arguments=None):
    """Trains each net from each seed, prints errors and times, and returns them."""
    options = _options(arguments)
    if options.picture:
        _draw(options.picture, options.hidden)
        print(f"picture: {options.picture}")
        if options.data is None:
            return {}
    train, test = mnist.read(options.data)
    _report.print_context(_report.context())
    print(
        f"{options.layers} x {options.hidden} ReLU, {options.epochs} epochs, "
        f"batch {options.batch}, {options.seeds} seeds, "
        f"{len(train.labels[: options.limit]):,} digits to learn from\n"
    )
    size = options.hidden, options.layers
    nets = {
        "no dropout": mnist.Net(*size, (0.0, 0.0)),
        "dropout": mnist.Net(*size, (_INPUT_RATE, _HIDDEN_RATE)),
        "thinned": ThinnedNet(*size, options.groups),
    }
    found = {name: {"errors": [], "seconds": []} for name in nets}
    for seed in range(options.seeds):
        for name, net in nets.items():  # in turns, because a busy machine then slows all of them
            options.seed = seed
            started = time.perf_counter()
            variables = mnist.train_net(
                f"{name}, seed {seed}",
                net,
                train,
                options,
                batch=options.batch,
                optimizer_for=_adam,
            )
            found[name]["seconds"].append(time.perf_counter() - started)
            error = mnist.error_of(net.apply(variables, test.images), test.labels)
            found[name]["errors"].append(error)
    _print_table(found)
    if options.json:
        saved = {"context": _report.context(), "nets": found}
        options.json.write_text(json.dumps(saved, indent=1), encoding="utf-8")
        print(f"\nrows: {options.json}")
    return found


def _adam(steps):
    return optax.adam(optax.linear_schedule(_LEARNING_RATE, 0.0, steps))


def _options(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.thinned",
        description="Test error and training time on MNIST: no dropout, dropout, thinned layers.",
    )
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="holds mnist.npz")
    parser.add_argument("--epochs", type=count, default=30, metavar="N", help="number (30)")
    parser.add_argument("--batch", type=count, default=512, metavar="N", help="examples (512)")
    parser.add_argument("--seeds", type=count, default=3, metavar="N", help="number (3)")
    parser.add_argument("--hidden", type=count, default=1024, metavar="N", help="width (1024)")
    parser.add_argument("--layers", type=count, default=3, metavar="N", help="hidden layers (3)")
    parser.add_argument("--groups", type=count, default=1, metavar="N", help="per batch (1)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N digits")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="save the figures")
    parser.add_argument(
        "--picture", type=pathlib.Path, metavar="FILE", help="draw the time of a step by rate"
    )
    options = parser.parse_args(arguments)
    if options.picture is None:
        mnist.check_data(parser, options)
    return options


def _print_table(found):
    limit = np.median(found["dropout"]["seconds"])
    print(f"{'':<12}{'test error':>12}{'of each seed':>24}{'seconds':>9}{'of dropout':>12}")
    for name, row in found.items():
        seconds = np.median(row["seconds"])
        each = ", ".join(f"{error:.2f}" for error in row["errors"])
        print(
            f"{name:<12}{np.mean(row['errors']):>10.2f} %{each:>24}{seconds:>9.0f}"
            f"{seconds / limit:>12.2f}"
        )


def _draw(file, width):
    """Times of a step of a feed-forward block, as shares of that without dropout."""
    from jaxdrop import plots

    budget = _Rounds(25, 30.0)
    figure, (axes,) = plots.figure(1)
    ratios = {}
    for rate in tqdm(_thinned.RATES, unit="rate", ncols=78, leave=False):
        times, _ = _thinned.block_step(width, rate, budget)
        for name, time_of in times.items():
            ratio = time_of.median / times["no dropout"].median
            ratios.setdefault(name, []).append(ratio)
    for name, values in ratios.items():
        axes.plot(_thinned.RATES, values, marker="o", label=name)
    axes.set(
        xlabel="rate",
        ylabel="time of a training step",
        ylim=(0, None),
        title=f"{width // 2}-{2 * width}-{width // 2}, batch {width}",
    )
    axes.legend(frameon=False)
    figure.savefig(file, dpi=240)  # two pixels for each of a page's


class _Rounds(NamedTuple):
    """How often a step is timed at most, and for how long."""

    rounds: int
    seconds: float


if __name__ == "__main__":
    main()
