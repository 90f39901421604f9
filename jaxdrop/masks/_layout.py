"""Where the 32 decisions of a word lie in the mask, and the way from bits to words and back.

A run of axes ``[start, stop)`` is laid out in row-major order and cut into words; the axes before
and after it stay axes of the words. The rule reads the shape alone, since the layout decides which
bit belongs to which element, and masks must be the same on every device, mesh and backend. It does
not read the size of the first axis: so the mask of an example does not depend on the others. In an
exported program the sizes of other axes may be symbolic, and one layout serves them all: such an
axis divides by 32 if its size is written so, as 32*t, and is as long as its bounds say.

* The first axis that divides by 32, of the second-last, the last, then the others from the right,
  the first axis left out. No bit is lost. The second-last comes first because there a TPU spreads
  words without moving data between lanes.
* Otherwise the shortest suffix of axes without the first that pads its words to at most 1.25 times
  the bits.
* Otherwise all axes: in row-major order a mask is the beginning of that of a larger batch.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import max_dim

from jaxdrop.masks._sharding import (
    explicit_sharding,
    packed_axis_is_split,
    unpacked_shardings,
)

WORD = 32

Shape = tuple[int, ...]


class Layout(NamedTuple):
    """A mask shape, the run of its axes that is packed, and how many elements share a word."""

    shape: Shape
    start: int
    stop: int
    word: int = WORD

    @property
    def size(self) -> int:
        """Elements of the packed run."""
        return math.prod(self.shape[self.start : self.stop])

    @property
    def words_shape(self) -> Shape:
        """Shape of the packed words."""
        return self.run(-(-self.size // self.word))

    def run(self, *sizes: int) -> Shape:
        """The mask shape with the packed run replaced by ``sizes``."""
        return (*self.shape[: self.start], *sizes, *self.shape[self.stop :])


def layout_of(shape: Shape) -> Layout:
    """The layout of a mask of this shape."""
    rank = len(shape)
    for axis in (rank - 2, rank - 1, *range(rank - 3, 0, -1)):
        if axis > 0 and shape[axis] % WORD == 0:  # false for a symbolic size that only may be
            return Layout(shape, axis, axis + 1)
    for start in range(rank - 1, 0, -1):
        if _pads_little(math.prod(shape[start:])):
            return Layout(shape, start, rank)
    return Layout(shape, 0, rank)


def _pads_little(size: int) -> bool:
    if is_known(size):
        return -(-size // WORD) * WORD <= 1.25 * size
    return size % WORD == 0 or at_least(size, _PADS_LITTLE)


_PADS_LITTLE = 103  # from so many bits on, the rest of the last word is at most a quarter of them


def element_layout(shape: Shape) -> Layout:
    """The layout of elements that take a word each: four along the last axis share a counter."""
    return Layout(shape, max(len(shape) - 1, 0), len(shape), 4)


def unpack(words: jax.Array, layout: Layout) -> jax.Array:
    """Booleans of the mask shape: the bit of each element."""
    if not _suits_product(words, layout):
        return _unpack_by_index(words, layout)
    return lax.platform_dependent(
        words,
        tpu=functools.partial(_unpack_by_product, layout=layout),
        default=functools.partial(_unpack_by_index, layout=layout),
    )


def _unpack_by_index(words: jax.Array, layout: Layout) -> jax.Array:
    axis, size = layout.start, layout.size
    spread, whole = unpacked_shardings(layout, explicit_sharding(words))
    # Indices and lanes are computed here, not constants: a constant would be kept for the
    # backward pass beside the words.
    if _reshapes(layout):
        shape = layout.run(size // WORD, WORD)
        dimensions = [d for d in range(len(shape)) if d != axis + 1]
        words = lax.broadcast_in_dim(words, shape, dimensions, out_sharding=spread)
        bits = words & _lanes(WORD, layout, axis + 1)
    else:
        # Gathering with a constant index never communicates, however the mask is sharded;
        # padding and slicing does, when the packed axis is split over devices.
        index = (slice(None),) * axis + (_word_of_each(size),)
        words = words.at[index].get(mode="promise_in_bounds", indices_are_sorted=True)
        bits = words & _lanes(size, layout, axis)
    return lax.reshape(bits != np.uint32(0), layout.shape, out_sharding=whole)


def _word_of_each(size: int) -> jax.Array:
    """The number of the word of each of ``size`` elements of a run, int32."""
    if not is_known(size) or size <= 1 << 31:
        return lax.iota(jnp.int32, size) // np.int32(WORD)
    shape = (-(-size // WORD), WORD)  # so many elements an int32 does not count
    return lax.broadcasted_iota(jnp.int32, shape, 0).reshape(math.prod(shape))[:size]


def _reshapes(layout: Layout) -> bool:
    """Whether a word fills 32 elements of the run, wherever x is cut between devices.

    A run that begins with the examples and goes on through their features is cut in whole words
    if its words divide by any power of two that a mesh may have.
    """
    if layout.size % WORD != 0:
        return False
    whole_axis = layout.start > 0 or layout.stop - layout.start <= 1
    return whole_axis or layout.size // WORD % _MOST_DEVICES == 0


_MOST_DEVICES = 256  # the largest power of two that is thought of


# On a TPU, words that lie along the last axis are spread by its matrix unit: any other way moves
# three times the bytes of a copy. Their bytes are multiplied by a matrix of zeros and ones.

_LARGEST_PRODUCT = 8192  # elements of a row; beyond, the product takes longer than the moving


def _suits_product(words: jax.Array, layout: Layout) -> bool:
    """Whether the product is cheaper than its matrix, and no device would need another's words."""
    size, rows = layout.size, words.shape[: layout.start]
    if layout.start == 0 or layout.stop < len(layout.shape) or not is_known(size):
        return False
    many = not all(map(is_known, rows)) or math.prod(rows) >= size // WORD
    sharding = explicit_sharding(words)
    split = sharding is not None and packed_axis_is_split(sharding, layout)
    return 0 < size <= _LARGEST_PRODUCT and many and not split


def _unpack_by_product(words: jax.Array, layout: Layout) -> jax.Array:
    count, size = words.shape[-1], layout.size
    parts = [words >> np.uint32(8 * part) for part in range(4)]
    parts = [lax.bitcast_convert_type(part.astype(jnp.uint8), jnp.int8) for part in parts]
    # Row (part, word) of the matrix has a 1 in the columns of the eight elements of that byte.
    row, column = (lax.broadcasted_iota(jnp.int32, (4 * count, size), axis) for axis in (0, 1))
    word, part = column // np.int32(WORD), column % np.int32(WORD) // np.int32(8)
    spread = (row == part * np.int32(count) + word).astype(jnp.int8)
    lhs = jnp.concatenate(parts, axis=-1)
    contracted = ((lhs.ndim - 1,), (0,)), ((), ())
    spread = lax.dot_general(lhs, spread, contracted, preferred_element_type=jnp.int32)
    lanes = lax.broadcasted_iota(jnp.int32, (1,) * (lhs.ndim - 1) + (size,), lhs.ndim - 1)
    keep = (spread & (np.int32(1) << (lanes & np.int32(7)))) != np.int32(0)
    _, whole = unpacked_shardings(layout, explicit_sharding(words))
    return lax.reshape(keep, layout.shape, out_sharding=whole)


def is_known(size: Any) -> bool:
    """Whether a size is a number now, and not a symbol of an exported program."""
    return isinstance(size, int)


def at_least(size: Any, number: int) -> bool:
    """Whether a size is at least a number; of a symbolic one, whether its bounds say so."""
    return max_dim(size, number) == size


def _as_bits(values: jax.Array) -> jax.Array:
    return values.astype(jnp.uint32)


def pack(
    values: jax.Array, layout: Layout, bits_of: Callable[[jax.Array], jax.Array] = _as_bits
) -> jax.Array:
    """Words of the bits of values of the mask shape; any axis of ``values`` may have size 1.

    Args:
        values: booleans, or what ``bits_of`` takes.
        layout: where the bits lie in the words.
        bits_of: element-wise, from values to uint32 bits 0 and 1; they may have another axis in
            front, which the words then have too.
    """
    before, after = values.shape[: layout.start], values.shape[layout.stop :]
    if math.prod(values.shape[layout.start : layout.stop]) == 1:  # one decision for whole words
        return np.uint32(0) - bits_of(values.reshape(*before, 1, *after))
    full = (*before, *layout.shape[layout.start : layout.stop], *after)
    values = jnp.broadcast_to(values, full).reshape(*before, layout.size, *after)
    padding = [(0, 0)] * values.ndim
    words = -(-layout.size // WORD)
    padding[layout.start] = (0, words * WORD - layout.size)
    values = jnp.pad(values, padding)
    values = values.reshape(*before, words, WORD, *after)
    arguments = {"axis": layout.start + 1, "bits_of": bits_of}
    by_sum, by_or = (functools.partial(f, **arguments) for f in (_pack_sum, _pack_or))
    return lax.platform_dependent(values, cuda=by_sum, rocm=by_sum, default=by_or)


def _pack_sum(values: jax.Array, axis: int, bits_of: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """On a GPU: one kernel, that computes every bit once."""
    lanes = lax.broadcasted_iota(jnp.uint32, values.shape, axis)
    bits = bits_of(values)
    lanes = jnp.broadcast_to(lanes, bits.shape)
    return jnp.sum(bits << lanes, axis=axis - values.ndim, dtype=jnp.uint32)


def _pack_or(values: jax.Array, axis: int, bits_of: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Elsewhere: a reduction is not vectorised on a CPU."""
    lanes = (lax.index_in_dim(values, lane, axis, False) for lane in range(WORD))
    words = (bits_of(lane) << np.uint32(number) for number, lane in enumerate(lanes))
    return functools.reduce(operator.or_, words)


def _lanes(size: int, layout: Layout, axis: int) -> jax.Array:
    """The bit of each of ``size`` elements in its word, along one axis of an array of bits."""
    shape = [1] * axis + [size] + [1] * (len(layout.shape) - layout.stop)
    element = lax.broadcasted_iota(jnp.uint32, shape, axis)
    return np.uint32(1) << (element & np.uint32(WORD - 1))
