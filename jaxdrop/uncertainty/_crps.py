"""The continuous ranked probability score: an absolute error for distributions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks


def gaussian_crps(mean: ArrayLike, variance: ArrayLike, targets: ArrayLike) -> jax.Array:
    """Mean continuous ranked probability score of Gaussian predictions.

    ``CRPS(F, y) = E|X - y| - 1/2 E|X - X'|``, in closed form; with ``z = (y - mean) / deviation``
    it is ``deviation [z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)]``. Smaller is better. The score
    generalises the absolute error, which a variance of 0 gives.

    Args:
        mean: predicted means, of the shape of ``targets``.
        variance: predicted variances, at least 0: the shape of ``targets``, or one number. A
            traced negative one gives NaN.
        targets: real numbers of any shape, at least one.

    Returns:
        Scalar in the unit of ``targets``; float32, or float64 if an argument is.

    Raises:
        TypeError: an argument is not of real numbers.
        ValueError: the shapes differ, there is no target, or known values are not finite or a
            variance is negative.

    Example:
        >>> mean, targets = jnp.zeros(2), jnp.array([0.0, 3.0])
        >>> round(float(gaussian_crps(mean, 1.0, targets)), 4)
        1.3351
        >>> float(gaussian_crps(mean, 0.0, targets))
        1.5

    References:
        Gneiting & Raftery, "Strictly proper scoring rules, prediction, and estimation", 2007,
        section 4.2.
    """
    return _gaussian_crps(*_checks.check_gaussian(mean, variance, targets))


def sample_crps(samples: ArrayLike, targets: ArrayLike, *, fair: bool = False) -> jax.Array:
    """Mean continuous ranked probability score of predictions given as samples.

    ``1/S sum_s |x_s - y| - 1/2 E|X - X'|``. The second term is a mean over all S^2 pairs of
    samples, so the score is that of the step function which the samples make. If ``fair``, it is a
    mean over the S (S - 1) pairs of different samples, so the expected score is that of the
    distribution of the samples, for every S. The time is ``S log S``, that of sorting.

    Args:
        samples: real numbers, shape ``(S, ...)``, samples on axis 0.
        targets: real numbers of shape ``(...)``, at least one.
        fair: whether to remove the bias of few samples; this needs two samples or more. The score
            of a single target can then be negative.

    Returns:
        Scalar in the unit of ``targets``; float32, or float64 if an argument is.

    Raises:
        TypeError: an argument is not of real numbers.
        ValueError: there is no sample, or only one and ``fair``; the shapes do not fit; or known
            values are not finite.

    Example:
        >>> samples, targets = jnp.array([[0.0], [2.0]]), jnp.array([1.0])
        >>> float(sample_crps(samples, targets)), float(sample_crps(samples, targets, fair=True))
        (0.5, 0.0)

    References:
        Gneiting & Raftery, "Strictly proper scoring rules, prediction, and estimation", 2007,
        section 4.2. Ferro, "Fair scores for ensemble forecasts", 2014.
    """
    x, y = _checks.check_real(samples=samples, targets=targets)
    _checks.check_samples("samples", x, y)
    if fair and x.shape[0] < 2:
        raise ValueError(
            f"samples: expected at least two for fair=True, got shape {x.shape}; "
            "draw more, or write fair=False"
        )
    return _sample_crps(x, y, bool(fair))


@jax.jit
def _gaussian_crps(mean: jax.Array, variance: jax.Array, targets: jax.Array) -> jax.Array:
    spread = variance > 0
    deviation = jnp.sqrt(jnp.where(spread, variance, 1))
    error = targets - mean
    z = error / deviation
    # The formula of the docstring divides the error by the deviation and multiplies it again. This
    # form does not, so it is accurate near the mean and far from it.
    density = jnp.exp(-jnp.square(z) / 2) * np.sqrt(2 / np.pi).item()
    score = error * jax.scipy.special.erf(z * np.sqrt(0.5).item())
    score = score + deviation * (density - np.sqrt(1 / np.pi).item())
    score = jnp.where(spread, score, abs(error))
    return jnp.where(variance >= 0, score, jnp.nan).mean()


@functools.partial(jax.jit, static_argnames="fair")
def _sample_crps(samples: jax.Array, targets: jax.Array, fair: bool) -> jax.Array:
    count = samples.shape[0]
    # The gap above the k-th smallest sample lies between the samples of k (count - k) pairs, so the
    # sum over all pairs is a sum over gaps, of positive terms.
    share = np.arange(1, count).reshape(-1, *[1] * targets.ndim) / count
    weights = jnp.asarray(share * (1 - share), samples.dtype)
    gaps = jnp.diff(jnp.sort(samples, axis=0), axis=0)
    spread = (jnp.broadcast_to(weights, gaps.shape) * gaps).sum(0)
    if fair:
        spread = spread * (count / (count - 1))
    return (abs(samples - targets[None]).mean(0) - spread).mean()
