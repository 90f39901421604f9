"""A training step whose residual branches, or tokens, are left out, not multiplied by zeros."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jaxdrop
from benchmarks._report import rows_of
from benchmarks._timing import paired

_RATE = 0.5


def residual(budget):
    """Loss and gradients of pre-norm transformer blocks."""
    width, (batch, length) = budget.blocks
    names = ("no dropout", "drop_path", "subset_residual", "layer_drop", "token_dropout")
    model = {name: _Blocks(width, name) for name in names}
    x = jnp.asarray(np.random.default_rng(0).standard_normal((batch, length, width)), jnp.float32)
    key = jax.random.key(0)
    variables = jax.jit(model["no dropout"].init)({"params": key, "dropout": key}, x)
    programs = {
        name: jax.jit(jax.value_and_grad(_loss(model[name]))).lower(variables, key, x).compile()
        for name in names
    }
    case = f"2 blocks, width {width}, {batch}x{length} tokens, float32, rate {_RATE}"
    # For a block that is skipped at run time the compiler counts both branches.
    counted = {name: programs[name].cost_analysis()["flops"] / 1e9 for name in names}
    del counted["layer_drop"]
    yield from rows_of("operations of a training step", case, counted, "GFLOP", "drop_path")
    keys = itertools.cycle(list(jax.random.split(key, 64)))  # layer_drop runs or does not
    functions = {
        name: lambda *_, program=program: program(variables, next(keys), x)
        for name, program in programs.items()
    }
    times = paired(functions, (), rounds=budget.rounds, seconds=4 * budget.seconds)
    yield from rows_of("training step", case, times, "ms", "drop_path")


def _loss(model):
    def loss(variables, key, x):
        return (model.apply(variables, x, rngs={"dropout": key}) ** 2).mean()

    return loss


class _Blocks(nn.Module):
    """Two transformer blocks with one of the ways to leave something out."""

    width: int
    way: str

    @nn.compact
    def __call__(self, x):
        if self.way == "token_dropout":
            x, _ = jaxdrop.linen.TokenDropout(_RATE, deterministic=False)(x)
        for number in range(2):
            if self.way == "layer_drop":
                block = _Block(self.width, name=f"block_{number}")
                x = jaxdrop.linen.LayerDrop(block, _RATE, deterministic=False)(x)
            else:
                x = _Block(self.width, self.way, name=f"block_{number}")(x)
        return x


class _Block(nn.Module):
    width: int
    way: str = "no dropout"

    @nn.compact
    def __call__(self, x):
        for branch in (_Attention(name="attention"), _FeedForward(self.width, name="mlp")):
            if self.way == "subset_residual":
                x = jaxdrop.linen.SubsetResidual(branch, _RATE, deterministic=False)(x)
            elif self.way == "drop_path":
                x = x + jaxdrop.linen.DropPath(_RATE, deterministic=False)(branch(x))
            else:
                x = x + branch(x)
        return x


class _Attention(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(4)(nn.LayerNorm()(x))


class _FeedForward(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width)(nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x))))
