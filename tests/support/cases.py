"""The table of public variants that the laws run over, and what the laws share.

A new variant is one row. A Flax module, whose key and rate travel another way, gives as ``fn`` an
adapter with the signature of floor 2, ``fn(key, x, rate, *, deterministic=False)``.
"""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdrop import functional
from jaxdrop.functional._internal import low_rank
from tests.support import reference

# Chance that an exact test fails although the bits are fair. Keys are fixed, so that a test that
# has passed once goes on passing until the bits change.
FALSE_ALARM = 1e-6
# At which the laws run, where they do not need another.
RATE = 0.3
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
        rate_shape: of an array of rates, if groups share them: 1 where they do.
        independent: picks groups that are independent, by slices of the first axes.
        affine: whether a constant is added, in which x may cancel: equal to rounding only.
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
    rate_shape: tuple[int, ...] | None = None
    independent: tuple[slice, ...] = ()
    affine: bool = False

    def rates(self):
        """The rates 0.1 and 0.3 in turns."""
        return np.resize(np.float32([0.1, 0.3]), self.rate_shape or self.mask_shape)

    def call(self, key, x, rate, deterministic=False):
        return self.fn(key, x, rate, deterministic=deterministic, **self.kwargs)


def _blocks(name, shape, block, **kwargs):
    """A variant on maps: entries with a whole block between them share no seed."""
    return Case(
        name,
        functional.drop_block,
        shape,
        shape,
        kwargs,
        keep=functools.partial(reference.keep_of_blocks, block=block),
        keep_probability=functools.partial(reference.keep_probability_of_blocks, block=block),
        rate_shape=tuple(1 if extent > 1 else size for size, extent in zip(shape, block)),
        independent=tuple(slice(None, None, extent) for extent in block),
    )


def _drop_connect(key, x, rate, *, deterministic=False):
    """The second of two leaves, the first of which stays."""
    params = {"bias": np.zeros(3), "kernel": x}
    where = lambda path, leaf: path == ("kernel",)  # noqa: E731
    dropped = functional.drop_connect(key, params, rate, deterministic=deterministic, where=where)
    return dropped["kernel"]


def _mixout(key, x, rate, **flag):
    return functional.drop_connect(key, [x], rate, other=[x / 4], **flag)[0]


def _keep_second_leaf(key_words, rate, mask_shape):
    keys = jax.random.split(jax.random.wrap_key_data(jnp.asarray(key_words)), 2)
    return reference.keep(jax.random.key_data(keys[1]), rate, mask_shape)


def ends_of(num_edges):
    """Nodes at both ends of different edges, the greater number first in every other one."""
    edges = jnp.arange(num_edges)
    odd = edges % 2
    return edges + 3 * odd, edges + 3 * (1 - odd)


def _edges(key, x, rate, *, deterministic=False):
    if isinstance(deterministic, bool | np.bool_) and deterministic:  # nor are ends computed
        return functional.edge_dropout(key, x, rate, deterministic=deterministic)
    senders, receivers = ends_of(x.shape[0])
    ends = {"senders": senders, "receivers": receivers}
    return functional.edge_dropout(key, x, rate, deterministic=deterministic, **ends)


def _keep_edges(key_words, rate, mask_shape):
    return reference.keep_of_pairs(key_words, rate, mask_shape, ends_of(mask_shape[0]))


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
    Case("drop_path", _F.drop_path, (512, 3, 8), (512, 1, 1)),
    Case("drop_path_batch_last", _F.drop_path, (3, 512), (1, 512), {"batch_axis": -1}),
    Case("drop_head", _F.drop_head, (16, 5, 32, 6), (16, 1, 32, 1)),
    Case("drop_head_first", _F.drop_head, (16, 32, 5, 6), (16, 32, 1, 1), {"head_axis": 1}),
    Case("embedding", _F.embedding_dropout, (512, 40), (512, 1)),
    Case("edges", _F.edge_dropout, (512, 3, 8), (512, 1, 1)),
    Case("edges_undirected", _edges, (512, 40), (512, 1), keep=_keep_edges),
    Case("attention", _F.attention_dropout, (8, 2, 32, 40), (8, 2, 32, 40)),
    Case("attention_broadcast", _F.attention_dropout, (8, 3, 24, 64), (1, 1, 24, 64),
         {"broadcast_dims": (0, 1)}),
    # Seeds and mask are packed along channels.
    _blocks("drop_block", (8, 5, 7, 64), (1, 3, 3, 1), block_size=3),
    # Seeds along channels, the mask along space; blocks larger than the map, of an even size.
    _blocks("drop_block_1d", (32, 6, 32), (1, 7, 1)),
    _blocks("drop_block_wide", (8, 3, 32, 64), (1, 4, 2, 1), block_size=(4, 2)),
    # No axis divides by 32: both in runs through space, of different lengths.
    _blocks("drop_block_flat", (8, 24, 9, 11), (1, 1, 7, 7), channel_axis=1),
    _blocks("drop_block_3d", (3, 4, 5, 3, 40), (1, 2, 3, 2, 1), block_size=(2, 3, 2)),
    Case("alpha", _F.alpha_dropout, (64, 40), (64, 40), **reference.ALPHA),
    Case("feature_alpha", _F.feature_alpha_dropout, (8, 32, 3, 4), (8, 32, 1, 1),
         {"channel_axis": 1}, **reference.ALPHA),
    Case("drop_connect", _drop_connect, (64, 40), (64, 40), keep=_keep_second_leaf),
    Case("zoneout", _zoneout, (64, 40), (64, 40), survivor=lambda x, rate, keep: x),
)
# fmt: on


class NoiseCase(NamedTuple):
    """A variant with continuous noise, on one shape.

    Attributes:
        name: the id of its tests.
        fn: called as ``fn(key, x, level, *, deterministic=False, **kwargs)``.
        shape: shape of x; the sharding laws split its first and last axis if they divide by 8.
        noise_shape: 1 where entries share their noise, else as ``shape``.
        kwargs: further arguments of ``fn``.
        level: a rate, or what the function takes in its place.
        equation: the result from x, the noise and the level, in float64 (the paper's).
        distribution: of the result where x is 1, from the level; a SciPy one.
        noise: the noise of the reference, from the words of a key and a shape.
    """

    name: str
    fn: Callable
    shape: tuple[int, ...]
    noise_shape: tuple[int, ...]
    kwargs: Mapping[str, Any]
    level: float
    equation: Callable
    distribution: Callable
    noise: Callable = reference.normal

    def call(self, key, x, level=None, deterministic=False):
        level = self.level if level is None else level
        return self.fn(key, x, level, deterministic=deterministic, **self.kwargs)


# fmt: off
NOISE_CASES = (
    NoiseCase("gaussian", _F.gaussian_dropout, (64, 40), (64, 40), {}, 0.3,
              reference.gaussian_dropout, lambda rate: stats.norm(1, (rate / (1 - rate)) ** 0.5)),
    NoiseCase("gaussian_broadcast", _F.gaussian_dropout, (32, 6, 40), (32, 1, 40),
              {"broadcast_dims": (-2,)}, 0.6,
              reference.gaussian_dropout, lambda rate: stats.norm(1, (rate / (1 - rate)) ** 0.5)),
    NoiseCase("noise", _F.gaussian_noise, (72, 72), (72, 72), {}, 0.5,
              reference.gaussian_noise, lambda stddev: stats.norm(1, stddev)),
    NoiseCase("noise_broadcast", _F.gaussian_noise, (2, 8, 536), (1, 8, 536),
              {"broadcast_dims": (0,)}, 2.0,
              reference.gaussian_noise, lambda stddev: stats.norm(1, stddev)),
    NoiseCase("neftune", _F.neftune_noise, (16, 8, 32), (16, 8, 32), {}, 5.0,
              reference.neftune_noise, lambda alpha: stats.uniform(1 - alpha / 16, alpha / 8),
              reference.uniform),
    # At the default temperature most results are one of two numbers, and have no density.
    NoiseCase("concrete", _F.concrete_dropout, (64, 40), (64, 40), {"temperature": 1.0}, -0.8,
              reference.concrete_dropout, reference.Concrete, reference.uniform),
    NoiseCase("variational_gaussian", _F.variational_gaussian_dropout, (16, 5, 32), (16, 5, 32),
              {}, -1.2, reference.variational_gaussian_dropout,
              lambda log_alpha: stats.norm(1, np.exp(log_alpha / 2))),
)
# fmt: on


class Call(NamedTuple):
    """A function as ``fn(key, x, rate, *, deterministic=False)``, whatever it draws.

    Attributes:
        name: the id of its tests.
        fn: the call.
        shape: of x.
        traced: whether the rate may be traced.
        complex: what a complex x gives: "parts", what both parts give; None where it is refused.
        level: a rate, or what the function takes instead.
        exact: whether compiled code gives the same bits: no sum or product has to be rounded.
        independent: whether the laws of keys and transforms apply: keys differ in what they drop.
    """

    name: str
    fn: Callable
    shape: tuple[int, ...]
    traced: bool = True
    complex: str | None = "parts"
    level: float = RATE
    exact: bool = True
    independent: bool = True


def layers_for(x):
    kernel = np.full((x.shape[-1], 16), 0.25, np.float32)
    return [{"kernel": kernel, "bias": np.ones(16, np.float32)}, {"kernel": kernel.T}]


def _drop_key(key, logits, rate, **flag):
    """As weights, since a dropped logit has no gradient to compare."""
    return jnp.exp(_F.drop_key(key, logits, rate, **flag))


def _attend(key, x, rate, **options):
    return _F.dot_product_attention(key, x, x, x, rate, **options)


def _lora(key, x, rate, **flag):
    a, b = (jnp.full(shape, 0.25, x.dtype) for shape in ((x.shape[-1], 2), (2, 5)))
    return low_rank(key, x, a, b, rate, **{"deterministic": False, "drop": "input", **flag})


def _tokens(key, x, rate, **flag):
    return _F.token_dropout(key, x, rate, num_prefix_tokens=1, **flag).kept


def _mlp(key, x, rate, **flag):
    return _F.thinned_mlp(key, x, layers_for(x), rate, activation=lambda x: x, **flag)


def _residual(key, x, rate, **flag):
    return _F.subset_residual(key, lambda x: x / 2, x, rate, **flag)


def _layer(key, x, rate, **flag):
    return _F.layer_drop(key, lambda x: 2 * x, x, rate, **flag)


def first_of_each(cases):
    """The first row of each function."""
    return tuple({case.fn: case for case in reversed(cases)}.values())


# fmt: off
# Every function once: the first rows of both tables, and those that draw or return something else.
CALLS = (
    *(Call(case.name, case.call, case.shape, exact=not case.affine)
      for case in first_of_each(CASES)),
    *(Call(case.name, case.call, case.shape, level=case.level, exact=False,
           complex=None if case.name in ("noise", "neftune") else "parts")
      for case in first_of_each(NOISE_CASES)),
    Call("mixout", _mixout, (64, 40), exact=False),
    Call("lora", _lora, (4, 40), exact=False),
    Call("drop_key", _drop_key, (2, 3, 8, 32), complex=None, exact=False),
    Call("attention_renormalized", functools.partial(_F.attention_dropout, renormalize=True),
         (2, 8, 40), complex="shares", independent=False),
    *(Call(f"attention_{mode}_{size}", functools.partial(_attend, mode=mode, block_size=size),
           (2, 5, 4, 8), complex=None, exact=False, independent=(mode, size) == ("weights", None))
      for mode in ("weights", "keys", "heads") for size in (None, 3)),
    Call("token_dropout", _tokens, (3, 9, 4), traced=False),
    Call("thinned_mlp", _mlp, (4, 8), traced=False, independent=False),
    Call("subset_residual", _residual, (8, 5), traced=False, independent=False),
    Call("layer_drop", _layer, (3, 4), independent=False),
)
# fmt: on

each_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
each_noise = pytest.mark.parametrize("case", NOISE_CASES, ids=lambda case: case.name)
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def key(seed=0):
    """A fresh key; used twice, the same seed is no reuse to the checker."""
    return jax.random.key(seed)


def data(shape, dtype=jnp.float32):
    """Numbers of both signs and many sizes, none of them one that a dropped entry counts as."""
    return jnp.asarray(_numbers(tuple(shape)).astype(dtype))


def symbolic(dims, *bounds, dtype=jnp.float32):
    """A shape whose sizes are symbols, as in ``"b, 40"``, with a dtype."""
    return jax.ShapeDtypeStruct(jax.export.symbolic_shape(dims, constraints=bounds), dtype)


@functools.cache
def _numbers(shape):
    x = np.random.default_rng(0).standard_normal(shape)
    taken = (x == 0) | (np.abs(x - reference.SATURATION) < 0.05)
    return np.where(taken, 1.0, x)


def derivatives(case):
    """A program, compiled once for several laws: ``(y, tangent, gradient)`` at `RATE`.

    Called as ``(key, x, weight)``; the weight is the tangent of x, and the cotangent of y.
    """
    return _derivatives(case.name)


@functools.cache  # by the name, since a row may hold a dict
def _derivatives(name):
    (case,) = (case for case in CASES if case.name == name)

    @jax.jit
    def run(key, x, weight):
        again = jax.random.clone(key)
        y, tangent = jax.jvp(lambda x: case.call(key, x, RATE), (x,), (weight,))
        return y, tangent, jax.vjp(lambda x: case.call(again, x, RATE), x)[1](weight)[0]

    return run


def kept_entries(case, y, rate):
    """Booleans of the shape of x: which entries of an output survive."""
    lost = case.lost(rate, float(case.keep_probability(rate)))
    limits = jnp.finfo(y.dtype)
    rounding = max(float(limits.eps), 2.0**-22)  # an affine map is that of float32
    smallest = float(limits.smallest_subnormal)
    return ~np.isclose(np.asarray(y, np.float64), lost, rtol=rounding, atol=smallest)


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


def assert_close(actual, desired):
    """The same tree of shapes and dtypes, and the same numbers but for the order of sums."""
    for one, other in zip(*map(jax.tree.leaves, (actual, desired)), strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


def assert_probability(hits, draws, probability):
    """Exact two-sided binomial test with the false-alarm rate above."""
    p_value = stats.binomtest(int(hits), int(draws), float(probability)).pvalue
    assert p_value > FALSE_ALARM, (
        f"{hits} of {draws} = {hits / draws:.6f}, expected {float(probability):.6f}, "
        f"p = {p_value:.1e}"
    )


_COMPILED = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, duration, **_: _COMPILED.append(event) if "backend_compile" in event else None
)


def compilations(call):
    """Number of programs that a call compiles, and its result."""
    before = len(_COMPILED)
    result = call()
    return len(_COMPILED) - before, result
