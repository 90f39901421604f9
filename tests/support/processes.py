"""Training and Monte-Carlo passes over the devices of all processes, as each process sees them.

    python -m tests.support.processes PROCESS COUNT PORT FILE

joins COUNT processes on this machine, runs `results` over their devices and saves what this one
holds. One process calls `results` as it is.
"""

import functools
import sys

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxdrop
from jaxdrop import mc

DEVICES, ROWS, WIDTH, STEPS, SAMPLES = 8, 64, 40, 4, 16


class Net(nn.Module):
    """A classifier whose dropped entries can be looked at."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Dense(64)(x)) + 1
        x = jaxdrop.linen.DropPath(0.2, deterministic=not train)(x)
        x = jaxdrop.linen.Dropout(0.5, deterministic=not train)(x)
        self.sow("intermediates", "dropped", x == 0)
        return nn.Dense(3)(x)


class Alone(nn.Module):
    """Dropout and no product, so that samples are the same to the last bit."""

    @nn.compact
    def __call__(self, x):
        return jaxdrop.linen.Dropout(0.5, deterministic=True)(x)


def results():
    """Arrays by name: losses, parameters, and by its place in the whole each part that is here."""
    assert len(jax.devices()) == DEVICES
    mesh = jax.make_mesh((4, 2), ("data", "sample"), (AxisType.Auto,) * 2)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(ROWS, WIDTH)).astype(np.float32)
    labels = draw.integers(0, 3, ROWS)
    variables = jax.tree.map(np.asarray, jax.jit(Net().init)(jax.random.key(0), x))
    params = _placed(variables["params"], mesh, P())
    x, labels = _placed((x, labels), mesh, P("data"))
    return {**_trained(params, x, labels), **_sampled(params, x)}


def _placed(tree, mesh, spec):
    """Arrays that every process holds, as arrays over the mesh."""
    place = NamedSharding(mesh, spec)
    return jax.tree.map(
        lambda whole: jax.make_array_from_callback(whole.shape, place, lambda at: whole[at]), tree
    )


def _trained(params, x, labels):
    optimizer = optax.sgd(0.1, momentum=0.9)

    def loss(params, x, labels, number):
        rngs = {"dropout": jax.random.fold_in(jax.random.key(1), number)}
        logits, sown = Net().apply(
            {"params": params}, x, train=True, rngs=rngs, mutable="intermediates"
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), sown["intermediates"]["dropped"][0]

    @jax.jit
    def step(params, state, number, x, labels):
        (value, dropped), gradient = jax.value_and_grad(loss, has_aux=True)(
            params, x, labels, number
        )
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value, dropped

    state, found = jax.jit(optimizer.init)(params), {}
    for number in range(STEPS):
        params, state, value, dropped = step(params, state, number, x, labels)
        found |= {f"loss {number}": np.asarray(value), **_parts(f"dropped {number}", dropped)}
    for path, leaf in jax.tree.leaves_with_path(params):
        found[f"parameter {jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    return found


def _sampled(params, x):
    predict = functools.partial(mc.predict, num_samples=SAMPLES, chunk_size=4, sample_axis="sample")
    fn = mc.from_linen(Net(), {"params": params})
    out = predict(fn, jax.random.key(2), x, summary=mc.classification())
    samples = predict(mc.from_linen(Alone(), {}), jax.random.key(3), x, summary=mc.samples())
    return {**_parts("entropy", out.predictive_entropy), **_parts("samples", samples)}


def _parts(name, array):
    """The parts of an array that this process holds, by their place in the whole."""
    return {
        f"{name} at {[s.indices(n)[:2] for s, n in zip(part.index, array.shape)]}": np.asarray(
            part.data
        )
        for part in array.addressable_shards
    }


def main(process, count, port, file):
    jax.config.update("jax_num_cpu_devices", DEVICES // int(count))
    jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(process))
    np.savez(file, **results())


if __name__ == "__main__":
    main(*sys.argv[1:])
