"""What samples of real predictions say: a mean, and where its variance comes from."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jax.typing import ArrayLike

from jaxdrop.masks import _rate
from jaxdrop.mc import _summary
from jaxdrop.mc._summary import Summary
from jaxdrop.uncertainty import _likelihood


class Regression(NamedTuple):
    """Mean and variance of a predicted real number, each shaped like the output.

    Attributes:
        mean: mean over the samples.
        epistemic: variance over the samples of their means: what the model does not know.
        aleatoric: variance of the noise, averaged over the samples: what no model can know.
        total: the sum of both.
        standard_error: Monte-Carlo standard error of ``mean``; inf for a single sample.
        log_likelihood: logarithm of the density that the samples give to each target, in nats;
            its mean over a test set is the test log-likelihood. None without targets.
    """

    mean: jax.Array
    epistemic: jax.Array
    aleatoric: jax.Array
    total: jax.Array
    standard_error: jax.Array
    log_likelihood: jax.Array | None


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
            returns the pair ``(mean, variance)`` of arrays of one shape.
        targets: what came true, an array of the shape of the means; without them there is no
            ``log_likelihood``.

    Returns:
        A `Summary` whose result is a `Regression`, in float32 or better. Precision and targets
        may be traced, and other ones of the same shape need no new compilation.

    Raises:
        TypeError: ``precision`` is no real number.
        ValueError: a known ``precision`` is not above 0.

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
        ends = (float(np.finfo(np.float32).tiny), np.inf)
        remedy = "a variance v is the precision 1 / v"
        _rate.check_real(precision, "precision", ends, "(0, inf)", "precisions", remedy)
        precision = jnp.asarray(precision)
    targets = None if targets is None else jnp.asarray(targets)
    return Summary(
        Partial(_init, precision, targets),
        Partial(_update, precision, targets),
        Partial(_result, precision, targets),
    )


def _init(precision, targets, sample, num_samples):
    del num_samples
    mean, _ = _parts(precision, sample)
    if targets is not None and targets.shape != mean.shape:
        raise ValueError(
            f"targets: expected the shape of the predicted means, {mean.shape}, got "
            f"{targets.shape}; a column of them is not a vector: write targets.reshape"
        )
    welford = _summary.init_welford(mean)
    zeros = welford.mean
    return _State(welford, zeros, None if targets is None else zeros - jnp.inf)


def _update(precision, targets, state, samples, start):
    del start
    means, variances = _parts(precision, samples)
    after = _summary.update_welford(state.means, means)
    dtype = after.mean.dtype
    if variances is None:
        variance = (1 / precision).astype(dtype)
        averaged = jnp.broadcast_to(variance, after.mean.shape)
        variances = variance
    else:
        variances = variances.astype(dtype)
        share = jnp.asarray(means.shape[0] / after.count, dtype)
        averaged = state.variances + (variances.mean(0) - state.variances) * share
    if targets is None:
        return _State(after, averaged, None)
    variances = variances.reshape((1,) * (means.ndim - variances.ndim) + variances.shape)
    logs = _likelihood.log_density(means.astype(dtype), variances, targets.astype(dtype)[None])
    log_sum = jnp.logaddexp(state.log_sum, jax.nn.logsumexp(logs, axis=0))
    return _State(after, averaged, log_sum)


def _result(precision, targets, state):
    del precision
    epistemic = _summary.variance(state.means)
    log_likelihood = None
    if targets is not None:
        log_likelihood = state.log_sum - jnp.log(state.means.count.astype(epistemic.dtype))
    return Regression(
        state.means.mean,
        epistemic,
        state.variances,
        epistemic + state.variances,
        _summary.standard_error(state.means),
        log_likelihood,
    )


def _parts(precision, output):
    """Means, and variances or None, of an output that fits."""
    if precision is not None:
        if hasattr(output, "shape"):
            return output, None
        raise ValueError(
            "regression: expected a function that returns one array of means, got "
            f"{jax.tree.map(lambda leaf: leaf.shape, output)}; leave precision out if it returns "
            "a pair of means and variances"
        )
    if isinstance(output, tuple | list) and len(output) == 2:
        mean, variance = output
        if getattr(mean, "shape", None) == getattr(variance, "shape", ()):
            return mean, variance
    raise ValueError(
        "regression: expected a function that returns a pair (mean, variance) of arrays of one "
        f"shape, got {jax.tree.map(lambda leaf: leaf.shape, output)}; give the known precision "
        "of the noise, regression(precision=...), if it returns means alone"
    )
