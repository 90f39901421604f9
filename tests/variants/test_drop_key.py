"""DropKey: the laws of `tests.laws.test_laws` for logits, whose dropped value is -inf."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxdrop import drop_key
from tests.laws.test_laws_gradient import allowed_bytes, kept_bytes, really_kept_bytes
from tests.laws.test_laws_sharding import compiled, placement, put
from tests.support import reference
from tests.support.cases import OTHER_KEYS, assert_probability, assert_same_bits, data, key

RATE = 0.3
# Packed along the queries, the keys, the heads, and through queries and keys together.
SHAPES = ((2, 3, 64, 20), (2, 3, 10, 64), (2, 32, 10, 20), (4, 3, 12, 43))
X = data(SHAPES[0])
CAUSAL = np.tril(np.ones((64, 64), bool))
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def li(keep, logits):
    """Algorithm 1 row by row: the mask of -inf, but for rows that it would leave nothing of."""
    rows = logits.reshape(-1, logits.shape[-1]).copy()
    for row, kept in zip(rows, keep.reshape(rows.shape)):
        if any(k and logit != -math.inf for k, logit in zip(kept, row)):
            row[~kept] = -math.inf
    return rows.reshape(logits.shape)


def expected(x, rate):
    keep = reference.keep(jax.random.key_data(key()), rate, x.shape)
    return li(keep, np.asarray(x))


@each_shape
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("traced", [False, True], ids=["static", "traced"])
@pytest.mark.parametrize("rate", [RATE, 0.95])
def test_is_algorithm_1_of_li(shape, dtype, traced, rate):
    """At 0.95 about every second row would be lost."""
    x = data(shape, dtype)
    y = drop_key(key(), x, jnp.float32(rate) if traced else rate)
    assert_same_bits(y, expected(x, rate))


def test_logits_that_came_as_minus_infinity_do_not_count_as_survivors():
    x = jnp.where(CAUSAL, data((2, 4, 64, 64)), -jnp.inf)
    y = drop_key(key(), x, 0.7)
    assert_same_bits(y, expected(x, 0.7))
    assert_same_bits(y[:, :, 0], x[:, :, 0])  # the first query sees a single key

    def attention(x):
        return jnp.sum(jax.nn.softmax(drop_key(key(), x, 0.7)) * data(x.shape))

    value, gradient = jax.value_and_grad(attention)(x)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[np.isneginf(np.asarray(y))], 0.0)
    assert jnp.isnan(jax.nn.softmax(drop_key(key(), jnp.full((2, 8), -jnp.inf), 0.5))).all()


def test_realised_rate_and_that_of_rows():
    """A row of two keys at a half: each of its four masks, but that the empty one spares both."""
    y = np.asarray(drop_key(key(), jnp.ones((2**16, 32)), 0.1))
    assert_probability(np.isneginf(y).sum(), y.size, 1 - reference.keep_probability(0.1))
    y = np.isneginf(np.asarray(drop_key(key(1), jnp.ones((2**16, 2)), 0.5)))
    assert_probability((~y).all(axis=1).sum(), 2**16, 0.5)
    assert_probability(y[:, 0].sum(), 2**16, 0.25)
    assert not y.all(axis=1).any()


def test_one_trace_serves_all_rates_and_flags_and_both_ends_are_x():
    traces = []

    @jax.jit
    def run(key, rate, flag):
        traces.append(1)
        return drop_key(key, X, rate, deterministic=flag)

    for rate in (RATE, 0.1, 0.0, 1.0):
        assert_same_bits(run(key(), rate, False), drop_key(key(), X, rate))
        assert_same_bits(run(key(), rate, True), X)
    assert len(traces) == 1
    for rate in (0, 1.0):
        assert drop_key(None, X, rate) is X
        assert_same_bits(run(key(), rate, False), X)
    assert drop_key(None, X, RATE, deterministic=True) is X


def test_an_array_of_rates():
    rates = np.resize(np.float32([0, RATE, 1]), (3, 1, 1))
    y = np.asarray(drop_key(key(), X, jnp.asarray(rates)))
    for head, rate in enumerate((0.0, RATE, 1.0)):
        assert_same_bits(y[:, head], np.asarray(drop_key(key(), X, rate))[:, head])


def test_a_traced_rate_out_of_range_gives_nan():
    assert jnp.isnan(jax.jit(lambda rate: drop_key(key(), X, rate))(1.5)).all()


@pytest.mark.parametrize("rate", [RATE, jnp.float32(RATE)], ids=["static", "traced"])
def test_a_dropped_logit_is_gone_and_so_is_its_gradient(rate):
    keep = reference.keep(jax.random.key_data(key()), RATE, X.shape)
    for poison in (jnp.nan, jnp.inf):
        y, pull = jax.vjp(lambda x: drop_key(key(), x, rate), jnp.where(keep, X, poison))
        assert_same_bits(y, jnp.where(keep, X, -jnp.inf))
        assert_same_bits(pull(X)[0], jnp.where(keep, X, 0.0))
    tangent = jax.jvp(lambda x: drop_key(key(), x, rate), (X,), (X,))[1]
    assert_same_bits(tangent, jnp.where(keep, X, 0.0))


@pytest.mark.parametrize("shape", [(4, 4, 64, 20), (4, 3, 12, 43), (64, 8, 10, 64)], ids=str)
def test_one_bit_an_entry_is_kept(shape):
    x, limit = data(shape), allowed_bytes(shape)
    assert really_kept_bytes(lambda x: drop_key(key(), x, RATE), x) <= limit
    jitted = jax.jit(lambda x: drop_key(key(), x, jnp.float32(RATE)))
    assert kept_bytes(jitted, x) <= limit


@pytest.mark.parametrize("impl", ["threefry2x32", *OTHER_KEYS])
def test_vmap_is_the_loop(impl):
    def keys():
        return jax.random.split(jax.random.key(0, impl=impl), 3)

    xs, rates = data((3, *X.shape)), jnp.array([0, RATE, 0.9], jnp.float32)
    mapped = jax.vmap(drop_key)(keys(), xs, rates)
    for i, single in enumerate(keys()):
        assert_same_bits(mapped[i], drop_key(single, xs[i], rates[i]))


def test_a_reused_key_is_caught():
    one = key()
    drop_key(one, X, RATE)
    with pytest.raises(jax.errors.KeyReuseError, match="consumed"):
        drop_key(one, X, RATE)


# The queries are the last axis that divides by 8: rows stay whole, and so do words of 256 queries.
@pytest.mark.parametrize("shape", [(8, 1, 256, 20), (8, 2, 20, 100)], ids=str)
@pytest.mark.parametrize("split", ["first", "last", "both"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_sharding_follows_x_without_a_collective(shape, split, kind):
    def value_and_gradient(key, x):
        y, pull = jax.vjp(lambda x: drop_key(key, x, 0.9), x)
        return y, pull(x)[0]

    x = data(shape)
    sharding = placement(shape, split, kind)
    sharded = put(x, sharding)
    results = compiled(value_and_gradient, key(), sharded)(key(), sharded)
    for result, single in zip(results, value_and_gradient(key(), x)):
        assert result.sharding.is_equivalent_to(sharding, x.ndim)
        assert_same_bits(result, single)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_values_are_those_of_one_device_where_rows_or_words_are_cut(kind):
    """Here devices have to tell each other which rows live."""
    for shape in ((8, 2, 40, 20), (8, 2, 12, 64)):
        x = data(shape)
        sharded = put(x, placement(shape, "both", kind))
        y = drop_key(key(), sharded, 0.9)
        assert y.sharding.is_equivalent_to(sharded.sharding, 4)
        assert_same_bits(y, drop_key(key(), x, 0.9))
