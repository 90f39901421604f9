"""Zoneout against its paper; the laws run over it from a state of zeros in `cases`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType

import jaxdrop
from jaxdrop import mc, zoneout
from tests.support import own, reference
from tests.support.cases import assert_same_bits, data, key
from tests.support.models import each_framework

RATE = 0.3
OLD, NEW = data((64, 40)), data((40, 64)).T


def krueger(keep_new, h_old, h_new):
    """Equation 2, d being the mask of the entries that keep their old value."""
    d = 1 - keep_new.astype(h_old.dtype)
    return d * h_old + (1 - d) * h_new


@pytest.mark.parametrize("rate", [RATE, jnp.float32(RATE)], ids=["static", "traced"])
def test_is_equation_2_of_krueger(rate):
    keep = reference.keep(jax.random.key_data(key()), RATE, OLD.shape)
    expected = krueger(keep, np.asarray(OLD), np.asarray(NEW))
    np.testing.assert_array_equal(zoneout(key(), OLD, NEW, rate), expected)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("rate", [RATE, 0.1])
def test_deterministic_is_the_mean_with_the_realised_probability(dtype, rate):
    old, new = OLD.astype(dtype), NEW.astype(dtype)
    keep = float(reference.keep_probability(rate))
    exact = (1 - keep) * np.asarray(old, np.float64) + keep * np.asarray(new, np.float64)
    for flag in (True, np.True_, jnp.bool_(True)):
        one = None if flag is True or flag is np.True_ else key()
        mean = zoneout(one, old, new, rate, deterministic=flag)
        assert mean.dtype == dtype
        # Half an ulp, and what float32 loses where the two terms cancel.
        ulp = 2.0 ** (np.frexp(exact)[1] - 1 - jnp.finfo(dtype).nmant)
        lost = 2.0**-22 * np.maximum(abs(np.asarray(old)), abs(np.asarray(new))).astype(np.float64)
        assert (abs(np.asarray(mean, np.float64) - exact) <= 0.5 * ulp + lost).all()


def test_rate_and_flag_share_one_program():
    traces = []

    @jax.jit
    def run(key, rate, flag):
        traces.append(1)
        return zoneout(key, OLD, NEW, rate, deterministic=flag)

    for rate in (RATE, 0.1):
        assert_same_bits(run(key(), rate, False), zoneout(key(), OLD, NEW, rate))
        mean = zoneout(None, OLD, NEW, rate, deterministic=True)
        np.testing.assert_allclose(run(key(), rate, True), mean, rtol=1e-6, atol=1e-6)
    for flag in (False, True):
        assert_same_bits(run(key(), 0.0, flag), NEW)
        assert_same_bits(run(key(), 1.0, flag), OLD)
    assert len(traces) == 1


def test_known_ends_are_the_states_themselves():
    for flag in (False, True, jnp.bool_(True)):
        assert zoneout(None, OLD, NEW, 0, deterministic=flag) is NEW
        assert zoneout(None, OLD, NEW, 1.0, deterministic=flag) is OLD


@pytest.mark.parametrize("flag", [False, True])
def test_traced_ends_are_one_state_whatever_the_other_holds(flag):
    @jax.jit
    def value_and_gradients(h_old, h_new, rate):
        step = lambda *states: zoneout(key(), *states, rate, deterministic=flag)  # noqa: E731
        h, pull = jax.vjp(step, h_old, h_new)
        return h, *pull(jnp.ones_like(h))

    poison = jnp.full_like(OLD, jnp.nan)
    for rate, states, expected in ((0, (poison, NEW), NEW), (1, (OLD, poison), OLD)):
        h, of_old, of_new = value_and_gradients(*states, rate)
        assert_same_bits(h, expected)
        np.testing.assert_array_equal(of_old, rate)
        np.testing.assert_array_equal(of_new, 1 - rate)


def test_the_mean_draws_nothing():
    def mean(h_old, h_new):
        return zoneout(None, h_old, h_new, RATE, deterministic=True)

    text = jax.jit(mean).lower(OLD, NEW).as_text()
    assert not any(word in text for word in ("xor", "rng", "threefry"))


@pytest.mark.parametrize("rate", [RATE, jnp.float32(RATE)], ids=["static", "traced"])
@pytest.mark.parametrize("poison", [np.inf, np.nan])
def test_the_state_that_is_not_taken_is_gone_and_so_is_its_gradient(rate, poison):
    keep = reference.keep(jax.random.key_data(key()), RATE, OLD.shape)
    old, new = jnp.where(keep, poison, OLD), jnp.where(keep, NEW, poison)
    h, pull = jax.vjp(lambda *states: zoneout(key(), *states, rate), old, new)
    assert_same_bits(h, jnp.where(keep, NEW, OLD))
    of_old, of_new = pull(jnp.ones_like(h))
    np.testing.assert_array_equal(of_old, ~keep)
    np.testing.assert_array_equal(of_new, keep)


def test_gradient_by_both_states_keeps_one_bit_an_entry():
    def step(h_old, h_new):
        return zoneout(key(), jnp.sin(h_old) * 2, h_new * 3, jnp.float32(RATE))

    plain = jax.eval_shape(lambda h: jax.vjp(jnp.sin, h)[1], OLD)
    kept = jax.eval_shape(lambda *states: jax.vjp(step, *states)[1], OLD, NEW)
    size = [sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(tree)) for tree in (plain, kept)]
    assert size[1] <= size[0] + OLD.size / 8 + 64


def test_an_array_of_rates_holds_in_the_mean_too():
    rates = jnp.asarray(np.resize(np.float32([0, RATE, 1]), 40))
    mean = zoneout(None, OLD, NEW, rates, deterministic=True)
    assert_same_bits(mean[:, 0::3], NEW[:, 0::3])
    assert_same_bits(mean[:, 2::3], OLD[:, 2::3])
    static = zoneout(None, OLD, NEW, RATE, deterministic=True)
    np.testing.assert_allclose(mean[:, 1::3], static[:, 1::3], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("rate", [RATE, np.full((1, 40), RATE, np.float32)], ids=["one", "many"])
def test_the_mean_follows_the_sharding_of_the_states(kind, rate):
    mesh = jax.make_mesh((4, 2), ("data", "model"), (kind,) * 2)
    sharding = jax.NamedSharding(mesh, jax.P("data", "model"))
    states = [jax.device_put(np.asarray(h), sharding) for h in (OLD, NEW)]
    mean = zoneout(None, *states, jnp.asarray(rate), deterministic=True)
    assert mean.sharding.is_equivalent_to(sharding, 2)
    expected = zoneout(None, OLD, NEW, RATE, deterministic=True)
    np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=1e-6)


def test_a_traced_rate_out_of_range_gives_nan():
    for flag in (False, True):
        run = jax.jit(lambda rate: zoneout(key(), OLD, NEW, rate, deterministic=flag))  # noqa: B023
        assert jnp.isnan(run(1.5)).all()


def test_classes_are_the_function():
    own.check_classes("zoneout", (OLD, NEW))


class Cell(nn.Module):
    @nn.compact
    def __call__(self, h_old, h_new):
        return jaxdrop.linen.Zoneout(RATE, deterministic=True)(h_old, h_new=h_new)


class NnxCell(nnx.Module):
    def __init__(self):
        self.zoneout = jaxdrop.nnx.Zoneout(RATE)

    def __call__(self, h_old, h_new):
        return self.zoneout(h_old, h_new=h_new, deterministic=True)


@each_framework
def test_adapters_turn_it_on(framework):
    fn = mc.from_linen(Cell(), {}) if framework == "linen" else mc.from_nnx(NnxCell())
    taken = np.asarray(fn(key(), OLD, NEW)) == np.asarray(NEW)
    np.testing.assert_array_equal(np.asarray(fn(key(), OLD, NEW))[~taken], np.asarray(OLD)[~taken])
    assert 0.6 < taken.mean() < 0.8
    (site,) = mc.audit(fn, key(), OLD, NEW).sites
    assert (site.kind, site.rate, site.shape, site.live) == ("Zoneout", RATE, OLD.shape, True)
