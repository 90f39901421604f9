"""Losses that compare or average several sub-networks of one network."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Shape
from jaxdrop.masks import _internal as masks


def r_drop_loss(
    first_logits: ArrayLike,
    second_logits: ArrayLike,
    labels: ArrayLike,
    *,
    weight: ArrayLike = 1.0,
) -> jax.Array:
    """Cross-entropy of two passes with different masks, and how far apart they are.

    The mean over examples of ``NLL1 + NLL2 + weight * (KL(p1||p2) + KL(p2||p1)) / 2``.

    Args:
        first_logits: logits of one pass, a floating array of shape ``(..., C)``.
        second_logits: logits of another one with another key, of the same shape and dtype.
        labels: integer array of shape ``(...)``, the classes, in [0, C); leave out examples without
            a label. One outside that is traced gives NaN, in the gradient too.
        weight: factor of the divergence, a real scalar, 1 to 5 in the paper; may be traced.

    Returns:
        Scalar in nats, float32, or float64 for such logits.

    Raises:
        TypeError: the logits are not floating arrays or differ in dtype, ``labels`` is not an
            integer array, or ``weight`` is not a real number.
        ValueError: the shapes do not go together, there is no example or one class alone, a label
            is not a class, or ``weight`` is not finite.

    Example:
        >>> features, labels = jnp.ones((3, 8)), jnp.array([0, 1, 2])
        >>> network = lambda key: dropout(key, features, 0.5) @ jnp.eye(8, 4)
        >>> first, second = map(network, jax.random.split(jax.random.key(0)))
        >>> r_drop_loss(first, second, labels, weight=5.0).shape
        ()

    References:
        Wu et al., "R-Drop: regularized dropout for neural networks", 2021, eq. 2 to 4.
    """
    first, second = _check_logits(first_logits, second_logits)
    labels = _check_labels(labels, first.shape)
    weight = masks.check_finite(weight, "weight", "a factor", "the paper has 1 to 5", (), "loss")
    log_p, log_q = (jax.nn.log_softmax(logits, axis=-1) for logits in (first, second))
    is_class = (labels >= 0) & (labels < first.shape[-1])
    places = jnp.where(is_class, labels, jnp.zeros_like(labels))[..., None]
    picked = jnp.take_along_axis(log_p + log_q, places, axis=-1)[..., 0]
    picked = picked * jnp.where(is_class, 1, jnp.nan).astype(picked.dtype)  # the gradient too
    # Both divergences at once; a class that both rule out adds nothing to value and gradient.
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    ratio = jnp.where(p == q, jnp.zeros_like(p), log_p - log_q)
    apart = ((p - q) * ratio).sum(axis=-1)
    return -picked.mean() + jnp.asarray(weight, apart.dtype) / 2 * apart.mean()


def multi_sample_loss(
    loss: Callable[..., Any], key: jax.Array, *args: Any, num_samples: int = 4
) -> Any:
    """The mean of a loss over several masks that share what was computed before them.

    Sample ``i`` is ``loss(jax.random.fold_in(key, i), *args)``. What ``loss`` is given, such as the
    features from the trunk of a network, is computed once; only what it computes itself, from its
    first dropout on, is done for every sample.

    Args:
        loss: ``loss(key, *args)`` gives an array, or a pytree of them.
        key: PRNG key, from which those of the samples are folded.
        *args: further arguments of ``loss``, the same for all samples.
        num_samples: number of masks.

    Returns:
        What ``loss`` returns, averaged over the samples.

    Raises:
        TypeError: ``key`` is not a PRNG key, or ``num_samples`` is not an integer.
        ValueError: ``key`` is a batch of keys, or ``num_samples`` is below 1.

    Example:
        >>> def head_loss(key, features, kernel, labels):
        ...     logits = dropout(key, features, 0.5) @ kernel
        ...     return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean()
        >>> features = jnp.tanh(jnp.ones((3, 8)))  # of the trunk: once for all samples
        >>> labels = jnp.array([0, 1, 2])
        >>> multi_sample_loss(head_loss, jax.random.key(0), features, jnp.eye(8, 4), labels).shape
        ()

    References:
        Inoue, "Multi-sample dropout for accelerated training and better generalization", 2019.
    """
    if not callable(loss):
        raise TypeError(
            f"loss: expected a function of a key and what follows it, got {type(loss).__name__}; "
            "write multi_sample_loss(loss, key, *args)"
        )
    masks.check_key(key)
    count = masks.check_count(num_samples, "num_samples", 4)
    key = masks.typed(key)
    # One by one: mapped, the keys of some implementations fold all in the same way.
    data = [jax.random.key_data(jax.random.fold_in(key, i)) for i in range(count)]
    keys = jax.random.wrap_key_data(jnp.stack(data), impl=jax.random.key_impl(key))
    losses = jax.vmap(lambda key: loss(key, *args))(keys)
    return jax.tree.map(lambda values: values.mean(axis=0), losses)


def _check_logits(first: ArrayLike, second: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Both as arrays of float32 or better."""
    first = masks.check_array(first, "first_logits")
    second = masks.check_array(second, "second_logits")
    if first.dtype != second.dtype or not jnp.issubdtype(first.dtype, jnp.floating):
        raise TypeError(
            f"second_logits: expected the dtype of first_logits, a floating one, got "
            f"{second.dtype} beside {first.dtype}; take both from the same network"
        )
    if first.shape != second.shape or first.ndim == 0:
        raise ValueError(
            f"second_logits: expected the shape of first_logits, (..., C), got {second.shape} "
            f"beside {first.shape}; take both from the same examples"
        )
    if first.shape[-1] < 2 or not first.size:
        raise ValueError(
            f"first_logits: expected one example or more, of two classes or more, got shape "
            f"{first.shape}; a single logit z is the pair jnp.stack([jnp.zeros_like(z), z], -1)"
        )
    wide = masks.wide_dtype(first)
    return first.astype(wide), second.astype(wide)


def _check_labels(labels: ArrayLike, logits_shape: Shape) -> jax.Array:
    """The labels as an array of int32 or wider; those that are known are classes."""
    *rows, classes = logits_shape
    array = masks.as_array(labels, "labels")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"labels: expected an integer array of classes, got dtype {array.dtype}; "
            "for one-hot labels write labels.argmax(-1)"
        )
    if array.shape != tuple(rows):
        raise ValueError(
            f"labels: expected the shape of the logits without their last axis, "
            f"{tuple(rows)}, got {array.shape}; pass one class for each example"
        )
    if not any(isinstance(part, Tracer) for part in jax.tree.leaves(labels)):
        known = np.asarray(labels)  # as given: what int32 does not hold, JAX wraps
        if known.min() < 0 or known.max() >= classes:
            raise ValueError(
                f"labels: expected classes in [0, {classes}), got values from {known.min()} to "
                f"{known.max()}; count classes from 0 and leave out examples without a label"
            )
    return array if array.dtype.itemsize >= 4 else array.astype(jnp.int32)
