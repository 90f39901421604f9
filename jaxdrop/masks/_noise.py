"""A random number for each element, the same for every device, mesh and transform.

A backward pass keeps none of them: a few operations draw them again from the key.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop.masks import _sharding
from jaxdrop.masks._draw import ELEMENTS, Sharding, cipher_key, counter, iotas, word_numbers
from jaxdrop.masks._layout import element_layout
from jaxdrop.masks._philox import philox4x32

Shape = tuple[int, ...]
Words = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # what the cipher gives for a counter


def uniform(key: jax.Array, shape: Shape, *, like: jax.Array | None = None) -> jax.Array:
    """Uniform float32 numbers in (0, 1) of ``shape``: odd multiples of 2**-24.

    Args:
        key: one PRNG key, which this call consumes.
        shape: shape of the numbers.
        like: array that the numbers broadcast to; they are sharded like it.
    """
    return _elements_like(key, shape, like, lambda words, place: _unit(_word_at(words, place)))


def normal(key: jax.Array, shape: Shape, *, like: jax.Array | None = None) -> jax.Array:
    """Standard normal float32 numbers of ``shape``; arguments as `uniform`.

    Two words give two numbers: radius and angle are those of a point in the plane.

    References:
        Box & Muller, "A note on the generation of random normal deviates", 1958.
    """
    return _elements_like(key, shape, like, _normal)


def integers(key: jax.Array, shape: Shape, sharding: Sharding = None) -> jax.Array:
    """A uniform uint32 for each element of ``shape``."""
    return _elements(key, shape, sharding, _word_at)


def permutations(key: jax.Array, shape: Shape, sharding: Sharding = None) -> jax.Array:
    """Random permutations along the last axis: int32 of ``shape``, each row its own.

    The places are sorted by uniform integers; of equal ones the earlier goes first. The first few
    places of a row are a subset that is drawn without replacement.
    """
    order = integers(key, shape, sharding)
    axis = len(shape) - 1
    places = lax.broadcasted_iota(jnp.int32, shape, axis, out_sharding=sharding)
    return lax.sort((order, places), dimension=axis, num_keys=1)[1]


def _normal(words: Words, place: jax.Array) -> jax.Array:
    upper = place >= np.uint32(2)
    radius_word = jnp.where(upper, words[2], words[0])
    angle_word = jnp.where(upper, words[3], words[1])
    # A number above 0 with all 32 bits, which float32 rounds to one of 24 significant bits.
    share = radius_word.astype(jnp.float32) * np.float32(2**-32) + np.float32(2**-33)
    radius = jnp.sqrt(np.float32(-2) * jnp.log(share))
    return radius * _cosine_of_turns(angle_word + (place << np.uint32(30)))


# Of sin(2 pi v) / v in v**2, for v in [-1/4, 1/4]: what has the least largest error, 4e-9.
_SINE = (6.283185005, -41.34165573, 81.60100555, -76.54978180, 39.53670502)


def _cosine_of_turns(angle: jax.Array) -> jax.Array:
    """Cosine of a uint32 in units of 2**-32 turns, to 2e-7; ``jnp.cos`` costs three times that."""
    turns = lax.bitcast_convert_type(angle, jnp.int32).astype(jnp.float32) * np.float32(2**-32)
    v = np.float32(0.25) - jnp.abs(turns)
    square = v * v
    value = square * np.float32(_SINE[-1])
    for coefficient in _SINE[-2:0:-1]:
        value = (value + np.float32(coefficient)) * square
    return (value + np.float32(_SINE[0])) * v


def _unit(word: jax.Array) -> jax.Array:
    # The lowest bit is set, so that neither end occurs; 24 bits are what float32 holds.
    odd = word >> np.uint32(8) | np.uint32(1)
    return odd.astype(jnp.float32) * np.float32(2**-24)


def _word_at(words: Words, place: jax.Array) -> jax.Array:
    """Of four words, the one at this place."""
    first, second, third, fourth = words
    upper, odd = place >= np.uint32(2), (place & np.uint32(1)) != np.uint32(0)
    return jnp.where(upper, jnp.where(odd, fourth, third), jnp.where(odd, second, first))


def _elements_like(
    key: jax.Array, shape: Shape, like: jax.Array | None, value_of: Callable[..., jax.Array]
) -> jax.Array:
    sharding = None if like is None else _sharding.mask_sharding(like, shape)
    return _elements(key, shape, sharding, value_of)


def _elements(
    key: jax.Array, shape: Shape, sharding: Sharding, value_of: Callable[..., jax.Array]
) -> jax.Array:
    """``value_of(words, place)`` for each element of ``shape``, in a dtype of 32 bits.

    Runs of four elements along the last axis share a counter: ``words`` are the four words that the
    cipher gives for it, ``place`` is that of the element among them.

    Args:
        key: one PRNG key, which this call consumes.
        shape: of the elements.
        sharding: of an array of ``shape`` on an Explicit mesh, or None.
        value_of: element-wise function of four uint32 arrays and one.
    """
    layout = element_layout(shape)
    axis = layout.start

    def values(key: Any, where: list[jax.Array], place: jax.Array, backend: str) -> jax.Array:
        numbers = word_numbers(layout.words_shape, where)
        return value_of(philox4x32(key, counter(numbers, ELEMENTS), backend), place)

    def by_elements(*key: jax.Array, backend: str) -> jax.Array:
        where = iotas(shape or (1,), sharding)
        place = where[axis] & np.uint32(3)
        where[axis] = where[axis] >> np.uint32(2)
        return lax.reshape(values(key, where, place, backend), shape, out_sharding=sharding)

    def by_fours(*key: jax.Array) -> jax.Array:
        words_sharding = _sharding.words_sharding(layout, sharding)
        spread, whole = _sharding.unpacked_shardings(layout, words_sharding)
        fours = layout.words_shape[axis]
        *where, place = iotas(layout.run(fours, 4), spread)
        y = values(key, where, place, "gpu")
        y = lax.reshape(y, layout.run(4 * fours), out_sharding=whole)
        y = lax.reshape(lax.slice_in_dim(y, 0, layout.size, axis=axis), shape, out_sharding=whole)
        return y if sharding is None else jax.sharding.reshard(y, sharding)

    # One thread of a GPU computes four neighbours, and its compiler computes their words once, if
    # it sees that they are the same. A TPU would spread an axis of four over 128 lanes.
    return lax.platform_dependent(
        *cipher_key(key),
        cpu=functools.partial(by_elements, backend="cpu"),
        tpu=functools.partial(by_elements, backend="tpu"),
        default=by_fours,
    )
