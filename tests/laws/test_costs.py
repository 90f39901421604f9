"""What dropout costs, in figures that do not jitter: temporaries, operations, launches on a GPU."""

import math
import re

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import jaxdrop
from benchmarks import _gpu_compiler
from tests.support.cases import key


def ours(key, x):
    return jaxdrop.dropout(key, x, 0.1)


def flax(key, x):
    return nn.Dropout(0.1, deterministic=False).apply({}, x, rngs={"dropout": key})


def gradient_of_a_net(drop, batch=1024, width=128):
    """The gradient of eight layers with dropout behind each, lowered."""

    def loss(weights, key, x):
        for number, weight in enumerate(weights):
            x = drop(jax.random.fold_in(key, number), jnp.tanh(x @ weight))
        return x.sum()

    weights = [jax.ShapeDtypeStruct((width, width), jnp.float32)] * 8
    x = jax.ShapeDtypeStruct((batch, width), jnp.float32)
    with jax.debug_key_reuse(False):  # which puts operations into the program
        return jax.jit(jax.grad(loss)).lower(weights, key(), x)


def test_temporaries_are_at_most_those_of_flax_times_06():
    def temporaries(drop):
        return gradient_of_a_net(drop).compile().memory_analysis().temp_size_in_bytes

    plain, own, theirs = map(temporaries, (lambda key, x: x, ours, flax))
    assert plain < own <= 0.6 * theirs


def operations(function, shape, *arguments):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    with jax.debug_key_reuse(False):
        compiled = jax.jit(function).lower(key(), x, *arguments).compile()
    return compiled.cost_analysis().get("flops", 0)


@pytest.mark.parametrize(
    ("name", "shape", "arguments"),
    [
        ("dropout", (256, 64, 64), {"broadcast_dims": (1,)}),
        ("dropout", (256, 64, 64), {"broadcast_dims": (0, 2)}),
        ("spatial_dropout", (16, 64, 64, 16), {}),
        ("variational_dropout", (256, 64, 64), {}),
    ],
)
def test_a_smaller_mask_leaves_the_cost_of_applying_it(name, shape, arguments):
    function = getattr(jaxdrop, name)
    size = jnp.zeros(shape).size
    whole = operations(lambda key, x: jaxdrop.dropout(key, x, 0.1), shape) / size
    shared = operations(lambda key, x: function(key, x, 0.1, **arguments), shape) / size
    assert shared < 0.75 * whole  # of which the draw is the greater part
    assert shared <= 4.5  # test a bit, scale, choose


def test_a_deterministic_call_costs_nothing():
    assert (
        operations(lambda key, x: jaxdrop.dropout(key, x, 0.1, deterministic=True), (64, 64)) == 0
    )


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "philox4x32"])
def test_the_words_of_a_key_are_all_that_is_read_of_it(impl):
    """No generator of another implementation runs: its bits would be dear, or differ."""
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    with jax.debug_key_reuse(False):
        text = jax.jit(ours).lower(jax.random.key(0, impl=impl), x).as_text()
    assert not re.search("rng_bit_generator|mulhi|threefry", text)


SHAPES = [(64, 64), (100, 10), (128, 512), (8, 128, 96), (16, 9, 9, 64), (4, 28, 28, 3), (4097,)]
ONCE = [(shape, rate) for shape in SHAPES for rate in (0.1, 0.5, "traced")]
# Rates that differ within a word have to be packed first, which is dearer than the draw.
ONCE += [(shape, "channels") for shape in SHAPES[2:5]]


@pytest.mark.parametrize(("shape", "rate"), ONCE, ids=str)
def test_no_word_is_drawn_twice(shape, rate):
    """The program names every block of the cipher once.

    A block of the cipher is about 150 operations and gives 4 planes of 32 entries, of which 16 or
    24 are drawn; some words are padded.
    """

    def call(key, x):
        zero = 0 * x.ravel()
        traced = {"traced": 0.1 + zero[0], "channels": 0.1 + zero[: shape[-1]]}
        return jaxdrop.dropout(key, x, traced.get(rate, rate))

    assert operations(call, shape) <= 60 * jnp.zeros(shape).size


@pytest.mark.parametrize("rate", [0.1, 0.5, "traced"])
@pytest.mark.parametrize("shape", [(128, 512), (8, 128, 96), (16, 9, 9, 64)], ids=str)
def test_the_draw_is_not_fused_with_what_applies_it_on_a_cpu(shape, rate):
    """XLA counts the operations of a fused draw once and executes them for every element."""

    def call(key, x):
        return jaxdrop.dropout(key, x, 0.1 + 0 * x.ravel()[0] if rate == "traced" else rate)

    x, size = jax.ShapeDtypeStruct(shape, jnp.float32), jnp.zeros(shape).size
    with jax.debug_key_reuse(False):
        text = jax.jit(call).lower(key(), x).compile().as_text()
    drawing = [part for part in text.split("\n\n") if "u64[" in part]  # products of the cipher
    assert drawing
    for part in drawing:
        shapes = re.findall(r"\b[a-z]+\d*\[([\d,]+)\]", part)
        assert all(math.prod(map(int, sizes.split(","))) < size for sizes in shapes)


LAUNCHED = [(), (8,), (128, 10), (128, 512), (1024, 768), (8, 256, 768), (16, 32, 32, 3), (100003,)]
on_a_described_gpu = pytest.mark.skipif(
    not _gpu_compiler.is_installed(), reason="XLA's compiler for CUDA is not installed"
)


def gpu_cost(function, *shapes):
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    return _gpu_compiler.cost(function, jax.ShapeDtypeStruct((2,), jnp.uint32), *shapes)


@on_a_described_gpu
@pytest.mark.parametrize("shape", LAUNCHED, ids=str)
def test_a_mask_is_drawn_and_applied_in_a_kernel_each_on_a_gpu(shape):
    own, theirs = (gpu_cost(function, (shape, jnp.bfloat16)) for function in (ours, flax))
    assert own.launches <= min(3, theirs.launches + 1)


@on_a_described_gpu
@pytest.mark.parametrize("rate_shape", [(), (768,)], ids=["traced", "channels"])
def test_rates_that_are_traced_need_no_loop_on_a_gpu(rate_shape):
    shapes = ((1024, 768), jnp.bfloat16), (rate_shape, jnp.float32)
    assert gpu_cost(jaxdrop.dropout, *shapes).launches <= 4


@on_a_described_gpu
@pytest.mark.parametrize("shape", [(2048, 768), (4, 512, 768)], ids=str)
def test_a_word_is_drawn_once_on_a_gpu(shape):
    size = jnp.zeros(shape).size
    assert gpu_cost(ours, (shape, jnp.bfloat16)).instructions <= 18 * size


@on_a_described_gpu
def test_a_block_of_noise_is_drawn_once_for_four_entries_on_a_gpu():
    def by_hand(key, x):
        return x * (1 + jax.random.normal(key, x.shape, x.dtype) / 3)

    def own(key, x):
        return jaxdrop.gaussian_dropout(key, x, 0.1)

    shape = (2048, 768), jnp.bfloat16
    assert gpu_cost(own, shape).instructions <= 0.5 * gpu_cost(by_hand, shape).instructions


@on_a_described_gpu
def test_attention_draws_its_mask_in_a_few_kernels_on_a_gpu():
    def gradient(attend):
        return jax.grad(lambda key, *qkv: jnp.sum(attend(key, *qkv), dtype=jnp.float32), (1, 2, 3))

    shapes = (((2, 256, 4, 64), jnp.bfloat16),) * 3
    plain = gradient(lambda key, *qkv: jax.nn.dot_product_attention(*qkv))
    own = gradient(lambda key, *qkv: jaxdrop.dot_product_attention(key, *qkv, 0.1))
    with jax.numpy_dtype_promotion("standard"):  # the strict one finds fault with jax.nn
        assert gpu_cost(own, *shapes).launches <= gpu_cost(plain, *shapes).launches + 4
