"""Where words come from: one large mask, or small ones whose keys were made in several ways."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdrop import masks

CHUNK = 1 << 20  # words of a chunk
_SMALL = 32  # words of a small mask
_PLANES = 4


def _small_masks(keys, rate):
    """A row for each key."""
    return jax.vmap(lambda key: masks.sample(key, rate, (32 * _SMALL,)).words)(keys)


@functools.partial(jax.jit, static_argnames="rate")
def one_mask(key, number, rate):
    """Rows of a mask whose decisions are packed along the second-last axis."""
    rows = 1 << 10
    shape = (rows, 32, CHUNK // rows)
    return masks.sample(jax.random.fold_in(key, number), rate, shape).words.reshape(rows, -1)


@functools.partial(jax.jit, static_argnames="rate")
def split(key, number, rate):
    """Keys that come from one by a single ``split``."""
    keys = jax.random.split(jax.random.fold_in(key, number), CHUNK // _SMALL)
    return _small_masks(keys, rate)


def _numbers(number):
    size = CHUNK // _SMALL
    return jnp.uint32(number) * np.uint32(size) + jnp.arange(size, dtype=jnp.uint32)


@functools.partial(jax.jit, static_argnames="rate")
def fold_in(key, number, rate):
    """Keys into which 0, 1, 2, ... are folded."""
    return _small_masks(jax.vmap(lambda i: jax.random.fold_in(key, i))(_numbers(number)), rate)


@functools.partial(jax.jit, static_argnames="rate")
def seeds(key, number, rate):
    """Keys of the seeds 0, 1, 2, ..., shifted by what the key is."""
    first = jax.random.key_data(key)[-1]
    keys = jax.vmap(jax.random.key)(first + _numbers(number))
    return _small_masks(keys, rate)


@functools.partial(jax.jit, static_argnames="rate")
def one_bit(key, number, rate):
    """Keys in pairs that differ in one bit: each of the 64 in turn."""
    pairs = CHUNK // _SMALL // 2
    words = jax.random.key_data(jax.random.split(jax.random.fold_in(key, number), pairs))
    bit = jnp.arange(pairs, dtype=jnp.uint32)[:, None] % np.uint32(64)
    half = jnp.arange(2, dtype=jnp.uint32)[None]
    one = jnp.where(bit // np.uint32(32) == half, np.uint32(1) << bit % np.uint32(32), np.uint32(0))
    words = jnp.stack([words, words ^ one], axis=1).reshape(-1, 2)
    return _small_masks(jax.random.wrap_key_data(words), rate)


STREAMS = {
    "one mask": one_mask,
    "split": split,
    "fold_in": fold_in,
    "seeds": seeds,
    "one bit apart": one_bit,
}


def planes(key, number, stream=one_mask):
    """The highest planes of the integers that decide, each an array of fair words.

    An entry survives if its integer is at least the threshold, so that the number of masks, at the
    rates j / 2**m, in which it survives is the integer's m highest bits: the last of these says
    whether it is odd.
    """
    found = []
    for m in range(1, _PLANES + 1):
        kept = [np.asarray(stream(key, number, j / 2**m)) for j in range(1, 2**m)]
        found.append(functools.reduce(np.bitwise_xor, kept))
    return found
