"""Monte-Carlo passes of a 3 x 1024 MLP: one program, a loop of compiled passes, and peers."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks import _peers
from benchmarks._report import rows_of
from benchmarks._timing import paired
from jaxdrop import linen, mc

_RATE, _FEATURES, _CLASSES = 0.5, 784, 10


class _Net(nn.Module):
    """Dense ReLU layers, each with dropout after it."""

    width: int
    dropout: type[nn.Module]

    @nn.compact
    def __call__(self, x, deterministic=True):
        for _ in range(3):
            x = nn.relu(nn.Dense(self.width)(x))
            x = self.dropout(_RATE)(x, deterministic=deterministic)
        return nn.Dense(_CLASSES)(x)


def monte_carlo(budget):
    """Mean and variance of the outputs over 100 passes, for a small batch and a large one."""
    for batch in (16, 1000):
        x = jax.random.normal(jax.random.key(0), (batch, _FEATURES))
        functions = _functions(budget, x)
        functions |= _peers.monte_carlo(x, budget.width, 3, _RATE, _CLASSES, budget.samples)
        seconds = 4 * budget.seconds
        times = paired(functions, (), rounds=budget.rounds, seconds=seconds)
        case = f"{budget.samples} passes of 3 x {budget.width}, batch {batch}, rate {_RATE}"
        yield from rows_of("mc", case, times, "ms", "loop, flax")


def _functions(budget, x):
    key = jax.random.key(1)
    ours = _Net(budget.width, linen.Dropout)
    variables = ours.init(key, x)
    fn = mc.from_linen(ours, variables)

    def predict(chunk_size):
        return lambda: mc.predict(
            fn, jax.random.clone(key), x, num_samples=budget.samples, chunk_size=chunk_size
        )

    def loop(net):
        @jax.jit
        def once(variables, key, x):
            return net.apply(variables, x, deterministic=False, rngs={"dropout": key})

        @functools.partial(jax.jit, static_argnums=0)
        def summarise(number, *samples):
            samples = jnp.stack(samples)
            return samples.mean(0), samples.var(0)

        def run():
            keys = jax.random.split(jax.random.clone(key), budget.samples)
            return summarise(budget.samples, *[once(variables, one, x) for one in keys])

        return run

    return {
        "loop, flax": loop(_Net(budget.width, nn.Dropout)),
        "loop, jaxdrop": loop(ours),
        "predict": predict(10),
        "predict, auto": predict("auto"),
    }
