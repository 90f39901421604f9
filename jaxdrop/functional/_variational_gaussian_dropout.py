"""Multiplicative Gaussian noise whose variance is learned, and the weights that it prunes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, Shape
from jaxdrop.functional._noisy import apply_noise
from jaxdrop.masks import _internal as masks


def variational_gaussian_dropout(
    key: Key,
    x: ArrayLike,
    log_alpha: ArrayLike,
    *,
    deterministic: Flag = False,
) -> jax.Array:
    """Multiplies elements by Gaussian noise N(1, alpha), whose variance can be learned.

    The result is x (1 + sqrt(alpha) e) with e standard normal; the mean over keys is ``x``. An
    alpha of rate / (1 - rate) is `gaussian_dropout`. Nothing but the key is kept for the backward
    pass of ``x``. Train with `variational_gaussian_kl` in the loss: without it alpha goes to 0.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: floating or complex array of any shape.
        log_alpha: natural logarithm of the variance alpha; may be traced; a scalar, or an array
            that broadcasts to the shape of ``x``. Differentiable.
        deterministic: if true, returns ``x``; may be traced.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating or complex array, ``key`` is not a PRNG key, or another
            argument is of the wrong type.
        ValueError: ``log_alpha`` is not finite or does not broadcast, or ``key`` is a batch of
            keys.

    Example:
        >>> y = variational_gaussian_dropout(jax.random.key(0), jnp.ones(10_000), jnp.log(0.25))
        >>> [round(float(v), 1) for v in (y.mean(), y.std())]
        [1.0, 0.5]

    References:
        Kingma, Salimans & Welling, "Variational dropout and the local reparameterization trick",
        2015, section 3.1.
    """
    x = masks.check_array(x)
    log_alpha = _check_log_alpha(log_alpha, x.shape)
    return apply_noise(key, x, (log_alpha,), x.shape, deterministic=deterministic, apply=_scale)


def variational_gaussian_kl(log_alpha: ArrayLike) -> jax.Array:
    """What a learned variance adds to the loss: its divergence from the log-uniform prior.

    The approximation of Molchanov et al., off by less than 0.01 per element: the sum over
    elements of ``-(k1 sigmoid(k2 + k3 log_alpha) - log(1 + 1 / alpha) / 2 - k1)``, which falls to 0
    as alpha grows. For a loss that is a mean over examples, divide it by their number.

    Args:
        log_alpha: natural logarithm of the variances, real, of any shape; may be traced.

    Returns:
        Scalar, at least 0, in nats; float32, or float64 where ``log_alpha`` is.

    Raises:
        TypeError: ``log_alpha`` holds no real numbers.
        ValueError: ``log_alpha`` is not finite.

    Example:
        >>> kl = variational_gaussian_kl(jnp.array([-3.0, 3.0]))
        >>> round(float(kl), 3)
        2.141

    References:
        Molchanov, Ashukha & Vetrov, "Variational dropout sparsifies deep neural networks", 2017,
        eq. 14.
    """
    log_alpha = masks.widened(_check_log_alpha(log_alpha))
    # k1 - k1 sigmoid(a) is k1 sigmoid(-a), without cancellation.
    kept = 0.63576 * jax.nn.sigmoid(-1.87320 - 1.48695 * log_alpha)
    return jnp.sum(kept + 0.5 * jax.nn.softplus(-log_alpha))


class Pruned(NamedTuple):
    """Which elements their noise has drowned.

    Attributes:
        pruned: booleans, of the shape of ``log_alpha``; True where it exceeds the threshold.
        share: float32 scalar: which part of the elements that is, in [0, 1].
    """

    pruned: jax.Array
    share: jax.Array


def variational_gaussian_pruned(log_alpha: ArrayLike, threshold: float = 3.0) -> Pruned:
    """Tells which elements carry so much noise that they can be set to 0.

    A threshold of 3 is a variance of 20, the noise of a dropout with rate 0.95.

    Args:
        log_alpha: natural logarithm of the variances, real, of any shape; may be traced.
        threshold: a finite real scalar; an element is pruned if its ``log_alpha`` exceeds it.

    Returns:
        Named tuple of ``pruned``, booleans of the shape of ``log_alpha``, and ``share``, the part
        of the elements that is pruned, a float32 scalar.

    Raises:
        TypeError: ``log_alpha`` or ``threshold`` holds no real numbers.
        ValueError: ``log_alpha`` or ``threshold`` is not finite.

    Example:
        >>> pruned, share = variational_gaussian_pruned(jnp.array([-3.0, 2.9, 3.1, 8.0]))
        >>> pruned.tolist(), float(share)
        ([False, False, True, True], 0.5)

    References:
        Molchanov, Ashukha & Vetrov, "Variational dropout sparsifies deep neural networks", 2017.
    """
    least = masks.check_finite(threshold, "threshold", "a logarithm", "the paper has 3.0", ())
    log_alpha = masks.widened(_check_log_alpha(log_alpha))
    pruned = log_alpha > jnp.asarray(least, log_alpha.dtype)
    return Pruned(pruned, jnp.mean(pruned, dtype=jnp.float32))


def _check_log_alpha(log_alpha: ArrayLike, shape: Shape | None = None) -> Any:
    meaning, remedy = "logarithms of variances", "a variance alpha is the log_alpha jnp.log(alpha)"
    return masks.check_finite(log_alpha, "log_alpha", meaning, remedy, shape, "noise")


def _scale(noise: jax.Array, x: jax.Array, log_alpha: jax.Array) -> jax.Array:
    return x * (1 + jnp.exp(log_alpha / 2) * noise).astype(x.dtype)
