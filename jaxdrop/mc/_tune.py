"""The rate of dropout after training: one compiled sweep, and the number that calibrates it."""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop import uncertainty
from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _checks, _predict, _predict_batches, _pytrees
from jaxdrop.mc._classification import Classification, classification
from jaxdrop.mc._model_fn import ModelFn
from jaxdrop.mc._regression import Regression
from jaxdrop.mc._summary import Moments, Summary, moments
from jaxdrop.uncertainty import _internal


class Tuned(NamedTuple):
    """What `tune` has found; printed as a table. R counts rates, or their combinations.

    Attributes:
        rates: rates of dropping, shape (R,); a dict of them for rates of groups.
        log_likelihood: mean of the validation log-likelihood at each rate, in nats, shape (R,).
        scale: number that calibrates each rate, shape (R,): the temperature by which to divide
            the logarithms of mean probabilities, or the factor for variances.
        scaled_log_likelihood: the log-likelihood after that, shape (R,).
        best: number of the best rate.
        fn: function of a key and more arguments that runs at the best rate.
        scaling: ``"temperature"`` or ``"variance scale"``.
    """

    rates: Any
    log_likelihood: np.ndarray
    scale: np.ndarray
    scaled_log_likelihood: np.ndarray
    best: int
    fn: Any
    scaling: str

    @property
    def rate(self) -> Any:
        """The best rate; a dict for rates of groups."""
        if isinstance(self.rates, Mapping):
            return {name: float(rates[self.best]) for name, rates in self.rates.items()}
        return float(self.rates[self.best])

    def __str__(self) -> str:
        groups = self.rates if isinstance(self.rates, Mapping) else {"rate": self.rates}
        columns = {name: [f"{rate:.4g}" for rate in rates] for name, rates in groups.items()}
        columns["log-likelihood"] = [f"{each:.4f}" for each in self.log_likelihood]
        columns[self.scaling] = [f"{each:.4g}" for each in self.scale]
        columns["scaled log-likelihood"] = [f"{each:.4f}" for each in self.scaled_log_likelihood]
        columns[""] = ["best" if n == self.best else "" for n in range(len(self.scale))]
        widths = [max(map(len, [name, *column])) for name, column in columns.items()]
        rows = [list(columns), *map(list, zip(*columns.values()))]
        return "\n".join("  ".join(map(str.rjust, row, widths)).rstrip() for row in rows)

    def __repr__(self) -> str:
        return f"Tuned of {len(self.scale)} rates\n{self}"


def tune(
    fn: Any,
    key: Any,
    x: Any,
    y: ArrayLike,
    rates: ArrayLike | Mapping[str, Sequence[float]],
    *,
    summary: Summary | None = None,
    num_samples: int = 64,
    chunk_size: int | Literal["auto"] = 10,
    batch_size: int | None = None,
    balanced: bool | None = None,
    output: Callable[[Any], Any] | None = None,
    progress: bool = True,
    **kwargs: Any,
) -> Tuned:
    """Chooses the rate of dropout by the likelihood of held-out labels, without training.

    Every rate is asked by the same keys in the same compiled program. In a classification the best
    rate has the largest mean logarithm of the mean probability of the label. In a regression it has
    the largest Gaussian log-likelihood after its variances were multiplied by the best factor,
    because a variance over passes leaves out the noise of the data. The temperature or the factor
    of each rate comes with it: use both together.

    Args:
        fn: function of `from_linen` or `from_nnx`, with dropout of its own or by ``insert``; its
            sites get each rate as by ``rate=``, and those whose own rate is 0 stay off. Or a
            function of a rate, which may be traced, that returns a function of a key and more
            arguments: ``lambda rate: lambda key, x: ...``.
        key: PRNG key.
        x: validation inputs, examples on axis 0: an array, or a tuple of the arguments of ``fn``.
        y: class numbers, integers of shape (N, ...); or targets of the shape of the means.
        rates: probabilities of dropping, in [0, 1], shape (R,). Or a dict of rates by patterns of
            sites, such as ``{"encoder/*": [0, 0.1], "head*": [0.1, 0.3]}``: all combinations.
        summary: what is made of the passes: `classification`, `regression` or `moments`. None is
            ``classification()`` for integer ``y`` and else ``moments()``.
        num_samples: number of passes, as for `predict`.
        chunk_size: as for `predict`.
        batch_size: number of examples that run at once; None for all. The last batch is filled up
            with copies of its last example, which do not count.
        balanced: as for `predict`.
        output: as for `predict`.
        progress: whether to show a bar on stderr, if tqdm is installed.
        **kwargs: keyword arguments of the function.

    Returns:
        The `Tuned` result; print it for a table.

    Raises:
        TypeError: ``fn`` is not such a function, or ``summary`` is another one.
        ValueError: ``rates`` is empty, one lies outside [0, 1], the shapes do not fit, the output
            does not depend on the key, or no rate has a likelihood, as with a rate of 0 alone in a
            regression, whose variance is 0.

    Example:
        >>> model = nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(3)])  # trained without dropout
        >>> x, y = jnp.ones((6, 4)), jnp.array([0, 1, 2, 0, 0, 0])
        >>> fn = from_linen(model, model.init(jax.random.key(0), x), insert={"layers_0": 0.1})
        >>> tuned = tune(fn, jax.random.key(1), x, y, [0.1, 0.3, 0.5], progress=False)
        >>> tuned.log_likelihood.shape, tuned.rate in (0.1, 0.3, 0.5)
        ((3,), True)

    References:
        Ledda et al., "Dropout injection at test time for post hoc uncertainty quantification in
        neural networks", 2023, section 3.
    """
    masks.check_key(key)
    at_rate, grid, key = _at_rate(fn), _grid(rates), masks.typed(key)
    labels = _internal.as_array(y, "y")
    if summary is None:
        is_classes = jnp.issubdtype(labels.dtype, jnp.integer)
        summary = classification() if is_classes else moments()
    summary = _checks.check_summary(summary)
    args = x if isinstance(x, tuple) else (x,)
    count = _predict_batches.examples(args, "x")
    size = count if batch_size is None else masks.check_count(batch_size, "batch_size", 256)
    batches = [_rows(args, start, min(size, count)) for start in range(0, count, size)]
    split = [_pytrees.split((batch, kwargs)) for batch in batches]
    options: dict[str, Any] = {"num_samples": num_samples, "chunk_size": chunk_size}
    options |= {"balanced": balanced, "summary": summary, "output": output}
    # The function of an adapter is an argument, so that its weights are not part of the program.
    moving, fixed = (fn, None) if isinstance(fn, ModelFn) else (None, fn)

    @jax.jit
    def run(rate: Any, moving: Any, key: jax.Array, arrays: list[Any]) -> tuple[jax.Array, ...]:
        made = at_rate(fixed if moving is None else moving, rate)
        args, kwargs = _pytrees.join(arrays, split[0][1])
        return _needed(_predict.predict(made, key, *args, **options, **kwargs), args)

    found: list[Any] = []
    parts: list[Any] = []
    steps = [(point, number) for point in grid for number in range(len(batches))]
    for point, number in _predict_batches.with_bar(steps, progress, "step"):
        used = jax.random.fold_in(key, number)
        parts.append(run(point, moving, used, split[number][0]))
        if len(parts) == len(batches):
            whole = [jnp.concatenate(leaves)[:count] for leaves in zip(*parts)]
            found.append((len(whole) == 1, *jax.device_get(_scores(whole, labels))))
            parts = []
    return _chosen(lambda point: at_rate(fn, point), grid, found)


def _at_rate(fn: Any) -> Callable[[Any, Any], Any]:
    """A function that gives ``fn`` at a rate."""
    if isinstance(fn, ModelFn):
        return lambda fn, rate: fn.with_rate(rate)
    _checks.check_fn(fn)
    message = (
        "fn: expected a function of from_linen or from_nnx, or one of a rate alone, got {}; write "
        "for example lambda rate: lambda key, x: jaxdrop.dropout(key, x, rate)"
    )
    try:
        inspect.signature(fn).bind(0.1)
    except TypeError as error:
        raise TypeError(message.format(f"one that takes {inspect.signature(fn)}")) from error

    def at_rate(fn: Any, rate: Any) -> Any:
        made = fn(rate)
        if not callable(made):
            raise TypeError(message.format(f"one of a rate that returns {type(made).__name__}"))
        return made

    return at_rate


def _grid(rates: Any) -> list[Any]:
    """Every rate, or every combination of the rates of groups."""
    if not isinstance(rates, Mapping):
        return _checked_rates(rates)
    columns = {pattern: _checked_rates(column) for pattern, column in rates.items()}
    return [dict(zip(columns, each)) for each in itertools.product(*columns.values())]


def _checked_rates(rates: Any) -> list[float]:
    if _pytrees.holds_tracer(rates) or np.ndim(rates) != 1 or not np.size(rates):
        got = "traced ones" if _pytrees.holds_tracer(rates) else repr(rates)
        raise ValueError(
            f"rates: expected known numbers of shape (R,), at least one, got {got}; write for "
            "example rates=[0.05, 0.1, 0.2, 0.3]"
        )
    values: list[Any] = [masks.check_rate(rate).value for rate in np.asarray(rates).tolist()]
    return values


def _rows(args: Any, start: int, size: int) -> Any:
    """Some examples, the last of them again if there are too few."""

    def picked(x: Any) -> Any:
        if not _pytrees.is_array(x) or x.shape[0] == size:
            return x
        return x[np.minimum(np.arange(start, start + size), x.shape[0] - 1)]

    return jax.tree.map(picked, jax.tree.map(_pytrees.as_array, args))


def _needed(result: Any, args: Any) -> tuple[jax.Array, ...]:
    """Logarithms of probabilities, or means and variances, examples on axis 0."""
    if isinstance(result, Classification):
        needed = (result.log_probabilities,)
    elif isinstance(result, Regression | Moments):
        variance = result.total if isinstance(result, Regression) else result.variance
        needed = result.mean, variance
    else:
        raise TypeError(
            "summary: expected classification, regression or moments, got one that gives "
            f"{'something else' if _pytrees.is_array(result) else type(result).__name__}; "
            "leave it out"
        )
    count = _predict_batches.examples(args, "x")
    for leaf in needed:
        shape = getattr(leaf, "shape", None)
        if not shape or shape[0] != count:
            raise ValueError(
                f"fn: expected an array with its {count} examples on axis 0, got "
                f"{jax.tree.map(jnp.shape, leaf)}; pick it, as in {_pytrees.PICK}"
            )
    return needed


def _scores(needed: Sequence[jax.Array], labels: jax.Array) -> tuple[jax.Array, ...]:
    """Log-likelihood, number that calibrates, and log-likelihood with it."""
    if len(needed) == 1:
        logits = _internal.finite_logits(needed[0])
        temperature = uncertainty.temperature_scaling(logits, labels)  # it checks the labels
        return _of_classes(logits, temperature, labels)
    return _of_numbers(*needed, labels)


@jax.jit
def _of_classes(
    logs: jax.Array, temperature: jax.Array, labels: jax.Array
) -> tuple[jax.Array, ...]:
    def likelihood(logs: jax.Array) -> jax.Array:
        return jnp.take_along_axis(logs, labels[..., None], -1).mean()

    scaled = jax.nn.log_softmax(logs / temperature)
    return likelihood(logs), temperature, likelihood(scaled)


@jax.jit  # so that a variance of 0, as of a rate of 0, gives NaN instead of an error
def _of_numbers(mean: jax.Array, variance: jax.Array, targets: jax.Array) -> tuple[jax.Array, ...]:
    loss = uncertainty.gaussian_negative_log_likelihood
    scale = uncertainty.variance_scaling(mean, variance, targets)
    return -loss(mean, variance, targets), scale, -loss(mean, scale * variance, targets)


def _chosen(at: Callable[[Any], Any], grid: list[Any], found: list[Any]) -> Tuned:
    (is_classes, *_), plain, scale, scaled = map(np.asarray, zip(*found))
    criterion = plain if is_classes else scaled
    if np.isnan(criterion).all():
        raise ValueError(
            "rates: expected one at which the labels have a likelihood, got NaN at all of "
            f"{len(grid)}; look for NaN in the outputs, and for variances of 0: give rates above 0"
        )
    best = int(np.nanargmax(criterion))
    rates: Any = np.asarray(grid)
    if isinstance(grid[0], Mapping):
        rates = {name: np.asarray([point[name] for point in grid]) for name in grid[0]}
    scaling = "temperature" if is_classes else "variance scale"
    return Tuned(rates, plain, scale, scaled, best, at(grid[best]), scaling)
