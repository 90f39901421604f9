"""Time of one dropout: forward, forward and backward, small shapes, rates, keys."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxdrop
from benchmarks import _peers
from benchmarks._report import rows_of
from benchmarks._timing import paired

_SMALL = (
    (),
    (8,),
    (32,),
    (128, 10),
    (64, 512),
    (64, 32, 32, 3),
    (256, 28, 28, 1),
    (8, 128, 768),
    (4, 12, 128, 128),
    (1, 4096),
    (100003,),
)

_KEYS = ("threefry2x32", "rbg", "unsafe_rbg", "philox2x32", "philox4x32", "threefry4x32")


def forward(budget):
    """One large array, every library, against the copy."""
    for dtype in (jnp.float32, jnp.bfloat16):
        x = _array(budget.large, dtype)
        for rate in (0.1, 0.5):
            functions = {"copy": _peers.copy, **_peers.in_jax(rate)}
            functions = {name: jax.jit(function) for name, function in functions.items()}
            outside = _peers.torch(rate, x)
            if outside is not None:
                functions["torch"] = outside
            case = f"{jnp.dtype(dtype).name} {_text(x.shape)}, rate {rate}"
            yield from _timed("forward", case, functions, (jax.random.key(0), x), budget, "copy")


def backward(budget):
    """Forward and backward pass of the same, with both results kept."""
    for dtype in (jnp.float32, jnp.bfloat16):
        x = _array(budget.large, dtype)
        functions = {"copy": _peers.copy, **_peers.in_jax(0.1)}
        functions = {name: jax.jit(_both(function)) for name, function in functions.items()}
        case = f"{jnp.dtype(dtype).name} {_text(x.shape)}, rate 0.1"
        arguments = (jax.random.key(0), x, x)
        yield from _timed("forward and backward", case, functions, arguments, budget, "copy")


def shapes(budget):
    """Small and odd shapes against Flax, jitted and in one eager call."""
    for shape in _SMALL[:: budget.stride]:
        x = _array(shape, jnp.float32)
        peers = {"jaxdrop": _peers.ours(0.1), "flax linen": _peers.flax_linen(0.1)}
        jitted = {name: jax.jit(function) for name, function in peers.items()}
        arguments = (jax.random.key(0), x)
        for kind, functions in (("jitted", jitted), ("eager", peers)):
            case = f"{shape}, {kind}"
            yield from _timed("shapes", case, functions, arguments, budget, "flax linen")


def rates(budget):
    """Rates that are traced or arrays, and masks smaller than the array."""
    x = _array(budget.large, jnp.float32)
    channel = jnp.full(x.shape[-1:], 0.1)
    everything = jax.jit(lambda key, x, rate: jaxdrop.dropout(key, x, rate))
    key = jax.random.key(0)
    functions = {
        "copy": jax.jit(_peers.copy),
        "static rate": jax.jit(_peers.ours(0.1)),
        "traced rate": lambda key, x: everything(key, x, np.float32(0.1)),
        "rate per channel": lambda key, x: everything(key, x, channel),
        "shared axis": jax.jit(lambda key, x: jaxdrop.dropout(key, x, 0.1, broadcast_dims=(1,))),
    }
    case = f"float32 {_text(x.shape)}, rate 0.1"
    yield from _timed("rates", case, functions, (key, x), budget, "static rate")
    maps = x.reshape(-1, 16, 16, 64)
    steps = x.reshape(-1, 64, 256)
    for name, x, function in (
        ("spatial_dropout", maps, jaxdrop.spatial_dropout),
        ("variational_dropout", steps, jaxdrop.variational_dropout),
    ):
        functions = {
            "copy": jax.jit(_peers.copy),
            name: jax.jit(lambda key, x, function=function: function(key, x, 0.1)),
        }
        case = f"float32 {_text(x.shape)}, rate 0.1"
        yield from _timed("structured", case, functions, (key, x), budget, "copy")


def keys(budget):
    """Keys of other generators of JAX, against Flax with the same key."""
    x = _array(budget.large, jnp.float32)
    for kind in _KEYS:
        peers = {"jaxdrop": _peers.ours(0.1), "flax linen": _peers.flax_linen(0.1)}
        functions = {name: jax.jit(function) for name, function in peers.items()}
        arguments = (jax.random.key(0, impl=kind), x)
        case = f"{kind}, float32 {_text(x.shape)}"
        yield from _timed("keys", case, functions, arguments, budget, "flax linen")


def _both(function):
    def both(key, x, cotangent):
        value, pull = jax.vjp(lambda x: function(key, x), x)
        return value, pull(cotangent)

    return both


def _timed(section, case, functions, arguments, budget, against):
    times = paired(functions, arguments, rounds=budget.rounds, seconds=budget.seconds)
    return rows_of(section, case, times, "ms", against)


def _array(shape, dtype):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), dtype)


def _text(shape):
    return "x".join(map(str, shape))
