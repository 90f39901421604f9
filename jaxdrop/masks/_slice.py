"""A slice of a larger mask along its last axis, drawn without the rest of it.

Where the 32 decisions of a word lie along another axis, the slice has the same words as that part
of the mask, under the same numbers. Where they end with the last axis, the words that cover each
row are drawn, one more than its elements fill, and shifted so that a row begins with a word.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxdrop.masks import _rate, _sharding
from jaxdrop.masks._balanced import CipherKey
from jaxdrop.masks._draw import Numbers, draw_planes, iotas, merged_places, word_numbers
from jaxdrop.masks._layout import WORD, Layout, layout_of, unpack


class Slice(NamedTuple):
    """Elements ``[start, start + size)`` along the last axis of a mask of ``shape``.

    Those beyond the end of the mask are arbitrary.

    Attributes:
        shape: of the whole mask.
        start: first element; may be traced.
        size: number of elements, static.
    """

    shape: tuple[int, ...]
    start: jax.Array | int
    size: int

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Shape of the slice."""
        return (*self.shape[:-1], self.size)


def draw_slice(
    cipher_key: CipherKey, rate: _rate.Rate, part: Slice, *, like: jax.Array | None = None
) -> tuple[jax.Array, Any]:
    """``(keep, keep_prob)`` of a slice: bit for bit a part of ``_mask.draw(key, rate, shape)``.

    Args:
        cipher_key: ``_draw.decision_key(key, known_rate)``; taken once for all slices.
        rate: an array of rates broadcasts to the whole mask.
        part: what to draw.
        like: array that the slice broadcasts to, whose sharding it takes, or None.

    Returns:
        Booleans of ``part.part_shape``; the keep probability, a float32 scalar or one that
        broadcasts to them.
    """
    sharding = None if like is None else _sharding.mask_sharding(like, part.part_shape)
    odds = _rate.odds(_rate_slice(rate.effective, part))
    words, layout = _slice_words(cipher_key, odds, part, sharding)
    return unpack(words, layout), odds.keep_prob


def _slice_words(
    cipher_key: CipherKey, odds: _rate.Odds, part: Slice, sharding: NamedSharding | None
) -> tuple[jax.Array, Layout]:
    """Packed words of the slice, and their layout."""
    whole, last = layout_of(part.shape), len(part.shape) - 1
    if whole.stop <= last:
        layout = whole._replace(shape=part.part_shape)
        sharding = _sharding.words_sharding(layout, sharding)
        sizes, (*rows, column) = merged_places(layout.words_shape, sharding)
        column = column + jnp.asarray(part.start, jnp.uint32)
        numbers = word_numbers((*sizes[:-1], whole.words_shape[-1]), [*rows, column])
        return draw_planes(cipher_key, numbers, odds, layout, sharding), layout
    layout = Layout(part.part_shape, last, last + 1)
    covering = Layout((*part.shape[:-1], (layout.words_shape[-1] + 1) * WORD), last, last + 1)
    sharding = _whole_rows(sharding)
    numbers = _covering_numbers(part, whole, iotas(covering.words_shape, sharding))
    align = functools.partial(_align, shift=_shift(part, whole, sharding))
    if odds.limit.ndim == 0:
        # Afterwards: what is shifted within the loop is hashed twice.
        return align(draw_planes(cipher_key, numbers, odds, covering, sharding)), layout
    return draw_planes(cipher_key, numbers, odds, layout, sharding, align=align), layout


def _covering_numbers(part: Slice, whole: Layout, positions: list[jax.Array]) -> Numbers:
    """Numbers of the words at ``positions``, the last of which counts from the row's first."""
    low, high = _flat_start(part, whole, positions)
    first = low >> np.uint32(5) | high << np.uint32(27)
    return word_numbers(whole.words_shape, [*positions[: whole.start], first + positions[-1]])


def _shift(part: Slice, whole: Layout, sharding: NamedSharding | None) -> jax.Array:
    """Place of each row's first element in its word, of size 1 along the last axis."""
    positions = iotas((*part.shape[:-1], 1), sharding)
    return _flat_start(part, whole, positions)[0] % np.uint32(WORD)


def _flat_start(part: Slice, whole: Layout, positions: list[jax.Array]) -> Numbers:
    """Number of each row's first element in the packed run, as `word_numbers` counts."""
    start = jnp.asarray(part.start, jnp.uint32)
    return word_numbers(part.shape[whole.start :], [*positions[whole.start : -1], start])


def _align(words: jax.Array, shift: jax.Array) -> jax.Array:
    """Words that begin ``shift`` bits later; one fewer along the last axis."""
    low, high = words[..., :-1], words[..., 1:]
    return low >> shift | (high << np.uint32(1)) << (np.uint32(WORD - 1) - shift)


def _rate_slice(rate: Any, part: Slice) -> Any:
    """The part of an array of rates that belongs to the slice."""
    if jnp.ndim(rate) == 0 or rate.shape[-1] != part.shape[-1] or rate.shape[-1] == 1:
        return rate
    padding = [(0, 0)] * (rate.ndim - 1) + [(0, part.size)]
    padded = jnp.pad(rate, padding)  # a slice that hangs over would be moved
    return lax.dynamic_slice_in_dim(padded, part.start, part.size, axis=-1)


def _whole_rows(sharding: NamedSharding | None) -> NamedSharding | None:
    """The sharding with the last axis on every device."""
    if sharding is None:
        return None
    spec = tuple(sharding.spec)[:-1]
    return NamedSharding(sharding.mesh, PartitionSpec(*spec, None))
