"""Dropout in attention: weights, keys, heads, and the attention function itself."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxdrop import functional
from jaxdrop.functional import _internal
from jaxdrop.linen._base import Dropper

__all__ = ["AttentionDropout", "DropHead", "DropKey", "attention_fn"]


class AttentionDropout(Dropper):
    """Drops attention weights, independently for each example, head, query and key.

    Takes weights after the softmax, a floating or complex array of shape ``(..., H, Q, K)``: H
    heads, Q queries, K keys. Keeps shape and dtype. See `jaxdrop.attention_dropout` for the paper.

    Attributes:
        rate: probability of dropping, in [0, 1].
        broadcast_dims: axes that share one decision.
        renormalize: if true, rows sum to 1 again; else the mean over keys is the input.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = AttentionDropout(0.1, renormalize=True, deterministic=False)
        >>> weights = jax.nn.softmax(jnp.ones((2, 4, 8, 8)))
        >>> y = layer.apply({}, weights, rngs={"dropout": jax.random.key(0)})
        >>> bool(jnp.allclose(y.sum(-1), 1))
        True
    """

    rate: float
    broadcast_dims: Sequence[int] = ()
    renormalize: bool = False
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.attention_dropout)


class DropKey(Dropper):
    """Drops keys of attention: their logits become -inf before the softmax, never a whole row.

    Takes logits before the softmax, a floating array of shape ``(..., H, Q, K)``: H heads, Q
    queries, K keys. Keeps shape and dtype. See `jaxdrop.drop_key` for the paper.

    Attributes:
        rate: probability of dropping, in [0, 1].
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = DropKey(0.5, deterministic=False)
        >>> y = layer.apply({}, jnp.zeros((2, 4, 4)), rngs={"dropout": jax.random.key(0)})
        >>> sorted({float(v) for v in y.ravel()})
        [-inf, 0.0]
    """

    rate: float
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.drop_key)


class DropHead(Dropper):
    """Drops whole attention heads of each example, before they are joined.

    Takes floating or complex arrays of shape ``(B, L, H, D)`` with H heads, or with these axes
    elsewhere, and keeps shape and dtype. See `jaxdrop.drop_head` for the paper.

    Attributes:
        rate: probability of dropping a head, in [0, 1].
        head_axis: axis of the inputs that counts heads.
        batch_axis: axis of the inputs that counts examples; None if there is none.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = DropHead(0.5, deterministic=False)
        >>> x = jnp.ones((2, 5, 8, 4))
        >>> y = layer.apply({}, x, rngs={"dropout": jax.random.key(0)})
        >>> bool((y == y[:, :1, :, :1]).all())
        True
    """

    rate: float
    head_axis: int = -2
    batch_axis: int | None = 0
    deterministic: bool | None = None
    rng_collection: str = "dropout"

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
    module: nn.Module | None = None,
    force_fp32_for_softmax: bool = False,
    einsum_dot_general: Callable[..., Any] | None = None,
    qk_attn_weights_einsum: Callable[..., Any] | None = None,
    attn_weights_value_einsum: Callable[..., Any] | None = None,
    *,
    block_size: int | None = None,
    mode: str = "weights",
    broadcast_dims: Sequence[int] = (),
) -> jax.Array:
    """`dot_product_attention` as ``attention_fn`` of ``flax.linen.MultiHeadDotProductAttention``.

    Takes what ``flax.linen.dot_product_attention`` takes: arrays of shape ``(..., T, N, H)`` and
    ``(..., S, N, H)``. Each example and head has its own mask; the rate and the mean are exact,
    and a rate of 1 gives zeros. If nothing is dropped it is ``jax.nn.dot_product_attention``, or
    Flax's function if weights are sown or products are passed. The arguments below are those that
    differ from Flax's; bind the last three with ``functools.partial``.

    Args:
        broadcast_dropout: has no effect, though Flax's default is one mask for all examples and
            heads: bind ``broadcast_dims=(0, 1)`` to share one.
        force_fp32_for_softmax: has no effect on jaxdrop's softmax, which always is in float32.
        module: the weights that are sown are those before dropout, computed once more.
        einsum_dot_general: refused if dropout is on, like the other two products.
        block_size: as in `dot_product_attention`.
        mode: likewise.
        broadcast_dims: likewise, where all axes of examples count as one.

    Returns:
        Array of the shape of ``query``.

    Raises:
        TypeError: as `dot_product_attention`.
        ValueError: likewise; or products are passed although dropout is on.

    Example:
        >>> import functools
        >>> blocks = functools.partial(attention_fn, block_size=16)
        >>> layer = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1, attention_fn=blocks)
        >>> x = jnp.ones((3, 40, 8))
        >>> variables = layer.init(jax.random.key(0), x, deterministic=True)
        >>> y = layer.apply(variables, x, deterministic=False, dropout_rng=jax.random.key(1))
        >>> y.shape
        (3, 40, 8)
    """
    del broadcast_dropout
    of_flax: dict[str, Any] = {
        "deterministic": True,
        "dtype": dtype,
        "precision": precision,
        "module": module,
        "force_fp32_for_softmax": force_fp32_for_softmax,
    }
    return _internal.attention(
        promote_dtype(query, key, value, dtype=dtype),
        bias,
        mask,
        dropout_rng,
        dropout_rate,
        deterministic,
        precision=precision,
        sows=module is not None,
        flax_attention=functools.partial(nn.dot_product_attention, **of_flax),
        flax_weights=functools.partial(nn.dot_product_attention_weights, **of_flax),
        products={
            "einsum_dot_general": einsum_dot_general,
            "qk_attn_weights_einsum": qk_attn_weights_einsum,
            "attn_weights_value_einsum": attn_weights_value_einsum,
        },
        block_size=block_size,
        mode=mode,
        broadcast_dims=broadcast_dims,
    )
