"""Sizes that are symbols when a program is made: it has the bits of sizes that are known."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrop import functional, masks
from jaxdrop.functional._skipping import kept_of
from jaxdrop.masks import _draw
from tests.support.cases import CALLS, assert_close, assert_same_bits, data, key, symbolic

EVERYWHERE = ("cpu", "cuda", "tpu")


def call_of(row):
    return jax.jit(lambda key, x: row.fn(key, x, row.level))


def exported(fn, like, platforms=EVERYWHERE):
    return jax.export.export(fn, platforms=platforms)(jax.eval_shape(key), like)


SYMBOLIC = {  # rows whose second axis is features of a kernel, or is divided by the test itself
    row.name: row for row in CALLS if row.name not in ("thinned_mlp", "zoneout")
} | {
    "zoneout": next(r for r in CALLS if r.name == "zoneout")._replace(
        fn=lambda key, x, rate: functional.zoneout(key, 0 * x, x, rate)
    )
}


@pytest.mark.slow
@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize("name", SYMBOLIC)
def test_two_sizes_may_be_symbolic(name):
    """A smaller batch begins a larger one; a bound gives the layout of a known length."""
    row = SYMBOLIC[name]
    call, rest = call_of(row), ", ".join(map(str, ("", *row.shape[2:])))
    open_ = exported(call, symbolic(f"b, t{rest}"))
    large = data((5, 13, *row.shape[2:]))
    if "subset" not in name:  # whose examples share what is drawn
        few, many = (jax.tree.leaves(open_.call(key(), x)) for x in (large[:2], large))
        for one, other in zip(few, many):
            np.testing.assert_allclose(one, other[:2], rtol=1e-5, atol=1e-6)
    x = data((3, 105, *row.shape[2:]))
    bounded = exported(call, symbolic(f"b, t{rest}", "b>=1", "t>=103", "t<=512"), ("cpu",))
    assert_close(bounded.call(key(), x), call(key(), x))


@pytest.mark.slow
@pytest.mark.parametrize("batch", (1, 2, 31, 32, 33, 257))
@pytest.mark.parametrize("rate", [0.3, 1 / 3])
def test_a_subset_of_a_symbolic_batch_is_that_of_a_known_one(rate, batch):
    call = jax.jit(lambda key, x: functional.subset_residual(key, jnp.sin, x, rate))
    x = data((batch, 3))
    assert_same_bits(_exported_subset(rate).call(key(), x), call(key(), x))


@functools.cache
def _exported_subset(rate):
    call = jax.jit(lambda key, x: functional.subset_residual(key, jnp.sin, x, rate))
    return exported(call, symbolic("b, 3"))


@pytest.mark.parametrize("rate", [0.3, 0.5, 0.9, 0.7, 0.01, 2 / 3])
def test_a_share_of_a_symbolic_size_is_rounded_as_that_of_a_known_one(rate):
    """But for some halves at few rates, such as that of 45 at 0.3."""
    (size,) = jax.export.symbolic_shape("b")
    kept = kept_of(size, rate, 0)
    for number in range(1, 45 if rate == 0.3 else 300):
        assert kept._evaluate({"b": number}) == round(number * (1 - rate)), number


def test_a_rate_that_is_not_a_fraction_is_refused_for_a_symbolic_size():
    call = jax.jit(lambda key, x: functional.subset_residual(key, jnp.sin, x, 0.30007))
    with pytest.raises(ValueError, match=r"denominator up to 1000.* write rate=0.3"):
        exported(call, symbolic("b, 3"))


def test_a_prefix_needs_a_bound_of_a_symbolic_length():
    def call(key, x):
        return functional.token_dropout(key, x, 0.5, num_prefix_tokens=3).kept

    with pytest.raises(ValueError, match="give the symbol a bound of 3"):
        exported(jax.jit(call), symbolic("b, t, 2"))
    bounded = exported(jax.jit(call), symbolic("b, t, 2", "t>=3"), ("cpu",))
    x = data((2, 8, 2))
    assert_same_bits(bounded.call(key(), x), call(key(), x))


@pytest.mark.parametrize(
    ("dims", "bounds", "sizes"),
    [
        ("b, 32*t, 8", (), (2, 96, 8)),  # divides by 32, as it is written
        ("b, t, 64", (), (2, 33, 64)),
        ("b, t, 8", (), (2, 5, 8)),  # too short for words of its own
        ("b, t, 8", ("t>=13",), (2, 15, 8)),  # long enough, as the bound says
        ("b, t, t", (), (3, 7, 7)),
    ],
)
def test_words_of_symbolic_sizes_are_those_of_known_ones(dims, bounds, sizes):
    def words(key, x):
        return masks.sample(key, 0.3, x.shape).words

    x = np.zeros(sizes, np.float32)
    found = exported(jax.jit(words), symbolic(dims, *bounds), ("cpu",)).call(key(), x)
    assert_same_bits(found, words(key(), x))


def test_words_beyond_32_bits_are_numbered():
    """By sizes that a program knows as numbers of 31 bits."""

    def numbers(key, x, y):
        sizes = (2, 5, x.shape[0], y.shape[0], 3)
        low, high = _draw.word_numbers(sizes, [np.uint32(n) for n in (1, 4, 69999, 69998, 2)])
        return jnp.stack([low, high])

    x, y = np.zeros(70000, np.int8), np.zeros(70001, np.int8)
    like = (symbolic("t, u", dtype=jnp.int8).shape, jnp.int8)
    like = [jax.ShapeDtypeStruct((size,), jnp.int8) for size in like[0]]
    program = jax.export.export(jax.jit(numbers))(jax.eval_shape(key), *like)
    number = ((9 * 70000 + 69999) * 70001 + 69998) * 3 + 2
    assert program.call(key(), x, y).tolist() == [number % 2**32, number // 2**32]
