"""What dropout costs, in figures that do not jitter: temporaries and operations."""

import re

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import jaxdrop
from tests.cases import key


def ours(key, x):
    return jaxdrop.dropout(key, x, 0.1)


def flax(key, x):
    return nn.Dropout(0.1, deterministic=False).apply({}, x, rngs={"dropout": key})


def gradient_of_a_net(drop, batch=1024, width=128):
    """The gradient of eight layers with dropout behind each, lowered."""

    def loss(weights, key, x):
        for number, weight in enumerate(weights):
            x = drop(jax.random.fold_in(key, number), jnp.tanh(x @ weight))
        return x.sum()

    weights = [jax.ShapeDtypeStruct((width, width), jnp.float32)] * 8
    x = jax.ShapeDtypeStruct((batch, width), jnp.float32)
    with jax.debug_key_reuse(False):  # which puts operations into the program
        return jax.jit(jax.grad(loss)).lower(weights, key(), x)


def test_temporaries_are_at_most_those_of_flax_times_06():
    def temporaries(drop):
        return gradient_of_a_net(drop).compile().memory_analysis().temp_size_in_bytes

    plain, own, theirs = map(temporaries, (lambda key, x: x, ours, flax))
    assert plain < own <= 0.6 * theirs


def operations(function, shape, *arguments):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    with jax.debug_key_reuse(False):
        compiled = jax.jit(function).lower(key(), x, *arguments).compile()
    return compiled.cost_analysis().get("flops", 0)


@pytest.mark.parametrize(
    ("name", "shape", "arguments"),
    [
        ("dropout", (256, 64, 64), {"broadcast_dims": (1,)}),
        ("dropout", (256, 64, 64), {"broadcast_dims": (0, 2)}),
        ("spatial_dropout", (16, 64, 64, 16), {}),
        ("variational_dropout", (256, 64, 64), {}),
    ],
)
def test_a_smaller_mask_leaves_the_cost_of_applying_it(name, shape, arguments):
    function = getattr(jaxdrop, name)
    size = jnp.zeros(shape).size
    whole = operations(lambda key, x: jaxdrop.dropout(key, x, 0.1), shape) / size
    shared = operations(lambda key, x: function(key, x, 0.1, **arguments), shape) / size
    assert shared < 0.75 * whole  # of which the draw is the greater part
    assert shared <= 4.5  # test a bit, scale, choose


def test_a_deterministic_call_costs_nothing():
    assert (
        operations(lambda key, x: jaxdrop.dropout(key, x, 0.1, deterministic=True), (64, 64)) == 0
    )


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "philox4x32"])
def test_the_words_of_a_key_are_all_that_is_read_of_it(impl):
    """No generator of another implementation runs: its bits would be dear, or differ."""
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    with jax.debug_key_reuse(False):
        text = jax.jit(ours).lower(jax.random.key(0, impl=impl), x).as_text()
    assert not re.search("rng_bit_generator|threefry", text)
