"""Calibrates a classifier by one number, without changing the classes that it predicts."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks, _scores

_LIMITS = 1e-2, 1e2
_Ends = tuple[jax.Array, jax.Array]


def temperature_scaling(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Temperature T for which ``softmax(logits / T)`` is most likely on held-out labels.

    Fit it on a validation set, then divide every logit by it. The order of the classes stays, and
    so does the accuracy. A model is overconfident if T is above 1. The negative log-likelihood is
    convex in ``1 / T``, so bisection always finds its minimum over [0.01, 100]. The minimum is the
    lower limit if every label has the largest logit, and the upper limit if the logits are
    unrelated to the labels. T is 1 if the logits are equal in every row.

    The gradient with respect to the logits is that of the minimum, and 0 at a limit.

    Args:
        logits: floating array of shape ``(B..., C)``, finite; mask classes with a number such
            as -1e9. A traced one that is not finite gives NaN.
        labels: class numbers in [0, C), integers of shape ``(B...)``. A traced one that is
            not a class gives NaN.

    Returns:
        Scalar in [0.01, 100]; float32, or float64 if ``logits`` is.

    Raises:
        TypeError: ``logits`` is not floating, or ``labels`` are not integers.
        ValueError: the shapes do not fit, an array is empty, or known values are not finite or not
            classes.

    Example:
        >>> logits = jnp.array([[4.0, 0.0]] * 4)  # class 0 with 98 %, which is right for 75 %
        >>> temperature = temperature_scaling(logits, jnp.array([0, 0, 0, 1]))
        >>> np.round(jax.nn.softmax(logits / temperature)[0], 4).tolist()
        [0.75, 0.25]

    References:
        Guo et al., "On calibration of modern neural networks", 2017, section 4.2.
    """
    return _temperature_scaling(*_checks.check_logits(logits, labels))


def finite_logits(log_probabilities: jax.Array) -> jax.Array:
    """Logarithms of probabilities as logits, finite for a probability of 0, too."""
    return jnp.maximum(log_probabilities, -1e9)


@jax.jit
def _temperature_scaling(logits: jax.Array, labels: jax.Array) -> jax.Array:
    shifted = logits - logits.max(-1, keepdims=True)
    hit = jnp.where(_scores.one_hot(labels, logits), shifted, 0).sum(-1)
    low, high = _bisect(jax.lax.stop_gradient(shifted), jax.lax.stop_gradient(hit))
    first, last = _ends(logits.dtype)
    temperature = _polish((low + high) / 2, shifted, hit)
    temperature = jnp.where(low == first, _LIMITS[0], temperature)
    temperature = jnp.where(high == last, _LIMITS[1], temperature)
    temperature = jnp.where((shifted == 0).all(), 1, temperature)
    valid = jnp.isfinite(logits).all() & ((labels >= 0) & (labels < logits.shape[-1])).all()
    return jnp.where(valid, temperature, jnp.nan)


def _bisect(shifted: jax.Array, hit: jax.Array) -> _Ends:
    """Lower and upper end of the logarithm of the temperature, as near as the dtype allows."""

    def halve(_: jax.Array, ends: _Ends) -> _Ends:
        low, high = ends
        middle = (low + high) / 2
        # A loss that rises with the inverse temperature has its minimum at a higher temperature.
        rising = _slopes(jnp.exp(-middle), shifted, hit)[0] > 0
        return jnp.where(rising, middle, low), jnp.where(rising, high, middle)

    return jax.lax.fori_loop(0, jnp.finfo(shifted.dtype).nmant + 5, halve, _ends(shifted.dtype))


def _polish(log_temperature: jax.Array, shifted: jax.Array, hit: jax.Array) -> jax.Array:
    """One Newton step: it gives the last digits, and the minimum its gradient."""
    inverse = jnp.exp(-log_temperature)
    first, second = _slopes(inverse, shifted, hit)
    step = first / jnp.where(second > 0, second, 1)
    return 1 / (inverse - jnp.where(abs(step) <= 1e-3 * inverse, step, 0))


def _slopes(inverse: jax.Array, shifted: jax.Array, hit: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First and second derivative of the loss in the inverse temperature."""
    p = jax.nn.softmax(shifted * inverse)
    mean = (p * shifted).sum(-1)
    return (mean - hit).mean(), (p * jnp.square(shifted - mean[..., None])).sum(-1).mean()


def _ends(dtype: jnp.dtype) -> _Ends:
    low, high = _LIMITS
    return jnp.asarray(np.log(low), dtype), jnp.asarray(np.log(high), dtype)
