"""``python -m benchmarks.mnist``: dropout on MNIST, and how many passes replace weight scaling.

Srivastava et al., "Dropout", 2014: table 2, its fully connected ReLU nets, and figure 11, which
compares averages over Monte-Carlo passes with one pass of the whole net.
"""

import argparse
import functools
import json
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from tqdm import tqdm

from benchmarks import _report
from benchmarks._report import count
from jaxdrop import linen, mc

# Test error in per cent (Srivastava et al. 2014, table 2).
PUBLISHED = {"no dropout": 1.60, "dropout": 1.25, "dropout, max-norm": 1.06}
_BATCH, _LEARNING_RATE, _MOMENTUM, _MAX_NORM = 128, 0.05, 0.95, 2.0
_INPUT_RATE, _HIDDEN_RATE = 0.2, 0.5
_PASSES = (1, 2, 5, 10, 20, 50, 100)


class Digits(NamedTuple):
    """Images as rows in [0, 1], and labels."""

    images: Any
    labels: Any


class Net(nn.Module):
    """Dense ReLU layers with dropout of the inputs and after each of them."""

    hidden: int
    layers: int
    rates: tuple[float, float]
    features: int = 10

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = linen.Dropout(self.rates[0])(x, deterministic=deterministic)
        for _ in range(self.layers):
            x = nn.relu(nn.Dense(self.hidden)(x))
            x = linen.Dropout(self.rates[1])(x, deterministic=deterministic)
        return nn.Dense(self.features)(x)


def main(arguments=None):
    """Trains, tests, prints the errors beside the published ones, and returns them in per cent."""
    options = _options(arguments)
    train, test = read(options.data)
    _report.print_context(_report.context())
    print(
        f"{options.layers} x {options.hidden} ReLU, {options.epochs} epochs, batch {_BATCH}, "
        f"{len(train.labels):,} digits to learn from\n"
    )
    rates = _INPUT_RATE, _HIDDEN_RATE
    rows = {
        "no dropout": ((0.0, 0.0), False),
        "dropout": (rates, False),
        "dropout, max-norm": (rates, True),
    }
    errors, found = {}, {}
    for name, (kept, bounded) in rows.items():
        net = Net(options.hidden, options.layers, kept)
        started = time.perf_counter()
        found[name] = net, train_net(name, net, train, options, bounded=bounded)
        errors[name] = error_of(net.apply(found[name][1], test.images), test.labels)
        seconds = time.perf_counter() - started
        print(
            f"{name:<20}{errors[name]:>7.2f} %   published {PUBLISHED[name]:.2f} %{seconds:>8.0f} s"
        )
    curves = _curves(*found["dropout"], test, options)
    _print_curve(curves, errors["dropout"])
    if options.json:
        saved = {"context": _report.context(), "errors": errors, "passes": curves}
        options.json.write_text(json.dumps(saved, indent=1), encoding="utf-8")
        print(f"\nrows: {options.json}")
    if options.picture:
        _draw(options.picture, curves, errors["dropout"])
        print(f"\npicture: {options.picture}")
    return {"errors": errors, "passes": curves}


def _options(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mnist",
        description="Test error of dropout on MNIST, and of averages over Monte-Carlo passes.",
    )
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="holds mnist.npz")
    parser.add_argument("--epochs", type=count, default=100, metavar="N", help="number (100)")
    parser.add_argument("--hidden", type=count, default=1024, metavar="N", help="width (1024)")
    parser.add_argument("--layers", type=count, default=3, metavar="N", help="hidden layers (3)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N digits")
    parser.add_argument("--repeats", type=count, default=10, metavar="N", help="repetitions (10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed (0)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="save the figures")
    parser.add_argument("--picture", type=pathlib.Path, metavar="FILE", help="draw the curve")
    options = parser.parse_args(arguments)
    check_data(parser, options)
    return options


def check_data(parser, options):
    """If ``--data`` is missing, stops with what the data are and where to get them."""
    if options.data is None:
        parser.error(
            "--data: expected a folder with mnist.npz, arrays x_train, y_train, x_test, y_test; "
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz is one"
        )


def read(folder):
    """The digits to learn from and those to test on."""
    file = folder / "mnist.npz"
    if not file.is_file():
        raise SystemExit(f"--data: expected mnist.npz in {folder}, found none")
    with np.load(file) as arrays:
        return tuple(
            Digits(
                arrays[f"x_{part}"].reshape(len(arrays[f"y_{part}"]), -1).astype(np.float32) / 255,
                arrays[f"y_{part}"].astype(np.int32),
            )
            for part in ("train", "test")
        )


def small():
    """The 8 x 8 digits of scikit-learn: 1200 to learn from, and 597 to test on."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    whole = Digits(np.float32(pixels / 16), np.int32(labels))
    return tuple(Digits(*(part[rows] for part in whole)) for rows in (np.s_[:1200], np.s_[1200:]))


def sized(parser, arguments, full, quick):
    """Options and digits; what the command line leaves out is that of the full or quick form."""
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="holds mnist.npz")
    parser.add_argument("--quick", action="store_true", help="seconds, on digits of scikit-learn")
    for name, value in full.items():
        shown = f"number ({value}; quick {quick[name]})"
        parser.add_argument(f"--{name}", type=count, metavar="N", help=shown)
    _report.add_json(parser)
    options = parser.parse_args(arguments)
    _report.fill(options, quick if options.quick else full)
    if not options.quick:
        check_data(parser, options)
    return options, read(options.data) if options.data else small()


def momentum(steps):
    """SGD with momentum, at a learning rate that falls to 0 over ``steps`` steps."""
    return optax.sgd(optax.linear_schedule(_LEARNING_RATE, 0.0, steps), _MOMENTUM)


def train_net(
    name,
    net,
    train,
    options,
    *,
    batch=_BATCH,
    optimizer_for=momentum,
    bounded=False,
    groups=1,
    penalty=None,
):
    """Variables of a net after all epochs, with the optimizer for the number of steps.

    Args:
        name: title of the progress bar.
        net: linen module that takes images and ``deterministic``.
        train: digits to learn from.
        options: has ``seed``, ``epochs`` and ``limit``.
        batch: examples per step.
        optimizer_for: optimizer for a number of steps.
        bounded: whether the norm of each unit's weights stays bounded.
        groups: how many parts of a batch have a key, and so masks of weights, of their own.
        penalty: ``penalty(variables, epoch)``, which is added to the loss; epochs count from 0.
    """
    train = Digits(*(jnp.asarray(part[: options.limit]) for part in train))
    key = jax.random.key(options.seed)
    variables = net.init(jax.random.fold_in(key, 0), train.images[:1])
    batch = min(batch, len(train.labels)) // groups * groups
    steps = len(train.labels) // batch
    optimizer = optimizer_for(steps * options.epochs)

    def loss(variables, key, images, labels):
        logits = net.apply(variables, images, deterministic=False, rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    def whole_loss(variables, key, images, labels, number):
        keys = [key] if groups == 1 else jax.random.split(key, groups)
        # One after another: under vmap, groups of weights take a fifth longer on a CPU.
        parts = zip(keys, jnp.split(images, groups), jnp.split(labels, groups))
        mean = sum(loss(variables, *part) for part in parts) / groups
        return mean if penalty is None else mean + penalty(variables, number)

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(state, key, number):
        order = jax.random.permutation(jax.random.fold_in(key, 0), len(train.labels))
        order = order[: steps * batch].reshape(steps, batch)

        def step(state, now):
            variables, moments = state
            key, rows = now
            examples = train.images[rows], train.labels[rows]
            gradient = jax.grad(whole_loss)(variables, key, *examples, number)
            updates, moments = optimizer.update(gradient, moments)
            variables = optax.apply_updates(variables, updates)
            return (_bound(variables) if bounded else variables, moments), None

        keys = jax.random.split(jax.random.fold_in(key, 1), steps)
        return jax.lax.scan(step, state, (keys, order))[0]

    state = variables, optimizer.init(variables)
    with tqdm(total=options.epochs, unit="epoch", ncols=78, leave=False) as bar:
        bar.set_description(name)
        for number in range(options.epochs):
            state = epoch(state, jax.random.fold_in(key, number + 1), number)
            jax.block_until_ready(state)
            bar.update()
    return state[0]


def _bound(variables):
    """Bounds the norm of every unit's incoming weights (Srivastava et al. 2014, section 5.1)."""

    def bound(path, leaf):
        if path[-1].key != "kernel":
            return leaf
        norm = jnp.linalg.norm(leaf, axis=0, keepdims=True)
        return leaf * jnp.minimum(1, _MAX_NORM / jnp.maximum(norm, 1e-12))

    return jax.tree_util.tree_map_with_path(bound, variables)


def error_of(scores, labels):
    """Share of the examples whose highest score is not their label, in per cent."""
    return 100 * float((np.asarray(scores).argmax(-1) != labels).mean())


def _curves(net, variables, test, options):
    """Errors of averages over several numbers of passes, repeated."""
    fn = mc.from_linen(net, variables)
    key = jax.random.key(options.seed + 1)
    found = {passes: [] for passes in _PASSES}
    with tqdm(total=options.repeats, unit="repeat", ncols=78, leave=False) as bar:
        for number in range(options.repeats):
            for passes in _PASSES:
                used = jax.random.fold_in(jax.random.fold_in(key, number), passes)
                settings = {"num_samples": passes, "chunk_size": 1, "balanced": False}
                summary = mc.classification()
                out = mc.predict(fn, used, test.images, summary=summary, **settings)
                found[passes].append(error_of(out.probabilities, test.labels))
            bar.update()
    return found


def _print_curve(curves, scaled):
    print(f"\n{'passes':>8}{'error':>10}{'deviation':>12}   weight scaling {scaled:.2f} %")
    for passes, errors in curves.items():
        print(f"{passes:>8}{np.mean(errors):>8.2f} %{np.std(errors):>10.2f} %")


def _draw(file, curves, scaled):
    from jaxdrop import plots

    figure, (axes,) = plots.figure(1)
    means = [np.mean(errors) for errors in curves.values()]
    spread = [np.std(errors) for errors in curves.values()]
    axes.errorbar(list(curves), means, spread, marker="o", capsize=3, label="average of passes")
    axes.axhline(scaled, color="0.4", linestyle="--", label="weight scaling, one pass")
    axes.set(xscale="log", xlabel="number of passes", ylabel="test error, %", title="MNIST")
    axes.legend(frameon=False)
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    main()
