"""Small models for the tests of floor 4, in linen and in nnx, that are evaluated without dropout.

`net` gives a function of a key with the dropout on, and the values that it has with dropout off.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxdrop import mc
from tests.support.cases import data, key

FEATURES = 40
each_framework = pytest.mark.parametrize("framework", ["linen", "nnx"])


class LinenNet(nn.Module):
    """Ends in dropout, whose decisions show as zeros. ``head`` adds a layer behind it."""

    rate: float = 0.5
    head: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(FEATURES)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        if self.head:
            x = nn.Dense(10)(x)
            x = nn.Dropout(self.rate)(x, deterministic=not train)
        return x


class NnxNet(nnx.Module):
    """The same; a fresh one is in training mode."""

    def __init__(self, rngs, rate=0.5, head=False):
        self.linear = nnx.Linear(FEATURES, FEATURES, rngs=rngs)
        self.norm = nnx.BatchNorm(FEATURES, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.head = nnx.Linear(FEATURES, 10, rngs=rngs) if head else None
        self.last = nnx.Dropout(rate, rngs=rngs) if head else None

    def __call__(self, x):
        x = self.dropout(self.norm(self.linear(x)))
        return self.last(self.head(x)) if self.head is not None else x


def inputs(batch=16):
    return data((batch, FEATURES))


def linen_variables(model):
    """Running averages differ from those of a batch, so that using the wrong ones shows."""
    variables = model.init(key(), inputs())
    averages = {
        "mean": jnp.linspace(-1, 1, FEATURES, dtype=jnp.float32),
        "var": jnp.linspace(0.5, 2, FEATURES, dtype=jnp.float32),
    }
    return {**variables, "batch_stats": {"BatchNorm_0": averages}}


def nnx_model(**arguments):
    model = NnxNet(nnx.Rngs(0), **arguments)
    model.norm.mean[...] = jnp.linspace(-1, 1, FEATURES, dtype=jnp.float32)
    model.norm.var[...] = jnp.linspace(0.5, 2, FEATURES, dtype=jnp.float32)
    return model


@functools.cache
def net(framework, **arguments):
    """``(fn(key, x), evaluate(x))`` of one of the two nets."""
    if framework == "nnx":
        model = nnx_model(**arguments)
        evaluated = nnx.clone(model)
        evaluated.eval()
        return mc.from_nnx(model), evaluated
    model = LinenNet(**arguments)
    variables = linen_variables(model)
    return mc.from_linen(model, variables), lambda x: model.apply(variables, x)


def bits(tree):
    """Every bit of a pytree of arrays, keys among them."""
    leaves = [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in jax.tree.leaves(tree)
    ]
    return jax.tree.structure(tree), [np.asarray(leaf).tobytes() for leaf in leaves]


def counted_dropout(rate):
    """A linen model that drops at a rate, and a list that grows whenever it is traced."""
    traced = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, x):
            traced.append(1)
            return nn.Dropout(rate, deterministic=True)(x)

    return Counted(), traced
