"""``python -m benchmarks.ensemble``: Monte-Carlo dropout against a deep ensemble of equal cost.

An ensemble is five nets without dropout, from five seeds. The net with dropout learns for five
times as many epochs, so both cost the same to train; with five passes they cost the same to ask.
All are asked about digits that stand upright and about turned ones, of which none has seen any.

Lakshminarayanan et al., "Simple and scalable predictive uncertainty estimation using deep
ensembles", 2017; Ovadia et al., "Can you trust your model's uncertainty?", 2019, for the turning.
"""

import argparse
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy import ndimage

from benchmarks import _report, mnist
from benchmarks._report import count
from jaxdrop import mc, uncertainty

_MEMBERS, _MANY, _RATE = 5, 100, 0.5
_ANGLES, _TURNED = (0, 30, 60), (30, 60, 90)  # degrees: of scores, and to be told from upright
_LEARNING_RATE, _BATCH = 2e-3, 100


def main(arguments=None):
    """Trains, asks and prints a table for each set of digits; returns the figures of each seed."""
    options = _options(arguments)
    _report.print_context(_report.context())
    sets = {"digits": mnist.small()}
    if options.data:
        sets["mnist"] = mnist.read(options.data)
    settings = {"epochs": options.epochs, "hidden": options.hidden}
    saved, found = _report.Saved(options.json, settings), {}
    for name, (train, test) in sets.items():
        epochs = options.epochs or {"digits": 60, "mnist": 10}[name]
        rows = found[name] = {}
        for seed in range(options.seeds):
            ask = functools.partial(_ask, name, train, test, epochs, seed, options.hidden)
            for row, scores in saved(f"{name}, seed {seed}", ask).items():
                _report.gather(rows.setdefault(row, {}), scores)
        print(f"\n{name}: {options.seeds} seeds, {epochs} epochs for each net of the ensemble")
        _print_table(rows)
    return found


def _options(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ensemble",
        description="Scores of one net, an ensemble and Monte-Carlo dropout, on turned digits.",
    )
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="holds mnist.npz, too")
    parser.add_argument("--epochs", type=count, metavar="N", help="of each net (60; MNIST 10)")
    parser.add_argument("--hidden", type=count, default=256, metavar="N", help="width (256)")
    parser.add_argument("--seeds", type=count, default=5, metavar="N", help="number (5)")
    _report.add_json(parser)
    return parser.parse_args(arguments)


def _ask(name, train, test, epochs, seed, hidden):
    """Scores of every row, from nets of one seed."""

    def trained(title, rate, epochs, seed):
        net = mnist.Net(hidden, 2, (0.0, rate))
        options = argparse.Namespace(seed=seed, epochs=epochs, limit=None)
        title = f"{name}, seed {seed}, {title}"
        return net, mnist.train_net(title, net, train, options, batch=_BATCH, optimizer_for=_adam)

    members = [
        trained(f"net {n + 1} of {_MEMBERS}", 0.0, epochs, seed * _MEMBERS + n)
        for n in range(_MEMBERS)
    ]
    longer = trained("longer", 0.0, _MEMBERS * epochs, seed)
    dropping = trained("dropout", _RATE, _MEMBERS * epochs, seed)
    fn = mc.from_linen(*dropping)

    def passes(number):
        def ask(x):
            options = {"num_samples": number, "summary": mc.samples(), "balanced": True}
            return jax.nn.softmax(mc.predict(fn, jax.random.key(seed), x, **options))

        return ask

    def whole(*nets):
        return lambda x: jax.nn.softmax(jnp.stack([net.apply(v, x) for net, v in nets]))

    ways = {
        "one net": whole(members[0]),
        "one net, 5 x epochs": whole(longer),
        "ensemble of 5": whole(*members),
        "dropout, whole net": whole(dropping),
        "dropout, 5 passes": passes(_MEMBERS),
        "dropout, 100 passes": passes(_MANY),
    }
    return {row: _scores(ask, test) for row, ask in ways.items()}


def _adam(steps):
    return optax.adam(optax.linear_schedule(_LEARNING_RATE, 0.0, steps))


def _scores(ask, test):
    """Errors, likelihoods and calibration by angle; how well doubt tells turned digits apart."""
    scores, doubts = {}, {}
    for angle in sorted({*_ANGLES, *_TURNED}):
        samples = ask(turned(test.images, angle))
        mean = samples.mean(0)
        doubts[angle] = [uncertainty.entropy(mean), uncertainty.mutual_information(samples)]
        if angle in _ANGLES:
            scores[f"error {angle}°, %"] = mnist.error_of(mean, test.labels)
            scores[f"NLL {angle}°"] = uncertainty.negative_log_likelihood(mean, test.labels)
            scores[f"ECE {angle}°"] = uncertainty.expected_calibration_error(mean, test.labels)
    strange = np.repeat([0, 1], len(test.labels))
    for number, name in enumerate(("entropy", "MI")):
        for angle in _TURNED:
            doubt = np.concatenate([doubts[0][number], doubts[angle][number]])
            scores[f"AUROC {angle}°, {name}"] = uncertainty.auroc(doubt, strange)
    return {name: float(score) for name, score in scores.items()}


def turned(images, angle):
    """Rows of square images, turned by some degrees."""
    side = round(images.shape[1] ** 0.5)
    squares = np.asarray(images).reshape(-1, side, side)
    squares = ndimage.rotate(squares, angle, axes=(1, 2), reshape=False, order=1)
    return squares.clip(0, 1).astype(np.float32).reshape(len(images), -1)


def _print_table(rows):
    """Means over seeds with their standard errors, a row per column of scores."""
    width = max(map(len, rows))
    columns = list(next(iter(rows.values())))
    for start in range(0, len(columns), 3):  # three per block fit into 80 columns
        some = columns[start : start + 3]
        print(f"\n{'':<{width}}" + "".join(f"{column:>20}" for column in some))
        for row, scores in rows.items():
            cells = (_report.mean_and_error(scores[column]) for column in some)
            print(f"{row:<{width}}" + "".join(f"{cell:>20}" for cell in cells))


if __name__ == "__main__":
    main()
