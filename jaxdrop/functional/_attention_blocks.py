"""Attention that streams over blocks of keys, so that no T x S array is ever stored.

Forward, an online softmax (Milakov & Gimelshein 2018): the largest logit so far, the sum of
exponentials below it, and the output, which shrinks when a larger logit comes. The tangent is a
second stream, of the recomputed weights p, their decisions d (0, or 1 / keep probability) and
those of the logits, s':

    out' = sum_j d_j p_j (s'_j v_j + v'_j) - out r',    r' = sum_j p_j s'_j = logsum'

Its carries only add up, so that in reverse mode it keeps what it is given (query, key, value, the
sums and the key) and computes each block anew, as FlashAttention does (Dao 2022).
"""

import functools
import operator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from jaxdrop.functional._attention_dense import may_survive
from jaxdrop.functional._attention_logits import (
    Arrays,
    Limits,
    Settings,
    allowed_keys,
    logits,
    weighted_sum,
)
from jaxdrop.masks import _internal as masks


class Fixed(NamedTuple):
    """What has no derivative.

    Attributes:
        limits: which keys count.
        cipher_key: what the masks are drawn from, or None where nothing is dropped.
        rate: a `Rate` without a flag, or None where nothing is dropped.
        lost: rows (B, N, T, 1) of which dropping keys would leave nothing, or None.
    """

    limits: Limits
    cipher_key: Any
    rate: Any
    lost: Any


def attend_blocks(settings: Settings, arrays: Arrays, limits: Limits, dropout_key, rate):
    """(B, N, T, H) in float32 or wider."""
    cipher_key = (
        None if settings.mode == "none" else masks.cipher_key(dropout_key, rate.known is not None)
    )
    fixed = Fixed(limits, cipher_key, lax.stop_gradient(rate), None)
    if settings.mode == "keys":
        fixed = fixed._replace(lost=_lost_rows(settings, lax.stop_gradient(arrays), fixed))
    out, _, _ = _attend(settings, arrays, fixed)
    return out


class Block(NamedTuple):
    """The part of `Arrays` that belongs to a block of keys.

    Attributes:
        key: (B, K, s, H).
        value: (B, K, s, H).
        bias: (b, n, t, s); None where the bias is None or the same for all keys.
    """

    key: Any
    value: Any
    bias: Any


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _attend(settings, arrays, fixed):
    """``(out, shift, logsum)``: a weight is ``exp(logit - shift - logsum)``."""
    blocks = _starts(settings, arrays), _blocks(settings, arrays)

    def step(carry, block):
        return _next(settings, arrays, fixed, carry, block), None

    (out, shift, total), _ = lax.scan(step, _start(step, arrays, blocks), blocks)
    return out / total.astype(out.dtype)[..., None], shift, jnp.log(total)


def _next(settings, arrays, fixed, carry, block):
    """The online softmax after one more block."""
    out, shift, total = carry
    start, block = block
    keys = arrays.key.shape[2]
    scores, keep = _scores(settings, _of_block(arrays, block), fixed, start, keys)
    highest = jnp.maximum(shift, scores.max(axis=-1))
    base = jnp.where(highest == -jnp.inf, np.float32(0), highest)  # nothing to see yet
    weights = jnp.exp(scores - base[..., None])
    shrink = jnp.exp(shift - base)
    total = total * shrink + weights.sum(axis=-1)
    found = weighted_sum(_drop(settings, keep, weights), block.value)
    return out * shrink.astype(out.dtype)[..., None] + found, highest, total


@functools.partial(_attend.defjvp, symbolic_zeros=True)
def _attend_jvp(settings, primals, tangents):
    arrays, fixed = primals
    out, shift, logsum = _attend(settings, arrays, fixed)
    moving = Arrays(*map(_tangent, tangents[0]))
    # Only what a block adds is computed anew in reverse mode: with the carry inside, that would be
    # kept for each block.
    added = jax.checkpoint(functools.partial(_added, settings), prevent_cse=False)

    def step(carry, block):
        found = added(arrays, moving, fixed, (shift, logsum), block)
        return jax.tree.map(operator.add, carry, found), None

    blocks = _starts(settings, arrays), _blocks(settings, arrays), _blocks(settings, moving)
    start = _filled(out, 0), _filled(logsum, 0)
    (moved, row), _ = lax.scan(step, start, blocks)
    moved = moved - row.astype(out.dtype)[..., None] * out
    # The shift may be any number, so the tangent of both is that of the logarithm.
    return (out, shift, logsum), (moved, jnp.zeros_like(shift), row)


def _added(settings, arrays, moving, fixed, sums, block):
    """What one block adds to the tangents of the output and of the sum's logarithm."""
    start, block, dots = block
    shift, logsum = sums
    here, there = _of_block(arrays, block), _of_block(moving, dots)
    keys = arrays.key.shape[2]
    scores, change, keep = _scores_moving(settings, here, there, fixed, start, keys)
    weights = jnp.exp((scores - shift[..., None]) - logsum[..., None])
    moved, row = jnp.float32(0), jnp.zeros_like(logsum)
    if change is not None:
        change = weights * change
        row = change.sum(axis=-1)
        moved = weighted_sum(_drop(settings, keep, change), block.value)
    if dots.value is not None:
        moved = moved + weighted_sum(_drop(settings, keep, weights), dots.value)
    return moved, row


def _scores_moving(settings, here, there, fixed, start, keys):
    """``(scores, their tangent or None, decisions)`` of a block."""
    moving = {n: dot for n, dot in there._asdict().items() if dot is not None and n != "value"}
    if not moving:
        scores, keep = _scores(settings, here, fixed, start, keys)
        return scores, None, keep

    def scores_of(values):
        return _scores(settings, here._replace(**values), fixed, start, keys)

    values = {name: getattr(here, name) for name in moving}
    return jax.jvp(scores_of, (values,), (moving,), has_aux=True)


def _scores(settings, here, fixed, start, keys):
    """``(logits, decisions)`` of a block: (B, N, T, s), and what `draw_window` gives or None."""
    size = settings.block_size
    queries = here.query.shape[2]
    allowed = allowed_keys(fixed.limits, settings, (queries, keys), start, size)
    scores = logits(here, allowed, settings)
    if keys % size:
        scores = jnp.where(_inside(start, size, keys), scores, np.float32(-np.inf))
    if settings.mode == "none":
        return scores, None
    keep, keep_prob = _decisions(settings, fixed, start, scores)
    if settings.mode == "keys":
        scores = jnp.where(keep | fixed.lost, scores, np.float32(-np.inf))
        if fixed.rate.known is None:
            unknown = jnp.isnan(masks.align(keep_prob, scores))
            scores = jnp.where(unknown, np.float32(np.nan), scores)
    return scores, (keep, keep_prob)


def _lost_rows(settings, arrays, fixed):
    """Rows of which no key survives that counts: booleans that broadcast to (B, N, T, 1)."""
    size, keys = settings.block_size, arrays.key.shape[2]
    queries = arrays.query.shape[2]
    like = jnp.broadcast_to(arrays.query[..., :1], (*arrays.query.shape[:3], size))

    def survives(start, block):
        allowed = allowed_keys(fixed.limits, settings, (queries, keys), start, size)
        counts = may_survive(allowed, _of_block(arrays, block).bias)
        keep, _ = _decisions(settings, fixed, start, like)
        keep = keep if counts is None else keep & counts
        return jnp.any(keep & _inside(start, size, keys), axis=-1, keepdims=True)

    blocks = _starts(settings, arrays), _blocks(settings, arrays)
    start = survives(*_first(blocks))
    some, _ = lax.scan(lambda some, block: (some | survives(*block), None), start, blocks)
    return ~some


def _decisions(settings, fixed, start, like):
    shape = settings.mask_shape
    shared = shape[-1] == 1
    window = masks.Window(shape, 0 if shared else start, 1 if shared else settings.block_size)
    return masks.draw_window(fixed.cipher_key, fixed.rate, window, like=like)


def _drop(settings, keep, weights):
    if settings.mode != "weights":
        return weights
    keep, keep_prob = keep
    return masks.scale_kept_bools(keep, keep_prob, weights)


def _inside(start, size, keys):
    """Which keys of a block there are: the last block may hang over."""
    return lax.broadcasted_iota(jnp.int32, (1, 1, 1, size), 3) + start < keys


def _starts(settings, arrays):
    return jnp.arange(0, arrays.key.shape[2], settings.block_size, dtype=jnp.int32)


def _blocks(settings, arrays):
    """The arrays cut along keys, with an axis of blocks in front; None stays None."""
    bias = arrays.bias
    if bias is not None and bias.shape[-1] == 1:
        bias = None

    def cut(x, axis):
        if x is None:
            return None
        size = settings.block_size
        over = -x.shape[axis] % size
        if over:
            x = jnp.pad(x, [(0, over if a == axis else 0) for a in range(x.ndim)])
        shape = (*x.shape[:axis], -1, size, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    return Block(cut(arrays.key, 2), cut(arrays.value, 2), cut(bias, 3))


def _of_block(arrays, block):
    bias = arrays.bias if block.bias is None else block.bias
    return arrays._replace(key=block.key, value=block.value, bias=bias)


def _start(step, arrays, blocks):
    """The carry before the first block, sharded like that after it."""
    query, value = arrays.query, arrays.value
    out = jnp.zeros((*query.shape[:3], value.shape[3]), masks.wide_dtype(value))
    row = jnp.zeros(query.shape[:3], jnp.float32)
    after, _ = step((out, row - jnp.inf, row), _first(blocks))
    return tuple(_filled(x, fill) for x, fill in zip(after, (0, -np.inf, 0)))


def _first(blocks):
    return jax.tree.map(lambda x: lax.index_in_dim(x, 0, keepdims=False), blocks)


def _filled(x, fill):
    """A number in the shape and sharding of ``x``, varying over a mesh as it does."""
    fill = np.asarray(fill, x.dtype)
    return jnp.where(x == x, fill, fill)


def _tangent(dot):
    return None if dot is None or isinstance(dot, SymbolicZero) else dot
