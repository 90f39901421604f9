"""`jaxdrop.nnx.replace_dropout`: a copy of a model with our kernel; the model stays as it was."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxdrop import nnx as ours
from tests.support.cases import assert_same_bits, data, key


class Tripled(nnx.Dropout):
    """A user's subclass, whose own call has to go on being called."""

    def __call__(self, inputs, **kwargs):
        return 3 * super().__call__(inputs, **kwargs)


class Model(nnx.Module):
    """Dropout in attributes, lists and dicts, one of them shared, and two that are not Flax's."""

    def __init__(self, dropout, seed=0):
        rngs = nnx.Rngs(seed)
        self.linear = nnx.Linear(40, 40, rngs=rngs)
        self.first = dropout(0.2, rngs=rngs)
        self.again = self.first
        self.layers = nnx.List([nnx.List([dropout(0.3, broadcast_dims=(0,), rngs=rngs)])])
        self.table = nnx.Dict(a=dropout(0.4, deterministic=True, rngs=rngs))
        self.tripled = Tripled(0.1, rngs=rngs)
        self.mc = ours.MCDropout(0.1, rngs=rngs)

    def __call__(self, x):
        x = self.first(self.linear(x))
        x = self.layers[0][0](self.again(x))
        return self.mc(self.tripled(self.table["a"](x)))


def snapshot(model):
    """Classes, structure and the bits of the state."""
    graph, state = nnx.split(model)
    leaves = [
        jax.random.key_data(leaf) if _is_key(leaf) else leaf for leaf in jax.tree.leaves(state)
    ]
    return graph, [np.asarray(leaf).tobytes() for leaf in leaves]


def _is_key(leaf):
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def test_copy_gives_what_the_model_would_written_with_ours():
    x, written, flax = data((16, 40)), Model(ours.Dropout), Model(nnx.Dropout)
    replaced = ours.replace_dropout(Model(nnx.Dropout))
    for _ in range(2):  # the streams go on alike
        expected = written(x)
        assert_same_bits(replaced(x), expected)
        assert (flax(x) != expected).any()
    assert jax.tree.structure(nnx.state(replaced)) == jax.tree.structure(nnx.state(written))


def test_original_is_untouched():
    model, x = Model(nnx.Dropout), data((16, 40))
    before = snapshot(model)
    replaced = ours.replace_dropout(model)
    replaced(x)
    replaced.eval()
    replaced.linear.kernel[...] = jnp.zeros_like(replaced.linear.kernel[...])
    assert snapshot(model) == before
    assert type(model.first) is nnx.Dropout
    assert_same_bits(model(x), Model(nnx.Dropout)(x))


def test_every_dropout_of_flax_is_replaced_and_nothing_else():
    replaced = ours.replace_dropout(Model(nnx.Dropout))
    for layer in (replaced.first, replaced.layers[0][0], replaced.table["a"]):
        assert type(layer) is ours.Dropout
    assert type(replaced.tripled) is Tripled
    assert type(replaced.mc) is ours.MCDropout
    assert type(replaced) is Model
    assert replaced.first is replaced.again
    assert (replaced.layers[0][0].broadcast_dims, replaced.table["a"].deterministic) == ((0,), True)


def test_parameters_are_the_same_buffers():
    model = Model(nnx.Dropout)
    replaced = ours.replace_dropout(model)
    pairs = zip(*(jax.tree.leaves(nnx.state(m, nnx.Param)) for m in (model, replaced)))
    for before, after in pairs:
        assert before.unsafe_buffer_pointer() == after.unsafe_buffer_pointer()


@pytest.mark.parametrize("cls", [nnx.Dropout, ours.Dropout])
def test_model_may_be_one_dropout(cls):
    replaced = ours.replace_dropout(cls(0.5))
    assert type(replaced) is ours.Dropout
    x = jnp.ones((4, 4))
    assert_same_bits(replaced(x, rngs=key()), ours.Dropout(0.5)(x, rngs=key()))


def test_mode_is_kept_and_switches():
    model, x = nnx.Sequential(nnx.Dropout(0.5, rngs=nnx.Rngs(0))), jnp.ones((4, 4))
    model.eval()
    replaced = ours.replace_dropout(model)
    assert replaced(x) is x
    replaced.train()
    assert set(np.unique(replaced(x))) == {0.0, 2.0}
    assert model(x) is x


def test_copy_runs_in_transforms_of_flax():
    def step(model, x):
        return model(x).sum()

    results = []
    for model in (ours.replace_dropout(Model(nnx.Dropout)), Model(ours.Dropout)):
        loss, gradient = nnx.jit(nnx.value_and_grad(step))(model, data((16, 40)))
        results.append((loss, gradient["linear"]["kernel"][...]))
        assert model.first.rngs.count[...] == 2
    for replaced, written in zip(*results):
        assert_same_bits(replaced, written)
        assert (written != 0).any()


@pytest.mark.parametrize(
    "model", [nn.Dropout(0.5), nnx.Dropout, None], ids=["linen", "class", "None"]
)
def test_what_is_no_module_is_refused(model):
    with pytest.raises(TypeError, match=r"expected an nnx\.Module.*linen\.replace_dropout"):
        ours.replace_dropout(model)
