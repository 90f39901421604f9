"""Many small regression nets with dropout at once: their training and their predictions.

One hidden layer of 50 ReLU units, dropout before both dense layers (the inputs too), squared error,
L2 on the kernels: the net of Gal & Ghahramani 2016. A leading axis counts nets, each with its
own data, rate and precision, so one program trains all splits of a set. A net may learn both rates
and the precision with its weights (Gal, Hron & Kendall, "Concrete dropout", 2017).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdrop import concrete_dropout, concrete_regularizer, dropout, mc

HIDDEN = 50
_EPOCHS = 20  # in one call of the trainer


class Scaled(NamedTuple):
    """Data of one net, standardised by its training part.

    Attributes:
        x: inputs to train on, (N, D).
        y: targets to train on, (N,).
        x_test: inputs to predict, (M, D).
        y_test: targets in their own unit, (M,).
        mean: mean of the targets to train on, in their own unit.
        deviation: standard deviation of the same targets, in their own unit.
    """

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def standardise(x, y, train, test):
    """`Scaled` data of a split, from indices; a feature that never changes stays as it is."""
    centre, spread = x[train].mean(0), x[train].std(0)
    spread = np.where(spread == 0, 1, spread)
    mean, deviation = y[train].mean(), y[train].std() or 1.0
    inputs = (x - centre) / spread
    parts = inputs[train], (y[train] - mean) / deviation, inputs[test], y[test], mean, deviation
    return Scaled(*(np.asarray(part, np.float32) for part in parts))


def train(key, data, rates, precisions, *, length_scale, batch, epochs, progress):
    """Parameters of every net.

    Args:
        key: PRNG key; net i gets ``fold_in(key, i)``.
        data: `Scaled` with a leading axis of nets.
        rates: dropout rate of each net; None if it learns one per layer, and its precision.
        precisions: precision of the noise of each net, in the targets' own unit; None likewise.
        length_scale: length scale of the prior; with the precision it gives the weight decay.
        batch: examples per step; the last step of an epoch may have fewer.
        epochs: number of passes over the data.
        progress: called with the number of epochs done since the last call.
    """
    number, dims = data.x.shape[1:]
    learned = rates is None
    if learned:
        rates = jnp.full(len(data.x), jnp.nan)  # not used
        decay = jnp.full(len(data.x), length_scale**2 / (2 * number))
    else:
        decay = length_scale**2 * (1 - rates) / (2 * number * precisions)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(len(rates)))
    optimizer = optax.adam(1e-3, eps=1e-7)
    params = jax.vmap(functools.partial(_init, dims=dims, learned=learned))(keys)
    state = params, jax.vmap(optimizer.init)(params)
    step = _trainer(batch, number, optimizer)
    done = 0
    while done < epochs:
        count = min(_EPOCHS, epochs - done)
        numbers = jnp.arange(done, done + count)
        state = step(state, keys, numbers, data.x, data.y, rates, decay)
        jax.block_until_ready(state)
        done += count
        progress(count)
    return state[0]


def _init(key, *, dims, learned=False):
    first, second = jax.random.split(jax.random.fold_in(key, 0))
    glorot = jax.nn.initializers.glorot_uniform()
    params = {
        "w1": glorot(first, (dims, HIDDEN)),
        "b1": jnp.zeros(HIDDEN),
        "w2": glorot(second, (HIDDEN, 1)),
        "b2": jnp.zeros(1),
    }
    # A rate of 0.1, and all variance noise.
    extra = {"rate_logits": jnp.full(2, np.log(0.1 / 0.9)), "log_precision": jnp.zeros(())}
    return params | extra if learned else params


def net(key, params, x, rate):
    """Predictions ``(N,)`` in standard units, with two masks; the params may have their rates."""

    def drop(key, x, layer):
        if "rate_logits" in params:
            return concrete_dropout(key, x, params["rate_logits"][layer])
        return dropout(key, x, rate)

    first, second = jax.random.split(key)
    h = drop(first, x, 0) @ params["w1"] + params["b1"]
    h = drop(second, jax.nn.relu(h), 1) @ params["w2"] + params["b2"]
    return h[:, 0]


def learned_of(params, deviation):
    """Rates (nets, 2) and precisions (nets,), in the targets' own unit, of nets that learn them."""
    precisions = jnp.exp(params["log_precision"]) / jnp.square(deviation)
    return jax.nn.sigmoid(params["rate_logits"]), precisions


def _trainer(batch, number, optimizer):
    steps = -(-number // batch)
    inside = (np.arange(steps * batch) < number).reshape(steps, batch).astype(np.float32)

    def loss(params, key, x, y, weight, rate, decay):
        error = jnp.square(net(key, params, x, rate) - y) * weight
        error = error.sum() / weight.sum()
        if "rate_logits" in params:
            log_precision = params["log_precision"]
            fit = (jnp.exp(log_precision) * error - log_precision) / 2
            factors = {"weight_decay": decay, "entropy_weight": 1 / number}
            kept = [
                concrete_regularizer(
                    params["rate_logits"][layer], kernel, num_features=len(kernel), **factors
                )
                for layer, kernel in enumerate((params["w1"], params["w2"]))
            ]
            return fit + sum(kept)
        kernels = jnp.square(params["w1"]).sum() + jnp.square(params["w2"]).sum()
        return error + decay * kernels

    def one(state, key, epoch, x, y, rate, decay):
        shuffle, masks = jax.random.split(jax.random.fold_in(key, epoch + 1))
        order = jax.random.permutation(shuffle, number)
        order = jnp.pad(order, (0, steps * batch - number)).reshape(steps, batch)

        def step(state, now):
            params, moments = state
            key, chosen, weight = now
            gradient = jax.grad(loss)(params, key, x[chosen], y[chosen], weight, rate, decay)
            updates, moments = optimizer.update(gradient, moments)
            return (optax.apply_updates(params, updates), moments), None

        return jax.lax.scan(step, state, (jax.random.split(masks, steps), order, inside))[0]

    @jax.jit
    def epochs(state, keys, numbers, x, y, rates, decay):
        def epoch(state, number):
            mapped = jax.vmap(one, in_axes=(0, 0, None, 0, 0, 0, 0))
            return mapped(state, keys, number, x, y, rates, decay), None

        return jax.lax.scan(epoch, state, numbers)[0]

    return epochs


def ask(key, params, data, rates, precisions, *, num_samples):
    """RMSE and log-likelihood of every net on its test part, in the targets' own unit."""

    def predict(key, params, x, rates, mean, deviation):
        keys = jax.random.split(key, len(rates))
        return jax.vmap(net)(keys, params, x, rates) * deviation[:, None] + mean[:, None]

    summary = mc.regression(precision=precisions[:, None], targets=data.y_test)
    arguments = params, data.x_test, rates, data.mean, data.deviation
    options = {"num_samples": num_samples, "chunk_size": 10, "summary": summary}
    out = mc.predict(predict, key, *arguments, balanced=False, **options)  # as was published
    error = np.sqrt(np.square(np.asarray(out.mean) - data.y_test).mean(1))
    return error, np.asarray(out.log_likelihood).mean(1)
