"""Whole attention with dropout: time and temporaries of forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jaxdrop
from benchmarks._report import rows_of
from benchmarks._timing import paired

_RATE = 0.1


def attention(budget):
    """Forward and backward of one layer, against Flax's function with dropout."""
    shape = budget.attention
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    key = jax.random.key(0)
    programs = {
        name: jax.jit(_both(function)).lower(key, x, x, x, x).compile()
        for name, function in _functions().items()
    }
    case = f"{'x'.join(map(str, shape))} (B, T, N, H), float32, rate {_RATE}"
    sizes = {
        name: program.memory_analysis().temp_size_in_bytes / 2**20
        for name, program in programs.items()
    }
    yield from rows_of("temporaries of attention", case, sizes, "MiB", "flax linen")
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for _ in range(4)]
    seconds = 4 * budget.seconds
    times = paired(programs, (key, *arrays), rounds=budget.rounds, seconds=seconds)
    yield from rows_of("attention", case, times, "ms", "flax linen")


def long(budget):
    """Temporaries if the weights of a single head would take 4 GiB."""
    x = jax.ShapeDtypeStruct((1, budget.tokens, 1, 64), jnp.float32)
    key = jax.random.key(0)
    sizes = {}
    for name, function in _functions().items():
        program = jax.jit(_both(function)).lower(key, x, x, x, x).compile()
        sizes[name] = program.memory_analysis().temp_size_in_bytes / 2**20
    case = f"{budget.tokens} tokens, one head of 64, float32, rate {_RATE}"
    yield from rows_of("temporaries of attention", case, sizes, "MiB", "flax linen")


def _functions():
    def ours(block_size):
        return lambda key, q, k, v: jaxdrop.dot_product_attention(
            key, q, k, v, _RATE, block_size=block_size
        )

    def flax(key, q, k, v, **options):
        return nn.dot_product_attention(q, k, v, dropout_rng=key, dropout_rate=_RATE, **options)

    return {
        "flax linen": flax,
        "flax, own masks": lambda *args: flax(*args, broadcast_dropout=False),
        "no dropout": lambda key, q, k, v: jax.nn.dot_product_attention(q, k, v),
        "jaxdrop": ours(None),
        "jaxdrop, blocks": ours(512),
    }


def _both(function):
    def both(key, q, k, v, cotangent):
        y, pull = jax.vjp(lambda *arrays: function(key, *arrays), q, k, v)
        return y, pull(cotangent)

    return both
