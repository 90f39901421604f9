"""`jaxdrop.linen.replace_dropout`: the kernel of ours in models that are written with Flax's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.errors import InvalidRngError

from jaxdrop import linen
from tests.support.cases import assert_same_bits, data, key


class Block(nn.Module):
    """The flag in the field and in the call, both ways of passing it; a norm in between."""

    dropout: type[nn.Module]
    train: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(40)(x)
        x = self.dropout(0.3, deterministic=not self.train)(x)
        x = nn.LayerNorm()(x)
        x = self.dropout(0.5, broadcast_dims=(0,))(x, not self.train)
        return self.dropout(0.1, rng_collection="noise")(x, deterministic=not self.train)


class Model(nn.Module):
    """A block, plain or lifted."""

    dropout: type[nn.Module]
    lift: str = "plain"

    @nn.compact
    def __call__(self, x):
        if self.lift == "scan":

            def body(block, x, _):
                return block(x), None

            rngs = {"params": True, "dropout": True, "noise": True}
            scan = nn.scan(body, variable_axes={"params": 0}, split_rngs=rngs, length=3)
            return scan(Block(self.dropout), x, None)[0]
        block = {"plain": Block, "remat": nn.remat(Block), "jit": nn.jit(Block)}[self.lift]
        return block(self.dropout)(x)


def output(model, variables, x):
    return (model.apply(variables, x, rngs={"dropout": key(1), "noise": key(2)}),)


def gradient(model, variables, x):
    """Value and gradient, so that the masks of a recomputation count too."""

    def loss(x):
        (y,) = output(model, variables, x)
        return (y * y).sum(), y

    (_, y), pulled = jax.value_and_grad(loss, has_aux=True)(x)
    return y, pulled


@functools.cache
def prepare(lift="plain"):
    x, flax, ours = data((16, 40)), Model(nn.Dropout, lift), Model(linen.Dropout, lift)
    return flax, ours, jax.jit(flax.init)(key(), x), x


@pytest.mark.parametrize("lift", ["plain", "remat", "jit", "scan"])
def test_model_gives_what_it_would_written_with_ours(lift):
    flax, ours, variables, x = prepare(lift)

    def outputs(model):
        run = gradient if lift == "remat" else output
        return jax.jit(lambda variables, x: run(model, variables, x))(variables, x)

    with linen.replace_dropout():
        replaced = outputs(flax)
    for actual, expected in zip(replaced, outputs(ours)):
        assert_same_bits(actual, expected)


def test_eagerly_too_and_outside_it_is_flax_again():
    flax, ours, variables, x = prepare()
    before = gradient(flax, variables, x)
    with linen.replace_dropout():
        inside = gradient(flax, variables, x)
    after = gradient(flax, variables, x)
    expected = gradient(ours, variables, x)
    for theirs, here, there, mine in zip(before, inside, after, expected):
        assert_same_bits(here, mine)
        assert_same_bits(there, theirs)
        assert (mine != theirs).any()


def test_context_inside_a_compiled_function():
    flax, ours, variables, x = prepare()

    @jax.jit
    def replaced(variables, x):
        with linen.replace_dropout():
            return gradient(flax, variables, x)

    expected = jax.jit(lambda variables, x: gradient(ours, variables, x))(variables, x)
    for actual, desired in zip(replaced(variables, x), expected):
        assert_same_bits(actual, desired)


def test_switched_off_and_without_a_flag_it_is_flax():
    x = data((4, 40))
    with linen.replace_dropout():
        assert nn.Dropout(0.5, deterministic=True).apply({}, x) is x
        with pytest.raises(ValueError, match="must be passed to the constructor or at call time"):
            nn.Dropout(0.5).apply({}, x)
        with pytest.raises(InvalidRngError, match='needs PRNG for "dropout"'):
            nn.Dropout(0.5).apply({}, x, False)


def test_variables_and_their_names_stay():
    flax, _, variables, x = prepare()
    with linen.replace_dropout():
        inside = jax.jit(flax.init)(key(), x)
    assert jax.tree.structure(inside) == jax.tree.structure(variables)
    jax.tree.map(assert_same_bits, inside, variables)


class Tripled(nn.Dropout):
    """A user's subclass, whose own call has to go on being called."""

    @nn.compact
    def __call__(self, inputs, deterministic=None, rng=None):
        return 3 * super().__call__(inputs, deterministic, rng)


@pytest.mark.parametrize(
    "layer",
    [
        Tripled(0.5, deterministic=False),
        linen.MCDropout(0.5),
        linen.SpatialDropout(0.5, deterministic=False),
        nn.LayerNorm(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_other_modules_are_untouched(layer):
    x = data((4, 8, 16))
    variables = layer.init(key(), x)

    def output():
        return layer.apply(variables, x, rngs={"dropout": key(1)})

    outside = output()
    with linen.replace_dropout():
        assert_same_bits(output(), outside)


def test_contexts_nest_and_end_with_an_error():
    layer, x = nn.Dropout(0.5, deterministic=False), data((16, 40))

    def output():
        return np.asarray(layer.apply({}, x, rng=key()))

    flax, ours = output(), np.asarray(linen.Dropout(0.5).apply({}, x, False, key()))
    assert (flax != ours).any()
    with linen.replace_dropout():
        with linen.replace_dropout():
            assert_same_bits(output(), ours)
        assert_same_bits(output(), ours)
        with pytest.raises(ZeroDivisionError), linen.replace_dropout():
            _ = 1 / 0
        assert_same_bits(output(), ours)
    assert_same_bits(output(), flax)


def test_interceptors_of_a_user_run_too():
    """One that was there before sees the calls that are replaced."""
    seen = []

    def count(next_method, args, kwargs, context):
        seen.append(type(context.module))
        return next_method(*args, **kwargs)

    layer, x = nn.Dropout(0.5, deterministic=False), jnp.ones((4, 4))
    with nn.intercept_methods(count), linen.replace_dropout():
        layer.apply({}, x, rng=key())
    assert nn.Dropout in seen
