"""Laws 6 and 7 over every variant: one program for all rates and flags, and explicit keys."""

import re
import sys
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrop import masks
from jaxdrop.functional import dropout
from tests.support import reference
from tests.support.cases import (
    OTHER_KEYS,
    assert_probability,
    assert_same_bits,
    data,
    decisions,
    each_case,
    key,
)

RATE = 0.3


# Law 6: rate and deterministic may be traced.


@each_case
def test_one_trace_serves_all_rates_and_flags(case):
    traces = []

    @jax.jit
    def run(key, x, rate, deterministic):
        traces.append(1)
        return case.call(key, x, rate, deterministic)

    x = data(case.shape)
    for rate in (RATE, 0.1, 0.0, 1.0):
        assert_same_bits(run(key(), x, rate, False), case.call(key(), x, rate))
        assert_same_bits(run(key(), x, rate, True), x)
    assert len(traces) == 1


@each_case
def test_each_entry_of_an_array_of_rates_is_decided_by_its_own(case):
    """Two rates, alternating: each entry is kept exactly where a mask of its rate keeps it."""
    x = data(case.shape)
    rates = case.rates()
    y = np.asarray(case.call(key(), x, jnp.asarray(rates)))
    rates = np.broadcast_to(rates, case.shape)
    for rate in (0.1, RATE):
        own = rates == np.float32(rate)
        assert_same_bits(y[own], np.asarray(case.call(key(), x, rate))[own])


@pytest.mark.parametrize("rate_shape", [(), (40,), (16, 1, 1), (8, 40)], ids=str)
def test_a_constant_array_of_rates_is_the_scalar(rate_shape):
    x = data((16, 8, 40))
    rates = np.full(rate_shape, RATE, np.float32)
    assert_same_bits(dropout(key(), x, rates), dropout(key(), x, RATE))
    assert_same_bits(dropout(key(), x, jnp.asarray(rates)), dropout(key(), x, RATE))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_any_real_scalar_is_a_rate(dtype):
    """Under strict promotion too, where a float32 rate and a bfloat16 x do not mix."""
    x = data((64, 40), dtype)
    expected = dropout(key(), x, 0.25)
    for kind in (np.float16, np.float32, np.float64, jnp.bfloat16, jnp.float32, Fraction):
        assert_same_bits(dropout(key(), x, kind(0.25)), expected)
    assert_same_bits(dropout(key(), x, np.asarray(0.25)), expected)


def test_rates_differ_by_layer_under_scan():
    rates, x = jnp.array([0.0, 0.1, 0.5], jnp.float32), data((64, 40))

    def layer(x, key_and_rate):
        return dropout(key_and_rate[0], x, key_and_rate[1]), None

    scanned, _ = jax.lax.scan(layer, x, (jax.random.split(key(), 3), rates))
    for single, rate in zip(jax.random.split(key(), 3), rates):
        x = dropout(single, x, rate)
    assert_same_bits(scanned, x)


@each_case
@pytest.mark.parametrize("rate", [RATE, jnp.float32(RATE)], ids=["static", "traced"])
def test_deterministic_leaves_no_random_bit_in_the_program(case, rate):
    def program(deterministic):
        traced = jax.jit(lambda key, x: case.call(key, x, rate, deterministic)).trace(key(), x)
        return len(traced.jaxpr.eqns), traced.lower().as_text()

    x = data(case.shape)
    drawing = re.compile("xor|shift|rng|random|threefry")
    equations, text = program(True)
    assert equations == 0
    assert not drawing.search(text)
    equations, text = program(False)
    assert equations > 0
    assert drawing.search(text)
    assert case.call(None, x, rate, True) is x
    assert case.call(None, x, rate, np.True_) is x


def test_an_eager_call_asks_little_of_python():
    calls, x, count = [], jnp.asarray(data((8, 16))), lambda frame, event, _: calls.append(event)
    with jax.debug_key_reuse(False):  # the checker asks much of Python itself
        for number in range(2):  # the first call compiles
            used = key(number)
            calls.clear()
            sys.setprofile(count)
            dropout(used, x, RATE)
            sys.setprofile(None)
    # 97; with 125 of them, and two reductions of NumPy, they took longer than dropping (128, 512).
    assert calls.count("call") + calls.count("c_call") <= 110


@each_case
def test_ends_known_now_need_no_key(case):
    x = data(case.shape)
    assert case.call(None, x, 0.0) is x
    assert_same_bits(case.call(None, x, 1), jnp.zeros_like(x))


# Law 7: explicit keys.


@each_case
@pytest.mark.parametrize("rate", [RATE, jnp.float32(RATE)], ids=["static", "traced"])
def test_a_reused_key_is_caught(case, rate):
    def twice(key, x):
        return case.call(key, x, rate), case.call(key, x, rate)

    x, one = data(case.shape), key()
    for run in (twice, jax.jit(twice)):
        with pytest.raises(jax.errors.KeyReuseError, match="consumed"):
            run(key(), x)
    first, second = case.call(jax.random.clone(one), x, rate), case.call(one, x, rate)
    assert_same_bits(first, second)


def test_a_key_is_used_up_for_others_too():
    for draw in (
        lambda key: masks.sample(key, RATE, (4,)),
        lambda key: dropout(key, jnp.ones(4), RATE),
    ):
        one = key()
        draw(one)
        with pytest.raises(jax.errors.KeyReuseError, match="consumed"):
            jax.random.normal(one)


@each_case
def test_a_legacy_key_is_the_typed_one(case):
    x = data(case.shape)
    expected = case.call(key(5), x, RATE)
    assert_same_bits(case.call(jax.random.PRNGKey(5), x, RATE), expected)
    assert_same_bits(case.call(np.asarray(jax.random.PRNGKey(5)), x, RATE), expected)


@each_case
def test_different_keys_give_different_masks(case):
    """With 512 groups or more, two masks are equal with a chance below 2**-400."""
    keys = [key(0), key(1), key(2**31), *jax.random.split(key(3), 3)]
    keys += [jax.random.fold_in(key(4), i) for i in range(3)]
    x = data(case.shape)
    seen = {decisions(case, case.call(one, x, RATE), RATE).tobytes() for one in keys}
    assert len(seen) == len(keys)


@pytest.mark.parametrize("impl", OTHER_KEYS)
def test_other_implementations_of_keys_work(impl):
    x = jnp.ones((511, 513))

    def draw(rate, seed=0):
        return dropout(jax.random.key(seed, impl=impl), x, rate)

    y = draw(0.1)
    words = reference.cipher_key(jax.random.key_data(jax.random.key(0, impl=impl)))
    np.testing.assert_array_equal(np.asarray(y) != 0, reference.keep(words, 0.1, x.shape))
    assert_probability(np.sum(np.asarray(y) == 0), x.size, 1 - reference.keep_probability(0.1))
    assert_same_bits(draw(jnp.float32(0.1)), y)
    assert_same_bits(draw(jnp.full((513,), 0.1, jnp.float32)), y)
    assert (np.asarray(draw(0.1, seed=1)) != np.asarray(y)).any()
    reused = jax.random.key(0, impl=impl)
    with pytest.raises(jax.errors.KeyReuseError, match="consumed"):
        dropout(reused, x, 0.1) + dropout(reused, x, 0.1)


@pytest.mark.parametrize("impl", OTHER_KEYS)
def test_vmap_over_keys_of_other_implementations_is_the_loop(impl):
    """Where JAX itself draws for all rbg keys of a batch from the first."""
    x = jnp.ones((64, 40))

    def keys():
        return jax.random.split(jax.random.key(0, impl=impl), 3)

    mapped = jax.vmap(lambda key: dropout(key, x, RATE))(keys())
    for single, y in zip(keys(), mapped):
        assert_same_bits(y, dropout(single, x, RATE))


@pytest.mark.parametrize("impl", OTHER_KEYS)
def test_a_legacy_key_belongs_to_the_default_implementation(impl):
    x = jnp.ones((64, 48))
    with jax.default_prng_impl(impl):
        y = dropout(jax.random.PRNGKey(3), x, RATE)
        with pytest.raises(ValueError, match="a batch of shape"):
            dropout(jnp.stack([jax.random.PRNGKey(3)] * 2), x, RATE)
    assert_same_bits(y, dropout(jax.random.key(3, impl=impl), x, RATE))


@pytest.mark.parametrize("rate", [RATE, jnp.float32(RATE)], ids=["static", "traced"])
def test_nothing_is_drawn_in_a_loop_on_a_cpu(rate):
    """XLA may compile a loop for one thread; the one that is there never runs."""
    x = jax.ShapeDtypeStruct((2048, 1024), jnp.float32)
    program = jax.jit(lambda key, x: dropout(key, x, rate)).lower(key(), x).compile()
    loops = re.findall(r"body=%?([\w.\-]+)", program.as_text())
    assert len(loops) == 1
    (body,) = re.findall(
        rf"%?{re.escape(loops[0])} [^{{]*{{(.*?)\n}}", program.as_text(), re.DOTALL
    )
    assert "multiply" not in body


@pytest.mark.parametrize("rate", [0.5, RATE], ids=["one step", "many"])
@pytest.mark.parametrize(("platform", "loops"), [("tpu", 1), ("cuda", 0)])
def test_a_tpu_draws_in_a_loop_and_a_gpu_in_none(platform, loops, rate):
    """Steps that are written out take XLA a minute to compile for a TPU."""
    traced = jax.jit(lambda key, x: dropout(key, x, rate)).trace(key(), data((64, 512)))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.while") == loops
    # XLA writes a loop out if it knows that it has one step.
    assert text.count("optimization_barrier") == (loops and rate == 0.5)
