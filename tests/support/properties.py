"""Calls that Hypothesis draws: any variant, on shapes, axes, dtypes and rates of its own.

A call is a row of the table in `cases` that nobody wrote, so that the laws can ask the same of it
as of the others. Shapes come from a pool, since each new one has to be compiled.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from jaxdrop import functional
from tests.support import cases, reference
from tests.support.cases import Case

DTYPES = (
    jnp.float8_e4m3fn,
    jnp.float8_e5m2,
    jnp.bfloat16,
    jnp.float16,
    jnp.float32,
    jnp.float64,
)
# Around the 32 entries of a word; no axis that divides by it, several, and none with an entry.
SHAPES = (
    (),
    (0,),
    (1,),
    (33,),
    (64,),
    (5, 7),
    (4, 0),
    (32, 6),
    (31, 32),
    (65, 33),
    (1, 96),
    (3, 5, 7),
    (2, 33, 31),
    (32, 3, 4),
    (2, 64, 5),
    (3, 1, 32),
    (2, 3, 4, 5),
    (2, 5, 32, 3),
    (1, 9, 7, 11),
    (2, 3, 2, 4, 33),
    (2, 1, 3, 32, 2),
)
KNOWN_RATES = (0.5, 0.1, 0.999, 2**-20)
RATES = st.floats(2**-30, 1, width=32, exclude_max=True)


class Call(NamedTuple):
    """A case with the rest of what a call takes."""

    case: Case
    dtype: type
    rate: float
    traced: bool
    seed: int

    def key(self):
        return jax.random.key(self.seed)

    def x64(self):
        """The context in which JAX has this dtype."""
        return jax.enable_x64(self.dtype == jnp.float64)

    def asked(self, rate):
        """A rate as this call asks for it: known to Python, or an array."""
        return jnp.float32(rate) if self.traced else float(rate)

    def x(self):
        """Numbers of both signs, none of which any dtype takes for what is lost."""
        size = int(np.prod(self.case.shape))
        x = np.where(np.arange(size) % 3, 1, -1) * np.linspace(1, 1.25, size)
        return jnp.asarray(x.reshape(self.case.shape).astype(self.dtype))

    def keep(self):
        """Booleans of the shape of x: which entries survive, by the reference."""
        words = jax.random.key_data(self.key())
        keep = self.case.keep(words, self.rate, self.case.mask_shape)
        return np.broadcast_to(keep, self.case.shape)

    def value_and_gradient(self, x, rate):
        """The result, and the cotangents x pulled back."""
        case = self.case
        run = _compiled(case.fn, tuple(sorted(case.kwargs.items())), None if self.traced else rate)
        return run(self.key(), x, rate)


@functools.cache
def _compiled(fn, kwargs, known):
    """One program for each array that it meets, and for all traced rates."""

    def lost(self):
        """What a dropped entry becomes."""
        lost = self.case.lost(self.rate, float(self.case.keep_probability(self.rate)))
        return np.asarray(lost).astype(self.dtype)

    def value_and_gradient(key, x, rate):
        rate = rate if known is None else known
        y, pull = jax.vjp(lambda x: fn(key, x, rate, **dict(kwargs)), x)
        return y, pull(x)[0]

    return jax.jit(value_and_gradient)


def shapes(least=0, most=5):
    return st.sampled_from([shape for shape in SHAPES if least <= len(shape) <= most])


def _named(draw, axes, rank):
    """The axes as a user may name them: from the left or the right."""
    return tuple(axis - rank if draw(st.booleans()) else axis for axis in axes)


def _shared(shape, axes):
    return tuple(1 if axis in axes else size for axis, size in enumerate(shape))


def _own(shape, axes):
    return _shared(shape, set(range(len(shape))) - set(axes))


def _drawn_from(own, rank):
    """The reference's decisions: a mask leaves out the axes before the first of its own."""
    first = min(own, default=rank)
    return lambda words, rate, shape: reference.keep(words, rate, shape[first:])


@st.composite
def _entries(draw, fn, least=0):
    shape = draw(shapes(least))
    axes = draw(st.lists(st.sampled_from(range(len(shape))), unique=True)) if shape else []
    kwargs = {"broadcast_dims": _named(draw, axes, len(shape))}
    own = set(range(len(shape))) - set(axes)
    keep = reference.keep if fn is _F.attention_dropout else _drawn_from(own, len(shape))
    return Case(fn.__name__, fn, shape, _shared(shape, axes), kwargs, keep)


@st.composite
def _maps(draw, fn, name="channel_axis", **fields):
    shape = draw(shapes(2))
    batch, channel = draw(st.permutations(range(len(shape))))[:2]
    named = dict(zip((name, "batch_axis"), _named(draw, (channel, batch), len(shape))))
    own = (batch, channel)
    if draw(st.booleans()):
        own, named["batch_axis"] = (channel,), None
    keep = _drawn_from(own, len(shape))
    return Case(fn.__name__, fn, shape, _own(shape, own), named, keep, **fields)


@st.composite
def _steps(draw):
    shape = draw(shapes(1))
    (axis,) = axes = draw(st.tuples(st.sampled_from(range(len(shape)))))
    (named,) = _named(draw, axes, len(shape))
    kwargs = {"time_axis": named}
    keep = _drawn_from(set(range(len(shape))) - {axis}, len(shape))
    return Case("variational", _F.variational_dropout, shape, _shared(shape, (axis,)), kwargs, keep)


@st.composite
def _paths(draw):
    shape = draw(shapes(1))
    axis, mode = draw(st.sampled_from(range(len(shape)))), draw(st.sampled_from(["row", "batch"]))
    (named,) = _named(draw, (axis,), len(shape))
    own = (axis,) if mode == "row" else ()
    kwargs, keep = {"batch_axis": named, "mode": mode}, _drawn_from(own, len(shape))
    return Case("drop_path", _F.drop_path, shape, _own(shape, own), kwargs, keep)


@st.composite
def _rows(draw):
    shape = draw(shapes(2, 2))
    return Case("embedding", _F.embedding_dropout, shape, _own(shape, (0,)))


@st.composite
def _blocks(draw):
    shape = draw(shapes(3, 5))
    sizes = tuple(draw(st.integers(1, 3)) for _ in shape[1:-1])
    return cases._blocks("drop_block", shape, (1, *sizes, 1), block_size=sizes)


@st.composite
def _plain(draw, name):
    """The row of the table with this name, on another shape."""
    (row,) = (case for case in cases.CASES if case.name == name)
    shape = draw(shapes())
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


def calls():
    """Calls of any variant that drops floating numbers."""
    return st.one_of(*_VARIANTS).flatmap(lambda case: calls_of(case, DTYPES))


@st.composite
def calls_of(draw, case, dtypes=(jnp.float32,)):
    """Calls of one variant."""
    traced = draw(st.booleans())
    rate = draw(RATES if traced else st.sampled_from(KNOWN_RATES))
    seed = draw(st.integers(0, 2**32 - 1))
    return Call(case, draw(st.sampled_from(dtypes)), float(np.float32(rate)), traced, seed)


def calls_on_shapes(fn, least=0, most=5):
    """Calls of a function with an own test of what it does with the mask."""
    cases_of = shapes(least, most).map(lambda shape: Case(fn.__name__, fn, shape, shape))
    return cases_of.flatmap(calls_of)


@st.composite
def noises(draw):
    """The rows of continuous noise on other shapes, with a level and a seed."""
    row = draw(st.sampled_from(cases.NOISE_CASES))
    shape = draw(shapes(2 if row.name == "neftune" else 0))
    kwargs, noise_shape = dict(row.kwargs), shape
    if "broadcast_dims" in kwargs:
        axes = draw(st.sets(st.sampled_from(range(len(shape))))) if shape else ()
        kwargs["broadcast_dims"], noise_shape = tuple(axes), _shared(shape, axes)
    row = row._replace(shape=shape, noise_shape=noise_shape, kwargs=kwargs)
    level = row.level * draw(st.floats(0.125, 1, width=32))
    return row._replace(level=float(np.float32(level))), draw(st.integers(0, 2**32 - 1))
