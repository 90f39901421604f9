"""Dropout whose rate is learned, by a continuous relaxation of its mask."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, Shape
from jaxdrop.functional._noisy import apply_noise
from jaxdrop.masks import _internal as masks


def concrete_dropout(
    key: Key,
    x: ArrayLike,
    rate_logit: ArrayLike,
    *,
    deterministic: Flag = False,
    temperature: ArrayLike = 0.1,
) -> jax.Array:
    """Drops elements softly, so that the rate has a gradient and can be learned.

    With p = sigmoid(rate_logit) and u uniform in (0, 1), the soft decision to drop is
    z = sigmoid((logit(p) + log u - log(1 - u)) / temperature), and the result x (1 - z) / (1 - p).
    z exceeds 1/2 with probability p. As the temperature goes to 0, z becomes 0 or 1 and the mean
    over keys becomes ``x``; at a temperature of 0.1 most are near an end. Nothing but the key is
    kept for the backward pass of ``x``. Train with `concrete_regularizer` in the loss: without it
    the rate goes to 0.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: floating or complex array of any shape.
        rate_logit: log(p / (1 - p)) of the rate p; may be traced; a scalar, or an array that
            broadcasts to the shape of ``x``. Differentiable.
        deterministic: if true, returns ``x``; may be traced.
        temperature: how soft the decisions are, above 0; may be traced.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating or complex array, ``key`` is not a PRNG key, or another
            argument is of the wrong type.
        ValueError: ``rate_logit`` is not finite or does not broadcast, ``temperature`` is not
            above 0, or ``key`` is a batch of keys.

    Example:
        >>> x = jnp.ones((64, 8))
        >>> def power(rate_logit):
        ...     return jnp.square(concrete_dropout(jax.random.key(0), x, rate_logit)).mean()
        >>> bool(jax.grad(power)(-2.0) > 0)
        True

    References:
        Gal, Hron & Kendall, "Concrete dropout", 2017, eq. 5.
    """
    x = masks.check_array(x)
    rate_logit = _check_logit(rate_logit, x.shape, "noise")
    ends = np.finfo(np.float32).tiny, np.finfo(np.float64).max
    remedy = "the paper has 0.1"
    temperature = masks.check_real(
        temperature, "temperature", ends, "(0, inf)", "a temperature", remedy, (), "layer"
    )
    return apply_noise(
        key,
        x,
        (rate_logit, temperature),
        x.shape,
        deterministic=deterministic,
        draw=masks.uniform,
        apply=_drop_softly,
    )


def concrete_regularizer(
    rate_logit: ArrayLike,
    weights: Any,
    *,
    num_features: int,
    weight_decay: ArrayLike,
    entropy_weight: ArrayLike,
) -> jax.Array:
    """What a learned rate adds to the loss: a decay of the weights behind it, less an entropy.

    With p = sigmoid(rate_logit): ``weight_decay * sum(|weights|**2) / (1 - p) + entropy_weight *
    num_features * (p log p + (1 - p) log(1 - p))``. It is the Kullback-Leibler divergence from the
    prior, eq. 3, of weights M that survive with probability 1 - p, for the rescaled weights
    M / (1 - p) that the network has. The first term grows with p and the second is lowest at
    p = 1/2 (eq. 4, the entropy of the decisions): the data pull p down, the more of them there are.

    With prior length-scale l and N examples: for a loss that is a mean squared error, of
    observation noise with variance 1/tau, ``weight_decay = l**2 / (tau * N)`` and
    ``entropy_weight = 2 / (tau * N)``; for one that is a mean negative log-likelihood, such as a
    cross-entropy, ``weight_decay = l**2 / (2 * N)`` and ``entropy_weight = 1 / N``.

    Args:
        rate_logit: log(p / (1 - p)) of the rate p, a real scalar; may be traced.
        weights: array or pytree of arrays, real or complex: kernel and bias of the layer that the
            dropped array enters.
        num_features: how many features are dropped from, the size of the last axis.
        weight_decay: weight of the first term, at least 0; may be traced.
        entropy_weight: weight of the second term, at least 0; may be traced.

    Returns:
        float32 scalar, or float64 where ``rate_logit`` is.

    Raises:
        TypeError: ``rate_logit`` or one of the two factors is not a real number.
        ValueError: ``rate_logit`` or one of the two factors is not finite, or not a scalar.

    Example:
        >>> weights = jnp.ones((4, 2))
        >>> penalty = concrete_regularizer(
        ...     0.0, weights, num_features=4, weight_decay=0.01, entropy_weight=0.1
        ... )
        >>> round(float(penalty), 4)
        -0.1173

    References:
        Gal, Hron & Kendall, "Concrete dropout", 2017, eq. 3 and 4.
    """
    logit = masks.widened(_check_logit(rate_logit, (), "layer"))
    squares = jnp.zeros((), logit.dtype)
    for leaf in jax.tree.leaves(weights):
        for part in _real_parts(masks.as_array(leaf, "weights")):
            squares += jnp.sum(jnp.square(part.astype(logit.dtype)))
    rate, keep = jax.nn.sigmoid(logit), jax.nn.sigmoid(-logit)
    entropy = -rate * jax.nn.log_sigmoid(logit) - keep * jax.nn.log_sigmoid(-logit)
    factors = {"weight_decay": weight_decay, "entropy_weight": entropy_weight}
    weight_decay, entropy_weight = (
        jnp.asarray(masks.check_finite(value, name, "a factor", "0 leaves a term out", ())).astype(
            logit.dtype
        )
        for name, value in factors.items()
    )
    # 1 / (1 - p) is 1 + exp(logit): no cancellation where p is near 1.
    return weight_decay * squares * (1 + jnp.exp(logit)) - entropy_weight * num_features * entropy


def _real_parts(x: jax.Array) -> tuple[jax.Array, ...]:
    """Arrays of real numbers whose squares add up to those of the absolute values."""
    return (x.real, x.imag) if jnp.iscomplexobj(x) else (x,)


def logit_of(init_rate: float) -> float:
    """The logit of a rate that is known now and lies between both ends."""
    ends = np.finfo(np.float32).tiny, 1 - float(np.finfo(np.float32).epsneg)
    remedy = "at 0 and at 1 a rate learns nothing"
    rate = masks.check_real(init_rate, "init_rate", ends, "(0, 1)", "a rate", remedy)
    return math.log(rate / (1 - rate))


def _check_logit(rate_logit: ArrayLike, shape: Shape, of: str) -> Any:
    remedy = "a rate p has the logit log(p / (1 - p))"
    return masks.check_finite(rate_logit, "rate_logit", "logits of rates", remedy, shape, of)


def _drop_softly(
    uniform: jax.Array, x: jax.Array, rate_logit: jax.Array, temperature: jax.Array
) -> jax.Array:
    soft = (rate_logit + jnp.log(uniform) - jnp.log1p(-uniform)) / temperature
    # (1 - z) / (1 - p) by logarithms: at a logit of 30, 1 - p is 0 in float32.
    factor = jnp.exp(jax.nn.softplus(rate_logit) - jax.nn.softplus(soft))
    return x * factor.astype(x.dtype)
