"""Calls that Hypothesis draws: any variant of floor 2, on shapes, axes, dtypes and rates of its own.

A call is a row of the table in `tests.cases` that nobody wrote, so that the laws can ask the same
of it as of the others.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from jaxdrop import functional
from tests import cases, reference
from tests.cases import Case

_LARGEST = 4096  # entries of an array
DTYPES = (jnp.float8_e4m3fn, jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64)


class Call(NamedTuple):
    """A case with the rest of what a call takes."""

    case: Case
    dtype: type
    rate: float
    seed: int

    @property
    def wide(self):
        """The context in which JAX has this dtype."""
        return jax.enable_x64(self.dtype == jnp.float64)

    def key(self):
        return jax.random.key(self.seed)

    def x(self):
        """Numbers of both signs whose decisions every dtype shows: none is near what is lost."""
        size = math.prod(self.case.shape)
        signs = np.where(np.arange(size) % 3, 1, -1)
        return jnp.asarray((signs * np.linspace(1, 1.25, size)).reshape(self.case.shape), self.dtype)

    def keep(self, rate=None):
        """Booleans of the mask shape by the reference."""
        rate = self.rate if rate is None else rate
        words = jax.random.key_data(self.key())
        return np.asarray(self.case.keep(words, rate, self.case.mask_shape))


def _fitted(sizes):
    """The sizes as a shape, 1 in place of those that would make the array too large."""
    shape, total = [], 1
    for size in sizes:
        size = size if total * size <= _LARGEST else 1
        total *= max(1, size)
        shape.append(size)
    return tuple(shape)


def shapes(least, most):
    """Shapes with sizes around the 32 entries of a word, small ones and 0."""
    sizes = st.one_of(st.integers(1, 9), st.sampled_from([0, 31, 32, 33, 40, 63, 64, 65, 96]))
    return st.lists(sizes, min_size=least, max_size=most).map(_fitted)


def _named(draw, axes, rank):
    """The axes as a user may name them: from the left or the right."""
    return tuple(axis - rank if draw(st.booleans()) else axis for axis in axes)


def _shared(shape, axes):
    return tuple(1 if axis in axes else size for axis, size in enumerate(shape))


def _own(shape, axes):
    return _shared(shape, set(range(len(shape))) - set(axes))


@st.composite
def _entries(draw, fn, least=0):
    shape = draw(shapes(least, 5))
    axes = draw(st.lists(st.sampled_from(range(len(shape))), unique=True)) if shape else []
    kwargs = {"broadcast_dims": _named(draw, axes, len(shape))}
    return Case(fn.__name__, fn, shape, _shared(shape, axes), kwargs)


@st.composite
def _maps(draw, fn, name="channel_axis", **fields):
    shape = draw(shapes(2, 5))
    batch, channel = draw(st.permutations(range(len(shape))))[:2]
    own = (channel,) if draw(st.booleans()) else (batch, channel)
    named = dict(zip((name, "batch_axis"), _named(draw, (channel, batch), len(shape))))
    if batch not in own:
        named["batch_axis"] = None
    return Case(fn.__name__, fn, shape, _own(shape, own), named, **fields)


@st.composite
def _steps(draw):
    shape = draw(shapes(1, 4))
    axis = draw(st.sampled_from(range(len(shape))))
    (named,) = _named(draw, (axis,), len(shape))
    mask_shape = _shared(shape, (axis,))
    return Case("variational", functional.variational_dropout, shape, mask_shape, {"time_axis": named})


@st.composite
def _paths(draw):
    shape = draw(shapes(1, 4))
    axis, mode = draw(st.sampled_from(range(len(shape)))), draw(st.sampled_from(["row", "batch"]))
    (named,) = _named(draw, (axis,), len(shape))
    mask_shape = _own(shape, (axis,) if mode == "row" else ())
    kwargs = {"batch_axis": named, "mode": mode}
    return Case("drop_path", functional.drop_path, shape, mask_shape, kwargs)


@st.composite
def _rows(draw):
    shape = draw(shapes(2, 2))
    return Case("embedding", functional.embedding_dropout, shape, _own(shape, (0,)))


@st.composite
def _blocks(draw):
    shape = draw(shapes(3, 5))
    space = range(1, len(shape) - 1)
    sizes = tuple(draw(st.integers(1, 4)) for _ in space)
    return cases._blocks("drop_block", shape, (1, *sizes, 1), block_size=sizes)


@st.composite
def _plain(draw, name):
    """The row of the table with this name, on another shape."""
    (row,) = (case for case in cases.CASES if case.name == name)
    shape = draw(shapes(0, 4))
    return row._replace(shape=shape, mask_shape=shape)


_F = functional
_VARIANTS = (
    _entries(_F.dropout),
    _entries(_F.mc_dropout),
    _entries(_F.attention_dropout, least=2),
    _maps(_F.spatial_dropout),
    _maps(_F.feature_alpha_dropout, **reference.ALPHA),
    _maps(_F.drop_head, name="head_axis"),
    _steps(),
    _paths(),
    _rows(),
    _blocks(),
    _plain("alpha"),
    _plain("drop_connect"),
    _plain("zoneout"),
)
RATES = st.one_of(
    st.sampled_from([0.5, 0.25, 0.1, 0.9, 1e-3, 1e-5, 0.999, 1 - 2**-20]),
    st.floats(2**-30, 1, width=32, exclude_max=True),
).map(lambda rate: float(np.float32(rate)))


def calls(dtypes=DTYPES, rates=RATES):
    """Calls of any variant."""
    return st.builds(
        Call,
        case=st.one_of(*_VARIANTS),
        dtype=st.sampled_from(dtypes),
        rate=rates,
        seed=st.integers(0, 2**31 - 1),
    )
