"""Whole programs: bytes stored, temporaries, time to compile, a training step."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

import jaxdrop
from benchmarks import _peers
from benchmarks._report import rows_of
from benchmarks._timing import Times, paired


def kept(budget):
    """Bytes per element that one dropout stores for the backward pass."""
    x = jnp.ones(budget.large)
    key = jax.random.key(0)

    def bytes_per_element(function):
        _, pull = jax.vjp(lambda x: function(key, x), x)
        return sum(leaf.nbytes for leaf in jax.tree.leaves(pull)) / x.size

    values = {name: bytes_per_element(function) for name, function in _peers.in_jax(0.1).items()}
    case = f"float32 {x.shape[0]}x{x.shape[1]}, rate 0.1"
    yield from rows_of("kept for backward", case, values, "B/element", "flax linen")


def temporaries(budget):
    """XLA temporaries of the gradient of an 8-layer net with dropout after each layer."""
    batch, width = budget.net
    weights = [jax.ShapeDtypeStruct((width, width), jnp.float32)] * 8
    x = jax.ShapeDtypeStruct((batch, width), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def mebibytes(dropout):
        def loss(weights, key, x):
            for number, weight in enumerate(weights):
                x = jnp.tanh(x @ weight)
                x = dropout(jax.random.fold_in(key, number), x)
            return x.sum()

        compiled = jax.jit(jax.grad(loss)).lower(weights, key, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes / 2**20

    values = {name: mebibytes(function) for name, function in _three(0.1).items()}
    case = f"8 layers, {batch}x{width}, float32"
    yield from rows_of("temporaries", case, values, "MiB", "flax linen")


def compilation(budget):
    """Time to trace, lower and compile a training step of a deep encoder."""
    taken = {name: [] for name in _three(0.1)}
    for _ in range(budget.compilations):
        for name, dropout in _three(0.1).items():
            step, arguments = _training(dropout, budget.depth, 64, (2, 16))
            jax.clear_caches()
            started = time.perf_counter()
            step.lower(*arguments).compile()
            taken[name].append((time.perf_counter() - started) * 1e3)
    quartiles = {name: np.percentile(values, (50, 25, 75)) for name, values in taken.items()}
    times = {name: Times(*map(float, values)) for name, values in quartiles.items()}
    case = f"{budget.depth}-layer encoder, training step"
    yield from rows_of("trace, lower, compile", case, times, "ms", "flax linen")


def training(budget):
    """A whole training step of an encoder with dropout at the usual three places."""
    width, inputs = budget.encoder
    steps = {}
    for name, dropout in _three(0.1).items():
        step, arguments = _training(dropout, budget.layers, width, inputs)
        steps[name] = lambda *_, step=step, arguments=arguments: step(*arguments)
    times = paired(steps, (), rounds=4 * budget.rounds, seconds=4 * budget.seconds)
    case = f"{budget.layers}-layer encoder, width {width}, {inputs[0]}x{inputs[1]} tokens"
    yield from rows_of("training step", case, times, "ms", "none")


def _three(rate):
    return {
        "none": lambda key, x: x,
        "jaxdrop": _peers.ours(rate),
        "flax linen": _peers.flax_linen(rate),
    }


class Encoder(nn.Module):
    """A pre-norm transformer encoder whose dropout is an argument."""

    depth: int
    width: int
    dropout: object

    @nn.compact
    def __call__(self, key, x):
        for number in range(self.depth):
            keys = jax.random.split(jax.random.fold_in(key, number), 3)
            h = nn.LayerNorm()(x)
            shape = (*x.shape[:2], 4, self.width // 4)
            q, k, v = (nn.Dense(self.width)(h).reshape(shape) for _ in range(3))
            weights = jnp.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(self.width / 4)
            weights = self.dropout(keys[0], jax.nn.softmax(weights))
            h = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
            x = x + self.dropout(keys[1], nn.Dense(self.width)(h))
            h = nn.Dense(4 * self.width)(nn.LayerNorm()(x))
            x = x + self.dropout(keys[2], nn.Dense(self.width)(nn.gelu(h)))
        return nn.Dense(10)(x.mean(1))


def _training(dropout, depth, width, inputs):
    model = Encoder(depth, width, dropout)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((*inputs, width)), jnp.float32)
    labels = jnp.zeros(inputs[0], jnp.int32)
    key = jax.random.key(0)
    variables = jax.jit(model.init)(key, key, x)
    optimizer = optax.sgd(1e-3)

    @jax.jit
    def step(variables, memory, key, x, labels):
        def loss(variables):
            logits = model.apply(variables, key, x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradient = jax.value_and_grad(loss)(variables)
        updates, memory = optimizer.update(gradient, memory)
        return optax.apply_updates(variables, updates), memory, value

    return step, (variables, optimizer.init(variables), key, x, labels)


def draw(budget):
    """Only the mask: the cost of the draw without the array."""
    shape = budget.large
    key = jax.random.key(0)
    x = jnp.ones(shape)
    functions = {
        "copy": jax.jit(_peers.copy),
        "sample": jax.jit(lambda key, x: jaxdrop.masks.sample(key, 0.1, x.shape).words),
    }
    times = paired(functions, (key, x), rounds=budget.rounds, seconds=budget.seconds)
    yield from rows_of("draw alone", f"{shape[0]}x{shape[1]}, rate 0.1", times, "ms", "copy")
