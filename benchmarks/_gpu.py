"""What dropout costs on an NVIDIA GPU, from XLA's compiler; a GPU is not needed.

It is compared with Flax's dropout, or with the same layer written by hand with ``jax.random``.
The figures are bounds, not times.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from tqdm import tqdm

import jaxdrop
from benchmarks import _gpu_compiler, _peers
from benchmarks._report import rows_of
from jaxdrop.mc import _passes as mc_passes

_SHAPES = ((), (8,), (128, 10), (128, 512), (1024, 768), (8, 1024, 768), (64, 32, 32, 3), (100003,))
_KEY = jax.ShapeDtypeStruct((2,), jnp.uint32)


def gpu(budget):
    """Launches, bytes, instructions and a bound of the time, for an H200."""
    if not _gpu_compiler.is_installed():
        tqdm.write(_gpu_compiler.INSTALL)
        return
    quick = budget.rounds < 10
    yield from _elementwise(_SHAPES[4:5] if quick else (*_SHAPES, (16384, 8192)))
    if quick:
        return
    yield from _residual((8, 1024, 768))
    yield from _residual((128, 512))
    yield from _attention(8, 1024, 12, 64)
    yield from _passes((4096, 4096))
    yield from _passes((256, 1024))
    yield from _family()


def _bf16(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16)


def _rows(case, functions, *shapes, against, entries=None):
    """Four rows per function: its costs, and the instructions per element of its largest array."""
    costs = {name: _gpu_compiler.cost(fn, _KEY, *shapes) for name, fn in functions.items()}
    sizes = [np.prod(x.shape, dtype=int) for x in jax.tree.leaves(shapes)]
    entries = entries or max(sizes)
    for section, unit, value in (
        ("launches", "", lambda cost: cost.launches),
        ("megabytes", "MB", lambda cost: cost.megabytes),
        ("instructions per element", "", lambda cost: cost.instructions / entries),
        ("bound", "us", lambda cost: cost.microseconds),
    ):
        values = {name: float(value(cost)) for name, cost in costs.items()}
        yield from rows_of(f"H200, {section}", case, values, unit, against)


def both_ways(function):
    """The output of ``function(key, *arrays)`` and all gradients, from a cotangent."""

    def value_and_gradients(key, cotangent, *arrays):
        y, pull = jax.vjp(lambda *arrays: function(key, *arrays), *arrays)
        return y, pull(cotangent.astype(y.dtype))

    return value_and_gradients


def _elementwise(shapes):
    for shape in shapes:
        functions = {
            "copy": _peers.scaled,
            "jaxdrop": _peers.ours(0.1),
            "flax linen": _peers.flax_linen(0.1),
        }
        if shape == (16384, 8192):
            functions["jaxdrop, rate 0.5"] = _peers.ours(0.5)
        yield from _rows(f"bfloat16 {shape}, rate 0.1", functions, _bf16(*shape), against="copy")
    shape, rates = (1024, 768), jax.ShapeDtypeStruct((768,), jnp.float32)
    functions = {
        "rates of channels": jaxdrop.dropout,
        "traced rate": lambda key, x, rates: jaxdrop.dropout(key, x, rates[0]),
        "traced flag": lambda key, x, rates: jaxdrop.dropout(
            key, x, 0.1, deterministic=rates[0] > 0
        ),
    }
    case = f"bfloat16 {shape}"
    yield from _rows(case, functions, _bf16(*shape), rates, against="traced rate")


def _residual(shape):
    """A branch of a residual network, forward and backward."""

    def branch(drop):
        return both_ways(lambda key, x, h: x + drop(key, jax.nn.gelu(h)))

    functions = {
        "none": branch(lambda key, x: x),
        "jaxdrop": branch(_peers.ours(0.1)),
        "flax linen": branch(_peers.flax_linen(0.1)),
    }
    case = f"x + dropout(gelu(h)), forward and backward, {shape}"
    yield from _rows(case, functions, *[_bf16(*shape)] * 3, against="none")


def _attention(batch, length, heads, features):
    """The gradient by query, key and value, with a mask for each head and example."""

    def gradient(attend):
        def loss(key, *qkv):
            return jnp.sum(attend(key, *qkv), dtype=jnp.float32)

        return jax.grad(loss, (1, 2, 3))

    def flax(key, *qkv):
        return nn.dot_product_attention(
            *qkv, dropout_rng=key, dropout_rate=0.1, broadcast_dropout=False, deterministic=False
        )

    def ours(block_size):
        return lambda key, *qkv: jaxdrop.dot_product_attention(
            key, *qkv, 0.1, block_size=block_size
        )

    functions = {
        "none": lambda key, *qkv: jax.nn.dot_product_attention(*qkv),
        "jaxdrop": ours(None),
        "jaxdrop, blocks of 256": ours(256),
        "jaxdrop, blocks of 512": ours(512),
        "flax linen": flax,
    }
    functions = {name: gradient(attend) for name, attend in functions.items()}
    case = f"attention {(batch, length, heads, features)}, gradient"
    arrays = [_bf16(batch, length, heads, features)] * 3
    entries = batch * heads * length * length
    yield from _rows(case, functions, *arrays, against="flax linen", entries=entries)


def _passes(shape):
    """Eight passes side by side of one dropout, independent or of one block of 32."""
    x = _bf16(*shape)

    def eight(balanced):
        def run(key, x):
            counts = mc_passes.counted(128, 8, None, balanced)
            call = lambda key: jaxdrop.dropout(key, x, 0.1)  # noqa: E731
            key = jax.random.wrap_key_data(key)
            return mc_passes.laid_out(call, key, counts, 0, None).run(jnp.int32(0), 8)

        return run

    functions = {"independent": eight(False), "balanced": eight(True)}
    case = f"8 passes of bfloat16 {shape}, rate 0.1"
    yield from _rows(case, functions, x, against="independent", entries=8 * np.prod(shape))


def _by_hand(key, x, shape, rate=0.1):
    keep = jax.random.bernoulli(key, 1 - rate, shape)
    return jnp.where(keep, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))


def _drop_block_by_hand(key, x):
    """Seeds on the whole map, blocks by a maximum over windows, without rescaling."""
    gamma = 0.1 / 49
    seeds = jax.random.bernoulli(key, gamma, x.shape)
    window = (1, 7, 7, 1)
    dropped = jax.lax.reduce_window(
        seeds.astype(x.dtype), -jnp.inf, jax.lax.max, window, (1, 1, 1, 1), "SAME"
    )
    return jnp.where(dropped > 0, jnp.zeros((), x.dtype), x / jnp.asarray(0.9, x.dtype))


def _tokens_by_hand(key, x):
    noise = jax.random.uniform(key, x.shape[:2])
    places = jnp.sort(jnp.argsort(noise, axis=1)[:, : x.shape[1] // 2], axis=1)
    return jnp.take_along_axis(x, places[..., None], axis=1)


def _gaussian_by_hand(key, x):
    noise = jax.random.normal(key, x.shape, x.dtype)
    return x * (1 + jnp.asarray((0.1 / 0.9) ** 0.5, x.dtype) * noise)


def _concrete_by_hand(key, x):
    u = jax.random.uniform(key, x.shape, minval=1e-7, maxval=1 - 1e-7)
    odds = np.float32(np.log(0.1 / 0.9)) + jnp.log(u) - jnp.log(1 - u)
    return (x * (1 - jax.nn.sigmoid(odds / 0.1)) / 0.9).astype(x.dtype)


def _alpha_by_hand(key, x):
    keep = jax.random.bernoulli(key, 0.9, x.shape)
    lost, scale = -1.7580993408473766, (0.9 + 1.7580993408473766**2 * 0.9 * 0.1) ** -0.5
    chosen = jnp.where(keep, x, jnp.asarray(lost, x.dtype))
    return jnp.asarray(scale, x.dtype) * chosen + jnp.asarray(-scale * 0.1 * lost, x.dtype)


def _family():
    """Every other variant, forward and backward, beside the same layer written by hand."""
    image, tokens, logits = (32, 28, 28, 64), (8, 1024, 768), (8, 12, 512, 512)
    cases = {
        "spatial_dropout": (
            image,
            lambda key, x: jaxdrop.spatial_dropout(key, x, 0.1),
            lambda key, x: _by_hand(key, x, (x.shape[0], 1, 1, x.shape[-1])),
        ),
        "variational_dropout": (
            tokens,
            lambda key, x: jaxdrop.variational_dropout(key, x, 0.1),
            lambda key, x: _by_hand(key, x, (x.shape[0], 1, x.shape[-1])),
        ),
        "drop_path": (
            tokens,
            lambda key, x: jaxdrop.drop_path(key, x, 0.1),
            lambda key, x: _by_hand(key, x, (x.shape[0], 1, 1)),
        ),
        "drop_head": (
            (8, 1024, 12, 64),
            lambda key, x: jaxdrop.drop_head(key, x, 0.1),
            lambda key, x: _by_hand(key, x, (x.shape[0], 1, x.shape[2], 1)),
        ),
        "embedding_dropout": (
            (32000, 768),
            lambda key, x: jaxdrop.embedding_dropout(key, x, 0.1),
            lambda key, x: _by_hand(key, x, (x.shape[0], 1)),
        ),
        "attention_dropout": (
            logits,
            lambda key, x: jaxdrop.attention_dropout(key, x, 0.1),
            lambda key, x: _by_hand(key, x, x.shape),
        ),
        "alpha_dropout": (
            tokens,
            lambda key, x: jaxdrop.alpha_dropout(key, x, 0.1),
            _alpha_by_hand,
        ),
        "drop_block": (
            image,
            lambda key, x: jaxdrop.drop_block(key, x, 0.1),
            _drop_block_by_hand,
        ),
        "drop_key": (
            logits,
            lambda key, x: jaxdrop.drop_key(key, x, 0.1),
            lambda key, x: jnp.where(
                jax.random.bernoulli(key, 0.9, x.shape), x, jnp.asarray(-jnp.inf, x.dtype)
            ),
        ),
        "token_dropout": (
            tokens,
            lambda key, x: jaxdrop.token_dropout(key, x, 0.5).kept,
            _tokens_by_hand,
        ),
        "gaussian_dropout": (
            tokens,
            lambda key, x: jaxdrop.gaussian_dropout(key, x, 0.1),
            _gaussian_by_hand,
        ),
        "concrete_dropout": (
            tokens,
            lambda key, x: jaxdrop.concrete_dropout(key, x, jnp.float32(np.log(0.1 / 0.9))),
            _concrete_by_hand,
        ),
        "zoneout": (
            tokens,
            lambda key, x: jaxdrop.zoneout(key, 2 * x, x, 0.1),
            lambda key, x: jnp.where(jax.random.bernoulli(key, 0.9, x.shape), x, 2 * x),
        ),
    }
    for name, (shape, ours, by_hand) in cases.items():
        functions = {"jaxdrop": both_ways(ours), "by hand": both_ways(by_hand)}
        x = _bf16(*shape)
        cotangent = jax.eval_shape(ours, jax.eval_shape(jax.random.key, 0), x)
        yield from _rows(
            f"{name}, forward and backward, {shape}", functions, cotangent, x, against="by hand"
        )
