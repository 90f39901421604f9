"""What balanced passes save: the errors of estimates from as many independent passes, divided."""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks import _passes_nets as nets
from benchmarks._report import Row, rows_of
from benchmarks._timing import paired
from jaxdrop import mc

_TOLERANCE, _MOST, _BATCH = 0.01, 4096, 50
_LOOSE = 0.02  # tolerance of what is repeated
_SKEWED = 0.05  # probabilities below it have errors that are far from normal
_OTHERS = 0.97  # target of what is not a mean: balanced passes should not harm it
# To a tolerance: whether passes are balanced, and what stops when it has reached it.
_WAYS = (
    ("independent", False, "batch"),
    ("balanced", True, "batch"),
    ("balanced, each example", True, "example"),
)


class Effort(NamedTuple):
    """How much is measured.

    Attributes:
        nets: number of nets of the digits of scikit-learn.
        epochs: of their training; a tenth of it for MNIST, and ten times it for energy.
        rows: number of test examples, the least certain ones.
        repetitions: of every estimate.
        samples: numbers of passes; a block is a quarter of one.
        truth: number of passes of the estimate that counts as the truth.
        data: folder with ``mnist.npz``, or with ``energy/X`` and ``energy/y`` in an npz, or None.
    """

    nets: int
    epochs: int
    rows: int
    repetitions: int
    samples: tuple[int, ...]
    truth: int
    data: pathlib.Path | None = None


FULL = Effort(len(nets.DIGITS), 30, 40, 100, (128, 512), 10_240)
QUICK = Effort(1, 2, 8, 4, (32,), 256)


class Estimates(NamedTuple):
    """What passes estimate, with a leading axis of repetitions or without.

    Attributes:
        mean: mean probabilities, or numbers, (..., N, C).
        mutual_information: (..., N); None for numbers.
        variance: variance of the same, (..., N, C).
        standard_error: of ``mean``, (..., N, C).
    """

    mean: Any
    mutual_information: Any
    variance: Any
    standard_error: Any


def passes(budget):
    """Errors of balanced passes against independent ones, coverage, numbers of passes, times."""
    effort = budget.passes
    train, pixels = nets.digits()
    cases = [(case, train, pixels, effort.epochs) for case in nets.DIGITS[: effort.nets]]
    if effort.data is not None:
        cases += _from_files(effort)
    with tqdm(cases, unit="net", ncols=78, leave=False) as bar:
        for case, train, inputs, epochs in bar:
            bar.set_description(case.name)
            fn = nets.trained(case.net, train, epochs)
            x = least_certain(case, fn, inputs, effort.rows)
            yield from _errors(case, fn, x, effort)
            yield from _until_tolerance(case, fn, inputs, effort)
            yield from _as_claimed(case, fn, x, effort)
            yield from _times(case, fn, inputs, budget)


def _from_files(effort):
    found = []
    if (effort.data / "mnist.npz").is_file():
        digits, epochs = nets.mnist_digits(effort.data), -(-effort.epochs // 10)
        found += [(case, *digits, epochs) for case in nets.MNIST]
    if (energy := nets.energy(effort.data)) is not None:
        found.append((nets.ENERGY, *energy, 10 * effort.epochs))
    if not found:
        raise SystemExit(
            f"--data: expected mnist.npz, or an npz with energy/X and energy/y, in {effort.data}"
        )
    return found


def estimates(case, fn, key, x, num_samples, *, balanced):
    """`Estimates` of some passes."""
    classes = {"classes": mc.classification(from_logits=False)} if case.classes else {}
    out = mc.predict(
        fn,
        key,
        x,
        num_samples=num_samples,
        summary=mc.combine(moments=mc.moments(), **classes),
        chunk_size=min(num_samples, 128),
        output=case.output,
        balanced=balanced,
    )
    mean, variance, error = out["moments"]
    information = out["classes"].mutual_information if case.classes else None
    return Estimates(mean, information, variance, error)


def repeated(case, fn, key, x, num_samples, repetitions, *, balanced):
    """`Estimates` of as many keys, each with its own passes."""

    @jax.jit
    def each(keys):
        one = lambda key: estimates(case, fn, key, x, num_samples, balanced=balanced)  # noqa: E731
        return jax.lax.map(one, keys, batch_size=10)

    return jax.tree.map(np.float64, each(jax.random.split(key, repetitions)))


def truth(case, fn, x, effort):
    """`Estimates` of so many passes that their error does not count."""
    found = estimates(case, fn, jax.random.key(2), x, effort.truth, balanced=True)
    return jax.tree.map(np.float64, found)


def least_certain(case, fn, inputs, number):
    """The inputs whose classes, or numbers, the passes agree on least."""
    summary = mc.classification() if case.classes else mc.moments()
    out = mc.predict(fn, jax.random.key(1), inputs, num_samples=64, summary=summary, balanced=True)
    doubt = out.predictive_entropy if case.classes else out.variance[:, 0]
    return inputs[np.argsort(-np.asarray(doubt))[:number]]


def _errors(case, fn, x, effort):
    true = truth(case, fn, x, effort)
    for samples in effort.samples:
        found = {
            name: repeated(
                case,
                fn,
                jax.random.key(3),
                x,
                samples,
                effort.repetitions,
                balanced=name == "balanced",
            )
            for name in ("independent", "balanced")
        }
        title = f"{case.name}, {samples} passes"
        for name, target in (
            ("mean", case.target),
            ("mutual_information", _OTHERS),
            ("variance", _OTHERS),
        ):
            if getattr(true, name) is None:
                continue
            squares = [
                np.square(getattr(each, name) - getattr(true, name)) for each in found.values()
            ]
            yield _saving(title, name.replace("_", " "), *squares, target)
        chosen = {"": np.full(true.mean.shape, True)}
        if case.classes:
            chosen[f", from {_SKEWED}"] = true.mean >= _SKEWED
        shares = {
            name + which: _covered(each, true, these)
            for which, these in chosen.items()
            for name, each in found.items()
        }
        yield from rows_of("within two errors", title, shares, "%", "independent")


def _saving(case, name, independent, balanced, target):
    """How often the error variance of independent passes is that of balanced ones."""
    above, below = (
        squares.reshape(len(squares), -1).mean(1) for squares in (independent, balanced)
    )
    ratio = above.mean() / below.mean()
    relative = [each.var(ddof=1) / len(each) / each.mean() ** 2 for each in (above, below)]
    error = ratio * np.sqrt(sum(relative))
    unit = "times" if ratio >= target else "times, missed"
    ends = float(ratio - error), float(ratio + error)
    section, against = "error variance", f"target of {target:g}"
    return Row(section, case, name, float(ratio), unit, float(ratio / target), against, ends)


def _covered(each, true, chosen):
    inside = np.abs(each.mean - true.mean) <= 2 * each.standard_error
    return 100 * float(inside[:, chosen].mean())


def _adaptive(case, fn, key, batches, **way):
    """As many passes as a tolerance asks for."""
    options = {"max_samples": _MOST, "chunk_size": 16, "progress": False, **way}
    return mc.predict_batches(fn, key, batches, output=case.output, **options)


def _until_tolerance(case, fn, inputs, effort):
    """Mean numbers of passes; a fixed one has to do for the least certain example of all."""
    size = min(_BATCH, len(inputs))
    batches = np.split(inputs, range(size, len(inputs), size))
    variance = max(
        estimates(
            case, fn, jax.random.key(4), batch, effort.samples[-1], balanced=True
        ).variance.max()
        for batch in batches
        if len(batch) == size
    )
    needed = {"fixed number": float(variance) / _TOLERANCE**2}
    for name, balanced, stop in _WAYS:
        way = {"balanced": balanced, "stop": stop, "tolerance": _TOLERANCE}
        out = _adaptive(case, fn, jax.random.key(5), batches, **way)
        needed[name] = float(np.mean(out.num_samples))
    section = f"for errors of {_TOLERANCE}"
    title = f"{case.name}, batches of {size}"
    yield from rows_of(section, title, needed, "passes", "fixed number")


def _as_claimed(case, fn, x, effort):
    """How far means are from the truth if a tolerance says when to stop; errors as root squares."""
    true, share, worst = truth(case, fn, x, effort).mean, {}, {}
    for name, balanced, stop in _WAYS:
        way = {"balanced": balanced, "stop": stop, "tolerance": _LOOSE, "summary": mc.moments()}
        keys = jax.random.split(jax.random.key(7), effort.repetitions)
        means = [_adaptive(case, fn, key, [x], **way).result.mean for key in keys]
        squares = np.square(np.float64(means) - true)
        share[name] = 100 * float((squares <= (2 * _LOOSE) ** 2).mean())
        worst[name] = float(np.sqrt(squares.mean(0).max())) / _LOOSE
    title = f"{case.name}, tolerance {_LOOSE}"
    yield from rows_of("within two tolerances", title, share, "%", "independent")
    section = "error of the worst output"
    yield from rows_of(section, title, worst, "tolerances", "independent")


def _times(case, fn, inputs, budget):
    samples = budget.passes.samples[0]
    functions = {
        name: functools.partial(
            mc.predict, fn, jax.random.key(6), jnp.asarray(inputs), num_samples=samples,
            chunk_size="auto", balanced=name == "balanced",
        )
        for name in ("independent", "balanced")
    }  # fmt: skip
    times = paired(functions, (), rounds=budget.rounds, seconds=budget.seconds / 3)
    title = f"{case.name}, {samples} passes"
    yield from rows_of("time", title, times, "ms", "independent")
