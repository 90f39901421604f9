"""`jaxdrop.nnx` beside ``flax.nnx``: whatever Flax's Dropout does, ours does too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdrop import functional
from jaxdrop import nnx as ours
from tests.support import reference
from tests.support.cases import assert_probability, assert_same_bits, data, key
from tests.support.transforms import TRANSFORMS

BOTH = (nnx.Dropout, ours.Dropout)
OTHERS = (ours.SpatialDropout, ours.VariationalDropout)
both = pytest.mark.parametrize("cls", BOTH, ids=["flax", "jaxdrop"])
switched = pytest.mark.parametrize(
    "cls", [*BOTH, *OTHERS], ids=["flax", "jaxdrop", "spatial", "variational"]
)


# What holds for both.


@both
def test_realised_rates(cls):
    x = jnp.ones((512, 512))
    for percent in (10, 50, 90):
        rate = percent / 100
        y = cls(rate)(x, rngs=key(percent))
        keep = reference.keep_probability(rate) if cls is ours.Dropout else 1 - rate
        assert_probability((y != 0).sum(), x.size, keep)


@both
@pytest.mark.parametrize("axes", [(-1,), (0, 2)], ids=str)
def test_broadcast_dims_share_one_decision_and_no_others_do(cls, axes):
    kept = np.asarray(cls(0.5, broadcast_dims=axes)(jnp.ones((10, 10, 10)), rngs=key())) != 0
    for axis in range(3):
        assert (kept == kept.take([0], axis)).all() == (axis in {a % 3 for a in axes})


@switched
def test_own_stream_counts_and_one_in_the_call_gives_the_same(cls):
    own, given = cls(0.5, rngs=nnx.Rngs(dropout=0)), cls(0.5)
    rngs = nnx.Rngs(dropout=0).fork()
    traces, seen = [], []

    @nnx.jit
    def run(layer, x, rngs=None):
        traces.append(1)
        return layer(x, rngs=rngs)

    x = jnp.ones((8, 8, 8))
    assert own.rngs.count[...] == 0
    for count in (1, 2):
        seen.append(run(own, x))
        assert_same_bits(run(given, x, rngs), seen[-1])
        assert own.rngs.count[...] == rngs.dropout.count[...] == count
    assert (seen[0] != seen[1]).any()
    assert len(traces) == 2


@switched
def test_stream_in_the_call_comes_first(cls):
    x = jnp.ones((8, 8, 8))
    first, second = cls(0.5, rngs=nnx.Rngs(dropout=0)), cls(0.5, rngs=nnx.Rngs(dropout=1))
    expected = first(x)
    assert (second(x) != expected).any()
    forked = nnx.Rngs(dropout=0).fork()
    for given in (forked, nnx.Rngs(dropout=0).dropout.fork()):
        assert_same_bits(second(x, rngs=given), expected)
    assert second.rngs.count[...] == 1
    # A stream may be given to the constructor too; it is forked, not shared.
    stream = nnx.Rngs(dropout=0).dropout
    assert_same_bits(cls(0.5, rngs=stream)(x), expected)


@switched
def test_flag_in_the_call_comes_first(cls):
    layer, x = cls(0.5, deterministic=True), jnp.ones((8, 8, 8))
    assert layer(x) is x
    assert set(np.unique(layer(x, deterministic=False, rngs=key()))) == {0.0, 2.0}
    layer = cls(0.5, rngs=nnx.Rngs(0))
    assert layer(x, deterministic=True) is x
    assert layer.rngs.count[...] == 0


@switched
def test_view_changes_the_view_alone(cls):
    layer, x = cls(0.5, rngs=nnx.Rngs(0)), jnp.ones((8, 8, 8))
    off = nnx.view(layer, deterministic=True)
    assert off(x) is x
    assert set(np.unique(layer(x))) == {0.0, 2.0}
    assert set(np.unique(nnx.view(off, deterministic=False)(x))) == {0.0, 2.0}


@switched
def test_train_and_eval_switch(cls):
    model, x = nnx.Sequential(cls(0.5, rngs=nnx.Rngs(0))), jnp.ones((8, 8, 8))
    model.eval()
    assert model(x) is x
    model.train()
    assert set(np.unique(model(x))) == {0.0, 2.0}


@switched
def test_errors(cls):
    x = jnp.ones((4, 4, 4))
    name = cls.__name__
    missing = f"`deterministic` is False, but no `rngs` argument was provided to {name}"
    with pytest.raises(ValueError, match=missing):
        cls(0.5)(x)
    with pytest.raises(ValueError, match=missing):
        nnx.view(cls(0.5, deterministic=True), deterministic=False)(x)
    with pytest.raises(ValueError, match=f"No `deterministic` argument was provided to {name}"):
        cls(0.5, deterministic=None)(x)
    with pytest.raises(TypeError, match=r"rngs must be a Rngs, RngStream or None, but got .*int"):
        cls(0.5, rngs=0)
    with pytest.raises(TypeError, match=r"rngs must be a Rngs, RngStream or jax.Array, but got"):
        cls(0.5)(x, rngs=0)


@both
def test_state_has_the_tree_of_flax(cls):
    """So that a checkpoint of a model with one is read into a model with the other."""
    state, flax = (nnx.state(c(0.5, rngs=nnx.Rngs(0))) for c in (cls, nnx.Dropout))
    assert jax.tree.structure(state) == jax.tree.structure(flax)


# What only ours does.


def test_is_flax_dropout():
    assert issubclass(ours.Dropout, nnx.Dropout)


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize(
    ("cls", "function"),
    [
        (ours.Dropout, functional.dropout),
        (ours.MCDropout, functional.mc_dropout),
        (ours.SpatialDropout, functional.spatial_dropout),
        (ours.VariationalDropout, functional.variational_dropout),
    ],
    ids=lambda target: target.__name__,
)
def test_key_in_the_call_works_in_transforms_of_jax(cls, function, transform):
    """Where Flax's own stream would raise a TraceContextError, or freeze the mask."""
    layer, x = cls(0.5, rngs=nnx.Rngs(0)), jnp.ones((8, 4, 32))

    def call(key, x):
        return layer(x, rngs=key)

    masks = TRANSFORMS[transform](call, jax.random.split(key(), 3), x)
    for mask, single in zip(masks, jax.random.split(key(), 3)):
        assert_same_bits(mask, function(single, x, 0.5))
    assert len({np.asarray(mask).tobytes() for mask in masks}) == 3
    assert layer.rngs.count[...] == 0


def test_rate_and_flag_may_be_traced():
    traces = []

    @jax.jit
    def traced(x, rate, flag):
        traces.append(1)
        field = ours.Dropout(nnx.data(rate), deterministic=nnx.data(flag))(x, rngs=key())
        return field, ours.Dropout(nnx.data(rate))(x, deterministic=flag, rngs=key())

    x = data((64, 40))
    for rate in (0.3, 0.0, 1.0):
        for y in traced(x, rate, False):
            assert_same_bits(y, ours.Dropout(rate)(x, rngs=key()))
        for y in traced(x, rate, True):
            assert_same_bits(y, x)
    assert len(traces) == 1


@pytest.mark.parametrize("cls", [ours.Dropout, ours.GaussianDropout])
def test_rate_may_be_set_to_an_array(cls):
    layer, x, traces = cls(0.1, rngs=nnx.Rngs(0)), data((64, 40)), []

    @nnx.jit
    def inside(layer, rate):
        traces.append(1)
        layer.rate = rate
        return layer(x, rngs=key())

    @nnx.jit
    def outside(layer):
        return layer(x, rngs=key())

    for rate in (0.3, 0.6, 0.0, 0.9):
        expected = cls(rate)(x, rngs=key())
        np.testing.assert_allclose(inside(layer, rate), expected, rtol=1e-5, atol=1e-6)
        assert layer.rate == np.float32(rate)
    assert len(traces) == 2  # for a layer with a number, then for one with an array
    for rate in (jnp.asarray(0.3), np.asarray(0.6, np.float32), 0.2):
        layer.rate = rate
        expected = cls(float(rate))(x, rngs=key())
        np.testing.assert_allclose(outside(layer), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [np.float32, jnp.float32, jnp.bfloat16])
def test_bfloat16_with_any_kind_of_rate(kind):
    x, rate = data((64, 40), jnp.bfloat16), kind(0.25)
    layer = ours.Dropout(nnx.data(rate) if isinstance(rate, jax.Array) else rate)
    assert_same_bits(layer(x, rngs=key()), ours.Dropout(0.25)(x, rngs=key()))


class Evaluated(nnx.Module):
    """All dropout may be off, but for the last."""

    def __init__(self, mc):
        self.layers = nnx.List([cls(0.5, rngs=nnx.Rngs(0)) for cls in (*BOTH, *OTHERS)])
        self.mc = mc

    def __call__(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.mc(x)


def _switch_off(model, how):
    if how == "view":
        return nnx.view(model, deterministic=True)
    model.eval() if how == "eval" else model.set_attributes(deterministic=True)
    return model


@pytest.mark.parametrize("how", ["eval", "view", "set_attributes"])
def test_mc_dropout_stays_on_among_dropout_that_is_off(how):
    model = _switch_off(Evaluated(ours.MCDropout(0.5, rngs=nnx.Rngs(1))), how)
    x = jnp.ones((4, 8, 8))
    first, second = model(x), model(x)
    assert set(np.unique(first)) == set(np.unique(second)) == {0.0, 2.0}
    assert (first != second).any()


@pytest.mark.parametrize("how", ["train", "view"])
def test_mc_dropout_off_by_its_own_flag_stays_off(how):
    off = ours.MCDropout(0.5, deterministic=True)
    model, x = nnx.Sequential(ours.Dropout(0.0), off), jnp.ones((8, 8))
    if how == "view":
        model = nnx.view(model, deterministic=False)
    else:
        model.train()
    assert model(x) is x


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("argument", [None, False, True])
def test_mc_dropout_obeys_its_own_flag(own, argument):
    """The argument of the call goes before that of the constructor."""
    x = jnp.ones((8, 8))
    y = ours.MCDropout(0.5, deterministic=own, rngs=nnx.Rngs(0))(x, deterministic=argument)
    on = not (own if argument is None else argument)
    assert bool((y != x).any()) == on
