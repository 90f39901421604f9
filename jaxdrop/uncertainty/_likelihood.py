"""How probable the targets of a regression were: one Gaussian, or the mixture of all samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _numbers

_LOG_2PI = float(np.log(2 * np.pi))


def gaussian_negative_log_likelihood(
    mean: ArrayLike, variance: ArrayLike, targets: ArrayLike
) -> jax.Array:
    """Mean of ``-log`` of the density that a Gaussian prediction gives to its target.

    ``1/N sum_n [(y_n - mean_n)^2 / (2 variance_n) + 1/2 log(2 pi variance_n)]``: smaller is
    better, below 0 where the density exceeds 1. It is a loss to train a predicted variance with.

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
    given = _numbers.check_gaussian(mean, variance, targets, positive=True)
    return _gaussian(*given)


def mixture_log_likelihood(
    means: ArrayLike,
    targets: ArrayLike,
    *,
    precision: ArrayLike | None = None,
    variances: ArrayLike | None = None,
) -> jax.Array:
    """Mean log density of the targets under the equal mixture of all samples.

    ``1/N sum_n [logsumexp_s log N(y_n; mean_sn, variance_sn) - log S]``, larger is better: the
    test log-likelihood that papers on Monte-Carlo dropout report. Every entry of ``targets`` is a
    prediction of its own. Never below the mean over the samples of their own log-likelihoods.

    Args:
        means: predicted means, shape ``(S, ...)``, samples on axis 0.
        targets: real numbers of shape ``(...)``, at least one.
        precision: known noise precision above 0, one number, the ``tau`` of the papers.
        variances: in its place predicted variances above 0, the shape of ``means``, or one
            number. A traced one that is not above 0 gives NaN.

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
        given = "neither" if precision is None else "both"
        raise TypeError(
            f"mixture_log_likelihood: expected one of precision and variances, got {given}; "
            "write precision=tau for known noise, variances=... for predicted noise"
        )
    name, noise = ("variances", variances) if precision is None else ("precision", precision)
    given = {"means": means, "targets": targets, name: noise}
    means, targets, noise = _numbers.check_real(**given, finite=True)
    _numbers.check_samples("means", means, targets)
    shape = means.shape if precision is None else ()
    noise = _numbers.check_noise(noise, name, shape, positive=True)
    return _mixture_log_likelihood(means, targets, noise, inverse=precision is not None)


def log_density(mean, variance, targets):
    """Logarithm of the density of Gaussians, entry by entry; NaN at a variance not above 0."""
    # NaN goes in rather than over the result: of that, XLA makes a number in a loop on a CPU.
    variance = jnp.where(variance > 0, variance, jnp.nan)
    twice = jnp.square(targets - mean) / variance + jnp.log(variance) + _LOG_2PI
    return -twice / 2


@jax.jit
def _gaussian(mean, variance, targets):
    return 0 - log_density(mean, variance, targets).mean()


@functools.partial(jax.jit, static_argnames="inverse")
def _mixture_log_likelihood(means, targets, noise, *, inverse):
    variances = 1 / jnp.where(noise > 0, noise, jnp.nan) if inverse else noise
    densities = log_density(means, jnp.broadcast_to(variances, means.shape), targets[None])
    log_sum = jax.scipy.special.logsumexp(densities, axis=0)
    return (log_sum - np.log(means.shape[0]).item()).mean()
