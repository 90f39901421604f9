"""What samples of real predictions say: a mean, and where its variance comes from."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _summary
from jaxdrop.mc._summary import Summary
from jaxdrop.uncertainty import _internal as uncertainty

_RETURNED = "returned"


class Regression(NamedTuple):
    """Mean and variance of a predicted real number, each shaped like the output.

    Attributes:
        mean: mean over the samples.
        epistemic: variance over the samples of their means: what the model does not know.
        aleatoric: variance of the noise, averaged over the samples: what no model can know.
        total: the sum of both.
        standard_error: Monte-Carlo standard error of ``mean``; inf for a single sample.
        log_likelihood: logarithm of the density that the samples give to each target, in nats;
            its mean over a test set is the test log-likelihood. NaN if a variance is 0 or the
            target NaN; None without targets.
    """

    mean: jax.Array
    epistemic: jax.Array
    aleatoric: jax.Array
    total: jax.Array
    standard_error: jax.Array
    log_likelihood: jax.Array | None

    def __repr__(self) -> str:
        return uncertainty.short(self)


class _State(NamedTuple):
    means: _summary.Welford
    variances: Any
    log_sum: Any


def regression(*, precision: ArrayLike | None = None, targets: ArrayLike | None = None) -> Summary:
    """Mean of a real prediction, its variance in two parts, and the test log-likelihood.

    The samples are taken as equal parts of a mixture of Gaussians; ``total`` is its variance.

    Args:
        precision: known precision of the noise, 1 over its variance, above 0: a scalar, or an
            array that broadcasts to the output. The function then returns means. None if it
            returns the pair ``(mean, variance)`` of arrays of one shape; of a predicted logarithm
            it returns ``jnp.exp``. A negative or NaN variance is refused, or NaN under a trace.
        targets: what came true, an array of the shape of the means; without them there is no
            ``log_likelihood``. Or ``"returned"``: the function returns them last,
            ``(mean, targets)`` with a precision, else ``(mean, variance, targets)``. So each batch
            of `predict_batches` brings its own: ``lambda key, x, y: (fn(key, x), y)``.

    Returns:
        A `Summary` whose result is a `Regression`, in float32 or better. Precision and targets
        may be traced, and other ones of the same shape need no new compilation.

    Raises:
        TypeError: ``precision`` or ``targets`` is not of real numbers.
        ValueError: a known ``precision`` is not above 0, or not finite. A traced one gives NaN.

    Example:
        >>> fn = lambda key, x: x + jax.random.normal(key, x.shape)
        >>> summary = regression(precision=4.0, targets=jnp.zeros(3))
        >>> out = predict(fn, jax.random.key(0), jnp.zeros(3), num_samples=999, summary=summary)
        >>> out.aleatoric.tolist(), np.round(out.total - out.epistemic, 4).tolist()
        ([0.25, 0.25, 0.25], [0.25, 0.25, 0.25])

    References:
        Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in
        deep learning", 2016, eq. 7 to 9. Kendall & Gal, "What uncertainties do we need in
        Bayesian deep learning for computer vision?", 2017, eq. 9.
    """
    if precision is not None:
        tiny = float(np.finfo(np.float32).tiny)
        ends, remedy = (tiny, 1 / tiny), "a variance v is the precision 1 / v"
        named = "precision", ends, "(0, inf)", "precisions", remedy
        precision = jnp.asarray(masks.check_real(precision, *named))
        precision = jnp.where((precision > 0) & jnp.isfinite(precision), precision, jnp.nan)
    if targets is not None and not isinstance(targets, str):
        targets = uncertainty.as_array(targets, "targets")
    _check_targets(targets)
    return _regression(precision, targets, 1)


def _regression(precision: Any, targets: Any, block_size: int) -> Summary:
    return Summary(
        Partial(_init, precision, targets, block_size),
        Partial(_update, precision, targets),
        _result,
        _check,
        functools.partial(_regression, precision, targets),
    )


def _check_targets(targets: Any) -> None:
    kind = getattr(targets, "dtype", np.dtype(np.float32))
    real = any(jnp.issubdtype(kind, one) for one in (jnp.floating, jnp.integer))
    if not real or (isinstance(targets, str) and targets != _RETURNED):
        got = f"dtype {kind}" if hasattr(targets, "dtype") else repr(targets)
        raise TypeError(
            f"targets: expected an array of real numbers or 'returned', got {got}; write "
            "'returned' if the function returns them beside its prediction"
        )


def _init(
    precision: Any, targets: Any, block_size: int, sample: Any, num_samples: int | None
) -> _State:
    del num_samples
    mean, variance, targets = _parts(precision, targets, sample)
    _check_targets(targets)
    if variance is not None:
        _summary.wide(variance.dtype)
    if precision is not None and not masks.broadcasts(precision.shape, mean.shape):
        raise ValueError(
            f"precision: expected one number or a shape that broadcasts to {mean.shape}, that of "
            f"the predicted means, got {precision.shape}; reshape it, such as precision[:, None] "
            "for one precision an example"
        )
    if targets is not None and targets.shape != mean.shape:
        raise ValueError(
            f"targets: expected the shape of the predicted means, {mean.shape}, got "
            f"{targets.shape}; {_remedy(targets, mean)}"
        )
    welford = _summary.init_welford(mean, block_size)
    zeros = welford.mean
    return _State(welford, zeros, None if targets is None else zeros - jnp.inf)


def _update(precision: Any, targets: Any, state: _State, samples: Any, start: Any) -> _State:
    del start
    means, variances, returned = _parts(precision, targets, samples)
    after = _summary.update_welford(state.means, means)
    dtype = after.mean.dtype
    if variances is None:
        variances = jnp.broadcast_to((1 / precision).astype(dtype), after.mean.shape)[None]
    variances = variances.astype(dtype)
    variances = jnp.where(variances >= 0, variances, jnp.nan)
    share = jnp.asarray(means.shape[0] / after.count, dtype)
    # Not by a difference, which would make NaN of an infinite variance.
    averaged = state.variances * (1 - share) + variances.mean(0) * share
    if targets is None:
        return _State(after, averaged, None)
    truth = returned if isinstance(targets, str) else targets[None]
    logs = uncertainty.log_density(means.astype(dtype), variances, truth.astype(dtype))
    log_sum = jnp.logaddexp(state.log_sum, jax.nn.logsumexp(logs, axis=0))
    return _State(after, averaged, log_sum)


def _result(state: _State) -> Regression:
    epistemic = _summary.variance(state.means)
    log_likelihood = None
    if state.log_sum is not None:
        log_likelihood = state.log_sum - jnp.log(state.means.count.astype(epistemic.dtype))
    return Regression(
        state.means.mean,
        epistemic,
        state.variances,
        epistemic + state.variances,
        _summary.standard_error(state.means),
        log_likelihood,
    )


def _check(result: Regression) -> None:
    """Refuses variances that are negative or NaN beside a mean that is a number."""
    wrong = jnp.isnan(result.aleatoric) & ~jnp.isnan(result.mean)
    if wrong.any():
        raise ValueError(
            "regression: expected a function that returns (mean, variance) with variances of at "
            f"least 0, got negative ones or NaN for {wrong.sum()} of {wrong.size} "
            "elements; write (mean, jnp.exp(log_variance)) if the network predicts a logarithm, "
            "or (mean, jax.nn.softplus(raw)) if it predicts any number"
        )


def _parts(precision: Any, targets: Any, output: Any) -> tuple[Any, Any, Any]:
    """Means, variances or None, and targets or None, of an output that fits."""
    own = isinstance(targets, str)
    count = 1 + (precision is None) + own
    if count == 1 and hasattr(output, "shape"):
        return output, None, targets
    if count > 1 and isinstance(output, tuple | list) and len(output) == count:
        mean, *rest = output
        variance = rest[0] if precision is None else None
        shapes = {getattr(one, "shape", None) for one in (mean, variance) if one is not None}
        if len(shapes) == 1 and None not in shapes and hasattr(rest[-1], "shape"):
            return mean, variance, rest[-1] if own else targets
    shapes = jax.tree.map(lambda leaf: leaf.shape, output)
    if precision is not None:
        expected = "a pair (mean, targets) of arrays" if own else "one array of means"
        remedy = "leave precision out if it returns means and variances"
    else:
        expected = "a triple (mean, variance, targets)" if own else "a pair (mean, variance)"
        expected += " of arrays of one shape"
        remedy = (
            "give the known precision of the noise, regression(precision=...), if it returns no "
            "variance"
        )
    raise ValueError(
        f"regression: expected a function that returns {expected}, got {shapes}; {remedy}"
    )


def _remedy(targets: Any, mean: Any) -> str:
    if targets.size == mean.size:
        return f"write targets.reshape({mean.shape}): a column of them is not a vector"
    return (
        "give one target for each predicted mean; if each batch has its own, let the function "
        "return them, lambda key, x, y: (fn(key, x), y), and write targets='returned'"
    )
