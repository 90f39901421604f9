"""Dropout in attention: weights, keys, heads, and the attention function itself."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx
from flax.nnx.nn import dtypes
from flax.nnx.nn.attention import dot_product_attention_weights

from jaxdrop import functional
from jaxdrop.functional import _internal
from jaxdrop.nnx._base import Layer, layer

__all__ = ["AttentionDropout", "DropHead", "DropKey", "attention_fn"]


@layer
class AttentionDropout(Layer):
    """Drops attention weights, independently for each example, head, query and key.

    Takes weights after the softmax, a floating or complex array of shape ``(..., H, Q, K)``: H
    heads, Q queries, K keys. Keeps shape and dtype. See `jaxdrop.attention_dropout` for the paper.

    Args:
        rate: probability of dropping, in [0, 1].
        broadcast_dims: axes that share one decision.
        renormalize: if true, rows sum to 1 again; else the mean over keys is the input.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = AttentionDropout(0.1, renormalize=True, rngs=nnx.Rngs(0))
        >>> y = layer(jax.nn.softmax(jnp.ones((2, 4, 8, 8))))
        >>> bool(jnp.allclose(y.sum(-1), 1))
        True
    """

    broadcast_dims: Sequence[int] = ()
    renormalize: bool = False

    function = staticmethod(functional.attention_dropout)


@layer
class DropKey(Layer):
    """Drops keys of attention: their logits become -inf before the softmax, never a whole row.

    Takes logits before the softmax, a floating array of shape ``(..., H, Q, K)``: H heads, Q
    queries, K keys. Keeps shape and dtype. See `jaxdrop.drop_key` for the paper.

    Args:
        rate: probability of dropping, in [0, 1].
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = DropKey(0.5, rngs=nnx.Rngs(0))
        >>> sorted({float(v) for v in layer(jnp.zeros((2, 4, 4))).ravel()})
        [-inf, 0.0]
    """

    function = staticmethod(functional.drop_key)


@layer
class DropHead(Layer):
    """Drops whole attention heads of each example, before they are joined.

    Takes floating or complex arrays of shape ``(B, L, H, D)`` with H heads, or with these axes
    elsewhere, and keeps shape and dtype. See `jaxdrop.drop_head` for the paper.

    Args:
        rate: probability of dropping a head, in [0, 1].
        head_axis: axis of the inputs that counts heads.
        batch_axis: axis of the inputs that counts examples; None if there is none.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = DropHead(0.5, rngs=nnx.Rngs(0))
        >>> y = layer(jnp.ones((2, 5, 8, 4)))
        >>> bool((y == y[:, :1, :, :1]).all())
        True
    """

    head_axis: int = -2
    batch_axis: int | None = 0

    function = staticmethod(functional.drop_head)


def attention_fn(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: Any = None,
    mask: Any = None,
    broadcast_dropout: bool = True,
    dropout_rng: Any = None,
    dropout_rate: Any = 0.0,
    deterministic: Any = False,
    dtype: Any = None,
    precision: Any = None,
    module: nnx.Module | None = None,
    promote_dtype: Callable[..., Any] = dtypes.promote_dtype,
    is_causal: bool = False,
    *,
    block_size: int | None = None,
    mode: str = "weights",
    broadcast_dims: Sequence[int] = (),
) -> jax.Array:
    """`dot_product_attention` as ``attention_fn`` of ``flax.nnx.MultiHeadAttention``.

    Takes what ``flax.nnx.dot_product_attention`` takes: arrays of shape ``(..., T, N, H)`` and
    ``(..., S, K, H)``, K a divisor of N. Each example and head has its own mask; the rate and the
    mean are exact, and a rate of 1 gives zeros. If nothing is dropped it is
    ``jax.nn.dot_product_attention``, or Flax's function if weights are sown. The arguments below
    are those that differ from Flax's; bind the last three with ``functools.partial``.

    Args:
        broadcast_dropout: has no effect, though Flax's default is one mask for all examples and
            heads: bind ``broadcast_dims=(0, 1)`` to share one.
        module: the weights that are sown are those before dropout, computed once more.
        block_size: as in `dot_product_attention`.
        mode: likewise.
        broadcast_dims: likewise, where all axes of examples count as one.

    Returns:
        Array of the shape of ``query``.

    Raises:
        TypeError: as `dot_product_attention`.
        ValueError: likewise.

    Example:
        >>> import functools
        >>> blocks = functools.partial(attention_fn, block_size=16)
        >>> layer = nnx.MultiHeadAttention(
        ...     2, 8, dropout_rate=0.1, attention_fn=blocks, decode=False, rngs=nnx.Rngs(0)
        ... )
        >>> layer(jnp.ones((3, 40, 8)), deterministic=False).shape
        (3, 40, 8)
    """
    del broadcast_dropout
    of_flax: dict[str, Any] = {
        "deterministic": True,
        "dtype": dtype,
        "precision": precision,
        "module": module,
        "is_causal": is_causal,
    }
    return _internal.attention(
        promote_dtype((query, key, value), dtype=dtype),
        bias,
        mask,
        dropout_rng,
        dropout_rate,
        deterministic,
        precision=precision,
        sows=module is not None,
        flax_attention=functools.partial(nnx.dot_product_attention, **of_flax),
        flax_weights=functools.partial(dot_product_attention_weights, **of_flax),
        is_causal=is_causal,
        block_size=block_size,
        mode=mode,
        broadcast_dims=broadcast_dims,
    )
