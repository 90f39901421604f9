"""Attention as a whole, with dropout in it."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from jaxdrop.functional import _attention_arguments as _arguments
from jaxdrop.functional._attention_blocks import attend_blocks
from jaxdrop.functional._attention_dense import attend_dense
from jaxdrop.functional._attention_logits import inside_queries
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
    without blocks. Where nothing is dropped, because ``deterministic`` is True or the rate a known
    0, it is a call of ``jax.nn.dot_product_attention``.

    With a ``block_size`` the keys are gone through in blocks, and no array of T times S entries is
    stored, forward or backward, beside a bias or mask of that size that is passed in. The mask of
    a block is drawn where it is used. Memory grows with T times the block, and the backward pass
    computes the weights once more. Blocks pay in memory alone: on a GPU each costs some twenty
    launches, forward and backward, and for 1024 queries and keys blocks of 512 take 1.4 times as
    long as none (for an H200, a bound from the compiler, not timed). So take large ones. All
    transforms work, forward mode too. The call of ``jax.nn`` knows no blocks: where its array would
    be too large, switch off with ``jnp.array(True)``.

    A query that may look at no key at all looks at all of them, as in ``jax.nn``. The softmax is
    computed in float32. B examples, T queries, S keys, N query heads, K key heads (N is a
    multiple of K), H features; query, key and value may all lack the axis of examples.

    Args:
        dropout_key: PRNG key that this call consumes; may be None where nothing is drawn: if
            ``deterministic`` is True or the rate a known 0 or 1.
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
        TypeError: as `dropout`; or query, key, value, mask or lengths are of another dtype.
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
    query = masks.as_array(query, "query")
    arrays, limits, settings = _arguments.checked(
        (query, key, value),
        (bias, mask, query_seq_lengths, key_value_seq_lengths),
        scale,
        is_causal=is_causal,
        window=local_window_size,
        mode=mode,
        broadcast_dims=broadcast_dims,
        block_size=block_size,
    )
    checked = masks.check_rate(rate, settings.mask_shape, deterministic=deterministic)
    rank = query.ndim
    plain = functools.partial(_plain, settings, arrays, limits, implementation, rank)
    if checked.settled:
        return jnp.zeros_like(query) if checked.known and mode != "keys" else plain()
    masks.check_key(dropout_key, "dropout_key")
    if mode != "heads":
        return _attention(settings, arrays, limits, dropout_key, checked, rank)
    if block_size is None:
        out = plain()
    else:
        off = settings._replace(mode="none")
        out = _attention(off, arrays, limits, None, None, rank)
    shape = settings.mask_shape if rank == 4 else settings.mask_shape[1:]
    return apply_masked(dropout_key, out, rate, shape, deterministic=deterministic)


def _plain(settings, arrays, limits, implementation, rank):
    """Without dropout, by JAX."""
    query, key, value, bias, scale = arrays
    with jax.numpy_dtype_promotion("standard"):  # the strict one finds fault with jax.nn
        out = jax.nn.dot_product_attention(
            query,
            key,
            value,
            bias,
            limits.mask,
            scale=settings.scale if scale is None else scale,
            is_causal=settings.is_causal,
            query_seq_lengths=limits.query_lengths,
            key_value_seq_lengths=limits.key_lengths,
            local_window_size=settings.local_window,
            implementation=implementation,
        )
    return out[0] if rank == 3 else out


@functools.partial(jax.jit, static_argnames=("settings", "rank"))
def _attention(settings, arrays, limits, dropout_key, rate, rank):
    rate = rate and rate.resolved()  # else every block would ask the flag again
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in arrays[:3])
    arrays = arrays._replace(query=q, key=k, value=v)
    empty = 0 in (*q.shape, *k.shape)  # no block to begin with
    attend = attend_dense if settings.block_size is None or empty else attend_blocks
    out = attend(settings, arrays, limits, dropout_key, rate)
    out = jnp.swapaxes(out.astype(arrays.query.dtype), 1, 2)
    out = inside_queries(limits, out)
    return out[0] if rank == 3 else out
