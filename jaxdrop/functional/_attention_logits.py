"""Logits of attention over a block of keys, by the rules of ``jax.nn.dot_product_attention``.

B batch, T queries, S keys, N query heads, K key heads, G = N / K, H features; s keys of a block.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop.masks import _internal as masks


class Arrays(NamedTuple):
    """What attention is differentiated by; heads come before positions.

    Attributes:
        query: (B, N, T, H).
        key: (B, K, S, H).
        value: (B, K, S, H).
        bias: broadcasts to (B, N, T, S), or None.
        scale: an array that the products are multiplied by, or None if `Limits` holds a number.
    """

    query: Any
    key: Any
    value: Any
    bias: Any
    scale: Any


class Limits(NamedTuple):
    """Which keys a query may look at, and what has no derivative.

    Attributes:
        mask: booleans that broadcast to (B, N, T, S), or None.
        query_lengths: (B,) or None.
        key_lengths: (B,) or None.
    """

    mask: Any
    query_lengths: Any
    key_lengths: Any


class Settings(NamedTuple):
    """What is known when the program is made.

    Attributes:
        scale: a number, or None if `Arrays` holds it.
        is_causal: whether a query looks at no later key.
        local_window: ``(left, right)`` or None.
        mode: "weights", "keys" or "none".
        mask_shape: of the decisions.
        block_size: keys of a block, or None for all at once.
    """

    scale: float | None
    is_causal: bool
    local_window: tuple[int, int] | None
    mode: str
    mask_shape: tuple[int, ...]
    block_size: int | None


def least_logit(dtype):
    """What a logit that is masked out becomes: finite, so that a row of them is uniform."""
    top = min(float(jnp.finfo(dtype).max), float(np.finfo(np.float32).max))
    return np.asarray(-0.7 * top, dtype)


def logits(arrays: Arrays, allowed, settings: Settings):
    """(B, N, T, s) in float32 or wider, from keys and a bias of the block."""
    query, key = arrays.query, arrays.key
    wide = masks.wide_dtype(query)
    scores = _products(query, key, wide)
    scale = settings.scale if arrays.scale is None else arrays.scale
    scores = scores * jnp.asarray(scale, wide)
    if arrays.bias is not None:
        scores = (scores + arrays.bias.astype(wide)).astype(wide)
    if allowed is not None:
        scores = jnp.where(allowed, scores, least_logit(wide))
    return scores.astype(jnp.float32)


def weighted_sum(weights, value):
    """(B, N, T, H) in float32 or wider, from weights (B, N, T, s) and values (B, K, s, H)."""
    wide = masks.wide_dtype(value)
    weights = weights.astype(value.dtype)
    heads, groups = value.shape[1], weights.shape[1] // value.shape[1]
    if groups == 1:
        return _einsum("BNTS,BNSH->BNTH", weights, value, wide)
    weights = weights.reshape(weights.shape[0], heads, groups, *weights.shape[2:])
    out = _einsum("BKGTS,BKSH->BKGTH", weights, value, wide)
    return out.reshape(out.shape[0], heads * groups, *out.shape[3:])


def allowed_keys(limits: Limits, settings: Settings, shape, start=0, size=None):
    """Booleans that broadcast to (B, N, T, s): which of keys [start, start + size) count."""
    queries, keys = shape
    size = keys if size is None else size
    # Of rank 4, and not constants: those would be kept for the backward pass.
    row = lax.broadcasted_iota(jnp.int32, (1, 1, queries, 1), 2)
    column = lax.broadcasted_iota(jnp.int32, (1, 1, 1, size), 3) + jnp.asarray(start, jnp.int32)
    found = []
    if limits.mask is not None:
        found.append(_mask_block(limits.mask, keys, start, size))
    if settings.is_causal:
        found.append(column <= row)
    if settings.local_window is not None:
        left, right = settings.local_window
        found += [row <= column + np.int32(left), row >= column - np.int32(right)]
    if limits.query_lengths is not None:
        found.append(row < limits.query_lengths.reshape(-1, 1, 1, 1))
    if limits.key_lengths is not None:
        found.append(column < limits.key_lengths.reshape(-1, 1, 1, 1))
    return _all_of(found)


def inside_queries(limits: Limits, out):
    """The output (B, T, N, H) with zeros behind the last query of each example."""
    if limits.query_lengths is None:
        return out
    row = lax.broadcasted_iota(jnp.int32, (1, out.shape[1], 1, 1), 1)
    return out * (row < limits.query_lengths.reshape(-1, 1, 1, 1)).astype(out.dtype)


def _products(query, key, wide):
    heads, groups = key.shape[1], query.shape[1] // key.shape[1]
    if groups == 1:
        return _einsum("BNTH,BNSH->BNTS", query, key, wide)
    query = query.reshape(query.shape[0], heads, groups, *query.shape[2:])
    scores = _einsum("BKGTH,BKSH->BKGTS", query, key, wide)
    return scores.reshape(scores.shape[0], heads * groups, *scores.shape[3:])


def _einsum(formula, first, second, wide):
    """A product summed in float32 or wider."""
    # The preset lets the backward pass multiply bfloat16 by bfloat16, as jax.nn does; its
    # transpose does not work while promotion is strict. The one of float16 CPUs do not have.
    strict = jax.config.jax_numpy_dtype_promotion == "strict"  # pyright: ignore
    preset = first.dtype == jnp.bfloat16 and not strict
    precision = lax.DotAlgorithmPreset.BF16_BF16_F32 if preset else None
    return jnp.einsum(formula, first, second, precision=precision, preferred_element_type=wide)


def _mask_block(mask, keys, start, size):
    if mask.shape[-1] == 1 or size == keys:
        return mask
    over = -keys % size
    if over:  # a slice that hangs over would be moved
        mask = jnp.pad(mask, [(0, 0)] * 3 + [(0, over)])
    return lax.dynamic_slice_in_dim(mask, start, size, axis=-1)


def _all_of(conditions):
    if not conditions:
        return None
    first, *others = conditions
    for other in others:
        first = first & other
    return first
