"""Attention of ours in the modules of Flax."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from jaxdrop.functional import _attention_fn


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
