"""The table of public variants that the laws run over, and what the laws share.

A new variant is one row. A Flax module, whose key and rate travel another way, gives as ``fn`` an
adapter with the signature of floor 2, ``fn(key, x, rate, *, deterministic=False)``.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdrop import functional
from tests import reference

# Chance that an exact test fails although the bits are fair. Keys are fixed, so that a test that
# has passed once goes on passing until the bits change.
FALSE_ALARM = 1e-6
# The implementations of keys in JAX beside the default.
OTHER_KEYS = ("rbg", "unsafe_rbg", "philox2x32", "philox4x32", "threefry4x32")


class Case(NamedTuple):
    """A variant on one shape.

    Attributes:
        name: the id of its tests.
        fn: called as ``fn(key, x, rate, *, deterministic=False, **kwargs)``.
        shape: shape of x; the sharding laws split its first and last axis if they divide by 8.
        mask_shape: 1 where entries share a decision, else as ``shape``; a group is what shares one.
        kwargs: further arguments of ``fn``.
        keep: ``keep(key words, rate, mask_shape)``: which groups survive, by the reference.
        keep_probability: of a group at a rate, a fraction, by the reference.
        lost: what a dropped entry becomes, from the rate and the keep probability.
        survivor: what a surviving one becomes, from x and the same two, in float64.
    """

    name: str
    fn: Callable
    shape: tuple[int, ...]
    mask_shape: tuple[int, ...]
    kwargs: Mapping[str, Any] = MappingProxyType({})
    keep: Callable = reference.keep
    keep_probability: Callable = reference.keep_probability
    lost: Callable = lambda rate, keep: 0.0
    survivor: Callable = lambda x, rate, keep: x / keep

    def call(self, key, x, rate, deterministic=False):
        return self.fn(key, x, rate, deterministic=deterministic, **self.kwargs)


def _drop_connect(key, x, rate, *, deterministic=False):
    """The second of two leaves, the first of which stays."""
    params = {"bias": np.zeros(3), "kernel": x}
    where = lambda path, leaf: path == ("kernel",)  # noqa: E731
    dropped = functional.drop_connect(key, params, rate, deterministic=deterministic, where=where)
    return dropped["kernel"]


def _keep_second_leaf(key_words, rate, mask_shape):
    keys = jax.random.split(jax.random.wrap_key_data(jnp.asarray(key_words)), 2)
    return reference.keep(jax.random.key_data(keys[1]), rate, mask_shape)


def _zoneout(key, x, rate, *, deterministic=False):
    """From a state of zeros, so that 0 means the old value; at a rate of 0 while deterministic."""
    if isinstance(deterministic, jax.Array):
        rate = jnp.where(deterministic, np.float32(0), rate)
    elif deterministic:
        rate = 0.0
    return functional.zoneout(key, np.zeros(x.shape, x.dtype), x, rate)


_F = functional
# fmt: off
CASES = (
    Case("dropout", _F.dropout, (64, 40), (64, 40)),
    # No axis divides by 32: one run of words through all axes, or padded words along the last.
    Case("dropout_flat", _F.dropout, (72, 72), (72, 72)),
    Case("dropout_broadcast", _F.dropout, (32, 6, 40), (32, 1, 40), {"broadcast_dims": (-2,)}),
    Case("mc_dropout_padded", _F.mc_dropout, (2, 8, 536), (1, 8, 536), {"broadcast_dims": (0,)}),
    Case("spatial_1d", _F.spatial_dropout, (16, 5, 32), (16, 1, 32)),
    Case("spatial_2d", _F.spatial_dropout, (8, 3, 4, 64), (8, 1, 1, 64)),
    Case("spatial_3d", _F.spatial_dropout, (8, 32, 2, 3, 2), (8, 32, 1, 1, 1),
         {"channel_axis": 1}),
    Case("variational", _F.variational_dropout, (16, 7, 64), (16, 1, 64)),
    Case("variational_time_major", _F.variational_dropout, (7, 16, 64), (1, 16, 64),
         {"time_axis": 0}),
    Case("drop_connect", _drop_connect, (64, 40), (64, 40), keep=_keep_second_leaf),
    Case("zoneout", _zoneout, (64, 40), (64, 40), survivor=lambda x, rate, keep: x),
)
# fmt: on

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

# For laws that compile much: the first row of each function runs always, the others with `slow`.
_FIRST = {case.fn: case for case in reversed(CASES)}.values()
each_function = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=() if case in _FIRST else pytest.mark.slow)
        for case in CASES
    ],
)


def key(seed=0):
    """A fresh key; used twice, the same seed is no reuse to the checker."""
    return jax.random.key(seed)


def data(shape, dtype=jnp.float32):
    """Numbers of both signs and many sizes, none of them 0, so that 0 means dropped."""
    x = np.random.default_rng(0).standard_normal(shape)
    return jnp.asarray(np.where(x == 0, 1.0, x).astype(dtype))


def kept_entries(case, y, rate):
    """Booleans of the shape of x: which entries of an output survive."""
    lost = case.lost(rate, float(case.keep_probability(rate)))
    return np.asarray(y) != np.asarray(lost, y.dtype)


def decisions(case, y, rate):
    """Booleans of the mask shape: which groups of an output survive, all of a group or none."""
    kept = kept_entries(case, y, rate)
    shared = tuple(a for a, (m, s) in enumerate(zip(case.mask_shape, case.shape)) if m != s)
    first = kept.any(axis=shared, keepdims=True)
    assert first.shape == case.mask_shape
    np.testing.assert_array_equal(kept, np.broadcast_to(first, kept.shape))
    return first


def assert_same_bits(actual, desired):
    """Equality of dtype, shape and every bit: -0.0 is not 0.0 and a denormal is not 0."""
    actual, desired = np.asarray(actual), np.asarray(desired)
    assert actual.dtype == desired.dtype
    np.testing.assert_array_equal(
        np.ascontiguousarray(actual).view(np.uint8), np.ascontiguousarray(desired).view(np.uint8)
    )
    assert actual.shape == desired.shape


def assert_probability(hits, draws, probability):
    """Exact two-sided binomial test with the false-alarm rate above."""
    p_value = stats.binomtest(int(hits), int(draws), float(probability)).pvalue
    assert p_value > FALSE_ALARM, (
        f"{hits} of {draws} = {hits / draws:.6f}, expected {float(probability):.6f}, "
        f"p = {p_value:.1e}"
    )
