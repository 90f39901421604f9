"""Logits of attention over a block of keys, by the rules of ``jax.nn.dot_product_attention``.

B batch, T queries, S keys, N query heads, K key heads, G = N / K, H features; s keys of a block.
"""

import dataclasses
import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from jaxdrop.masks import _internal as masks


class Operands(NamedTuple):
    """What attention is differentiated by; heads come before positions.

    Attributes:
        query: (B, N, T, H).
        key: (B, K, S, H), or that of a block.
        value: as ``key``.
        bias: broadcasts to (B, N, T, S), or that of a block, or None.
        scale: what products are multiplied by: a known number or an array.
    """

    query: jax.Array
    key: jax.Array
    value: jax.Array
    bias: jax.Array | None
    scale: Any


@jax.tree_util.register_static
class Known(float):
    """A number that is part of the program: no leaf of a pytree, but of its structure."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Visibility:
    """Which keys a query may look at, under the names of ``jax.nn.dot_product_attention``.

    Attributes:
        mask: booleans that broadcast to (B, N, T, S), or None.
        query_seq_lengths: (B,) or None.
        key_value_seq_lengths: (B,) or None.
        is_causal: whether a query looks at no later key.
        local_window_size: ``(left, right)`` or None.
    """

    mask: jax.Array | None
    query_seq_lengths: jax.Array | None
    key_value_seq_lengths: jax.Array | None
    is_causal: bool = dataclasses.field(metadata={"static": True})
    local_window_size: tuple[int, int] | None = dataclasses.field(metadata={"static": True})

    def allowed(
        self, queries: int, keys: int, start: jax.Array | int, size: int
    ) -> jax.Array | None:
        """Whether keys [start, start + size) are seen: (B, N, T, size), or None if all are."""
        # Of rank 4, and not constants: those would be kept for the backward pass.
        row = lax.broadcasted_iota(jnp.int32, (1, 1, queries, 1), 2)
        column = lax.broadcasted_iota(jnp.int32, (1, 1, 1, size), 3) + jnp.asarray(start, jnp.int32)
        conditions: list[jax.Array] = []
        if self.mask is not None:
            conditions.append(_mask_block(self.mask, keys, start, size))
        if self.is_causal:
            conditions.append(column <= row)
        if self.local_window_size is not None:
            left, right = self.local_window_size
            conditions += [row <= column + np.int32(left), row >= column - np.int32(right)]
        if self.query_seq_lengths is not None:
            conditions.append(row < self.query_seq_lengths.reshape(-1, 1, 1, 1))
        if self.key_value_seq_lengths is not None:
            conditions.append(column < self.key_value_seq_lengths.reshape(-1, 1, 1, 1))
        return functools.reduce(operator.and_, conditions) if conditions else None

    def silenced(self, out: jax.Array) -> jax.Array:
        """The output (B, T, N, H) with zeros behind the last query of each example."""
        if self.query_seq_lengths is None:
            return out
        row = lax.broadcasted_iota(jnp.int32, (1, out.shape[1], 1, 1), 1)
        return out * (row < self.query_seq_lengths.reshape(-1, 1, 1, 1)).astype(out.dtype)


def logits(operands: Operands, allowed: jax.Array | None) -> jax.Array:
    """(B, N, T, s) in float32, from keys and a bias of the block."""
    query, key = operands.query, operands.key
    wide = masks.wide_dtype(query)
    heads, groups = key.shape[1], query.shape[1] // key.shape[1]
    if groups == 1:
        scores = _einsum("BNTH,BNSH->BNTS", query, key, wide)
    else:
        query = query.reshape(query.shape[0], heads, groups, *query.shape[2:])
        scores = _einsum("BKGTH,BKSH->BKGTS", query, key, wide)
        scores = scores.reshape(scores.shape[0], heads * groups, *scores.shape[3:])
    scores = scores * jnp.asarray(operands.scale, wide)
    if operands.bias is not None:
        scores = (scores + operands.bias.astype(wide)).astype(wide)
    if allowed is not None:
        scores = jnp.where(allowed, scores, _least_logit(wide))
    return scores.astype(jnp.float32)


def seen(keys: jax.Array, allowed: jax.Array | None, bias: jax.Array | None) -> jax.Array:
    """Those of some keys that a query sees: allowed ones that no bias masks out."""
    if bias is not None:
        heard = lax.stop_gradient(bias).astype(jnp.float32) > _least_logit(jnp.float32)
        allowed = heard if allowed is None else allowed & heard
    return keys if allowed is None else keys & allowed


def weighted_sum(weights: jax.Array, value: jax.Array) -> jax.Array:
    """(B, N, T, H) in float32 or wider, from weights (B, N, T, s) and values (B, K, s, H)."""
    wide = masks.wide_dtype(value)
    weights = weights.astype(value.dtype)
    heads, groups = value.shape[1], weights.shape[1] // value.shape[1]
    if groups == 1:
        return _einsum("BNTS,BNSH->BNTH", weights, value, wide)
    weights = weights.reshape(weights.shape[0], heads, groups, *weights.shape[2:])
    out = _einsum("BKGTS,BKSH->BKGTH", weights, value, wide)
    return out.reshape(out.shape[0], heads * groups, *out.shape[3:])


def _least_logit(dtype: DTypeLike) -> np.ndarray:
    """What a logit that is masked out becomes: finite, so that a row of them is uniform."""
    top = min(float(jnp.finfo(dtype).max), float(np.finfo(np.float32).max))
    return np.asarray(-0.7 * top, dtype)


def _einsum(formula: str, first: jax.Array, second: jax.Array, wide: DTypeLike) -> jax.Array:
    """A product summed in float32 or wider."""
    # The preset lets the backward pass multiply bfloat16 by bfloat16, as jax.nn does; its
    # transpose does not work while promotion is strict. CPUs lack the preset of float16.
    strict = jax.config.jax_numpy_dtype_promotion == "strict"  # pyright: ignore
    preset = first.dtype == jnp.bfloat16 and not strict
    precision = lax.DotAlgorithmPreset.BF16_BF16_F32 if preset else None
    return jnp.einsum(formula, first, second, precision=precision, preferred_element_type=wide)


def _mask_block(mask: jax.Array, keys: int, start: jax.Array | int, size: int) -> jax.Array:
    if mask.shape[-1] == 1 or size == keys:
        return mask
    over = -keys % size
    if over:  # a slice that hangs over would be moved
        mask = jnp.pad(mask, [(0, 0)] * 3 + [(0, over)])
    return lax.dynamic_slice_in_dim(mask, start, size, axis=-1)
