"""What dropout costs in whole programs: timed here, and bound by the compilers of other chips.

Each program takes its dropout as an argument, so all libraries drop in the same places. Programs
are in float32 where they are timed and in bfloat16 where they are only compiled.
"""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from tqdm import tqdm

from benchmarks import _gpu, _gpu_compiler, _peers, _tpu
from benchmarks._programs import Encoder
from benchmarks._report import rows_of
from benchmarks._timing import paired

_RATE = 0.1
# A topology whose first chip is compiled for, and bytes a second of that chip's memory.
_TPUS = {"TPU v5e": ("v5e:2x2", 8.19e11), "TPU v6e": ("v6e:2x2", 1.64e12)}


def costs(budget):
    """Five programs without dropout and with that of each library, on each chip."""
    bounds = list(_bounds())
    for title, (make, shapes, none) in _programs(budget).items():
        ways = {"none": none} | _peers.in_jax(_RATE)
        functions = {name: make(drop) for name, drop in ways.items()}
        if jax.default_backend() == "cpu":
            rng = np.random.default_rng(0)
            arrays = [jax.tree.map(functools.partial(_drawn, rng), shape) for shape in shapes]
            jitted = {name: jax.jit(function) for name, function in functions.items()}
            times = paired(
                jitted, (jax.random.key(0), *arrays), rounds=budget.rounds, seconds=budget.seconds
            )
            yield from rows_of("CPU, time", title, times, "ms", "none")
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.bfloat16), shapes)
        for chip, bound in bounds:
            values = {name: bound(function, shapes) for name, function in functions.items()}
            yield from rows_of(chip, title, values, "us", "none")


def _drawn(rng, shape):
    return jnp.asarray(rng.standard_normal(shape.shape) / 8, shape.dtype)


def _programs(budget):
    """``(make, shapes, none)`` by title.

    ``make(drop)`` is a function of a key and of such arrays; ``none`` stands for no dropout.
    """
    width, tokens = budget.encoder
    batch, length, heads, features = (1, 128, 2, 16) if budget.rounds < 10 else (4, 512, 8, 64)
    images = (4, 8, 8, 3) if budget.rounds < 10 else (32, 32, 32, 3)
    x = jax.ShapeDtypeStruct(budget.large, jnp.float32)
    qkv = [jax.ShapeDtypeStruct((batch, length, heads, features), jnp.float32)] * 3
    encoder = functools.partial(Encoder, 2, width)
    return {
        f"forward, {budget.large}": (lambda drop: drop, [x], _peers.scaled),
        f"forward and backward, {budget.large}": (_gpu.both_ways, [x, x], _peers.scaled),
        f"attention, gradient, {qkv[0].shape}": (_attention, qkv, _whole),
        f"two-layer encoder, gradient, {(*tokens, width)}": _gradient(encoder, (*tokens, width)),
        f"two convolutions, gradient, {images}": _gradient(_Convolutions, images),
    }


def _whole(key, x):
    del key
    return x


def _attention(drop):
    def loss(qkv, key):
        q, k, v = qkv
        weights = jax.nn.softmax(jnp.einsum("btnh,bsnh->bnts", q, k) / q.shape[-1] ** 0.5)
        return jnp.einsum("bnts,bsnh->btnh", drop(key, weights), v).astype(jnp.float32).sum()

    return lambda key, *qkv: jax.grad(loss)(qkv, key)


def _gradient(model_of, shape):
    """The gradient of a model by its parameters, which are the first array."""

    def make(drop):
        def loss(params, key, x):
            return jnp.square(model_of(drop).apply(params, key, x)).mean()

        return lambda key, params, x: jax.grad(loss)(params, key, x)

    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(model_of(_whole).init, key, key, x)
    return make, [params, x], _whole


class _Convolutions(nn.Module):
    """Two convolutions and a dense layer, with dropout after each of the first three."""

    dropout: object

    @nn.compact
    def __call__(self, key, x):
        keys = jax.random.split(key, 3)
        for number in range(2):
            x = self.dropout(keys[number], nn.relu(nn.Conv(64, (3, 3))(x)))
        x = nn.max_pool(x, (4, 4), (4, 4)).reshape(len(x), -1)
        return nn.Dense(10)(self.dropout(keys[2], nn.relu(nn.Dense(256)(x))))


def _bounds():
    """``(chip, bound)`` for each compiler that is installed; a bound is in microseconds."""
    if _gpu_compiler.is_installed():
        yield "H200, bound", _gpu_bound
    else:
        tqdm.write(_gpu_compiler.INSTALL)
    if importlib.util.find_spec("libtpu") is not None and jax.default_backend() == "cpu":
        for chip, (topology, bandwidth) in _TPUS.items():
            yield f"{chip}, time of its bytes", functools.partial(_tpu_bound, topology, bandwidth)


def _gpu_bound(function, shapes):
    data = jax.eval_shape(lambda: jax.random.key_data(jax.random.key(0)))
    return _gpu_compiler.cost(
        lambda data, *arrays: function(jax.random.wrap_key_data(data), *arrays), data, *shapes
    ).microseconds


def _tpu_bound(topology, bandwidth, function, shapes):
    place = jax.sharding.SingleDeviceSharding(_tpu.devices(topology)[0])
    key = jax.eval_shape(lambda: jax.random.key(0))
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), (key, *shapes)
    )
    cost = jax.jit(function).lower(*placed).compile().cost_analysis()
    return 1e6 * cost["bytes accessed"] / bandwidth
