"""Masks whose dropped elements come in blocks, from seeds that are drawn independently.

An element is dropped if one of the blocks that cover it has a seed. Seeds lie on a grid that
reaches beyond the mask, so that blocks hang over its edges and as many cover an element there as
inside: ``math.prod(sizes)``. So every element survives with the same probability, and an exact one.
"""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from jaxdrop.masks import _rate, _sharding
from jaxdrop.masks._draw import keep_words
from jaxdrop.masks._layout import layout_of, pack, unpack
from jaxdrop.masks._mask import Mask
from jaxdrop.masks._rate import Rate

_BITS = np.uint32(24)  # of the rate: what a limit and a float32 can hold
_WHOLE = np.uint32(1 << 24)


class DropBlocks(NamedTuple):
    """Draws a `Mask` like ``_mask.draw``; ``rate`` has size 1 along blocks.

    Attributes:
        sizes: of a block, along each axis of the mask.
    """

    sizes: tuple[int, ...]

    def __call__(
        self, key: jax.Array, rate: Rate, shape: tuple[int, ...], *, like: jax.Array
    ) -> Mask:
        each, keep_prob = seed_rate(rate.effective, math.prod(self.sizes))
        grid = tuple(size + block - 1 for size, block in zip(shape, self.sizes))
        target, layout = layout_of(shape), layout_of(grid)
        # Split over devices as the words of the result can be, so that they need not meet.
        sharding = _sharding.whole_run(_sharding.mask_sharding(like, grid), target)
        # A seed drops a whole block, so its rate is small and needs all bits.
        words = keep_words(key, _rate.odds(each, least_bits=24), layout, sharding)
        along_words = layout._replace(shape=self.sizes).run(1)
        if math.prod(along_words) == math.prod(self.sizes):  # no block within words: 32 at once
            words, layout = _erode(words, along_words), layout._replace(shape=shape)
            if layout == target:
                return Mask(words, keep_prob, shape)
            keep = unpack(words, layout)
        else:
            keep = _erode(unpack(words, layout), self.sizes)
        return Mask(pack(_sharding.whole_runs(keep, target), target), keep_prob, shape)


def seed_rate(rate: Any, count: int) -> tuple[Any, Any]:
    """Rate of ``count`` independent decisions that all survive with probability ``1 - rate``.

    By bisection in integers, because the last bits of logarithms differ between backends: NumPy at
    trace time and XLA agree to the bit, so a static and a traced rate give the same mask.

    Args:
        rate: probability that one of them drops, a float or an array.
        count: number of decisions.

    Returns:
        ``(rate of each, keep probability)``, float32 arrays shaped like ``rate``. The first is the
        nearest multiple of 2**-24, the second the probability that all survive at that rate, to
        about ``count * 2**-32``; NaN for a rate outside [0, 1], which only a traced one can be.
    """
    xp = _rate.namespace(rate)
    rate = xp.asarray(rate, xp.float32)
    inside = (rate > np.float32(0)) & (rate < np.float32(1))
    asked = xp.where(inside, rate, np.float32(0))
    kept = ~(asked * np.float32(2**32)).astype(xp.uint32)  # in units of 2**-32, as all below

    def search(i: Any, steps: Any) -> Any:
        # The largest number of steps that, less half a step, keeps what is asked.
        more = steps | (np.uint32(1) << (_BITS - np.uint32(1) - i))
        middle = ((_WHOLE - more) << np.uint32(8)) + np.uint32(128)
        return xp.where(_power(middle, count) >= kept, more, steps)

    steps = kept & np.uint32(0)
    if xp is np:
        for i in range(24):
            steps = search(np.uint32(i), steps)
    else:
        steps = lax.fori_loop(np.uint32(0), _BITS, search, steps, unroll=8)
    steps = xp.where(inside, steps, np.uint32(0))
    all_kept = _power((_WHOLE - steps) << np.uint32(8), count).astype(xp.float32)
    all_kept = xp.where(steps == np.uint32(0), np.float32(1), all_kept * np.float32(2**-32))
    everything, valid = rate == np.float32(1), (rate >= np.float32(0)) & (rate <= np.float32(1))
    each = xp.where(everything, np.float32(1), steps.astype(xp.float32) / np.float32(_WHOLE))
    all_kept = xp.where(everything, np.float32(0), all_kept)
    return xp.where(valid, each, np.float32(np.nan)), xp.where(valid, all_kept, np.float32(np.nan))


def _power(base: Any, exponent: int) -> Any:
    """``base**exponent`` of a fraction in units of 2**-32, in which 1 does not occur."""
    result = base
    for bit in bin(exponent)[3:]:
        result = _product(result, result)
        result = _product(result, base) if bit == "1" else result
    return result


def _product(a: Any, b: Any) -> Any:
    """The high word of the product of two uint32, from products of their halves."""
    half, low = np.uint32(16), np.uint32(0xFFFF)
    first = (a >> half) * (b & low) + ((a & low) * (b & low) >> half)
    second = (a & low) * (b >> half) + (first & low)
    return (a >> half) * (b >> half) + (first >> half) + (second >> half)


def _erode(keep: jax.Array, sizes: tuple[int, ...]) -> jax.Array:
    """The conjunction of each run of ``sizes`` neighbours, in log2 steps along each axis."""
    for axis, size in enumerate(sizes):
        width = 1  # of the run that each element stands for by now
        while width < size:
            step = min(width, size - width)
            length = keep.shape[axis]
            keep = lax.slice_in_dim(keep, 0, length - step, axis=axis) & lax.slice_in_dim(
                keep, step, length, axis=axis
            )
            width += step
    return keep
