"""`dot_product_attention` as Flax's modules call theirs, for linen and nnx alike."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdrop.functional._attention import dot_product_attention
from jaxdrop.masks import _internal as masks

_NO_PRODUCTS: Mapping[str, Any] = {}


def attention(
    arrays: Sequence[jax.Array],
    bias: Any,
    mask: Any,
    key: Any,
    rate: Any,
    deterministic: Any,
    *,
    precision: Any,
    sows: bool,
    flax_attention: Callable[..., jax.Array],
    flax_weights: Callable[..., jax.Array],
    products: Mapping[str, Any] = _NO_PRODUCTS,
    **options: Any,
) -> jax.Array:
    """Attention of arrays ``(..., L, N, H)``, by Flax's function where jaxdrop's cannot serve.

    Args:
        arrays: query, key and value, of one dtype.
        bias: broadcasts to ``(..., N, T, S)``, or None.
        mask: likewise; what is not 0 counts as True.
        key: PRNG key; may be None if nothing is drawn.
        rate: probability of dropping.
        deterministic: if true, nothing is dropped.
        precision: of the products, as JAX names it, or None.
        sows: whether the module keeps the weights, as they are before dropout.
        flax_attention: Flax's function with its other arguments, dropout switched off.
        flax_weights: likewise, the part of it that computes the weights and sows them.
        products: functions that Flax multiplies by, under their names, or None for its own.
        options: of `dot_product_attention`.
    """
    query, keys, value = arrays
    checked = masks.check_rate(rate, deterministic=deterministic)
    products = {name: product for name, product in products.items() if product is not None}
    # JAX's function takes as many features in values as in keys.
    if checked.known == 0 and checked.settled and (products or sows or keys.shape != value.shape):
        return flax_attention(query, keys, value, bias, mask, **products)
    for name, product in products.items():
        raise ValueError(
            f"{name}: expected None where dropout is on, got {product!r}; "
            "leave attention_fn as Flax has it for products of your own"
        )
    if sows:
        flax_weights(query, keys, bias, mask)
    if not checked.settled:
        masks.check_key(key, "dropout_rng")
    batch = query.shape[:-3]
    mask = None if mask is None else jnp.asarray(mask).astype(bool)
    if len(batch) > 1:
        arrays = [x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:]) for x in arrays]
        bias, mask = (_one_batch_axis(x, batch) for x in (bias, mask))
    query, keys, value = arrays
    options = {**options, "bias": bias, "mask": mask, "deterministic": deterministic}
    with _products(precision):
        out = dot_product_attention(key, query, keys, value, rate, **options)
    return out.reshape(*batch, *out.shape[-3:])


def _one_batch_axis(x: jax.Array | None, batch: tuple[int, ...]) -> jax.Array | None:
    """A bias or mask whose axes of examples are one axis."""
    if x is None or x.ndim <= 3:
        return x
    own = (1,) * (len(batch) + 3 - x.ndim) + x.shape[:-3]
    if math.prod(own) == 1:
        return x.reshape(1, *x.shape[-3:])
    x = jnp.broadcast_to(x, (*batch, *x.shape[-3:]))
    return x.reshape(math.prod(batch), *x.shape[-3:])


def _products(precision: Any) -> contextlib.AbstractContextManager[Any]:
    if precision is None:
        return contextlib.nullcontext()
    if isinstance(precision, tuple) and len(set(precision)) == 1:
        precision = precision[0]
    if isinstance(precision, jax.lax.Precision):
        precision = precision.name.lower()
    if not isinstance(precision, str):
        raise ValueError(
            f"precision: expected one for both operands, got {precision!r}; "
            "write for example jax.lax.Precision.HIGHEST"
        )
    return jax.default_matmul_precision(precision)
