"""Attention that streams over blocks of keys, so that no T x S array is ever stored.

Forward, an online softmax (Milakov & Gimelshein 2018): the largest logit so far, the sum of
exponentials below it, and the output, which shrinks when a larger logit comes. The tangent is a
second stream, of the recomputed weights p, their decisions d (0, or 1 / keep probability) and
tangents of the logits, s':

    out' = sum_j d_j p_j (s'_j v_j + v'_j) - out r',    r' = sum_j p_j s'_j = logsum'

Its carries only add up, so in reverse mode it keeps what it is given (query, key, value, the sums
and the key) and computes each block again, as FlashAttention does (Dao 2022).
"""

import dataclasses
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop.functional._attention.dropping import Dropping, Keep
from jaxdrop.functional._attention.logits import Operands, Visibility, logits, seen, weighted_sum
from jaxdrop.masks import _internal as masks

Sums = tuple[jax.Array, jax.Array]
Carry = tuple[jax.Array, jax.Array, jax.Array]
Arrays = dict[str, jax.Array]  # operands or tangents by name, those that there are
Block = tuple[jax.Array, Arrays]  # number of its first key, and what it has of the operands
_KEY_AXES = {"key": 2, "value": 2, "bias": 3}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Constants:
    """What attention is not differentiated by.

    Attributes:
        visibility: which keys a query may look at.
        dropping: what is dropped.
        spared: rows (B, N, T, 1) of which no key is dropped, or None.
        keys: number of all keys.
        size: number of keys of a block.
    """

    visibility: Visibility
    dropping: Dropping
    spared: jax.Array | None
    keys: int = dataclasses.field(metadata={"static": True})
    size: int = dataclasses.field(metadata={"static": True})

    def inside(self, start: jax.Array) -> jax.Array:
        """Which keys of a block there are: the last block may hang over."""
        return lax.broadcasted_iota(jnp.int32, (1, 1, 1, self.size), 3) + start < self.keys


def attend_in_blocks(
    operands: Operands, visibility: Visibility, dropping: Dropping, size: int
) -> jax.Array:
    """(B, N, T, H) in float32 or wider."""
    constants = Constants(visibility, dropping.in_blocks(), None, operands.key.shape[2], size)
    spared = constants.dropping.spared(lambda: _lost_rows(operands, constants))
    out, _, _ = _attend(operands, dataclasses.replace(constants, spared=spared))
    return out


@jax.custom_jvp
def _attend(operands: Operands, constants: Constants) -> Carry:
    """``(out, shift, logsum)``: a weight is ``exp(logit - shift - logsum)``."""

    def step(carry: Carry, block: Block) -> tuple[Carry, None]:
        """The online softmax after one more block."""
        out, shift, total = carry
        start, pieces = block
        scores, keep = _scores(operands._replace(**pieces), constants, start)
        highest = jnp.maximum(shift, scores.max(axis=-1))
        base = jnp.where(highest == -jnp.inf, np.float32(0), highest)  # nothing to see yet
        weights = jnp.exp(scores - base[..., None])
        shrink = jnp.exp(shift - base)
        total = total * shrink + weights.sum(axis=-1)
        of_block = weighted_sum(keep.weights(weights), pieces.get("value", operands.value))
        return (out * shrink.astype(out.dtype)[..., None] + of_block, highest, total), None

    blocks = _blocks(operands._asdict(), constants)
    (out, shift, total), _ = lax.scan(step, _start(step, operands, blocks), blocks)
    return out / total.astype(out.dtype)[..., None], shift, jnp.log(total)


@functools.partial(_attend.defjvp, symbolic_zeros=True)
def _attend_jvp(primals: tuple[Operands, Constants], tangents: Any) -> tuple[Carry, Carry]:
    operands, constants = primals
    out, shift, logsum = _attend(operands, constants)
    dots = tangents[0]._asdict().items()
    dots = {name: dot for name, dot in dots if isinstance(dot, jax.Array)}  # what is not zero

    def step(carry: Sums, block: tuple[Block, Block]) -> tuple[Sums, None]:
        of_block = _block_tangent(operands, dots, constants, (shift, logsum), *block)
        return jax.tree.map(operator.add, carry, of_block), None

    blocks = _blocks(operands._asdict(), constants), _blocks(dots, constants)
    start = _full_like(out, 0), _full_like(logsum, 0)
    (out_dot, logsum_dot), _ = lax.scan(step, start, blocks)
    out_dot = out_dot - logsum_dot.astype(out.dtype)[..., None] * out
    # The shift may be any number, so the tangent of both is that of the logarithm.
    return (out, shift, logsum), (out_dot, jnp.zeros_like(shift), logsum_dot)


# Reverse mode computes only this again: a carry inside would be kept per block.
@functools.partial(jax.checkpoint, prevent_cse=False)
def _block_tangent(
    operands: Operands,
    dots: Arrays,
    constants: Constants,
    sums: Sums,
    block: Block,
    dot_block: Block,
) -> Sums:
    """What one block adds to the tangents of the output and of the sum's logarithm."""
    (start, pieces), (_, dot_pieces) = block, dot_block
    shift, logsum = sums
    primal, tangent = operands._replace(**pieces), {**dots, **dot_pieces}
    dots = {name: dot for name, dot in tangent.items() if name != "value"}

    def scores_of(values: Arrays) -> tuple[jax.Array, Keep]:
        return _scores(primal._replace(**values), constants, start)

    out_dot, logsum_dot = jnp.float32(0), jnp.zeros_like(logsum)
    if dots:
        values = {name: getattr(primal, name) for name in dots}
        scores, scores_dot, keep = jax.jvp(scores_of, (values,), (dots,), has_aux=True)
    else:
        (scores, keep), scores_dot = scores_of({}), None
    weights = jnp.exp((scores - shift[..., None]) - logsum[..., None])
    if scores_dot is not None:
        weights_dot = weights * scores_dot
        logsum_dot = weights_dot.sum(axis=-1)
        out_dot = weighted_sum(keep.weights(weights_dot), primal.value)
    if "value" in tangent:
        out_dot = out_dot + weighted_sum(keep.weights(weights), tangent["value"])
    return out_dot, logsum_dot


def _scores(block: Operands, constants: Constants, start: jax.Array) -> tuple[jax.Array, Keep]:
    """The logits (B, N, T, s) of a block, and the decisions about it."""
    queries, keys, size = block.query.shape[2], constants.keys, constants.size
    scores = logits(block, constants.visibility.allowed(queries, keys, start, size))
    if keys % size:
        scores = jnp.where(constants.inside(start), scores, np.float32(-np.inf))
    keep = constants.dropping.block(start, size, scores)
    return keep.scores(scores, constants.spared), keep


def _lost_rows(operands: Operands, constants: Constants) -> jax.Array:
    """Rows of which no key survives that counts: booleans that broadcast to (B, N, T, 1)."""
    query, bias = lax.stop_gradient((operands.query, operands.bias))
    queries, keys, size = query.shape[2], constants.keys, constants.size
    like = jnp.broadcast_to(query[..., :1], (*query.shape[:3], size))

    def survives(block: Block) -> jax.Array:
        start, pieces = block
        survivors = constants.dropping.block(start, size, like).survivors(like)
        allowed = constants.visibility.allowed(queries, keys, start, size)
        survivors = seen(survivors, allowed, pieces.get("bias", bias)) & constants.inside(start)
        return jnp.any(survivors, axis=-1, keepdims=True)

    blocks = _blocks({"bias": bias}, constants)
    some = survives(_first_block(blocks))
    some, _ = lax.scan(lambda some, block: (some | survives(block), None), some, blocks)
    return ~some


def _blocks(arrays: dict[str, Any], constants: Constants) -> Block:
    """All blocks, along an axis in front: their starts, and the arrays that are cut along keys."""
    count = -(-constants.keys // constants.size)
    pieces: Arrays = {}
    for name, axis in _KEY_AXES.items():
        x = arrays.get(name)
        if x is None or x.shape[axis] == 1:  # the same for all keys
            continue
        over = count * constants.size - constants.keys
        if over:
            x = jnp.pad(x, [(0, over if a == axis else 0) for a in range(x.ndim)])
        shape = (*x.shape[:axis], count, constants.size, *x.shape[axis + 1 :])
        pieces[name] = jnp.moveaxis(x.reshape(shape), axis, 0)
    return jnp.arange(count, dtype=jnp.int32) * np.int32(constants.size), pieces


def _start(step: Any, operands: Operands, blocks: Block) -> Carry:
    """The carry before the first block, sharded like that after it."""
    query, value = operands.query, operands.value
    out = jnp.zeros((*query.shape[:3], value.shape[3]), masks.wide_dtype(value))
    row = jnp.zeros(query.shape[:3], jnp.float32)
    (out, shift, total), _ = step((out, row - jnp.inf, row), _first_block(blocks))
    return _full_like(out, 0), _full_like(shift, -np.inf), _full_like(total, 0)


def _first_block(blocks: Block) -> Block:
    return jax.tree.map(lambda x: lax.index_in_dim(x, 0, keepdims=False), blocks)


def _full_like(x: jax.Array, number: float) -> jax.Array:
    """A number in the shape and sharding of ``x``, varying over a mesh as it does."""
    fill = np.asarray(number, x.dtype)
    return jnp.where(x == x, fill, fill)
