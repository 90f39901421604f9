"""A window of a larger mask along its last axis, drawn without the rest of it.

Where the 32 decisions of a word lie along another axis, the window has the same words as that part
of the mask, under the same numbers. Where they end with the last axis, the words that cover each
row are drawn, one more than its entries fill, and shifted so that a row begins with a word.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from jaxdrop.masks import _rate, _sharding
from jaxdrop.masks._draw import draw_planes, iotas, merged_places, word_numbers
from jaxdrop.masks._layout import WORD, Layout, layout_of, unpack


class Window(NamedTuple):
    """Entries ``[start, start + size)`` along the last axis of a mask of ``shape``.

    Those that lie beyond the end of the mask are arbitrary.

    Attributes:
        shape: of the whole mask.
        start: first entry; may be traced.
        size: number of entries, static.
    """

    shape: tuple[int, ...]
    start: jax.Array | int
    size: int

    @property
    def windowed(self) -> tuple[int, ...]:
        """Shape of the window."""
        return (*self.shape[:-1], self.size)


def draw_window(cipher_key, rate, window: Window, *, like=None):
    """``(keep, keep_prob)`` of a window: bit for bit that part of ``_mask.draw(key, rate, shape)``.

    Args:
        cipher_key: ``_draw.cipher_key(key, known_rate)``; taken once for all windows.
        rate: a `Rate`; an array of rates broadcasts to the whole mask.
        window: what to draw.
        like: array that the window broadcasts to, whose sharding it takes, or None.

    Returns:
        Booleans of ``window.windowed``; the keep probability, a float32 scalar or one that
        broadcasts to them.
    """
    sharding = None if like is None else _sharding.mask_sharding(like, window.windowed)
    odds = _rate.odds(_rate_window(rate.effective, window))
    words, layout = _window_words(cipher_key, odds, window, sharding)
    return unpack(words, layout), odds.keep_prob


def _window_words(cipher_key, odds, window, sharding):
    """Packed words of the window, and their layout."""
    whole, last = layout_of(window.shape), len(window.shape) - 1
    if whole.stop <= last:
        layout = whole._replace(shape=window.windowed)
        sharding = _sharding.words_sharding(layout, sharding)
        sizes, (*rows, column) = merged_places(layout.words_shape, sharding)
        column = column + jnp.asarray(window.start, jnp.uint32)
        numbers = word_numbers((*sizes[:-1], whole.words_shape[-1]), [*rows, column])
        return draw_planes(cipher_key, numbers, odds, layout, sharding), layout
    layout = Layout(window.windowed, last, last + 1)
    covering = Layout((*window.shape[:-1], (layout.words_shape[-1] + 1) * WORD), last, last + 1)
    sharding = _whole_rows(sharding)
    numbers = _covering_numbers(window, whole, iotas(covering.words_shape, sharding))
    align = functools.partial(_align, shift=_shift(window, whole, sharding))
    if odds.limit.ndim == 0:
        # Afterwards: what is shifted within the loop is hashed twice.
        return align(draw_planes(cipher_key, numbers, odds, covering, sharding)), layout
    return draw_planes(cipher_key, numbers, odds, layout, sharding, align=align), layout


def _covering_numbers(window, whole, positions):
    """Numbers of the words at ``positions``, the last of which counts from the row's first."""
    low, high = _flat_start(window, whole, positions)
    first = low >> np.uint32(5) | high << np.uint32(27)
    return word_numbers(whole.words_shape, [*positions[: whole.start], first + positions[-1]])


def _shift(window, whole, sharding):
    """Place of each row's first entry in its word, of size 1 along the last axis."""
    positions = iotas((*window.shape[:-1], 1), sharding)
    return _flat_start(window, whole, positions)[0] % np.uint32(WORD)


def _flat_start(window, whole, positions):
    """Number of the window's first entry of each row in the packed run, as `word_numbers`."""
    start = jnp.asarray(window.start, jnp.uint32)
    return word_numbers(window.shape[whole.start :], [*positions[whole.start : -1], start])


def _align(words, shift):
    """Words that begin ``shift`` bits later; one fewer along the last axis."""
    low, high = words[..., :-1], words[..., 1:]
    return low >> shift | (high << np.uint32(1)) << (np.uint32(WORD - 1) - shift)


def _rate_window(rate, window):
    """The part of an array of rates that belongs to the window."""
    if jnp.ndim(rate) == 0 or rate.shape[-1] != window.shape[-1] or rate.shape[-1] == 1:
        return rate
    padding = [(0, 0)] * (rate.ndim - 1) + [(0, window.size)]
    padded = jnp.pad(rate, padding)  # a slice that hangs over would be moved
    return lax.dynamic_slice_in_dim(padded, window.start, window.size, axis=-1)


def _whole_rows(sharding):
    """The sharding with the last axis on every device."""
    if sharding is None:
        return None
    spec = tuple(sharding.spec)[:-1]
    return NamedSharding(sharding.mesh, PartitionSpec(*spec, None))
