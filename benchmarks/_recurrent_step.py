"""A training step of a recurrent net whose cells drop, compared with plain cells."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from benchmarks._report import rows_of
from benchmarks._timing import paired
from jaxdrop.linen import VariationalCell, WeightDropCell, ZoneoutCell

_WRAPPERS = {
    "plain": lambda cell: cell,
    "VariationalCell": lambda cell: VariationalCell(cell, 0.3, 0.3, 0.3, deterministic=False),
    "untied": lambda cell: VariationalCell(cell, 0.3, 0.3, tied=False, deterministic=False),
    "WeightDropCell": lambda cell: WeightDropCell(cell, 0.3, deterministic=False),
    "ZoneoutCell": lambda cell: ZoneoutCell(cell, 0.1, deterministic=False),
}


def recurrent(budget):
    """Two layers of each kind of cell, forward, backward and an update."""
    width, batch, steps = budget.recurrent
    x = jnp.asarray(np.random.default_rng(0).standard_normal((batch, steps, width)), jnp.float32)
    for kind in (nn.LSTMCell, nn.OptimizedLSTMCell):
        # All share the same variables, because a wrapper does not rename those of its cell.
        variables = _model(_WRAPPERS["plain"], kind, width).init(jax.random.key(0), x)
        functions = {
            name: functools.partial(_step(_model(wrap, kind, width)), variables)
            for name, wrap in _WRAPPERS.items()
        }
        arguments = jax.random.key(1), x
        times = paired(functions, arguments, rounds=2 * budget.rounds, seconds=2 * budget.seconds)
        case = f"2x{width} {kind.__name__}, batch {batch}, {steps} steps"
        yield from rows_of("recurrent step", case, times, "ms", "plain")


def _model(wrap, kind, width):
    return nn.Sequential([nn.RNN(wrap(kind(width))), nn.RNN(wrap(kind(width)))])


def _step(model):
    optimizer = optax.sgd(1e-3)

    @jax.jit
    def step(variables, key, x):
        def loss(variables):
            return jnp.square(model.apply(variables, x, rngs={"dropout": key})).mean()

        value, gradient = jax.value_and_grad(loss)(variables)
        updates, _ = optimizer.update(gradient, optimizer.init(variables))
        return optax.apply_updates(variables, updates), value

    return step
