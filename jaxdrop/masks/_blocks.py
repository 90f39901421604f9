"""Masks whose dropped entries come in blocks, from seeds that are drawn independently.

An entry is dropped if one of the blocks that cover it has a seed. Seeds lie on a grid that reaches
beyond the mask, so that blocks hang over its edges and as many cover an entry there as inside:
``math.prod(sizes)``. So every entry survives with the same probability, and an exact one.
"""

import math
from typing import NamedTuple

from jax import lax

from jaxdrop.masks import _rate, _sharding
from jaxdrop.masks._draw import keep_words
from jaxdrop.masks._layout import layout_of, pack, unpack
from jaxdrop.masks._mask import Mask
from jaxdrop.masks._root import root


class Blocks(NamedTuple):
    """Draws a `Mask` like ``_mask.draw``; ``rate`` has size 1 along blocks.

    Attributes:
        sizes: of a block, along each axis of the mask.
    """

    sizes: tuple[int, ...]

    def __call__(self, key, rate, shape, *, like):
        each, keep_prob = root(rate.effective, math.prod(self.sizes))
        grid = tuple(size + block - 1 for size, block in zip(shape, self.sizes))
        target, layout = layout_of(shape), layout_of(grid)
        # Split over devices as the words of the result can be, so that they need not meet.
        sharding = _sharding.whole_run(_sharding.mask_sharding(like, grid), target)
        # Seeds are rare, and each drops a whole block: their rate needs all bits.
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


def _erode(keep, sizes):
    """The conjunction of each run of ``sizes`` neighbours, in log2 steps along each axis."""
    for axis, size in enumerate(sizes):
        width = 1  # of the run that each entry stands for by now
        while width < size:
            step = min(width, size - width)
            length = keep.shape[axis]
            keep = lax.slice_in_dim(keep, 0, length - step, axis=axis) & lax.slice_in_dim(
                keep, step, length, axis=axis
            )
            width += step
    return keep
