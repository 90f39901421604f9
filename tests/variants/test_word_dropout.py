"""Word dropout: the laws that apply to integers, and its classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType

import jaxdrop
from jaxdrop import mc, word_dropout
from tests.laws.test_laws_sharding import compiled, placement, put
from tests.support import own, reference
from tests.support.cases import OTHER_KEYS, assert_probability, assert_same_bits, key
from tests.support.models import each_framework

RATE, UNKNOWN = 0.3, 3
TOKENS = jnp.arange(100, 100 + 64 * 40, dtype=jnp.int32).reshape(64, 40)


def iyyer(keep, tokens):
    """Each token that a Bernoulli variable of the rate drops is an unknown word."""
    return np.where(keep, tokens, UNKNOWN)


def drop(key, x=TOKENS, rate=RATE, deterministic=False):
    return word_dropout(key, x, rate, deterministic=deterministic, unknown_id=UNKNOWN)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.uint16, jnp.int16])
@pytest.mark.parametrize("rate", [RATE, jnp.float32(RATE)], ids=["static", "traced"])
@pytest.mark.parametrize("shape", [(64, 40), (2560,), (8, 8, 40)], ids=str)
def test_tokens_that_the_reference_drops_are_unknown(dtype, rate, shape):
    tokens = TOKENS.astype(dtype).reshape(shape)
    keep = reference.keep(jax.random.key_data(key()), RATE, shape)
    assert_same_bits(drop(key(), tokens, rate), iyyer(keep, np.asarray(tokens)).astype(dtype))


@pytest.mark.parametrize("unknown_id", [-128, 127])
def test_any_integer_that_the_dtype_holds_may_be_the_unknown_word(unknown_id):
    tokens = jnp.zeros(64, jnp.int8)
    y = word_dropout(key(), tokens, 0.5, unknown_id=unknown_id)
    assert set(y.tolist()) == {0, unknown_id}


def test_realised_rate():
    tokens = jnp.full((512, 512), 7)
    dropped = np.sum(np.asarray(drop(key(), tokens, 0.1)) == UNKNOWN)
    assert_probability(dropped, tokens.size, 1 - reference.keep_probability(0.1))


def test_ends_need_no_key():
    assert drop(None, rate=0) is TOKENS
    assert drop(None, deterministic=True) is TOKENS
    assert_same_bits(drop(None, rate=1.0), jnp.full_like(TOKENS, UNKNOWN))


def test_one_trace_serves_all_rates_flags_and_unknown_tokens():
    traces = []

    @jax.jit
    def run(key, rate, flag):
        traces.append(1)
        return drop(key, TOKENS, rate, flag)

    for rate in (RATE, 0.1, 0.0, 1.0):
        assert_same_bits(run(key(), rate, False), drop(key(), TOKENS, rate))
        assert_same_bits(run(key(), rate, True), TOKENS)
    assert len(traces) == 1


def test_each_token_of_an_array_of_rates_is_decided_by_its_own():
    rates = np.resize(np.float32([0, RATE, 1]), (64, 1))
    y = np.asarray(drop(key(), TOKENS, rates))
    for start, rate in enumerate((0.0, RATE, 1.0)):
        assert_same_bits(y[start::3], np.asarray(drop(key(), TOKENS, rate))[start::3])


@pytest.mark.parametrize("impl", ["threefry2x32", *OTHER_KEYS])
def test_vmap_is_the_loop(impl):
    def keys():
        return jax.random.split(jax.random.key(0, impl=impl), 3)

    tokens = jnp.stack([TOKENS, TOKENS + 1, TOKENS + 2])
    mapped = jax.vmap(drop)(keys(), tokens)
    for single, x, y in zip(keys(), tokens, mapped):
        assert_same_bits(y, drop(single, x))


def test_a_reused_key_is_caught():
    one = key()
    drop(one)
    with pytest.raises(jax.errors.KeyReuseError, match="consumed"):
        drop(one)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("split", ["first", "both"])
def test_sharding_follows_the_tokens(split, axis_type):
    sharding = placement(TOKENS.shape, split, axis_type)
    tokens = put(TOKENS, sharding)
    y = compiled(lambda key, x: drop(key, x), key(), tokens)(key(), tokens)
    assert y.sharding.is_equivalent_to(sharding, 2)
    assert_same_bits(y, drop(key()))


def test_classes_are_the_function():
    own.check_classes("word_dropout", (TOKENS,), unknown_id=UNKNOWN)


class Words(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return jaxdrop.linen.WordDropout(RATE, UNKNOWN, deterministic=True)(tokens)


@each_framework
def test_adapters_turn_it_on(framework):
    if framework == "linen":
        fn = mc.from_linen(Words(), {})
    else:
        fn = mc.from_nnx(nnx.Sequential(jaxdrop.nnx.WordDropout(RATE, unknown_id=UNKNOWN)))
    y = fn(key(), TOKENS)
    assert 0.6 < np.mean(y == TOKENS) < 0.8
    assert set(np.asarray(y[y != TOKENS])) == {UNKNOWN}
    (site,) = mc.audit(fn, key(), TOKENS).sites
    assert (site.kind, site.rate, site.shape, site.live) == ("WordDropout", RATE, (64, 40), True)
