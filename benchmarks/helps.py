"""``python -m benchmarks.helps``: does dropout help, beside rivals that cost less?

The same net learns with nothing, weight decay, dropout, both, or thinned layers. Each row is judged
after the last epoch, and at the epoch with the lowest loss on a validation part (early stopping).
All learn for the same number of epochs. Then all get the same time: what the plain net needs for
its epochs, divided by the seconds that an epoch of the row takes. Every epoch includes one look at
the validation part, for all rows.
"""

import argparse
import functools
import pathlib
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets
from tqdm import tqdm

from benchmarks import _report, mnist, thinned
from benchmarks._report import count

_LEARNING_RATE = 1e-3
_DECAYS = (0.1, 1.0, 10.0)  # of the weights, times the learning rate; validation chooses
_ROUNDS = 7  # of timing
_KINDS = ("last epoch", "stopped early")


class Task(NamedTuple):
    """A data set, and how to learn from it.

    Attributes:
        name: of the set.
        split: function of a seed; parts to learn from, to choose by and to test on.
        classes: number of classes, or None if the targets are numbers.
        rates: of dropout, of the inputs and of the hidden units.
        hidden: units of each of the two hidden layers.
        epochs: that all nets learn for, if the number of epochs is the same.
        batch: examples of a step.
        seeds: that the table contains.
    """

    name: str
    split: Any
    classes: int | None
    rates: tuple[float, float]
    hidden: int
    epochs: int
    batch: int
    seeds: int


class Part(NamedTuple):
    """Rows of numbers, and their targets; the unit of the targets is ``deviation``."""

    x: Any
    y: Any
    deviation: float = 1.0


def main(arguments=None):
    """Chooses, times, trains and prints a table for each set; returns the scores of each seed."""
    options = _options(arguments)
    _report.print_context(_report.context())
    settings = {"quick": options.quick, "epochs": options.epochs}
    saved = _report.Saved(options.json, settings)
    return {task.name: _run(task, saved) for task in _tasks(options)}


def _options(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.helps",
        description="Test loss and error with dropout and its rivals, at equal epochs and time.",
    )
    parser.add_argument("--data", type=pathlib.Path, metavar="DIR", help="holds mnist.npz, too")
    parser.add_argument("--seeds", type=count, metavar="N", help="number (10; MNIST 3)")
    parser.add_argument("--epochs", type=count, metavar="N", help="number (100; MNIST 20)")
    parser.add_argument("--quick", action="store_true", help="two sets, small nets, few epochs")
    _report.add_json(parser)
    return parser.parse_args(arguments)


def _tasks(options):
    small = Task("digits", _split_of(datasets.load_digits), 10, (0.0, 0.2), 128, 100, 32, 10)
    tasks = [
        small,
        small._replace(name="diabetes", split=_split_of(datasets.load_diabetes), classes=None),
        small._replace(
            name="breast cancer", split=_split_of(datasets.load_breast_cancer), classes=2
        ),
    ]
    if options.data:
        read = functools.partial(_mnist, *mnist.read(options.data))
        tasks.append(Task("MNIST", read, 10, (0.2, 0.5), 256, 20, 256, 3))
    if options.quick:
        tasks = [task._replace(hidden=32, epochs=10, seeds=2) for task in tasks[:2]]
    asked = {"seeds": options.seeds, "epochs": options.epochs}
    return [task._replace(**{k: v for k, v in asked.items() if v}) for task in tasks]


def _split_of(load):
    """A split by seed: three fifths to learn from, standardised by them, and two of one fifth."""

    def split(seed):
        x, y = load(return_X_y=True)
        order = np.random.default_rng(seed).permutation(len(y))
        ends = 3 * len(y) // 5, 4 * len(y) // 5
        mean, deviation = x[order[: ends[0]]].mean(0), x[order[: ends[0]]].std(0)
        x = np.float32((x - mean) / np.where(deviation > 0, deviation, 1))
        if y.dtype.kind == "f":  # numbers: learned in units of their deviation
            unit = y[order[: ends[0]]].std()
            y = np.float32((y - y[order[: ends[0]]].mean()) / unit)
        else:
            unit, y = 1.0, np.int32(y)
        return [Part(x[rows], y[rows], float(unit)) for rows in np.split(order, ends)]

    return split


def _mnist(train, test, seed):
    """A twelfth of the digits, drawn by the seed, is the validation part."""
    order = np.random.default_rng(seed).permutation(len(train.labels))
    watch, learn = np.split(order, [len(order) // 12])
    parts = [Part(train.images[rows], train.labels[rows]) for rows in (learn, watch)]
    return [*parts, Part(*test)]


def _nets(task):
    """Net and whether its weights decay, by name; the plain one first."""
    features, size = task.classes or 1, (task.hidden, 2)
    plain = mnist.Net(*size, (0.0, 0.0), features)
    dropping = mnist.Net(*size, task.rates, features)
    return {
        "nothing": (plain, False),
        "weight decay": (plain, True),
        "dropout": (dropping, False),
        "dropout and decay": (dropping, True),
        "thinned layers": (thinned.ThinnedNet(*size, 1, task.rates, features), False),
    }


def _run(task, saved):
    """Scores of every row of a set, as lists over seeds, and its table."""
    nets = _nets(task)
    seconds = saved(f"{task.name}, seconds", functools.partial(_time, task, nets))
    # Fixed before any net is judged.
    epochs = {
        name: max(1, round(task.epochs * seconds["nothing"] / taken))
        for name, taken in seconds.items()
    }
    rows, decays = {(name, kind): {} for name in nets for kind in _KINDS}, []
    with tqdm(total=task.seeds * len(nets), unit="net", ncols=78, leave=False) as bar:
        bar.set_description(task.name)
        for seed in range(task.seeds):
            parts = functools.cache(functools.partial(task.split, seed))
            choose = functools.partial(_choose, task, nets["nothing"][0], parts, seed)
            decays.append(saved(f"{task.name}, decay, seed {seed}", choose))
            for name, (net, decayed) in nets.items():
                decay = decays[-1] if decayed else 0.0
                judge = functools.partial(_judge, task, net, parts, seed, decay, epochs[name])
                scores = saved(f"{task.name}, {name}, seed {seed}", judge)
                for kind in _KINDS:
                    _report.gather(rows[name, kind], scores[kind])
                bar.update()
    _print(task, rows, decays, seconds, epochs)
    return {", ".join(row): scores for row, scores in rows.items()}


def _time(task, nets):
    """Median seconds of the processor per epoch of each row, from short runs in turns.

    Other work on the machine does not count there. On one core these are the seconds of a clock.
    """
    learn, watch, _ = task.split(0)
    short = max(1, task.epochs // 20)
    # Rows with the same net differ in a number that is traced, so they are the same program.
    taken = {net: [] for net, _ in nets.values()}
    for _ in range(1 + _ROUNDS):
        for net in taken:
            started = time.process_time()
            key, parts = jax.random.key(0), (learn[:2], watch[:2])
            jax.block_until_ready(_fit(task.classes, task.batch, net, key, short, 0.1, *parts))
            taken[net].append(time.process_time() - started)
    # The first time compiles.
    return {name: float(np.median(taken[net][1:])) / short for name, (net, _) in nets.items()}


def _choose(task, net, parts, seed):
    """The weight decay that gives the plain net the lowest validation loss at the last epoch."""
    learn, watch, _ = parts()

    def loss(decay):
        key, settings = jax.random.key(seed), (task.epochs, decay, learn[:2], watch[:2])
        variables, _ = _fit(task.classes, task.batch, net, key, *settings)
        return _losses(task.classes, net.apply(variables, watch.x), watch.y).mean()

    return min(_DECAYS, key=loss)


def _judge(task, net, parts, seed, decay, epochs):
    """Test scores after the epochs of the set, and after as many as its time allows."""
    learn, watch, test = parts()
    scores = {kind: {} for kind in _KINDS}
    fit = functools.partial(_fit, task.classes, task.batch, net, jax.random.key(seed))
    numbers = {"equal epochs": task.epochs, "equal time": epochs}
    found = {n: fit(n, decay, learn[:2], watch[:2]) for n in set(numbers.values())}
    for budget, number in numbers.items():
        for kind, variables in zip(_KINDS, found[number]):
            outputs = net.apply(variables, test.x)
            loss = float(_losses(task.classes, outputs, test.y).mean())
            if task.classes is None:
                scores[kind][f"RMSE, {budget}"] = loss**0.5 * test.deviation
            else:
                scores[kind][f"NLL, {budget}"] = loss
                scores[kind][f"error %, {budget}"] = mnist.error_of(outputs, test.y)
    return scores


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _fit(classes, batch, net, key, epochs, decay, learn, watch):
    """Variables after the last epoch, and after that with the lowest loss on ``watch``.

    The number of epochs and the decay are traced, so each net is compiled once per set.
    """
    variables = net.init(jax.random.fold_in(key, 0), learn[0][:1])
    optimizer = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(decay))
    steps = len(learn[1]) // batch

    def loss(variables, key, rows):
        rngs = {"dropout": key}
        outputs = net.apply(variables, learn[0][rows], deterministic=False, rngs=rngs)
        return _losses(classes, outputs, learn[1][rows]).mean()

    def epoch(number, state):
        used = jax.random.fold_in(key, number + 1)
        order = jax.random.permutation(jax.random.fold_in(used, 0), len(learn[1]))
        order = order[: steps * batch].reshape(steps, batch)

        def step(state, now):
            variables, moments = state
            place, mask_key, rows = now
            gradient = jax.grad(loss)(variables, mask_key, rows)
            updates, moments = optimizer.update(gradient, moments, variables)
            done = (number + place / steps) / epochs
            updates = jax.tree.map(lambda leaf: -_LEARNING_RATE * (1 - done) * leaf, updates)
            return (optax.apply_updates(variables, updates), moments), None

        keys = jax.random.split(jax.random.fold_in(used, 1), steps)
        (variables, moments), _ = jax.lax.scan(step, state[:2], (jnp.arange(steps), keys, order))
        seen = _losses(classes, net.apply(variables, watch[0]), watch[1]).mean()
        lower = functools.partial(jnp.where, seen < state[3])
        best = jax.tree.map(lower, variables, state[2])
        return variables, moments, best, lower(seen, state[3])

    state = variables, optimizer.init(variables), variables, jnp.float32(jnp.inf)
    return jax.lax.fori_loop(0, epochs, epoch, state)[:3:2]


def _losses(classes, outputs, targets):
    """Negative log-likelihood of labels, or squared errors of numbers, of each example."""
    if classes is None:
        return jnp.square(outputs[:, 0] - targets)
    return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)


def _print(task, rows, decays, seconds, epochs):
    """Means and standard errors over seeds, and what differs from the plain net stopped early."""
    print(
        f"\n{task.name}: 2 x {task.hidden} ReLU, batch {task.batch}, {task.epochs} epochs, "
        f"{task.seeds} seeds,\n"
        f"rates {task.rates[0]} and {task.rates[1]}, decays chosen: "
        + ", ".join(f"{decay:g}" for decay in decays)
    )
    print(f"\n{'':<20}{'ms per epoch':>13}{'epochs in equal time':>22}")
    for name, taken in seconds.items():
        print(f"{name:<20}{taken * 1e3:>13.4g}{epochs[name]:>22}")
    print()
    rival = rows["nothing", "stopped early"]
    _print_table(rows, dict.fromkeys(rival, 0.0))
    print("\nThe same, less that of nothing but stopping early, seed by seed")
    _print_table(rows, rival)


def _print_table(rows, limits):
    """Means of what is above the limits, with standard errors over seeds."""
    budgets, columns = zip(*(reversed(column.split(", ")) for column in limits))
    for line in (budgets, columns):
        print(f"{'':<18}" + "".join(f"{cell:>15}" for cell in line))
    for (name, kind), scores in rows.items():
        label = name if kind == "last epoch" else "  stopped early"
        cells = (
            _report.mean_and_error(np.subtract(scores[column], limit))
            for column, limit in limits.items()
        )
        print(f"{label:<18}" + "".join(f"{cell:>15}" for cell in cells))


if __name__ == "__main__":
    main()
