"""Attention with all of its weights in memory."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop.functional._attention_logits import (
    Arrays,
    Limits,
    Settings,
    allowed_keys,
    least_logit,
    logits,
    weighted_sum,
)
from jaxdrop.masks import _internal as masks


def attend_dense(settings: Settings, arrays: Arrays, limits: Limits, dropout_key, rate):
    """(B, N, T, H) in float32 or wider."""
    shape = arrays.query.shape[2], arrays.key.shape[2]
    allowed = allowed_keys(limits, settings, shape)
    scores = logits(arrays, allowed, settings)
    if settings.mode == "keys":
        mask = masks.draw(dropout_key, rate, settings.mask_shape, like=scores)
        scores = _drop_keys(mask, scores, allowed, arrays.bias)
    weights = jax.nn.softmax(scores, axis=-1)
    if settings.mode != "weights":
        return weighted_sum(weights, arrays.value)
    mask = masks.draw(dropout_key, rate, settings.mask_shape, like=scores)
    return _sum_of_survivors(mask, weights, arrays.value)


def may_survive(allowed, bias):
    """Whether a key counts for a query at all, or None where each one does."""
    if bias is None:
        return allowed
    heard = jax.lax.stop_gradient(bias).astype(jnp.float32) > least_logit(jnp.float32)
    return heard if allowed is None else allowed & heard


def _drop_keys(mask, scores, allowed, bias):
    counts = may_survive(allowed, bias)
    keep = masks.keep_bools(mask, scores)
    lost = ~jnp.any(keep if counts is None else keep & counts, axis=-1, keepdims=True)
    return masks.nan_if_invalid(mask, _lose(mask, jax.lax.stop_gradient(lost), scores))


@masks.remember_words_only
def _lose(mask, lost, scores):
    keep = masks.keep_bools(mask, scores) | lost
    return jnp.where(keep, scores, np.float32(-np.inf))


@masks.remember_words_only
def _sum_of_survivors(mask, weights, value):
    return weighted_sum(masks.scale_kept(mask, weights), value)
