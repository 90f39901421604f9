"""``python -m benchmarks.uci``: MC dropout on UCI regression, compared with the published table.

Gal & Ghahramani, "Dropout as a Bayesian approximation", 2016, table 1, and the protocols that its
authors published later: ten times the epochs, and a grid whose rate and precision are chosen by
validation. The twenty splits are theirs.

Two protocols are beside the grid's. ``concrete`` learns a rate per layer and the precision with the
weights (Gal, Hron & Kendall, "Concrete dropout", 2017). ``inject`` trains without dropout, and the
grid chooses the rate at which the trained net drops (Ledda, Fumera & Roli, "Dropout injection at
test time", 2023).
"""

import argparse
import functools
import pathlib
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks import _report
from benchmarks._report import count
from benchmarks._uci_nets import Scaled, ask, learned_of, standardise, train


class Known(NamedTuple):
    """What is published for a set; scores are RMSE and log-likelihood, with standard errors.

    Attributes:
        rate: dropout rate of the first two protocols.
        precision: precision of the first two protocols, in the targets' own unit.
        grid: precisions of the grid.
        icml: scores after 400 epochs.
        long: scores after 4000 epochs.
        best: scores of the grid; `concrete` and `inject` are compared with them.
        length_scale: length scale of the first two protocols.
    """

    rate: float
    precision: float
    grid: tuple[float, ...]
    icml: tuple[float, float, float, float]
    long: tuple[float, ...]
    best: tuple[float, ...]
    length_scale: float = 1e-2


class Protocol(NamedTuple):
    """How nets are trained, and where their rates and precisions are from."""

    epochs: int
    batch: int
    chosen: bool = False  # by validation, from the grid
    learned: bool = False  # with the weights
    injected: bool = False  # the net was trained at rate 0


PROTOCOLS = {
    "icml": Protocol(400, 32),
    "long": Protocol(4000, 128),
    "grid": Protocol(4000, 128, chosen=True),
    "concrete": Protocol(4000, 128, learned=True),
    "inject": Protocol(4000, 128, chosen=True, injected=True),
}
RATES = (0.005, 0.01, 0.05, 0.1)
# For sets without published results: share of the targets' variance that may be noise.
NOISE_SHARES = (0.3, 0.1, 0.03, 0.01, 0.003)
# fmt: off
PUBLISHED = {
    "bostonHousing": Known(0.05, 0.159707652696, (0.1, 0.15, 0.2), (2.97, 0.19, -2.46, 0.06),
                           (2.80, -2.39), (2.904, 0.177, -2.402, 0.042)),
    "concrete": Known(0.01, 0.0557319157756, (0.025, 0.05, 0.075), (5.23, 0.12, -3.04, 0.02),
                      (4.81, -2.94), (4.826, 0.161, -2.937, 0.025)),
    "energy": Known(0.05, 0.427114830213, (0.25, 0.5, 0.75), (1.66, 0.04, -1.99, 0.02),
                    (1.09, -1.72), (0.539, 0.0135, -1.2115, 0.005)),
    "wine-quality-red": Known(0.05, 2.95833720839, (2.5, 3.0, 3.5), (0.62, 0.01, -0.93, 0.01),
                              (0.613, -0.92), (0.622, 0.008, -0.928, 0.013)),
    "yacht": Known(0.01, 0.541869562034, (0.25, 0.5, 0.75), (1.11, 0.09, -1.55, 0.03),
                   (0.724, -1.38), (0.666, 0.049, -1.250, 0.015), 1e-1),
}
# fmt: on


def main(arguments=None):
    """Trains, predicts, prints the scores beside the published ones, and returns the rows."""
    options = _options(arguments)
    sets = _read(options.data, options.sets)
    _report.print_context(_report.context())
    protocol = PROTOCOLS[options.protocol]
    epochs = options.epochs or protocol.epochs
    print(
        f"protocol {options.protocol}: {epochs} epochs, batch {protocol.batch}, "
        f"{options.splits} splits, {options.seeds} seed(s), {options.samples} MC samples\n"
    )
    protocol = protocol._replace(epochs=epochs)
    settings = {"epochs": epochs, "splits": options.splits, "samples": options.samples}
    saved = _report.Saved(options.json, {"protocol": options.protocol} | settings)
    rows = [
        saved(f"{name}, seed {seed}", functools.partial(_run, name, x, y, options, protocol, seed))
        for name, (x, y) in sets.items()
        for seed in range(options.seeds)
    ]
    _print_table(rows, options.protocol)
    return rows


def _options(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.uci",
        description="RMSE and log-likelihood of MC dropout on UCI regression sets.",
    )
    parser.add_argument(
        "--data",
        type=pathlib.Path,
        metavar="DIR",
        help="holds one or more npz files with <set>/X and <set>/y",
    )
    parser.add_argument("--sets", metavar="A,B", help="beginnings of the names (default: all)")
    parser.add_argument("--protocol", choices=list(PROTOCOLS), default="icml")
    parser.add_argument("--seeds", type=count, default=1, metavar="N", help="training seeds (1)")
    parser.add_argument("--splits", type=count, default=20, metavar="N", help="the first N (20)")
    parser.add_argument("--samples", type=count, default=10_000, metavar="N", help="number (10000)")
    parser.add_argument("--epochs", type=count, metavar="N", help="instead of the protocol's")
    _report.add_json(parser)
    options = parser.parse_args(arguments)
    if options.data is None:
        parser.error(
            "--data: expected a folder with npz files; the sets are in the UCI repository, "
            "https://archive.ics.uci.edu, and the package ucimlrepo fetches them by name"
        )
    return options


def sets_of(folder):
    """``(X, y)`` by name of every set in the npz files of a folder."""
    found = {}
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as arrays:
            for entry in arrays.files:
                name, _, part = entry.rpartition("/")
                if part == "X" and f"{name}/y" in arrays.files:
                    x = np.asarray(arrays[entry], np.float64)
                    found[name] = x, np.asarray(arrays[f"{name}/y"], np.float64).reshape(-1)
    return found


def _read(folder, wanted):
    """The chosen sets of a folder."""
    found = sets_of(folder)
    if not found:
        raise SystemExit(f"--data: expected npz files with <set>/X and <set>/y, got {folder}")
    if wanted is None:
        return found
    chosen = {}
    for start in wanted.split(","):
        names = [name for name in found if name.lower().startswith(start.lower())]
        if not names:
            raise SystemExit(f"--sets: expected some of {', '.join(found)}, got {start!r}")
        chosen |= {name: found[name] for name in names}
    return chosen


def splits(number, count):
    """The published splits: indices ``(train, test)`` of each."""
    rng = np.random.RandomState(1)
    size = round(0.9 * number)
    for _ in range(count):
        order = rng.choice(range(number), number, replace=False)
        yield order[:size], order[size:]


def _run(name, x, y, options, protocol, seed):
    """One row: scores of every split of a set."""
    started = time.perf_counter()
    chosen = list(splits(len(y), options.splits))
    known = PUBLISHED.get(name)
    key = jax.random.fold_in(jax.random.key(0), seed)
    length_scale = 1e-2
    if protocol.learned:
        rates = precisions = None
    elif protocol.chosen or known is None:
        rates, precisions = _choose(name, x, y, chosen, known, options, protocol, key)
    else:
        rates = np.full(len(chosen), known.rate, np.float32)
        precisions = np.full(len(chosen), known.precision, np.float32)
        length_scale = known.length_scale
    data = _stack(standardise(x, y, *split) for split in chosen)
    errors, likelihoods, rates, precisions = _fit_and_ask(
        f"{name}, seed {seed}", jax.random.fold_in(key, 1), data, rates, precisions, length_scale,
        options.samples, protocol,
    )  # fmt: skip
    return {
        "set": name,
        "seed": seed,
        "protocol": options.protocol,
        "rmse": errors.tolist(),
        "log_likelihood": likelihoods.tolist(),
        "rate": rates.tolist(),
        "precision": precisions.tolist(),
        "seconds": time.perf_counter() - started,
    }


def _choose(name, x, y, chosen, known, options, protocol, key):
    """Rate and precision of each split, chosen on the last fifth of its training part."""
    grid = known.grid if known else tuple(1 / (share * y.var()) for share in NOISE_SHARES)
    pairs = [(rate, precision) for rate in RATES for precision in grid]
    data = []
    for order, _ in chosen:
        size = round(0.8 * len(order))
        data += [standardise(x, y, order[:size], order[size:])] * len(pairs)
    rates, precisions = np.float32(pairs * len(chosen)).T
    _, likelihoods, *_ = _fit_and_ask(
        f"{name}, choosing", jax.random.fold_in(key, 2), _stack(data), rates, precisions, 1e-2,
        min(options.samples, 2_000), protocol,
    )  # fmt: skip
    best = likelihoods.reshape(len(chosen), len(pairs)).argmax(1)
    return np.float32([pairs[i] for i in best]).T


def _fit_and_ask(title, key, data, rates, precisions, length_scale, num_samples, protocol):
    """Errors and likelihoods of every net, and the rates and precisions that they have."""
    data = Scaled(*map(jnp.asarray, data))
    if not protocol.learned:
        rates, precisions = jnp.asarray(rates), jnp.asarray(precisions)
    with tqdm(total=protocol.epochs, unit="epoch", ncols=78, leave=False) as bar:
        bar.set_description(title)
        params = train(
            jax.random.fold_in(key, 0), data, 0 * rates if protocol.injected else rates, precisions,
            length_scale=length_scale, batch=protocol.batch, epochs=protocol.epochs,
            progress=bar.update,
        )  # fmt: skip
        if protocol.learned:
            rates, precisions = learned_of(params, data.deviation)
        bar.set_description(f"{title}, sampling")
        scores = ask(
            jax.random.fold_in(key, 1), params, data, rates, precisions, num_samples=num_samples
        )
    return *scores, np.asarray(rates), np.asarray(precisions)


def _stack(data):
    return Scaled(*(np.stack(parts) for parts in zip(*data)))


def _print_table(rows, protocol):
    print(f"{'set':<16}{'seed':>4}{'RMSE':>15}{'published':>15}{'LL':>15}{'published':>15}")
    for row in rows:
        ours = [_mean_and_error(row[key]) for key in ("rmse", "log_likelihood")]
        theirs = _published(row["set"], protocol)
        print(
            f"{row['set'][:16]:<16}{row['seed']:>4}{ours[0]:>15}{theirs[0]:>15}{ours[1]:>15}"
            f"{theirs[1]:>15}"
        )
    print()
    for row in rows:
        print(f"{row['set']}: {row['seconds']:.0f} s; (rate, precision): {_settings_of(row)}")


def _settings_of(row):
    """Rates and precisions of the splits: how often each, or means if they are learned."""
    rates, precisions = np.array(row["rate"]), np.array(row["precision"])
    if rates.ndim == 2:
        found = [f"{x.mean():.3g}±{x.std() / len(x) ** 0.5:.1g}" for x in (*rates.T, precisions)]
        return f"({', '.join(found)}), means"
    pairs = list(zip(row["rate"], row["precision"]))
    often = [f"({r:.3g}, {p:.3g}) x {pairs.count((r, p))}" for r, p in sorted(set(pairs))]
    return ", ".join(often)


def _mean_and_error(values):
    error = np.std(values) / np.sqrt(len(values))  # as in the published table
    return f"{np.mean(values):.3f}±{error:.3f}"


def _published(name, protocol):
    known = PUBLISHED.get(name)
    if known is None:
        return "-", "-"
    scores = {"icml": known.icml, "long": known.long}.get(protocol, known.best)
    if len(scores) == 2:
        return str(scores[0]), str(scores[1])
    rmse, rmse_error, likelihood, likelihood_error = scores
    return f"{rmse}±{rmse_error}", f"{likelihood}±{likelihood_error}"


if __name__ == "__main__":
    main()
