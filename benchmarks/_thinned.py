"""A training step with thinned layers, with dropout and without, by rate, batch and width."""

import functools
import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxdrop
from benchmarks._report import rows_of
from benchmarks._timing import paired

RATES = (0.1, 0.25, 0.5, 0.75, 0.9)


def thinned(budget):
    """Loss and gradients of a feed-forward block, and of an MLP at several batches."""
    width = budget.width
    for rate in RATES[:: budget.stride]:
        times, programs = block_step(width, rate, budget)
        case = f"{width // 2}-{2 * width}-{width // 2}, batch {width}, rate {rate}"
        yield from rows_of("thinned block", case, times, "ms", "no dropout")
        yield from _costs(case, programs)
    for batch in (32, 64, 128, 512, 2048)[:: budget.stride]:
        widths = (784, width, width, width, 10)
        times, programs = _timed(widths, batch, 0.5, jax.nn.relu, budget)
        case = f"784-{width}-{width}-{width}-10, batch {batch}, rate 0.5"
        yield from rows_of("thinned MLP", case, times, "ms", "no dropout")
        yield from _costs(case, programs)


def block_step(width, rate, budget):
    """`Times` of a step of a feed-forward block by name, and its programs."""
    return _timed((width // 2, 2 * width, width // 2), width, rate, jax.nn.gelu, budget)


def _costs(case, programs):
    operations = {name: p.cost_analysis()["flops"] for name, p in programs.items()}
    yield from rows_of("thinned, operations", case, operations, "", "no dropout")
    temporaries = {n: p.memory_analysis().temp_size_in_bytes for n, p in programs.items()}
    yield from rows_of("thinned, temporaries", case, temporaries, "B", "flax linen")


def _timed(widths, batch, rate, activation, budget):
    keys = jax.random.split(jax.random.key(0), len(widths))
    x = jax.random.normal(keys[0], (batch, widths[0]))
    layers = [
        {"kernel": jax.random.normal(k, shape) / shape[0] ** 0.5, "bias": jnp.zeros(shape[1])}
        for k, shape in zip(keys[1:], itertools.pairwise(widths))
    ]
    kinds = {
        "no dropout": functools.partial(_dense, drop=lambda key, x: x),
        "flax linen": functools.partial(_dense, drop=functools.partial(_flax, rate)),
        "jaxdrop dropout": functools.partial(
            _dense, drop=lambda key, x: jaxdrop.dropout(key, x, rate)
        ),
        "jaxdrop thinned": lambda key, x, layers, activation: jaxdrop.thinned_mlp(
            key, x, layers, rate, activation=activation
        ),
    }
    arguments = (layers, x, jax.random.key(1))
    programs = {
        name: jax.jit(jax.value_and_grad(_loss(call, activation))).lower(*arguments).compile()
        for name, call in kinds.items()
    }
    times = paired(programs, arguments, rounds=budget.rounds, seconds=budget.seconds)
    return times, programs


def _loss(call, activation):
    return lambda layers, x, key: jnp.mean(call(key, x, layers, activation=activation) ** 2)


def _dense(key, x, layers, *, activation, drop):
    for number, layer in enumerate(layers):
        x = x @ layer["kernel"] + layer["bias"]
        if number + 1 < len(layers):
            x = drop(jax.random.fold_in(key, number), activation(x))
    return x


def _flax(rate, key, x):
    return nn.Dropout(rate, deterministic=False).apply({}, x, rngs={"dropout": key})
