"""Calibration without bins: the residuals are smoothed, by a kernel that the data choose."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.uncertainty import _checks, _scores

_WAVES = 1024
_POINTS = 4096
_NARROWEST = 1 / 512  # the last wave then has weight 3e-9, and a deviation is eight points
_MAX_ELEMENTS = 2**20


def smooth_calibration_error(probabilities: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Mean gap between confidence and accuracy, both smoothed by a kernel instead of put in bins.

    ``smECE_s = int_0^1 |1/N sum_n K_s(t, p_n) (y_n - p_n)| dt``, with the confidence p of the most
    probable class, y = 1 if that is the true one, else 0, and the Gaussian kernel K of deviation s,
    reflected at 0 and 1. The result is the only s that equals its smECE_s, so nothing is left to
    choose. Unlike `expected_calibration_error` it is continuous in the probabilities. It is above 0
    even for a calibrated model, and the more so with fewer examples.

    The kernel is computed as a sum of cosines, exactly for deviations from 1/512 on. An error
    below that is computed with this deviation and may be too small by less than 1/512.

    The gradient is that of the result, the change of the kernel included.

    Args:
        probabilities: floating array of shape ``(B..., C)``, its rows summing to 1.
        labels: class numbers in [0, C), integers of shape ``(B...)``. A traced one that is
            not a class gives NaN.

    Returns:
        Scalar in [0, 1]; float32, or float64 if ``probabilities`` is.

    Raises:
        TypeError: as `negative_log_likelihood`.
        ValueError: as `negative_log_likelihood`.

    Example:
        >>> p = jnp.array([[0.75, 0.25], [0.75, 0.25]])
        >>> round(float(smooth_calibration_error(p, jnp.array([0, 1]))), 4)
        0.25

    References:
        Blasiok & Nakkiran, "Smooth ECE: principled reliability diagrams via kernel smoothing",
        2024.
    """
    return _smooth_calibration_error(*_checks.check_pair(probabilities, labels))


@jax.jit
def _smooth_calibration_error(p: jax.Array, labels: jax.Array) -> jax.Array:
    confidence, correct = _scores.top_label(p, labels)
    moments = _moments(confidence.ravel(), (correct - confidence).ravel())
    width = _fixed_point(jax.lax.stop_gradient(moments))
    error = _smoothed(moments, width)
    # One Newton step gives the fixed point its last digits and its gradient.
    slope = jax.grad(_smoothed, argnums=1)(jax.lax.stop_gradient(moments), width)
    fixed = width + (error - width) / (1 - slope)
    return jnp.where(width == _NARROWEST, error, fixed)


def _fixed_point(moments: jax.Array) -> jax.Array:
    """Deviation of the kernel that equals the error, or the narrowest."""

    def halve(_: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        # The error falls as the kernel widens.
        above = _smoothed(moments, middle) > middle
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    ends = jnp.asarray(_NARROWEST, moments.dtype), jnp.ones((), moments.dtype)
    return jax.lax.fori_loop(0, jnp.finfo(moments.dtype).nmant, halve, ends)[0]


def _smoothed(moments: jax.Array, width: jax.Array) -> jax.Array:
    """``smECE`` of a kernel, from the means of residual times cosine."""
    # The reflected Gaussian is the heat kernel of [0, 1]:
    # K_s(t, p) = 1 + 2 sum_m exp(-(pi m s)^2 / 2) cos(pi m p) cos(pi m t).
    waves = jnp.arange(_WAVES).astype(moments.dtype)
    damped = moments * jnp.exp(-jnp.square(np.pi * waves * width) / 2)
    curve = 2 * _POINTS * jax.scipy.fft.idct(damped, n=_POINTS)
    return abs(curve).mean()


def _moments(confidence: jax.Array, residual: jax.Array) -> jax.Array:
    """Mean of ``residual * cos(pi m confidence)`` for each wave number m."""
    # m times a rounded confidence has few digits left after whole turns are taken off. So the first
    # 12 bits of the confidence are multiplied as an integer, which is exact, and the rest alone.
    steps = jnp.round(confidence * 4096).astype(jnp.int32)
    rest = confidence - steps.astype(confidence.dtype) / 4096

    def moment(wave: jax.Array) -> jax.Array:
        turns = (wave * steps % 8192).astype(confidence.dtype) / 4096
        angle = np.pi * (turns + wave.astype(confidence.dtype) * rest)
        return (residual * jnp.cos(angle)).mean()

    chunk = min(_WAVES, max(1, _MAX_ELEMENTS // confidence.size))
    return jax.lax.map(moment, jnp.arange(_WAVES, dtype=jnp.int32), batch_size=chunk)
