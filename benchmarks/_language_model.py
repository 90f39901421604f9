"""A recurrent model of words with tied embeddings, with its training and its evaluation."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxdrop import linen


class Rates(NamedTuple):
    """Probabilities of dropping.

    Attributes:
        embedding: for a word of the vocabulary, drawn once per stretch of text.
        step: for an element between layers, drawn at every step.
        input: for an element of a layer's inputs, drawn once per stretch.
        state: for an element of the state before the gates, drawn once per stretch.
        output: for an element of the last layer's output, drawn once per stretch.
        weight: for a hidden-to-hidden weight, drawn once per stretch.
    """

    embedding: float = 0.0
    step: float = 0.0
    input: float = 0.0
    state: float = 0.0
    output: float = 0.0
    weight: float = 0.0


class LanguageModel(nn.Module):
    """LSTM layers between an embedding and its transpose.

    Attributes:
        num_words: size of the vocabulary.
        num_cells: cells of each layer, and features of the embedding.
        num_layers: number of layers.
        rates: where and how much is dropped.
        deterministic: if true, nothing is dropped.
    """

    num_words: int
    num_cells: int
    num_layers: int
    rates: Rates
    deterministic: bool

    @nn.compact
    def __call__(self, words, states):
        """Logits ``(B, L, V)`` of the next words, and the states after the last."""
        off, rates = self.deterministic, self.rates
        small = nn.initializers.uniform(0.2)
        table = self.param(
            "table", lambda *args: small(*args) - 0.1, (self.num_words, self.num_cells)
        )
        bias = self.param("bias", nn.initializers.zeros, (self.num_words,))
        x = linen.EmbeddingDropout(rates.embedding, deterministic=off)(table)[words]
        left = []
        for number, state in enumerate(states):
            last = number == self.num_layers - 1
            cell = linen.VariationalCell(
                nn.OptimizedLSTMCell(self.num_cells),
                input_rate=rates.input,
                state_rate=rates.state,
                output_rate=rates.output if last else 0.0,
                deterministic=off,
            )
            cell = linen.WeightDropCell(cell, rates.weight, deterministic=off)
            x = linen.Dropout(rates.step, deterministic=off)(x)
            fresh = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
            carry, x = nn.RNN(cell, return_carry=True)(x, initial_carry=_resume(fresh, state))
            left.append(_state(carry))
        x = linen.Dropout(rates.step, deterministic=off)(x)
        return x @ table.T + bias, left


def _resume(fresh, state):
    """New masks if there are any, and the state at the end of the last stretch."""
    return fresh.resume(state) if hasattr(fresh, "resume") else state


def _state(carry):
    """Memory and hidden state of the cell, without masks."""
    return _state(carry.state) if hasattr(carry, "resume") else carry


def zero_states(model, batch):
    """States at the start of a text."""
    zeros = jnp.zeros((batch, model.num_cells))
    return [(zeros, zeros)] * model.num_layers


class Learner(NamedTuple):
    """What training carries and a checkpoint stores.

    Attributes:
        params: parameters of the model after the last epoch.
        best: parameters of the epoch with the lowest validation loss.
        best_loss: that loss, in nats per word.
        learning_rate: learning rate of the next epoch.
        epoch: number of finished epochs.
    """

    params: Any
    best: Any
    best_loss: Any
    learning_rate: Any
    epoch: Any


def start(model, key, learning_rate):
    """A `Learner` before the first epoch."""
    words = jnp.zeros((1, 2), jnp.int32)
    params = model.clone(deterministic=True).init(key, words, zero_states(model, 1))["params"]
    return Learner(params, params, jnp.float32(jnp.inf), jnp.float32(learning_rate), jnp.int32(0))


def make_stretch(model, clip):
    """``stretch(params, states, key, learning_rate, windows)``: plain SGD over some windows."""
    optimizer = optax.clip_by_global_norm(clip)

    def loss(params, states, key, inputs, targets, weights):
        logits, states = model.apply({"params": params}, inputs, states, rngs={"dropout": key})
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        # The sum over steps, because the usual learning rates of such models are near 1.
        return (losses * weights).sum() / len(inputs), (jax.lax.stop_gradient(states), losses)

    @jax.jit
    def stretch(params, states, key, learning_rate, windows):
        def step(carry, window):
            params, states, key = carry
            key, used = jax.random.split(key)
            gradient, (states, losses) = jax.grad(loss, has_aux=True)(params, states, used, *window)
            gradient, _ = optimizer.update(gradient, optimizer.init(params))
            params = jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient)
            return (params, states, key), (losses * window[-1]).sum()

        (params, states, _), losses = jax.lax.scan(step, (params, states, key), windows)
        return params, states, losses.sum()

    return stretch


def make_reader(model):
    """``reader(params, key, windows)``: log-probability of every target, in one call."""

    @jax.jit
    def reader(params, key, windows):
        def step(carry, window):
            states, key = carry
            key, used = jax.random.split(key)
            inputs, targets, _ = window
            logits, states = model.apply({"params": params}, inputs, states, rngs={"dropout": used})
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
            return (states, key), -losses

        states = zero_states(model, windows[0].shape[1])
        return jax.lax.scan(step, (states, key), windows)[1]

    return reader
