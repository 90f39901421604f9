"""Arguments of attention: checked, and put into the form in which it computes."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdrop.functional._attention.logits import Known, Visibility
from jaxdrop.masks import _internal as masks

Arrays = tuple[jax.Array, jax.Array, jax.Array]
Shape = tuple[int, int, int, int]  # (B, N, T, S)
_MODES = ("weights", "keys", "heads")


def check_arrays(query: ArrayLike, key: ArrayLike, value: ArrayLike) -> Arrays:
    """Query, key and value with an axis of examples, refused unless they fit each other."""
    query = _check_floating(query, "query")
    if query.ndim not in (3, 4):
        raise ValueError(
            f"query: expected shape (B, T, N, H) or (T, N, H), got {query.shape}; "
            f"merge or split axes with reshape{masks.order_hint(query.ndim)}"
        )
    key, value = (masks.check_array(x, name) for x, name in ((key, "key"), (value, "value")))
    for name, x in (("key", key), ("value", value)):
        if x.dtype != query.dtype:
            raise TypeError(
                f"{name}: expected the dtype of query, {query.dtype}, got {x.dtype}; "
                "cast one of them"
            )
    heads = key.shape[-2] if key.ndim == query.ndim else 0
    fits = heads and key.shape[:-3] == query.shape[:-3] and key.shape[-1] == query.shape[-1]
    if not fits or query.shape[-2] % heads:
        raise ValueError(
            f"key: expected shape (B, S, K, H) where query has (B, T, N, H) and K divides N, got "
            f"{key.shape} beside {query.shape}; put heads second to last"
        )
    if value.shape != key.shape:
        raise ValueError(
            f"value: expected the shape of key, {key.shape}, got {value.shape}; "
            "project values to as many heads and features as keys"
        )
    if query.ndim == 3:
        return query[None], key[None], value[None]
    return query, key, value


def _check_floating(x: ArrayLike, name: str) -> jax.Array:
    x = masks.check_array(x, name)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name}: expected a floating array, got dtype {x.dtype}; pass real numbers"
        )
    return x


def check_bias(bias: ArrayLike | None, shape: Shape) -> jax.Array | None:
    """The bias with rank 4, or None."""
    return None if bias is None else _broadcasting(_check_floating(bias, "bias"), shape, "bias")


def check_scale(scale: Any, features: int) -> Any:
    """What the logits are multiplied by: a known number or an array."""
    if scale is None:
        return Known(1 / math.sqrt(features) if features else 1.0)
    remedy = "None stands for 1 / sqrt(H)"
    scale = masks.check_finite(scale, "scale", "a factor of the logits", remedy)
    return Known(scale) if isinstance(scale, float) else scale


def check_mask_shape(mode: str, broadcast_dims: Sequence[int], shape: Shape) -> Shape:
    """The shape of the decisions, for a known mode and axes that there are."""
    if mode not in _MODES:
        raise ValueError(
            f"mode: expected one of {', '.join(map(repr, _MODES))}, got {mode!r}; "
            "write 'weights' to drop weights after the softmax"
        )
    shared = masks.check_axes(broadcast_dims, 4, "broadcast_dims")
    b, n, t, s = (1 if axis in shared else size for axis, size in enumerate(shape))
    return (b, 1, n, 1) if mode == "heads" else (b, n, t, s)


def check_visibility(
    mask: ArrayLike | None,
    lengths: tuple[ArrayLike | None, ArrayLike | None],
    is_causal: bool,
    window: Any,
    shape: Shape,
) -> Visibility:
    """Which keys a query may look at, from the arguments that say so."""
    query_lengths = _check_lengths("query_seq_lengths", lengths[0], shape[0])
    key_lengths = _check_lengths("key_value_seq_lengths", lengths[1], shape[0])
    mask = _check_mask(mask, shape)
    return Visibility(mask, query_lengths, key_lengths, bool(is_causal), _check_window(window))


def check_block_size(block_size: int | None, query: jax.Array, key: jax.Array) -> int | None:
    """The number of keys of a block; None for all of them, and if an array is empty."""
    if block_size is None:
        return None
    size = masks.check_count(block_size, "block_size", 512, "an integer or None")
    if 0 in (*query.shape, *key.shape):
        return None
    keys = key.shape[1]
    return min(size, keys) if masks.is_known(keys) else size  # a block may hang over


def _check_mask(mask: ArrayLike | None, shape: Shape) -> jax.Array | None:
    """The mask with rank 4, or None."""
    if mask is None:
        return None
    mask = masks.as_array(mask, "mask")
    if mask.dtype != np.bool_:
        raise TypeError(
            f"mask: expected booleans, True where a query may look, got dtype {mask.dtype}; "
            "write mask.astype(bool), or pass numbers that are added as bias"
        )
    return _broadcasting(mask, shape, "mask")


def _broadcasting(x: jax.Array, shape: Shape, name: str) -> jax.Array:
    """The array with rank 4."""
    x = x.reshape((1,) * (4 - x.ndim) + x.shape) if x.ndim < 4 else x
    if not masks.broadcasts(x.shape, shape):
        raise ValueError(
            f"{name}: expected a shape that broadcasts to (B, N, T, S), here {shape}, "
            f"got {x.shape}; put heads second and keys last"
        )
    return x


def _check_lengths(name: str, lengths: ArrayLike | None, examples: int) -> jax.Array | None:
    if lengths is None:
        return None
    lengths = masks.as_array(lengths, name)
    if lengths.dtype != np.int32 or lengths.shape != (examples,):
        raise ValueError(
            f"{name}: expected int32 of shape {(examples,)}, one for each example, got "
            f"{lengths.dtype} of shape {lengths.shape}; write jnp.array([...], jnp.int32)"
        )
    return lengths


def _check_window(window: Any) -> tuple[int, int] | None:
    if window is None:
        return None
    try:
        left, right = map(operator.index, window if isinstance(window, Sequence) else [window] * 2)
    except (TypeError, ValueError):
        raise TypeError(
            f"local_window_size: expected (left, right) as integers, got {window!r}; "
            "write for example (256, 0)"
        ) from None
    return left, right
