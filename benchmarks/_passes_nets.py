"""Small nets with dropout that are trained on real data: digits, and one regression set."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from benchmarks import mnist, uci
from benchmarks._uci_nets import standardise
from jaxdrop import linen, mc

_BATCH = 50


class Case(NamedTuple):
    """A net, and how often balanced passes should divide the error variance of its mean.

    Attributes:
        name: of the net.
        net: linen module of rows of features; `mc.from_linen` turns its dropout on.
        target: smallest ratio of error variances that counts as a success.
        classes: whether the net has logits of classes; else it has a number for each example.
    """

    name: str
    net: nn.Module
    target: float
    classes: bool = True

    @property
    def output(self):
        """What passes estimate the mean of."""
        return jax.nn.softmax if self.classes else jnp.asarray


class Dense(nn.Module):
    """Dense ReLU layers, each with dropout after it."""

    layers: int
    rate: float
    width: int = 128
    outputs: int = 10

    @nn.compact
    def __call__(self, x):
        for _ in range(self.layers):
            x = nn.relu(nn.Dense(self.width)(x))
            x = linen.Dropout(self.rate, deterministic=True)(x)
        return nn.Dense(self.outputs)(x)


class Convolutions(nn.Module):
    """Two convolutions, each with spatial dropout after it."""

    rate: float

    @nn.compact
    def __call__(self, x):
        x = x.reshape(-1, 8, 8, 1)
        for features in (16, 32):
            x = nn.relu(nn.Conv(features, (3, 3))(x))
            x = linen.SpatialDropout(self.rate, deterministic=True)(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(10)(x.reshape(len(x), -1))


class Transformer(nn.Module):
    """Two pre-norm blocks over the rows of the image: dropout of attention, and whole branches."""

    rate: float
    width: int = 32

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x.reshape(-1, 8, 8))
        x = x + self.param("place", nn.initializers.normal(0.1), (1, 8, self.width))
        for _ in range(2):
            x = x + self._drop_path()(self._attention()(nn.LayerNorm()(x)))
            hidden = nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(x)))
            x = x + self._drop_path()(nn.Dense(self.width)(hidden))
        return nn.Dense(10)(x.mean(1))

    def _attention(self):
        return nn.MultiHeadDotProductAttention(
            4, dropout_rate=self.rate, deterministic=True, attention_fn=linen.attention_fn
        )

    def _drop_path(self):
        return linen.DropPath(self.rate, deterministic=True)


class Recurrent(nn.Module):
    """An LSTM that reads the rows of the image, with one mask per sequence."""

    rate: float

    @nn.compact
    def __call__(self, x):
        rates = {"input_rate": self.rate, "state_rate": self.rate, "output_rate": self.rate}
        cell = linen.VariationalCell(nn.LSTMCell(32), **rates, deterministic=True)
        return nn.Dense(10)(nn.RNN(cell)(x.reshape(-1, 8, 8))[:, -1])


DIGITS = (
    Case("MLP 64-128-10, rate 0.1", Dense(1, 0.1), 8.0),
    Case("MLP 64-128x2-10, rate 0.1", Dense(2, 0.1), 4.5),
    Case("MLP 64-128x4-10, rate 0.1", Dense(4, 0.1), 2.5),
    Case("MLP 64-128-10, rate 0.5", Dense(1, 0.5), 4.5),
    Case("MLP 64-128x2-10, rate 0.5", Dense(2, 0.5), 2.5),
    Case("CNN, rate 0.2", Convolutions(0.2), 1.0),
    Case("transformer, rate 0.1", Transformer(0.1), 1.0),
    Case("LSTM, rate 0.25", Recurrent(0.25), 1.0),
)
MNIST = (
    Case("MNIST 784-256-10, rate 0.1", Dense(1, 0.1, 256), 8.0),
    Case("MNIST 784-256x2-10, rate 0.1", Dense(2, 0.1, 256), 4.5),
    Case("MNIST 784-256x4-10, rate 0.1", Dense(4, 0.1, 256), 2.5),
    Case("MNIST 784-256x2-10, rate 0.5", Dense(2, 0.5, 256), 2.5),
)
ENERGY = Case("energy 8-50-1, rate 0.05", Dense(1, 0.05, 50, 1), 1.0, classes=False)


def digits():
    """8 x 8 digits of scikit-learn as rows in [0, 1]: 1200 to learn from, then 597 to test on."""
    train, test = mnist.small()
    return tuple(train), test.images


def mnist_digits(folder):
    """MNIST as rows in [0, 1]: all to learn from, and the first 1000 to test on."""
    train, test = mnist.read(folder)
    return train, test.images[:1000]


def energy(folder):
    """The first published split of the UCI set, standardised; None if the folder lacks the set."""
    sets = uci.sets_of(folder)
    if "energy" not in sets:
        return None
    x, y = sets["energy"]
    scaled = standardise(x, y, *next(uci.splits(len(y), 1)))
    return (scaled.x, scaled.y[:, None]), scaled.x_test


def trained(net: nn.Module, examples: Any, epochs: int) -> Callable[..., Any]:
    """The net after some epochs, as the function of a key and of features that `mc` samples."""
    x, y = map(jnp.asarray, examples)
    steps = len(x) // _BATCH
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps * epochs))
    key = jax.random.key(0)
    variables = net.init(jax.random.fold_in(key, 0), x[:1])

    def loss(variables, key, x, y):
        out = mc.from_linen(net, variables)(key, x)
        if jnp.issubdtype(y.dtype, jnp.floating):
            return jnp.square(out - y).mean()
        return optax.softmax_cross_entropy_with_integer_labels(out, y).mean()

    def step(state, now):
        variables, moments = state
        gradient = jax.grad(loss)(variables, *now)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(variables, updates), moments), None

    @jax.jit
    def epoch(state, key):
        order = jax.random.permutation(jax.random.fold_in(key, 0), len(x))
        order = order[: steps * _BATCH].reshape(steps, _BATCH)
        keys = jax.random.split(jax.random.fold_in(key, 1), steps)
        return jax.lax.scan(step, state, (keys, x[order], y[order]))[0]

    state = variables, optimizer.init(variables)
    for number in range(epochs):
        state = epoch(state, jax.random.fold_in(key, number + 1))
    return mc.from_linen(net, state[0])
