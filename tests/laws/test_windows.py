"""Windows of a mask along its last axis: bit for bit the part of the whole, and nothing more."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxdrop import masks
from jaxdrop.masks._checks import check_rate
from jaxdrop.masks._draw import decision_key
from jaxdrop.masks._layout import layout_of
from jaxdrop.masks._slice import Slice, _covering_numbers, draw_slice
from tests.laws.test_laws_sharding import compiled, placement, put
from tests.support import reference
from tests.support.cases import OTHER_KEYS, key

RATE = 0.3
# What the words lie along, and the sizes of windows, some of which hang over the end.
SHAPES = {
    "second-last": ((2, 3, 32, 40), (8, 16, 13, 40)),
    "last": ((2, 3, 5, 96), (32, 16, 7, 40, 96)),
    "first": ((32, 3, 5, 7), (1, 3, 7)),
    "padded rows": ((2, 3, 5, 107), (32, 50, 107)),
    "run of rows": ((2, 3, 7, 9), (1, 2, 4, 9)),
    "run of all axes": ((3, 5, 7), (2, 7)),
    "one row": ((107,), (1, 33, 64)),
    "one entry": ((3, 1), (1,)),
}
each_shape = pytest.mark.parametrize(("shape", "sizes"), SHAPES.values(), ids=SHAPES)


@functools.partial(jax.jit, static_argnames=("shape", "size", "rate"))
def windows(key, traced_rate, starts, *, shape, size, rate=None):
    """Windows at all starts, which are traced, beside each other."""
    rate = traced_rate if rate is None else rate
    words, rate = decision_key(key), check_rate(rate)
    _, (keep, keep_prob) = jax.lax.scan(
        lambda _, start: (None, draw_slice(words, rate, Slice(shape, start, size))), None, starts
    )
    return jnp.concatenate(list(keep), axis=-1), keep_prob


def whole(rate, shape):
    return reference.keep(jax.random.key_data(key()), rate, shape)


@each_shape
@pytest.mark.parametrize("kind", ["static", "traced"])
def test_windows_put_together_are_the_mask(shape, sizes, kind):
    for size in sizes:
        starts = jnp.arange(0, shape[-1], size)
        rate = {"rate": RATE} if kind == "static" else {}
        keep, keep_prob = windows(key(), RATE, starts, shape=shape, size=size, **rate)
        np.testing.assert_array_equal(keep[..., : shape[-1]], whole(RATE, shape))
        np.testing.assert_array_equal(keep_prob, masks.sample(key(), RATE, shape).keep_prob)


@each_shape
def test_windows_may_start_anywhere(shape, sizes):
    size, expected = sizes[0], whole(0.1, shape)

    @jax.jit
    def draw(key, start):
        return draw_slice(decision_key(key), check_rate(0.1), Slice(shape, start, size))

    for start in range(0, shape[-1], 3):
        keep, _ = draw(key(), start)
        inside = min(size, shape[-1] - start)
        np.testing.assert_array_equal(keep[..., :inside], expected[..., start : start + inside])


@pytest.mark.slow
@each_shape
@pytest.mark.parametrize("axes", ["last", "all", "first"])
def test_rates_may_be_an_array(shape, sizes, axes):
    rate_shape = {"last": (shape[-1],), "all": shape, "first": (shape[0],) + (1,) * len(shape[1:])}
    rates = np.resize(np.float32([0.1, 0.6, 0.3]), rate_shape[axes])
    mask = masks.sample(key(), rates, shape)
    for size in sizes[:2]:
        starts = jnp.arange(0, shape[-1], size)
        keep, keep_prob = windows(key(), jnp.asarray(rates), starts, shape=shape, size=size)
        np.testing.assert_array_equal(keep[..., : shape[-1]], mask.unpack())
        if rates.shape[-1] == 1:
            np.testing.assert_array_equal(keep_prob[0], mask.keep_prob)
        else:
            joined = np.concatenate(list(keep_prob), axis=-1)[..., : shape[-1]]
            np.testing.assert_array_equal(joined, mask.keep_prob)


@pytest.mark.parametrize("impl", OTHER_KEYS)
def test_keys_of_every_implementation(impl):
    shape, size = (3, 5, 96), 40
    keys = [jax.random.key(7, impl=impl) for _ in range(2)]
    keep, _ = windows(keys[0], RATE, jnp.arange(0, 96, size), shape=shape, size=size)
    np.testing.assert_array_equal(keep[..., :96], masks.sample(keys[1], RATE, shape).unpack())


@pytest.mark.parametrize("rate", [0.0, 1.0, 0.5, 1e-4])
def test_ends_and_rates_of_few_bits_or_many(rate):
    shape, size = (4, 64, 50), 25
    expected = masks.sample(key(), rate, shape).unpack()
    for given in ({"rate": rate}, {}):
        keep, _ = windows(key(), rate, jnp.array([0, 25]), shape=shape, size=size, **given)
        np.testing.assert_array_equal(keep, expected)


@pytest.mark.parametrize("rows", [(), (3,)], ids=str)
def test_windows_far_behind_the_start_have_the_words_of_their_place(rows):
    """At a rate of 0.5 an entry survives if its bit of the first word of a block is set."""
    length, start, size = 2**32 - 19, 2**32 - 70, 51
    keep, _ = draw_slice(decision_key(key()), check_rate(0.5), Slice((*rows, length), start, size))
    entry = np.arange(start, start + size)
    for row, found in enumerate(np.reshape(keep, (-1, size))):
        number = row * -(-length // 32) + entry // 32
        counter = (0, number % 2**32, 0, (number + (number >> 32)) % 2**32)
        words = reference.philox4x32(jax.random.key_data(key()), counter)[0]
        np.testing.assert_array_equal(found, words >> np.uint32(entry % 32) & 1)


def test_a_run_of_more_than_2_to_the_32_entries_is_counted_in_64_bits():
    window = Slice((2**31, 5), 3, 2)
    rows = np.uint32([0, 7, 2**30, 2**31 - 1])[:, None]
    column = np.zeros((1, 1), np.uint32)
    numbers = _covering_numbers(window, layout_of(window.shape), [rows, column])
    first = rows.astype(np.uint64) * np.uint64(5) + np.uint64(3)
    np.testing.assert_array_equal(numbers[0], first // np.uint64(32))
    assert int(numbers[1]) == 0


# Programs.


@pytest.mark.parametrize("shape", [(4, 64, 4096), (4, 5, 4096)])
def test_nothing_larger_than_the_window_is_drawn(shape):
    window = jax.jit(
        lambda key, start: draw_slice(
            decision_key(key), check_rate(RATE), Slice(shape, start, 128)
        )[0]
    )
    with jax.debug_key_reuse(False):
        program = window.lower(key(), 256).compile()
        whole = jax.jit(lambda key: masks.sample(key, RATE, shape).unpack()).lower(key()).compile()
    flops = [p.cost_analysis()["flops"] for p in (program, whole)]
    assert flops[0] < flops[1] * 128 / 4096 * 1.5
    memory = program.memory_analysis()
    assert memory.temp_size_in_bytes <= math.prod(shape[:-1]) * 128


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda t: t.name)
@pytest.mark.parametrize("shape", [(8, 16, 32, 40), (8, 16, 5, 96), (8, 16, 3, 9)])
def test_leading_axes_may_be_split(axis_type, shape):
    def window(key, x, start):
        keep, _ = draw_slice(decision_key(key), check_rate(RATE), Slice(shape, start, 8), like=x)
        return jnp.where(keep, x, 0)

    x = put(np.ones((*shape[:-1], 8), np.float32), placement(shape[:2], "both", axis_type))
    y = compiled(window, key(), x, 1)(key(), x, 1)
    assert y.sharding.is_equivalent_to(x.sharding, x.ndim)
    np.testing.assert_array_equal(y != 0, whole(RATE, shape)[..., 1:9])
