"""`dot_product_attention` for callers that put examples as Flax does, along any number of axes."""

import contextlib
import math

import jax
import jax.numpy as jnp

from jaxdrop.functional._dot_product_attention import dot_product_attention
from jaxdrop.masks import _internal as masks


def attention(arrays, bias, mask, key, rate, *, precision, **options):
    """Attention of arrays ``(..., L, N, H)``, the key under Flax's name.

    Args:
        arrays: query, key and value, of one dtype.
        bias: broadcasts to ``(..., N, T, S)``, or None.
        mask: likewise; what is not 0 counts as True.
        key: PRNG key; may be None where nothing is drawn.
        rate: of dropping.
        precision: of the products, as JAX names it, or None.
        options: of `dot_product_attention`.
    """
    if masks.draws(rate, options["deterministic"]):
        masks.check_key(key, "dropout_rng")
    batch, rest = arrays[0].shape[:-3], arrays[0].shape[-3:]
    mask = None if mask is None else jnp.asarray(mask).astype(bool)
    if len(batch) > 1:
        arrays = tuple(x.reshape(math.prod(x.shape[:-3]), *x.shape[-3:]) for x in arrays)
        bias, mask = (_one_batch_axis(x, batch) for x in (bias, mask))
    with _products(precision):
        q, k, v = arrays
        out = dot_product_attention(key, q, k, v, rate, bias=bias, mask=mask, **options)
    return out.reshape(*batch, *rest) if len(batch) > 1 else out


def refuse(name, value):
    """Raises if a way to multiply is given, which ours has no place for."""
    if value is not None:
        raise ValueError(
            f"{name}: expected None where dropout is on, got {value!r}; "
            "leave attention_fn as Flax has it for products of your own"
        )


def switched_off(rate, deterministic):
    """Whether it is known that nothing is dropped."""
    return not masks.draws(rate, deterministic) and (deterministic is True or rate == 0)


def fits_jax(arrays):
    """Whether ``jax.nn`` takes these arrays: with as many features in values as in keys."""
    return arrays[1].shape == arrays[2].shape


def _one_batch_axis(x, batch):
    """A bias or mask whose axes of examples are one axis."""
    if x is None or x.ndim <= 3:
        return x
    own = (1,) * (len(batch) + 3 - x.ndim) + x.shape[:-3]
    if math.prod(own) == 1:
        return x.reshape(1, *x.shape[-3:])
    x = jnp.broadcast_to(x, (*batch, *x.shape[-3:]))
    return x.reshape(math.prod(batch), *x.shape[-3:])


def _products(precision):
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
