"""Many small regression nets with dropout at once: their training and their predictions.

One hidden layer of 50 ReLU units, dropout before both dense layers (the inputs too), squared error,
L2 on the kernels: the net of Gal & Ghahramani 2016. A leading axis counts nets, each with its
own data, rate and precision, so one program trains all splits of a set.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdrop import dropout, mc

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
        rates: dropout rate of each net.
        precisions: precision of the noise of each net, in the targets' own unit.
        length_scale: length scale of the prior; with the precision it gives the weight decay.
        batch: examples per step; the last step of an epoch may have fewer.
        epochs: number of passes over the data.
        progress: called with the number of epochs done since the last call.
    """
    number, dims = data.x.shape[1:]
    decay = length_scale**2 * (1 - rates) / (2 * number * precisions)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(len(rates)))
    optimizer = optax.adam(1e-3, eps=1e-7)
    params = jax.vmap(functools.partial(_init, dims=dims))(keys)
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


def _init(key, *, dims):
    first, second = jax.random.split(jax.random.fold_in(key, 0))
    glorot = jax.nn.initializers.glorot_uniform()
    return {
        "w1": glorot(first, (dims, HIDDEN)),
        "b1": jnp.zeros(HIDDEN),
        "w2": glorot(second, (HIDDEN, 1)),
        "b2": jnp.zeros(1),
    }


def net(key, params, x, rate):
    """Predictions ``(N,)`` in standard units, with two masks."""
    first, second = jax.random.split(key)
    h = dropout(first, x, rate) @ params["w1"] + params["b1"]
    h = dropout(second, jax.nn.relu(h), rate) @ params["w2"] + params["b2"]
    return h[:, 0]


def _trainer(batch, number, optimizer):
    steps = -(-number // batch)
    inside = (np.arange(steps * batch) < number).reshape(steps, batch).astype(np.float32)

    def loss(params, key, x, y, weight, rate, decay):
        error = jnp.square(net(key, params, x, rate) - y) * weight
        kernels = jnp.square(params["w1"]).sum() + jnp.square(params["w2"]).sum()
        return error.sum() / weight.sum() + decay * kernels

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
