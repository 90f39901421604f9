"""A curriculum: the rate grows while a network learns, and its program is compiled once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jaxdrop
from tests.support.cases import key

NUM_STEPS = 60


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x, rate):
        x = nn.relu(nn.Dense(64)(x))
        x = jaxdrop.linen.Dropout(rate, deterministic=False)(x)
        return nn.Dense(3)(x)


def blobs():
    """Points around three centres, and which centre each belongs to."""
    rng = np.random.default_rng(0)
    labels = np.arange(192) % 3
    centres = np.float32([[2, 0], [-1, 2], [-1, -2]])
    return jnp.asarray(centres[labels] + rng.normal(0, 0.5, (192, 2)), jnp.float32), labels


@jax.numpy_dtype_promotion("standard")  # which Optax relies on
@jax.numpy_rank_promotion("allow")
def test_a_curriculum_compiles_once_and_learns():
    """Morerio et al., "Curriculum dropout", 2017: from no dropout to a rate of a half."""
    schedule = optax.linear_schedule(0.0, 0.5, NUM_STEPS - 1)
    optimizer = optax.adam(1e-2)
    x, labels = blobs()
    rngs = {"params": key(0), "dropout": key(1)}
    params = untrained = Classifier().init(rngs, x, 0.0)
    state = optimizer.init(params)
    traces = []

    def loss(params, dropout_key, rate):
        logits = Classifier().apply(params, x, rate, rngs={"dropout": dropout_key})
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @jax.jit
    def step(params, state, step_number, dropout_key):
        traces.append(1)
        rate = schedule(step_number)
        value, gradient = jax.value_and_grad(loss)(params, dropout_key, rate)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state, value, rate

    losses, rates = [], []
    for number, dropout_key in enumerate(jax.random.split(key(2), NUM_STEPS)):
        params, state, value, rate = step(params, state, number, dropout_key)
        losses.append(float(value))
        rates.append(float(rate))
    assert len(traces) == 1
    np.testing.assert_allclose(rates, np.linspace(0, 0.5, NUM_STEPS), atol=1e-6)
    np.testing.assert_allclose(losses[0], loss(untrained, key(3), 0.0), rtol=1e-5)
    assert np.mean(losses[-5:]) < 0.3
    last = [loss(params, key(3), rate) for rate in (0.0, jnp.float32(0.5))]
    assert last[0] < last[1]  # and the rate did act
