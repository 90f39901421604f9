"""Dropout of contiguous blocks of feature maps."""

import math
import operator
from collections.abc import Sequence

import jax
from jax.typing import ArrayLike

from jaxdrop.functional._masked import Flag, Key, Rule, apply_masked, deciding_shape
from jaxdrop.masks import _internal as masks

_LARGEST = 2**15  # elements of a block: seeds of larger ones are too rare for steps of 2**-24


def drop_block(
    key: Key,
    x: ArrayLike,
    rate: ArrayLike,
    *,
    deterministic: Flag = False,
    block_size: int | Sequence[int] = 7,
    channel_axis: int = -1,
    batch_axis: int | None = 0,
) -> jax.Array:
    """Zeros contiguous blocks of each feature map and rescales the rest.

    Every element, at the edge of a map as in its middle, is dropped with probability ``rate``, for
    maps and blocks of any size: blocks hang over the edges, and an element is dropped if one of the
    ``math.prod(block_size)`` blocks that cover it is. Each of them is with probability
    ``1 - (1 - rate)**(1 / math.prod(block_size))``, independently, also between examples and
    channels. Survivors are divided by the probability to survive that the random bits really have:
    the mean over keys is ``x``. The paper divides by the share of survivors instead, and draws
    blocks inside the map alone, which drops less than asked and less at the edges.

    Args:
        key: PRNG key; unused if ``deterministic`` is True.
        x: floating or complex array of shape ``(B, *space, C)`` with 1, 2 or 3 axes in space, or
            with its axes elsewhere.
        rate: probability that an element is dropped, in [0, 1]; may be traced; a scalar, or an
            array that broadcasts to ``(B, 1, ..., C)``. The realised one is within ``2**-25`` times
            the elements of a block of it.
        deterministic: if true, returns ``x``; may be traced.
        block_size: size of a block, at least 1, along all axes in space, or one for each.
        channel_axis: axis of ``x`` that counts feature maps.
        batch_axis: axis of ``x`` that counts examples; None for a single example without one.

    Returns:
        Array with the shape and dtype of ``x``.

    Raises:
        TypeError: ``x`` is not a floating or complex array, ``key`` is not a PRNG key,
            ``block_size`` does not hold integers, or another argument is of the wrong type.
        ValueError: ``x`` has not 1, 2 or 3 axes in space, ``block_size`` does not fit them, is
            below 1 or a block has more than 2**15 elements, ``rate`` lies outside [0, 1] or does
            not broadcast, ``key`` is a batch of keys, or an axis is missing or named twice.

    Example:
        >>> y = drop_block(jax.random.key(0), jnp.ones((1, 8, 8, 1)), 0.3, block_size=3)
        >>> print(np.asarray(y[0, ..., 0] > 0).astype(int))
        [[0 0 1 1 1 1 1 1]
         [1 1 1 1 1 1 1 1]
         [1 1 1 1 1 0 0 0]
         [1 1 1 1 1 0 0 0]
         [1 1 1 1 1 0 0 0]
         [1 1 1 1 1 1 1 1]
         [1 1 1 1 1 1 1 1]
         [1 1 1 1 1 1 1 1]]

    References:
        Ghiasi et al., "DropBlock: a regularization method for convolutional networks", 2018,
        algorithm 1.
    """
    x = masks.check_array(x)
    axes = masks.check_deciding_axes(x, channel_axis, batch_axis, "channel_axis")
    space = [axis for axis in range(x.ndim) if axis not in axes]
    if not 1 <= len(space) <= 3:
        raise ValueError(
            f"x: expected 1, 2 or 3 axes in space beside those of examples and channels, got "
            f"{len(space)} in shape {x.shape}; name the others with batch_axis and channel_axis"
        )
    sizes = [1] * x.ndim
    for axis, size in zip(space, _check_block_size(block_size, len(space))):
        sizes[axis] = size
    return apply_masked(
        key,
        x,
        rate,
        x.shape,
        deterministic=deterministic,
        rule=Rule(draw=masks.DropBlocks(tuple(sizes))),
        rate_shape=deciding_shape(x, axes),
    )


def _check_block_size(block_size: int | Sequence[int], rank: int) -> list[int]:
    """One size for each axis in space."""
    each = block_size if isinstance(block_size, Sequence) else [block_size] * rank
    try:
        sizes = [operator.index(size) for size in each]
    except TypeError:
        raise TypeError(
            f"block_size: expected integers, got {block_size!r}; write for example block_size=7"
        ) from None
    if len(sizes) != rank:
        raise ValueError(
            f"block_size: expected an integer or {rank}, one for each axis in space, got "
            f"{block_size!r}; write for example block_size={(7,) * rank}"
        )
    if min(sizes) < 1 or any(map(masks.is_bool, each)):
        raise ValueError(
            f"block_size: expected at least 1, got {block_size!r}; write for example block_size=7"
        )
    if math.prod(sizes) > _LARGEST:
        raise ValueError(
            f"block_size: expected blocks of at most {_LARGEST} elements, got {block_size!r}; "
            "drop whole maps with spatial_dropout"
        )
    return sizes
