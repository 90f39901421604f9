"""Attention as a whole, with dropout in it."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.functional._attention import arguments
from jaxdrop.functional._attention.blocks import attend_in_blocks
from jaxdrop.functional._attention.dropping import Dropping, Keep
from jaxdrop.functional._attention.logits import Operands, Visibility, logits, seen, weighted_sum
from jaxdrop.functional._masked import Flag, Key, apply_masked
from jaxdrop.masks import _internal as masks


def dot_product_attention(
    dropout_key: Key,
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    block_size: int | None = None,
    bias: ArrayLike | None = None,
    mask: ArrayLike | None = None,
    scale: Any = None,
    is_causal: bool = False,
    query_seq_lengths: ArrayLike | None = None,
    key_value_seq_lengths: ArrayLike | None = None,
    local_window_size: int | tuple[int, int] | None = None,
    implementation: Any = None,
    broadcast_dims: Sequence[int] = (),
    mode: str = "weights",
) -> jax.Array:
    """``jax.nn.dot_product_attention`` with dropout in it.

    Each weight survives with probability ``1 - rate``, independently for each example, head, query
    and key, and is divided by that probability, so the mean over keys is the attention without
    dropout. The decisions are those of ``masks.sample(dropout_key, rate, (B, N, T, S))``, with and
    without blocks. If nothing is dropped, because ``deterministic`` is True or the rate a known
    0, it is a call of ``jax.nn.dot_product_attention``.

    With a ``block_size``, attention goes through the keys in blocks and stores no array of T times
    S elements, forward or backward, beside a bias or mask of that size that is passed in. Memory
    grows with T times the block, and the backward pass computes the weights once more. Blocks save
    memory and not time: on a GPU each costs some twenty launches, and for 1024 queries and keys
    blocks of 512 take 1.4 times as long as none (for an H200, a bound from the compiler, not
    timed). So take large ones. All transforms work, forward mode too. The call of ``jax.nn`` has no
    blocks: to switch dropout off without it, pass ``deterministic=jnp.array(True)``.

    A query that may look at no key at all looks at all of them, as in ``jax.nn``. The softmax is
    computed in float32. B examples, T queries, S keys, N query heads, K key heads (N is a
    multiple of K), H features; query, key and value may all lack the axis of examples.

    Args:
        dropout_key: PRNG key; unused if ``deterministic`` is True.
        query: floating, of shape ``(B, T, N, H)``.
        key: of shape ``(B, S, K, H)`` and the dtype of ``query``.
        value: as ``key``.
        rate: probability of dropping, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to the mask, ``(B, N, T, S)`` with 1 on the ``broadcast_dims``.
        deterministic: if true, nothing is dropped; may be traced.
        block_size: number of keys that are computed at once; None for all of them.
        bias: added to the logits; broadcasts to ``(B, N, T, S)``.
        mask: booleans, True where a query may look at a key; broadcasts likewise.
        scale: of the logits; None for ``1 / sqrt(H)``.
        is_causal: if true, no query looks at a later key.
        query_seq_lengths: number of queries of each example, int32 of shape ``(B,)``; the output
            is 0 behind them.
        key_value_seq_lengths: number of keys of each example, likewise.
        local_window_size: ``(left, right)``, how far a query looks; one number for both.
        implementation: passed on to ``jax.nn.dot_product_attention`` where that is called.
        broadcast_dims: axes of ``(B, N, T, S)`` that share one decision.
        mode: what is dropped. ``"weights"``; ``"keys"`` before the softmax, without a scale and
            never a whole row, as in `drop_key`; ``"heads"``, whole outputs of heads, as in
            `drop_head`, at a rate that broadcasts to ``(B, 1, N, 1)``.

    Returns:
        Array with the shape and dtype of ``query``.

    Raises:
        TypeError: ``dropout_key`` is not a PRNG key, or an argument is of the wrong type or dtype.
        ValueError: ``rate`` lies outside [0, 1] or does not broadcast, ``dropout_key`` is a batch
            of keys, shapes do not fit each other, ``block_size`` is below 1, ``mode`` is unknown,
            or ``broadcast_dims`` names an axis that (B, N, T, S) lacks, or one twice.

    Example:
        >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 8, 4, 16))
        >>> dot_product_attention(jax.random.key(1), q, k, v, 0.1, is_causal=True).shape
        (2, 8, 4, 16)
        >>> whole = dot_product_attention(jax.random.key(1), q, k, v, 0.1)
        >>> blocks = dot_product_attention(jax.random.key(1), q, k, v, 0.1, block_size=3)
        >>> bool(jnp.allclose(whole, blocks, atol=1e-5))
        True

    References:
        Vaswani et al., "Attention is all you need", 2017, section 3.2; Milakov & Gimelshein,
        "Online normalizer calculation for softmax", 2018, algorithm 3; Rabe & Staats,
        "Self-attention does not need O(n^2) memory", 2021; Dao et al., "FlashAttention: fast and
        memory-efficient exact attention with IO-awareness", 2022, algorithm 4.
    """
    masks.refuse_keys(query=query, key=key, value=value, rate=rate)
    given = masks.as_array(query, "query")
    query, key, value = arguments.check_arrays(given, key, value)
    (examples, queries, heads, features), keys = query.shape, key.shape[1]
    shape = examples, heads, queries, keys
    scale = arguments.check_scale(scale, features)
    arrays = query, key, value, arguments.check_bias(bias, shape), scale
    mask_shape = arguments.check_mask_shape(mode, broadcast_dims, shape)
    size = arguments.check_block_size(block_size, query, key)
    lengths = query_seq_lengths, key_value_seq_lengths
    visibility = arguments.check_visibility(mask, lengths, is_causal, local_window_size, shape)
    checked = masks.check_rate(rate, mask_shape, deterministic=deterministic)
    # Keys are never dropped from a whole row, so at a rate of 1 they all stay.
    if checked.settled and checked.known and mode != "keys":
        return jnp.zeros_like(given)
    if not checked.settled:
        masks.check_key(dropout_key, "dropout_key")
    if checked.settled or (mode == "heads" and size is None):
        out = _attend_by_jax(arrays, visibility, implementation)
    else:
        dropping = Dropping(dropout_key, checked, mask_shape, mode)
        out = _attend(arrays, visibility, dropping, size)
    if mode == "heads":
        out = apply_masked(dropout_key, out, rate, mask_shape, deterministic=deterministic)
    return out[0] if given.ndim == 3 else out


def _attend_by_jax(
    arrays: tuple[Any, ...], visibility: Visibility, implementation: Any
) -> jax.Array:
    query, key, value, bias, scale = arrays
    limits = {"scale": scale, "implementation": implementation, **vars(visibility)}
    with jax.numpy_dtype_promotion("standard"):  # jax.nn does not work under the strict one
        return jax.nn.dot_product_attention(query, key, value, bias, **limits)


@functools.partial(jax.jit, static_argnames="size")
def _attend(
    arrays: tuple[Any, ...], visibility: Visibility, dropping: Dropping, size: int | None
) -> jax.Array:
    """(B, T, N, H), from all keys at once or from blocks of ``size`` keys."""
    query, key, value, bias, scale = arrays
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    operands = Operands(query, key, value, bias, scale)
    if size is None or (dropping.mode == "weights" and masks.tapped.value):
        out = _attend_at_once(operands, visibility, dropping)
    else:
        out = attend_in_blocks(operands, visibility, dropping, size)
    return visibility.silenced(jnp.swapaxes(out.astype(query.dtype), 1, 2))


def _attend_at_once(operands: Operands, visibility: Visibility, dropping: Dropping) -> jax.Array:
    """(B, N, T, H) in float32 or wider."""
    queries, keys = operands.query.shape[2], operands.key.shape[2]
    allowed = visibility.allowed(queries, keys, 0, keys)
    scores = logits(operands, allowed)
    keep = dropping.whole(scores)

    def lost_rows() -> jax.Array:
        survivors = seen(keep.survivors(scores), allowed, operands.bias)
        return ~jnp.any(survivors, axis=-1, keepdims=True)

    scores = masks.remember_words_only(Keep.scores)(keep, scores, dropping.spared(lost_rows))
    weights = jax.nn.softmax(scores, axis=-1)

    def sum_of_survivors(keep: Keep, weights: jax.Array, value: jax.Array) -> jax.Array:
        return weighted_sum(keep.weights(weights), value)

    # The backward pass keeps all weights and the words, but not the surviving weights.
    return masks.remember_words_only(sum_of_survivors)(keep, weights, operands.value)
