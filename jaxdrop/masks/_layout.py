"""Where the 32 decisions of a word lie in the mask, and the way from bits to words and back.

A run of axes ``[start, stop)`` is laid out in row-major order and cut into words; the axes before
and after it stay axes of the words. The rule reads the shape alone, since the layout decides which
bit an entry gets and so must not depend on device, mesh or backend:

* The first axis that divides by 32, of the second-last, the last, then the others from the right.
  No bit is lost. The second-last comes first because there a TPU expands words without moving
  data between lanes (1.1 times the bytes of a copy, against 3.2 for the last axis).
* Otherwise the shortest suffix of axes that pads its words to at most 1.25 times the bits, else
  all axes.
"""

import functools
import math
import operator
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop.masks._sharding import unpacked_shardings

WORD = 32


class Layout(NamedTuple):
    """A mask shape and the run of its axes that is packed."""

    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Entries of the packed run."""
        return math.prod(self.shape[self.start : self.stop])

    @property
    def words_shape(self) -> tuple[int, ...]:
        """Shape of the packed words."""
        return self.run(-(-self.size // WORD))

    def run(self, *sizes: int) -> tuple[int, ...]:
        """The mask shape with the packed run replaced by ``sizes``."""
        return (*self.shape[: self.start], *sizes, *self.shape[self.stop :])


def layout_of(shape) -> Layout:
    """The layout of a mask of this shape."""
    rank = len(shape)
    for axis in (rank - 2, rank - 1, *range(rank - 3, -1, -1)):
        if axis >= 0 and shape[axis] % WORD == 0:
            return Layout(shape, axis, axis + 1)
    for start in range(rank - 1, 0, -1):
        size = math.prod(shape[start:])
        if -(-size // WORD) * WORD <= 1.25 * size:
            return Layout(shape, start, rank)
    return Layout(shape, 0, rank)


def unpack(words, layout: Layout):
    """Booleans of the mask shape: the bit of each entry."""
    axis, size = layout.start, layout.size
    spread, whole = unpacked_shardings(words, layout)
    # Indices and lanes are computed here, not constants: a constant would be kept for the
    # backward pass beside the words.
    if size % WORD == 0:
        shape = layout.run(size // WORD, WORD)
        dimensions = [d for d in range(len(shape)) if d != axis + 1]
        words = lax.broadcast_in_dim(words, shape, dimensions, out_sharding=spread)
        bits = words & _lanes(WORD, layout, axis + 1)
    else:
        # Gathering with a constant index never communicates, however the mask is sharded;
        # padding and slicing does, when the packed axis is split over devices.
        index = (slice(None),) * axis + (lax.iota(jnp.int32, size) // np.int32(WORD),)
        words = words.at[index].get(mode="promise_in_bounds", indices_are_sorted=True)
        bits = words & _lanes(size, layout, axis)
    return lax.reshape(bits != np.uint32(0), layout.shape, out_sharding=whole)


def pack(bits, layout: Layout):
    """Words of booleans of the mask shape; any axis of ``bits`` may have size 1."""
    packed = bits.shape[layout.start : layout.stop]
    rows = (*bits.shape[: layout.start], -1, *bits.shape[layout.stop :])
    if math.prod(packed) == 1:  # one decision for whole words
        return np.uint32(0) - bits.reshape(rows).astype(jnp.uint32)
    full = (
        *rows[: layout.start],
        *layout.shape[layout.start : layout.stop],
        *bits.shape[layout.stop :],
    )
    bits = jnp.broadcast_to(bits, full).reshape(rows)
    padding = [(0, 0)] * bits.ndim
    padding[layout.start] = (0, -layout.size % WORD)
    bits = jnp.pad(bits, padding)
    bits = bits.reshape(*rows[: layout.start], -1, WORD, *bits.shape[layout.start + 1 :])
    # Written out, since a reduction that XLA fuses with the hash is not vectorised on the CPU.
    bits = bits.astype(jnp.uint32)
    lanes = (lax.index_in_dim(bits, lane, layout.start + 1, False) for lane in range(WORD))
    return functools.reduce(operator.or_, (bit << np.uint32(i) for i, bit in enumerate(lanes)))


def _lanes(size, layout, axis):
    """The bit of each of ``size`` entries in its word, along one axis of an array of bits."""
    shape = [1] * axis + [size] + [1] * (len(layout.shape) - layout.stop)
    entry = lax.broadcasted_iota(jnp.uint32, shape, axis)
    return np.uint32(1) << (entry & np.uint32(WORD - 1))
