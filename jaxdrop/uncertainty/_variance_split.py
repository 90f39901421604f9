"""The variance of a regression, split into that of the model and that of the data."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks, _repr


class VarianceSplit(NamedTuple):
    """Mean and variances of a prediction, each of the shape of one sample.

    Attributes:
        mean: mean of the predicted means.
        epistemic: variance of the predicted means, which more data would reduce.
        aleatoric: mean of the predicted variances, the noise of the data.
        total: sum of the two.
    """

    mean: jax.Array
    epistemic: jax.Array
    aleatoric: jax.Array
    total: jax.Array

    def __repr__(self) -> str:
        return _repr.short(self)


def variance_split(means: ArrayLike, variances: ArrayLike) -> VarianceSplit:
    """Splits the variance of a mixture of predictions into model and noise.

    ``total = 1/S sum_s (mean_s - mean)^2 + 1/S sum_s variance_s``. The first part is computed from
    deviations, not as a difference of squares, so it is accurate even if it is small beside the
    mean. It is 0 for one sample.

    Args:
        means: predicted means, shape ``(S, ...)``, samples on axis 0.
        variances: predicted variances, at least 0: the shape of ``means``, or one number for a
            known noise level, ``1 / precision``. A traced negative one gives NaN.

    Returns:
        The `VarianceSplit`; float32, or float64 if an argument is.

    Raises:
        TypeError: an argument is not of real numbers.
        ValueError: there is no sample, the shapes do not fit, or known values are not finite or
            a variance is negative.

    Example:
        >>> split = variance_split(jnp.array([[1.0], [3.0]]), jnp.array([[0.5], [1.5]]))
        >>> [float(part[0]) for part in split]
        [2.0, 1.0, 1.0, 2.0]

    References:
        Kendall & Gal, "What uncertainties do we need in Bayesian deep learning for computer
        vision?", 2017, eq. 9.
    """
    mu, noise = _checks.check_real(means=means, variances=variances)
    _checks.check_samples("means", mu)
    return _variance_split(mu, _checks.check_noise(noise, "variances", mu.shape))


@jax.jit
def _variance_split(means: jax.Array, variances: jax.Array) -> VarianceSplit:
    first = means[0]
    # Differences of close numbers are exact, so those from the first sample lose no digit.
    shifted = means - first[None]
    shift = shifted.mean(0)
    epistemic = jnp.square(shifted - shift[None]).mean(0)
    aleatoric = jnp.where(variances >= 0, variances, jnp.nan).mean(0)
    return VarianceSplit(first + shift, epistemic, aleatoric, epistemic + aleatoric)
