"""The mask as a value: drawn once, then applied, reused, carried, saved or printed."""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxdrop.masks import _apply, _checks, _rate, _sharding
from jaxdrop.masks._draw import keep_words
from jaxdrop.masks._layout import layout_of, unpack


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """Which elements survive, one bit per element, and with what probability.

    A pytree: it passes through ``jit``, ``vmap``, ``scan`` and checkpoints of models. Made by
    `sample`. Two masks are equal if the same elements survive with the same probability.

    Masks that are stacked, by ``vmap`` over keys or by ``scan``, are a batch, whose ``shape`` is
    that of each: apply them inside ``jax.vmap``, or take one of them out with
    ``jax.tree.map(lambda leaf: leaf[0], masks)``.

    Attributes:
        words: packed bits, uint32; bit 1 means that the element survives.
        keep_prob: probability that the bits really have, float32; a scalar, or the shape of an
            array of rates.
        shape: shape of the mask.

    Example:
        >>> mask = sample(jax.random.key(0), 0.5, (2, 4))
        >>> mask.apply(jnp.ones((3, 2, 4))).shape
        (3, 2, 4)
        >>> mask.unpack().dtype
        dtype('bool')
    """

    words: jax.Array
    keep_prob: jax.Array
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def unpack(self) -> jax.Array:
        """Booleans of ``shape``, True where an element survives.

        Raises:
            TypeError: ``words`` or ``keep_prob`` are of another dtype than that of a mask.
            ValueError: they are of another shape: a batch of masks, or parts of one.
        """
        _check_leaves(self)
        return _unpack(self.words, shape=self.shape)

    def apply(self, x: ArrayLike) -> jax.Array:
        """Zeros the dropped elements of ``x`` and divides the others by ``keep_prob``.

        A dropped inf or NaN becomes 0, and so does its gradient. Kept for the backward pass are
        the words alone, one bit per element of the mask.

        Args:
            x: floating or complex array of the mask's shape, or one that the mask broadcasts to.

        Returns:
            Array with the shape and dtype of ``x``.

        Raises:
            TypeError: ``x`` is of an integer or boolean dtype, or as `unpack`.
            ValueError: the mask does not broadcast to the shape of ``x``, or as `unpack`.
        """
        x = _checks.check_array(x)
        _check_leaves(self)
        if not _checks.broadcasts(self.shape, x.shape):
            raise ValueError(
                f"x: expected a shape that the mask's {self.shape} broadcasts to, got {x.shape}; "
                "draw the mask with the shape of x, with 1 for axes that share a decision"
            )
        return _scaled(self, x)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        if self.shape != other.shape:
            return False
        pairs = (self.unpack(), other.unpack()), (self.keep_prob, other.keep_prob)
        if any(isinstance(leaf, Tracer) for pair in pairs for leaf in pair):
            raise TypeError(
                "==: expected masks whose bits are known, got traced ones; "
                "write (a.unpack() == b.unpack()).all()"
            )
        return all(np.array_equal(*pair) for pair in pairs)

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __repr__(self) -> str:
        kept, words = self.keep_prob, np.shape(self.words)
        if isinstance(kept, Tracer):
            kept = "traced"
        elif isinstance(kept, jax.Array | np.ndarray | np.generic | float):
            kept = f"{np.mean(kept):.6g}"
        fits = words == layout_of(self.shape).words_shape
        batch = "" if fits else f", words of shape {words}"
        return f"Mask(shape={self.shape}, keep_prob={kept}{batch})"


def sample(key: jax.Array, rate: ArrayLike, shape: Sequence[int]) -> Mask:
    """Draws a mask: which elements of an array of ``shape`` survive dropout at ``rate``.

    The same key, rate and shape give the same mask in every transform, on every device and mesh
    and, with a threefry key, on every version of JAX. The mask of ``(B, ...)`` is the beginning of
    that of a larger batch.

    In a program of ``jax.export`` the size of the first axis may be symbolic, and the mask is that
    of a known size. Other axes may be symbolic too. The program then has one mask for all sizes,
    which counts a symbolic size as one that divides by 32 if it is written so, as ``32*t``, and as
    one that does not otherwise. It is that of such a known size if the bounds of the symbols say
    that each symbolic axis, with the known axes behind it, has 103 elements or more.

    Args:
        key: PRNG key that this call consumes.
        rate: probability of dropping, in [0, 1]; may be traced; a scalar, or an array that
            broadcasts to ``shape``. A traced rate outside [0, 1] gives a ``keep_prob`` of NaN.
        shape: shape of the mask, a tuple of integers; an axis of size 1 shares one decision
            where the mask is applied to a larger array.

    Returns:
        The `Mask`, about ``prod(shape) / 8`` bytes. Its rate lies within 2**-16 of the asked one,
        and within 1 % of it from 1e-5 on.

    Raises:
        TypeError: ``key`` is not a PRNG key, ``rate`` is not a real number, or ``shape`` is not a
            tuple of integers.
        ValueError: ``key`` is a batch of keys, or ``rate`` lies outside [0, 1] or does not
            broadcast to ``shape``.

    Example:
        >>> sample(jax.random.key(0), 0.1, (128, 256))
        Mask(shape=(128, 256), keep_prob=0.899994)

    References:
        Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
        2014, section 4.
    """
    _checks.check_key(key)
    try:
        sizes = tuple(map(_as_size, shape))
    except TypeError:
        raise TypeError(
            f"shape: expected a tuple of non-negative integers, got {shape!r}; write for example "
            "sample(key, 0.5, (8, 128)), or sample(key, 0.5, x.shape)"
        ) from None
    return _sample(key, _checks.check_rate(rate, sizes), shape=sizes)


def draw(
    key: jax.Array, rate: _rate.Rate, shape: tuple[int, ...], *, like: jax.Array | None = None
) -> Mask:
    """`sample` without checks, for arguments that have been checked; sharded like ``like``."""
    sharding = None if like is None else _sharding.mask_sharding(like, shape)
    odds = _rate.odds(rate.effective)
    return Mask(keep_words(key, odds, layout_of(shape), sharding), odds.keep_prob, shape)


def _check_leaves(mask: Mask) -> None:
    """Raises unless words and keep probability are those of one mask."""
    words, kept = mask.words, mask.keep_prob
    expected, got = layout_of(mask.shape).words_shape, np.shape(words)
    if got != expected or not _checks.broadcasts(np.shape(kept), mask.shape):
        raise ValueError(
            f"mask: expected words of shape {expected} and a keep_prob that broadcasts to the "
            f"mask's {mask.shape}, got shapes {got} and {np.shape(kept)}; apply a batch of "
            "masks inside jax.vmap, or take one with jax.tree.map(lambda leaf: leaf[0], masks)"
        )
    if words.dtype != jnp.uint32 or jnp.finfo(jnp.result_type(kept)).bits < 32:
        raise TypeError(
            f"mask: expected words in uint32 and a keep_prob in float32, got {words.dtype} and "
            f"{jnp.result_type(kept)}; leave masks out where leaves are cast"
        )


def _as_size(size: Any) -> Any:
    if jax.export.is_symbolic_dim(size):
        return size
    size = operator.index(size)
    if size < 0:
        raise TypeError
    return size


@functools.partial(jax.jit, static_argnames="shape")
def _sample(key: jax.Array, rate: _rate.Rate, *, shape: tuple[int, ...]) -> Mask:
    mask = draw(key, rate, shape)
    return dataclasses.replace(mask, keep_prob=jnp.asarray(mask.keep_prob))


@functools.partial(jax.jit, static_argnames="shape")
def _unpack(words: jax.Array, *, shape: tuple[int, ...]) -> jax.Array:
    return unpack(words, layout_of(shape))


@jax.jit
def _scaled(mask: Mask, x: jax.Array) -> jax.Array:
    return _apply.scale_kept(mask, x)
