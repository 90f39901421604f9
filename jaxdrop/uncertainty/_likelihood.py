"""How probable the targets of a regression were: one Gaussian, or the mixture of all samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks

_LOG_2PI = float(np.log(2 * np.pi))


def gaussian_negative_log_likelihood(
    mean: ArrayLike, variance: ArrayLike, targets: ArrayLike
) -> jax.Array:
    """Mean of ``-log`` of the density that a Gaussian prediction gives to its target.

    ``1/N sum_n [(y_n - mean_n)^2 / (2 variance_n) + 1/2 log(2 pi variance_n)]``. Smaller is better;
    it is negative if the density exceeds 1. It is a loss to train a predicted variance with.

    Args:
        mean: predicted means, of the shape of ``targets``.
        variance: predicted variances, above 0: the shape of ``targets``, or one number. A traced
            one that is not above 0 gives NaN.
        targets: real numbers of any shape, at least one.

    Returns:
        Scalar in nats; float32, or float64 if an argument is.

    Raises:
        TypeError: an argument is not of real numbers.
        ValueError: the shapes differ, there is no target, or known values are not finite or a
            variance is not above 0.

    Example:
        >>> loss = gaussian_negative_log_likelihood(jnp.zeros(2), 1.0, jnp.array([0.0, 1.0]))
        >>> round(float(loss), 4)
        1.1689

    References:
        Nix & Weigend, "Estimating the mean and variance of the target probability distribution",
        1994.
    """
    return _gaussian(*_checks.check_gaussian(mean, variance, targets, positive=True))


def mixture_log_likelihood(
    means: ArrayLike,
    targets: ArrayLike,
    *,
    precision: ArrayLike | None = None,
    variances: ArrayLike | None = None,
) -> jax.Array:
    """Mean log density of the targets under the equal mixture of all samples.

    ``1/N sum_n [logsumexp_s log N(y_n; mean_sn, variance_sn) - log S]``. Larger is better. It is
    the test log-likelihood that papers on Monte-Carlo dropout report, with one prediction per
    element of ``targets``. It is never below the mean of the log-likelihoods of the single samples.

    Args:
        means: predicted means, shape ``(S, ...)``, samples on axis 0.
        targets: real numbers of shape ``(...)``, at least one.
        precision: known noise precision above 0, one number, the ``tau`` of the papers.
        variances: instead of ``precision``, predicted variances above 0: the shape of ``means``, or
            one number. A traced one that is not above 0 gives NaN.

    Returns:
        Scalar in nats; float32, or float64 if an argument is.

    Raises:
        TypeError: an argument is not of real numbers, or not exactly one of ``precision`` and
            ``variances`` is given.
        ValueError: there is no sample, the shapes do not fit, or known values are not finite or
            not above 0.

    Example:
        >>> means = jnp.array([[0.0], [2.0]])
        >>> round(float(mixture_log_likelihood(means, jnp.array([0.0]), precision=1.0)), 4)
        -1.4852

    References:
        Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in
        deep learning", 2016, and its appendix.
    """
    if (precision is None) == (variances is None):
        got = "neither" if precision is None else "both"
        raise TypeError(
            f"mixture_log_likelihood: expected one of precision and variances, got {got}; "
            "write precision=tau for known noise, variances=... for predicted noise"
        )
    name, noise = ("variances", variances) if precision is None else ("precision", precision)
    named = {"means": means, "targets": targets, name: noise}
    mu, y, noise = _checks.check_real(finite=True, **named)
    _checks.check_samples("means", mu, y)
    shape = mu.shape if precision is None else ()
    noise = _checks.check_noise(noise, name, shape, positive=True)
    return _mixture_log_likelihood(mu, y, noise, inverse=precision is not None)


def log_density(mean: jax.Array, variance: jax.Array, targets: jax.Array) -> jax.Array:
    """Logarithm of the density of Gaussians per element; NaN if its variance is not above 0."""
    # NaN replaces the variance, not the result: there XLA loses it in a loop on a CPU.
    variance = jnp.where(variance > 0, variance, jnp.nan)
    twice = jnp.square(targets - mean) / variance + jnp.log(variance) + _LOG_2PI
    return -twice / 2


@jax.jit
def _gaussian(mean: jax.Array, variance: jax.Array, targets: jax.Array) -> jax.Array:
    return 0 - log_density(mean, variance, targets).mean()


@functools.partial(jax.jit, static_argnames="inverse")
def _mixture_log_likelihood(
    means: jax.Array, targets: jax.Array, noise: jax.Array, *, inverse: bool
) -> jax.Array:
    variances = 1 / jnp.where(noise > 0, noise, jnp.nan) if inverse else noise
    densities = log_density(means, jnp.broadcast_to(variances, means.shape), targets[None])
    log_sum = jax.scipy.special.logsumexp(densities, axis=0)
    return (log_sum - np.log(means.shape[0]).item()).mean()
