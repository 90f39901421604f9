"""Concrete dropout: its equation, the gradient of its rate, and a rate that finds its place."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdrop import linen, nnx
from jaxdrop.functional import concrete_dropout, concrete_regularizer
from tests.support import reference
from tests.support.cases import assert_probability, data, key

SHAPE = (64, 40)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("rate_logit", [-2.2, 0.0, 1.5])
def test_equation_at_every_temperature(rate_logit, temperature):
    x = data(SHAPE)
    y = concrete_dropout(key(), x, rate_logit, temperature=temperature)
    u = reference.uniform(jax.random.key_data(key()), SHAPE)
    exact = reference.concrete_dropout(np.asarray(x, np.float64), u, rate_logit, temperature)
    np.testing.assert_allclose(y, exact, rtol=1e-4, atol=1e-6)


def test_the_default_temperature_is_that_of_the_paper():
    x = data(SHAPE)
    expected = concrete_dropout(key(), x, -1.0, temperature=0.1)
    np.testing.assert_array_equal(concrete_dropout(key(), x, -1.0), expected)


@pytest.mark.parametrize("rate", [0.1, 0.4, 0.8])
def test_soft_decisions_are_to_drop_with_the_rate(rate):
    """z > 1/2 where less than half of the scale 1 / (1 - p) is left."""
    y = concrete_dropout(key(2), jnp.ones((512, 512)), np.log(rate / (1 - rate)))
    assert_probability((np.asarray(y) * (1 - rate) < 0.5).sum(), y.size, rate)


def test_cold_it_is_dropout():
    """To the mean of x within five standard errors, and to 0 or x / (1 - p) nearly everywhere."""
    y = np.asarray(concrete_dropout(key(3), jnp.ones((512, 512)), np.log(0.25), temperature=1e-3))
    settled = (np.abs(y) < 1e-3) | (np.abs(y - 1.25) < 1e-3)
    assert settled.mean() > 0.99
    assert abs(y.mean() - 1) < 5 * y.std() / 512


@pytest.mark.parametrize("shape", [(), (40,), SHAPE], ids=str)
def test_gradient_of_the_logit_is_that_of_differences(shape):
    """In float64, of the function itself and of the equation of the paper on the same noise."""
    u = reference.uniform(jax.random.key_data(key()), SHAPE)
    with jax.enable_x64(True):
        x = data(SHAPE, jnp.float64)
        weight = data(SHAPE[::-1], jnp.float64).T
        logit = jnp.asarray(np.resize([-2.0, -0.5, 1.0], shape))
        step = np.resize([1.0, -0.5, 0.7], shape)

        def loss(logit):
            return jnp.vdot(weight, concrete_dropout(key(), x, logit, temperature=0.5))

        def theirs(logit):
            return np.vdot(weight, reference.concrete_dropout(np.asarray(x), u, logit, 0.5))

        slope = np.vdot(jax.jit(jax.grad(loss))(logit), step)
        tangent = jax.jvp(loss, (logit,), (jnp.asarray(step),))[1]
        h = 1e-5
        for function in (loss, theirs):
            difference = function(logit + h * step) - function(logit - h * step)
            np.testing.assert_allclose(slope, difference / (2 * h), rtol=1e-6)
    np.testing.assert_allclose(tangent, slope, rtol=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_ends_are_stable(dtype):
    """At a logit of -30 nothing is dropped and at 30 everything, with finite gradients."""
    x = data(SHAPE, dtype)

    def value_and_gradients(logit):
        y, pull = jax.vjp(lambda x, logit: concrete_dropout(key(), x, logit), x, logit)
        return y, *pull(jnp.ones_like(y))

    for logit, factor in ((-30.0, 1.0), (-300.0, 1.0), (30.0, 0.0), (300.0, 0.0)):
        y, slope, rate_slope = value_and_gradients(jnp.float32(logit))
        np.testing.assert_array_equal(y, x * factor)
        np.testing.assert_array_equal(slope, factor)
        assert np.isfinite(rate_slope)


def test_weights_alone_beside_the_key_are_kept_where_the_rate_learns():
    """x and the key: what a product needs of its factors, and no noise."""
    x = data(SHAPE)
    kept = jax.vjp(lambda x, logit: concrete_dropout(key(), x, logit), x, jnp.float32(-1))[1]
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(kept)) <= x.nbytes + 64


# The regularizer.


def regularizer(rate_logit, weights, **changes):
    arguments = {"num_features": 5, "weight_decay": 0.01, "entropy_weight": 0.3, **changes}
    return concrete_regularizer(rate_logit, weights, **arguments)


@pytest.mark.parametrize("rate", [0.01, 0.3, 0.5, 0.97])
def test_regularizer_is_that_of_the_paper(rate):
    weights = {"kernel": data((5, 3)), "bias": data((3,), jnp.bfloat16)}
    squares = sum(np.square(np.asarray(w, np.float64)).sum() for w in weights.values())
    exact = 0.01 * squares / (1 - rate)
    exact += 0.3 * 5 * (rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    logit = np.log(rate / (1 - rate))
    for given in (logit, jnp.float32(logit)):
        penalty = regularizer(given, weights)
        assert (penalty.shape, penalty.dtype) == ((), jnp.float32)
        np.testing.assert_allclose(penalty, exact, rtol=1e-5)
    np.testing.assert_allclose(
        regularizer(logit, weights["kernel"], entropy_weight=0),
        0.01 * np.square(weights["kernel"]).sum() / (1 - rate),
        rtol=1e-5,
    )


def test_decay_pulls_the_rate_down_and_entropy_to_a_half():
    slope = jax.grad(regularizer)
    weights = data((5, 3))
    for logit in (-3.0, 0.0, 3.0):
        assert slope(logit, weights, entropy_weight=0.0) > 0
        assert np.sign(slope(logit, weights, weight_decay=0.0)) == np.sign(logit)


@pytest.mark.parametrize("logit", [-30.0, 30.0])
def test_regularizer_is_stable(logit):
    value, slope = jax.value_and_grad(regularizer)(logit, data((5, 3)))
    assert np.isfinite((value, slope)).all()
    value, slope = jax.value_and_grad(regularizer)(logit, data((5, 3)), weight_decay=0.0)
    np.testing.assert_allclose(value, -0.3 * 5 * 30 * np.exp(-30), rtol=0.05)
    assert np.sign(slope) == np.sign(logit)


@functools.cache
def learned_rate(num_examples):
    """Of a small network on y = 2 x + 8 + noise of variance 1 (Gal et al. 2017, figure 2)."""
    rng = np.random.default_rng(num_examples)
    x = rng.standard_normal((num_examples, 1)).astype(np.float32)
    y = 2 * x + 8 + rng.standard_normal(x.shape).astype(np.float32)
    num_features = 32
    params = {
        "rate_logit": jnp.float32(-2.2),
        "first": {"kernel": data((1, num_features)), "bias": jnp.zeros(num_features)},
        "second": {"kernel": data((num_features, 1)) / 8, "bias": jnp.zeros(1)},
    }

    def dense(params, x):
        return x @ params["kernel"] + params["bias"][None]

    def loss(params, key):
        hidden = jax.nn.relu(dense(params["first"], x))
        hidden = concrete_dropout(key, hidden, params["rate_logit"])
        error = jnp.square(dense(params["second"], hidden) - y).mean()
        return error + concrete_regularizer(
            params["rate_logit"],
            params["second"],
            num_features=num_features,
            weight_decay=1e-4 / num_examples,
            entropy_weight=2 / num_examples,
        )

    optimizer = optax.adam(1e-2)

    @jax.jit
    def train(params, key):
        def step(state, key):
            params, moments = state
            updates, moments = optimizer.update(jax.grad(loss)(params, key), moments)
            return (optax.apply_updates(params, updates), moments), None

        start = params, optimizer.init(params)
        return jax.lax.scan(step, start, jax.random.split(key, 1500))[0][0]

    with jax.numpy_dtype_promotion("standard"):  # for Optax
        return float(jax.nn.sigmoid(train(params, key(1))["rate_logit"]))


def test_more_data_find_a_smaller_rate():
    """What is not known goes away with data, and the rate with it; with few it stays high."""
    few, many = learned_rate(20), learned_rate(2000)
    assert 0.15 < few < 0.6
    assert many < few / 3


@pytest.mark.parametrize("init_rate", [0.1, 0.5, 0.9])
def test_a_class_begins_at_its_rate(init_rate):
    layer = nnx.ConcreteDropout(init_rate)
    np.testing.assert_allclose(jax.nn.sigmoid(layer.rate_logit[...]), init_rate, rtol=1e-5)
    variables = linen.ConcreteDropout(init_rate, deterministic=True).init(key(), jnp.ones((2, 3)))
    logit = variables["params"]["rate_logit"]
    np.testing.assert_allclose(jax.nn.sigmoid(logit), init_rate, rtol=1e-5)
