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

from jaxdrop.masks import _keys, _rate, _sharding
from jaxdrop.masks._draw import keep_words
from jaxdrop.masks._layout import layout_of, unpack


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """Which entries survive, one bit an entry, and with what probability.

    A pytree: it passes through ``jit``, ``vmap``, ``scan`` and checkpoints of models. Made by
    `sample`. Two masks are equal if the same entries survive with the same probability.

    Masks that are stacked, by ``vmap`` over keys or by ``scan``, are a batch, whose ``shape`` is
    that of each: apply them inside ``jax.vmap``, or take one of them out with
    ``jax.tree.map(lambda leaf: leaf[0], masks)``.

    Attributes:
        words: packed bits, uint32; bit 1 means that the entry survives.
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
        """Booleans of ``shape``, True where an entry survives.

        Raises:
            TypeError: ``words`` or ``keep_prob`` are of another dtype than that of a mask.
            ValueError: they are of another shape: a batch of masks, or parts of one.
        """
        _check_leaves(self)
        return _unpack(self.words, shape=self.shape)

    def apply(self, x: ArrayLike) -> jax.Array:
        """Zeros the dropped entries of ``x`` and divides the others by ``keep_prob``.

        A dropped inf or NaN becomes 0, and so does its gradient. Kept for the backward pass are
        the words alone, one bit an entry of the mask.

        Args:
            x: floating or complex array of the mask's shape, or one that the mask broadcasts to.

        Returns:
            Array with the shape and dtype of ``x``.

        Raises:
            TypeError: ``x`` is of an integer or boolean dtype, or as `unpack`.
            ValueError: the mask does not broadcast to the shape of ``x``, or as `unpack`.
        """
        x = check_array(x)
        _check_leaves(self)
        if not _rate.broadcasts(self.shape, x.shape):
            raise ValueError(
                f"x: expected a shape that the mask's {self.shape} broadcasts to, got {x.shape}; "
                "draw the mask with the shape of x, with 1 for axes that share a decision"
            )
        return _apply(self, x)

    def __eq__(self, other):
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

    def __repr__(self):
        kept, words = self.keep_prob, np.shape(self.words)
        if isinstance(kept, Tracer):
            kept = "traced"
        elif isinstance(kept, jax.Array | np.ndarray | np.generic | float):
            kept = f"{np.mean(kept):.6g}"
        fits = words == layout_of(self.shape).words_shape
        batch = "" if fits else f", words of shape {words}"
        return f"Mask(shape={self.shape}, keep_prob={kept}{batch})"


def sample(key: jax.Array, rate: ArrayLike, shape: Sequence[int]) -> Mask:
    """Draws a mask: which entries of an array of ``shape`` survive dropout at ``rate``.

    The same key, rate and shape give the same mask in every transform, on every device and mesh
    and, with a threefry key, on every version of JAX. The mask of ``(B, ...)`` is the beginning of
    that of a larger batch; the size of the first axis may be symbolic.

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
        TypeError: ``key`` is no PRNG key, ``rate`` no real number, or ``shape`` no tuple of
            integers.
        ValueError: ``key`` is a batch of keys, or ``rate`` lies outside [0, 1] or does not
            broadcast to ``shape``.

    Example:
        >>> sample(jax.random.key(0), 0.1, (128, 256))
        Mask(shape=(128, 256), keep_prob=0.899994)

    References:
        Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
        2014, section 4.
    """
    _keys.check_key(key)
    try:
        sizes = tuple(map(_as_size, shape))
    except TypeError:
        raise TypeError(
            f"shape: expected a tuple of non-negative integers, got {shape!r}; write for example "
            "sample(key, 0.5, (8, 128)), or sample(key, 0.5, x.shape)"
        ) from None
    return _sample(key, _rate.check_rate(rate, sizes), shape=sizes)


def draw(key, rate: _rate.Rate, shape, *, like=None) -> Mask:
    """`sample` without checks, for arguments that have been checked; sharded like ``like``."""
    sharding = None if like is None else _sharding.mask_sharding(like, shape)
    odds = _rate.odds(rate.effective)
    return Mask(keep_words(key, odds, layout_of(shape), sharding), odds.keep_prob, shape)


def words_only(function):
    """``function(mask, ...)`` such that the words alone are kept for its backward pass.

    What follows from the words is computed again. CSE may merge both computations: they are
    element-wise and fuse into their consumers.
    """
    return jax.checkpoint(function, prevent_cse=False)


def select(mask: Mask, x):
    """`Mask.apply` without checks."""
    return words_only(_select)(mask, x)


def choose(mask: Mask, kept, dropped):
    """``kept`` where an entry survives, else ``dropped``; the mask broadcasts to ``kept``."""
    return words_only(_choose)(mask, kept, dropped)


def poison(mask: Mask, x):
    """``x``, and NaN where a traced rate lay outside [0, 1], since that cannot be refused.

    For variants that do not scale by the keep probability, which is NaN there.
    """
    if not isinstance(mask.keep_prob, jax.Array):  # a rate known now, and checked
        return x
    return words_only(_poison)(aligned(mask.keep_prob, x), x)


def check_array(x: Any, name: str = "x") -> jax.Array:
    """``x`` as a jax array, refused if its dtype is not floating or complex, or lacks 0."""
    _keys.refuse_key(x, name, "a floating or complex array")
    array = as_array(x, name)
    if not is_droppable(array.dtype):
        lacks = " of a dtype that holds 0" if jnp.issubdtype(array.dtype, jnp.inexact) else ""
        raise TypeError(
            f"{name}: expected a floating or complex array{lacks}, got dtype "
            f"{getattr(x, 'dtype', array.dtype)}; "
            f"cast it first, for example {name}.astype(jnp.float32)"
        )
    return array


def as_array(x: Any, name: str) -> jax.Array:
    """``x`` as the jax array that JAX makes of it: float64 is float32 there unless x64 is on."""
    _keys.refuse_key(x, name, "an array", legacy=False)
    if isinstance(x, jax.Array):
        return x
    try:
        return jnp.asarray(x)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(
            f"{name}: expected an array, got {type(x).__name__}; give numbers of one shape and "
            "dtype, and map over a pytree with jax.tree.map"
        ) from None


def refuse_complex(x, dtype, name, expected):
    """``x``, refused if it is complex where a cast to ``dtype`` would lose the imaginary part."""
    if jnp.iscomplexobj(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"{name}: expected {expected} for x of dtype {dtype}, got dtype {x.dtype}; "
            f"cast x first, for example x.astype(jnp.{x.dtype})"
        )
    return x


def is_droppable(dtype):
    """Whether entries of a dtype can become 0 and be rescaled: float8_e8m0fnu has powers of 2."""
    return jnp.issubdtype(dtype, jnp.inexact) and not np.zeros((), dtype)


def _check_leaves(mask):
    """Raises unless words and keep probability are those of one mask."""
    words, kept = mask.words, mask.keep_prob
    expected, found = layout_of(mask.shape).words_shape, np.shape(words)
    if found != expected or not _rate.broadcasts(np.shape(kept), mask.shape):
        raise ValueError(
            f"mask: expected words of shape {expected} and a keep_prob that broadcasts to the "
            f"mask's {mask.shape}, got shapes {found} and {np.shape(kept)}; apply a batch of "
            "masks inside jax.vmap, or take one with jax.tree.map(lambda leaf: leaf[0], masks)"
        )
    if words.dtype != jnp.uint32 or jnp.finfo(jnp.result_type(kept)).bits < 32:
        raise TypeError(
            f"mask: expected words in uint32 and a keep_prob in float32, got {words.dtype} and "
            f"{jnp.result_type(kept)}; leave masks out where leaves are cast"
        )


def _as_size(size):
    if jax.export.is_symbolic_dim(size):
        return size
    size = operator.index(size)
    if size < 0:
        raise TypeError
    return size


@functools.partial(jax.jit, static_argnames="shape")
def _sample(key, rate, *, shape):
    mask = draw(key, rate, shape)
    return dataclasses.replace(mask, keep_prob=jnp.asarray(mask.keep_prob))


@functools.partial(jax.jit, static_argnames="shape")
def _unpack(words, *, shape):
    return unpack(words, layout_of(shape))


@jax.jit
def _apply(mask, x):
    return select(mask, x)


def _select(mask, x):
    # Chosen before the rounding: the lanes of a narrow dtype are not as wide as those of the words.
    scaled = _scale(aligned(mask.keep_prob, x), x)
    return _choose(mask, scaled, jnp.zeros((), scaled.dtype)).astype(x.dtype)


def _choose(mask, kept, dropped):
    return jnp.where(keep_like(mask, kept), kept, dropped)


def keep_like(mask, x):
    """The mask's booleans with the rank of ``x``, and sharded like it."""
    return _leading(unpacked_like(mask.words, layout_of(mask.shape), x), x)


def unpacked_like(words, layout, x):
    """The booleans of packed words, sharded like the array that they broadcast to."""
    keep = unpack(words, layout)
    sharding = _sharding.mask_sharding(x, layout.shape)
    return keep if sharding is None else jax.sharding.reshard(keep, sharding)


def select_kept(keep, keep_prob, x):
    """`select` for a mask that is there as booleans: a window."""
    scaled = _scale(aligned(keep_prob, x), x)
    return jnp.where(keep, scaled, jnp.zeros((), scaled.dtype)).astype(x.dtype)


def _poison(keep_prob, x):
    return jnp.where(jnp.isnan(keep_prob), jnp.full((), jnp.nan, x.dtype), x)


def aligned(values, x):
    """Values that broadcast to ``x``, with its rank and sharded like it, unless it is a scalar."""
    values = _leading(values, x)
    if values.ndim and _sharding.mask_sharding(x, values.shape) is not None:
        return jax.sharding.reshard(values, _sharding.mask_sharding(x, values.shape))
    return values


def _leading(values, x):
    """Values that are no scalar with leading axes of size 1 up to the rank of ``x``."""
    missing = x.ndim - values.ndim
    return values.reshape((1,) * missing + values.shape) if values.ndim and missing else values


def wide_dtype(x):
    """The dtype to compute in before rounding once to that of ``x``: float32 or wider."""
    return x.dtype if x.dtype.itemsize >= 4 else jnp.float32


def widened(value):
    """A real number, or an array of them, as an array of float32 or wider."""
    x = jnp.asarray(value)
    return x.astype(wide_dtype(x) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32)


def _scale(keep_prob, x):
    """``x / keep_prob`` in float32 or better, to be rounded once to the dtype of ``x``."""
    wide = wide_dtype(x)
    real = jnp.finfo(wide).dtype
    x = x.astype(wide)
    # The scale stays finite where nothing survives: 0 * inf would put NaN into the gradient.
    some = jnp.where(keep_prob == 0, jnp.ones_like(keep_prob), keep_prob)
    scale = jax.lax.stop_gradient(1 / some.astype(real)).astype(wide)
    # Multiplying by 1 may still flush a denormal: at rate 0 the result is x, bit for bit. Asking
    # the scale and not keep_prob spares XLA from deriving the latter from the rate at each entry.
    return jnp.where(scale == 1, x, x * scale)
