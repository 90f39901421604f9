"""`jaxdrop.linen` beside ``flax.linen``: whatever Flax's Dropout does, ours does too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.errors import InvalidRngError

from jaxdrop import linen
from tests.support import reference
from tests.support.cases import assert_probability, assert_same_bits, data, key

BOTH = (nn.Dropout, linen.Dropout)
both = pytest.mark.parametrize("cls", BOTH, ids=["flax", "jaxdrop"])
switched = pytest.mark.parametrize(
    "cls",
    [*BOTH, linen.SpatialDropout, linen.VariationalDropout],
    ids=["flax", "jaxdrop", "spatial", "variational"],
)


def run(layer, x, seed=0, **kwargs):
    return layer.apply({}, x, rngs={"dropout": key(seed)}, **kwargs)


# What holds for both.


@both
def test_keys_and_flag_decide(cls):
    layer, x = cls(0.5), jnp.ones((20, 20))
    first, again, other = (run(layer, x, seed, deterministic=False) for seed in (1, 1, 2))
    assert_same_bits(first, again)
    assert (first != other).any()
    for y in (first, other):
        assert set(np.unique(y)) == {0.0, 2.0}
    assert_same_bits(run(layer, x, deterministic=True), x)


@both
def test_realised_rates(cls):
    x = jnp.ones((512, 512))
    for percent in (10, 40, 70, 90):
        rate = percent / 100
        y = run(cls(rate, deterministic=False), x, percent)
        ours = cls is linen.Dropout
        keep = reference.keep_probability(rate) if ours else 1 - rate
        assert_probability((y != 0).sum(), x.size, keep)
        np.testing.assert_allclose(y[y != 0], 1 / float(keep), rtol=1e-6)


@both
@pytest.mark.parametrize("rate", [0, 0.0, 1, 1.0])
def test_limits_need_no_key_and_have_finite_gradients(cls, rate):
    layer, x = cls(rate, deterministic=False), data((20, 20))
    y, pull = jax.vjp(lambda x: layer.apply({}, x), x)
    assert_same_bits(y, x if rate == 0 else jnp.zeros_like(x))
    np.testing.assert_array_equal(pull(jnp.ones_like(x))[0], 1 - rate)


@both
@pytest.mark.parametrize(
    ("ndim", "axes"),
    [(2, (0,)), (3, (1, 2)), (3, (-1,)), (4, (0, 2, 3))],
    ids=str,
)
def test_broadcast_dims_share_one_decision_and_no_others_do(cls, ndim, axes):
    layer = cls(0.5, broadcast_dims=axes, deterministic=False)
    kept = np.asarray(run(layer, jnp.ones((10,) * ndim))) != 0
    axes = {axis % ndim for axis in axes}
    for axis in range(ndim):
        shared = (kept == kept.take([0], axis)).all()
        assert shared == (axis in axes)


@both
def test_key_in_the_call_comes_first(cls):
    class Pair(nn.Module):
        @nn.compact
        def __call__(self, x):
            one = self.make_rng("dropout")
            first = cls(0.5, deterministic=False)(x, rng=jax.random.clone(one))
            return first, cls(0.5, deterministic=False)(x, rng=one), cls(0.5)(x, False)

    first, second, third = run(Pair(), jnp.ones((20, 20)))
    assert_same_bits(first, second)
    assert (first != third).any()


@both
def test_key_given_twice_is_caught(cls):
    layer, x, one = cls(0.5, deterministic=False), jnp.ones((4, 4)), key()
    layer.apply({}, x, rng=one)
    with pytest.raises(jax.errors.KeyReuseError, match="consumed"):
        layer.apply({}, x, rng=one)


@both
def test_init_makes_no_variables(cls):
    layer, x = cls(0.5, deterministic=False), jnp.ones((4, 4))
    assert layer.init(key(), x) == {}
    assert layer.init({"params": key(), "dropout": key(1)}, x) == {}


# Errors.


@switched
@pytest.mark.parametrize("field", [None, True])
def test_flag_is_given_exactly_once(cls, field):
    """In the constructor or in the call; the message is Flax's own."""
    messages = []
    for layer in (cls(0.5, deterministic=field), nn.Dropout(0.5, deterministic=field)):
        with pytest.raises(ValueError, match="deterministic") as caught:
            run(layer, jnp.ones((4, 4, 4)), deterministic=field)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@switched
def test_missing_key_is_named(cls):
    class Parent(nn.Module):
        @nn.compact
        def __call__(self, x):
            return cls(0.5, rng_collection="noise", name="drop")(x, deterministic=False)

    x = jnp.ones((4, 4, 4))
    with pytest.raises(InvalidRngError, match='needs PRNG for "dropout"'):
        cls(0.5, deterministic=False).apply({}, x)
    with pytest.raises(InvalidRngError, match='drop needs PRNG for "noise"'):
        run(Parent(), x)


# What only ours does.


def test_is_flax_dropout():
    assert issubclass(linen.Dropout, nn.Dropout)


def test_rate_and_flag_may_be_traced():
    traces = []

    @jax.jit
    def traced(x, rate, flag):
        traces.append(1)
        field = linen.Dropout(rate, deterministic=flag).apply({}, x, rngs={"dropout": key()})
        return field, run(linen.Dropout(rate), x, deterministic=flag)

    x = data((64, 40))
    for rate in (0.3, 0.0, 1.0):
        for y in traced(x, rate, False):
            assert_same_bits(y, run(linen.Dropout(rate), x, deterministic=False))
        for y in traced(x, rate, True):
            assert_same_bits(y, x)
    assert len(traces) == 1


@pytest.mark.parametrize("kind", [np.float32, np.float64, jnp.float32, jnp.bfloat16])
def test_bfloat16_with_any_kind_of_rate(kind):
    """Flax divides x by the rate's dtype, which strict promotion refuses."""
    x = data((64, 40), jnp.bfloat16)
    y = run(linen.Dropout(kind(0.25), deterministic=False), x)
    assert y.dtype == jnp.bfloat16
    assert_same_bits(y, run(linen.Dropout(0.25, deterministic=False), x))


class Evaluated(nn.Module):
    """All dropout off, but for the last."""

    mc: nn.Module

    @nn.compact
    def __call__(self, x):
        x = linen.Dropout(0.5, deterministic=True)(x)
        x = linen.SpatialDropout(0.5)(x, deterministic=True)
        x = linen.VariationalDropout(0.5, deterministic=True)(x)
        return self.mc(x)


def test_mc_dropout_stays_on_among_dropout_that_is_off():
    model, x = Evaluated(linen.MCDropout(0.5)), jnp.ones((4, 8, 8))
    first, second = run(model, x, 1), run(model, x, 2)
    assert set(np.unique(first)) == {0.0, 2.0}
    assert (first != second).any()
    assert_same_bits(Evaluated(linen.MCDropout(0.5, deterministic=True)).apply({}, x), x)


@pytest.mark.parametrize("field", [False, True])
@pytest.mark.parametrize("argument", [None, False, True])
def test_mc_dropout_obeys_its_own_flag(field, argument):
    """The argument goes before the field."""
    x = jnp.ones((8, 8))
    y = run(linen.MCDropout(0.5, deterministic=field), x, deterministic=argument)
    on = not (field if argument is None else argument)
    assert bool((y != x).any()) == on
