"""Dropout in attention: weights, keys, heads, and the attention function itself."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxdrop import functional
from jaxdrop.functional import _attention_fn
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

    See `jaxdrop.drop_key` for the paper.

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

    @nn.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Any:
        """Drops keys from the logits of attention.

        Args:
            inputs: floating array of logits before the softmax, of shape ``(..., H, Q, K)``:
                H heads, Q queries, K keys.
            deterministic: as the field, for this call.
            rng: key to use in place of one from ``rng_collection``.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        return self.call(deterministic, rng, inputs)


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
    einsum_dot_general: Callable | None = None,
    qk_attn_weights_einsum: Callable | None = None,
    attn_weights_value_einsum: Callable | None = None,
    *,
    block_size: int | None = None,
    mode: str = "weights",
    broadcast_dims: Sequence[int] = (),
) -> jax.Array:
    """`dot_product_attention` as ``attention_fn`` of ``flax.linen.MultiHeadDotProductAttention``.

    Takes what ``flax.linen.dot_product_attention`` takes. Each example and head has a mask of its
    own; the rate and the mean are exact, and a rate of 1 gives zeros. Where nothing is dropped it
    is ``jax.nn.dot_product_attention``, or Flax's function if weights are sown or products are
    given. Further options are bound with ``functools.partial``.

    Args:
        query: of shape ``(..., T, N, H)``.
        key: of shape ``(..., S, N, H)``.
        value: as ``key``.
        bias: added to the logits; broadcasts to ``(..., N, T, S)``.
        mask: broadcasts likewise; a query looks where it is not 0.
        broadcast_dropout: of no effect, though Flax's default is one mask for all examples and
            heads: bind ``broadcast_dims=(0, 1)`` to share one.
        dropout_rng: PRNG key; may be None where nothing is drawn.
        dropout_rate: probability of dropping, in [0, 1].
        deterministic: if true, nothing is dropped.
        dtype: to compute in; None for that of the arrays.
        precision: of the products.
        module: module that the weights before dropout are sown into; this computes them once more.
        force_fp32_for_softmax: of no effect: the softmax always is in float32.
        einsum_dot_general: for Flax's function; refused where dropout is on.
        qk_attn_weights_einsum: likewise.
        attn_weights_value_einsum: likewise.
        block_size: as in `dot_product_attention`.
        mode: likewise.
        broadcast_dims: likewise, for all axes of examples taken as one.

    Returns:
        Array of the shape of ``query``.

    Raises:
        TypeError: as `dot_product_attention`.
        ValueError: likewise; or products of the caller's own are given where dropout is on.

    Example:
        >>> import functools
        >>> blocks = functools.partial(attention_fn, block_size=16)
        >>> layer = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1, attention_fn=blocks)
        >>> x = jnp.ones((3, 40, 8))
        >>> variables = layer.init(jax.random.key(0), x, deterministic=True)
        >>> y = layer.apply(variables, x, deterministic=False, dropout_rng=jax.random.key(1))
        >>> y.shape
        (3, 40, 8)

    References:
        Vaswani et al., "Attention is all you need", 2017, section 3.2.
    """
    del broadcast_dropout
    products: dict[str, Any] = {
        "einsum_dot_general": einsum_dot_general,
        "qk_attn_weights_einsum": qk_attn_weights_einsum,
        "attn_weights_value_einsum": attn_weights_value_einsum,
    }
    query, key, value = promote_dtype(query, key, value, dtype=dtype)
    arrays = query, key, value
    own = any(product is not None for product in products.values())
    off = _attention_fn.switched_off(dropout_rate, deterministic)
    of_flax: dict[str, Any] = {
        "dtype": dtype,
        "precision": precision,
        "force_fp32_for_softmax": force_fp32_for_softmax,
    }
    if off and (own or module is not None or not _attention_fn.fits_jax(arrays)):
        return nn.dot_product_attention(
            query, key, value, bias, mask, deterministic=True, module=module, **of_flax, **products
        )
    for name, product in products.items():
        _attention_fn.refuse(name, product)
    if module is not None:
        nn.dot_product_attention_weights(
            query, key, bias, mask, deterministic=True, module=module, **of_flax
        )
    return _attention_fn.attention(
        arrays,
        bias,
        mask,
        dropout_rng,
        dropout_rate,
        precision=precision,
        deterministic=deterministic,
        block_size=block_size,
        mode=mode,
        broadcast_dims=broadcast_dims,
    )
