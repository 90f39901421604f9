"""Arguments of attention: checked, and put into the form in which it computes."""

import math
import operator
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxdrop.functional._attention_logits import Arrays, Limits, Settings
from jaxdrop.masks import _internal as masks

_MODES = ("weights", "keys", "heads")


def checked(arrays, limits, scale, **options):
    """The arguments of a call as `Arrays`, `Limits` and `Settings`.

    The arrays have an axis of examples, and positions still before heads.
    """
    query, key, value = _check_arrays(*arrays)
    bias, mask, query_lengths, key_lengths = limits
    shape = _sizes(query, key)
    if scale is not None:
        remedy = "None stands for 1 / sqrt(H)"
        scale = masks.check_finite(scale, "scale", "a factor of the logits", remedy)
    settings = _settings(shape, query.shape[-1], scale, **options)
    if bias is not None:
        bias = _broadcasting(_check_floating(bias, "bias"), shape, "bias")
    query, key, value = (x if x.ndim == 4 else x[None] for x in (query, key, value))
    arrays = Arrays(query, key, value, bias, None if settings.scale is not None else scale)
    lengths = (
        _check_lengths("query_seq_lengths", query_lengths, shape[0]),
        _check_lengths("key_value_seq_lengths", key_lengths, shape[0]),
    )
    return arrays, Limits(_check_mask(mask, shape), *lengths), settings


def _check_arrays(query, key, value):
    """Query, key and value, refused unless they fit each other."""
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
    return query, key, value


def _check_floating(x, name):
    x = masks.check_array(x, name)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(
            f"{name}: expected a floating array, got dtype {x.dtype}; pass real numbers"
        )
    return x


def _sizes(query, key):
    """``(B, N, T, S)``."""
    return query.shape[0] if query.ndim == 4 else 1, query.shape[-2], query.shape[-3], key.shape[-3]


def _check_mask(mask, shape):
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


def _settings(shape, features, scale, *, is_causal, window, mode, broadcast_dims, block_size):
    """The `Settings`."""
    if mode not in _MODES:
        raise ValueError(
            f"mode: expected one of {', '.join(map(repr, _MODES))}, got {mode!r}; "
            "write 'weights' to drop weights after the softmax"
        )
    shared = masks.check_axes(broadcast_dims, 4, "broadcast_dims")
    mask_shape = tuple(1 if axis in shared else size for axis, size in enumerate(shape))
    if mode == "heads":
        mask_shape = mask_shape[0], 1, mask_shape[1], 1
    if scale is None:
        scale = 1 / math.sqrt(features) if features else 1.0
    return Settings(
        scale=scale if isinstance(scale, float) else None,
        is_causal=bool(is_causal),
        local_window=_check_window(window),
        mode=mode,
        mask_shape=mask_shape,
        block_size=_check_block_size(block_size, shape[-1]),
    )


def _broadcasting(x, shape, name):
    x = x.reshape((1,) * (4 - x.ndim) + x.shape) if x.ndim < 4 else x
    try:
        fits = np.broadcast_shapes(x.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{name}: expected a shape that broadcasts to (B, N, T, S), here {shape}, "
            f"got {x.shape}; put heads second and keys last"
        )
    return x


def _check_lengths(name, lengths, examples):
    if lengths is None:
        return None
    lengths = masks.as_array(lengths, name)
    if lengths.dtype != np.int32 or lengths.shape != (examples,):
        raise ValueError(
            f"{name}: expected int32 of shape {(examples,)}, one for each example, got "
            f"{lengths.dtype} of shape {lengths.shape}; write jnp.array([...], jnp.int32)"
        )
    return lengths


def _check_window(window):
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


def _check_block_size(block_size, keys):
    if block_size is None:
        return None
    try:
        size = 0 if isinstance(block_size, bool) else operator.index(block_size)
    except TypeError:
        raise TypeError(
            f"block_size: expected an integer or None, got {block_size!r}; write for example 512"
        ) from None
    if size < 1:
        raise ValueError(
            f"block_size: expected at least 1, got {block_size!r}; "
            "write for example 512, or None for all keys at once"
        )
    return min(size, max(keys, 1))
