"""Dropout of attention weights whose rows are normalised again: its equation and its ends.

What is not normalised is dropout, and is in the table of variants.
"""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxdrop import attention_dropout
from tests.laws.test_laws_gradient import kept_bytes
from tests.laws.test_laws_sharding import compiled, placement, put
from tests.support import reference
from tests.support.cases import assert_same_bits, data, key

RATE = 0.3
each_rate = pytest.mark.parametrize("rate", [RATE, jnp.float32(RATE)], ids=["static", "traced"])


def renormalized(key, x, rate, **options):
    return attention_dropout(key, x, rate, renormalize=True, **options)


def weights(shape, dtype=jnp.float32):
    return jax.nn.softmax(data(shape)).astype(dtype)


def by_the_paper(x, keep):
    """w' = m * w, then w' / sum(w') by rows, in float64; a row of nothing stays 0."""
    masked = np.where(keep, np.asarray(x, np.float64), 0)
    total = masked.sum(axis=-1, keepdims=True)
    return np.divide(masked, total, out=np.zeros_like(masked), where=total != 0)


def kept_by(key, rate, shape):
    return reference.keep(jax.random.key_data(key), rate, shape)


@each_rate
@pytest.mark.parametrize("shape", [(4, 3, 6, 20), (2, 32, 9), (5, 7)])
def test_rows_are_those_of_the_paper(shape, rate):
    x = weights(shape)
    y = np.asarray(renormalized(key(), x, rate))
    expected = by_the_paper(x, kept_by(key(), RATE, shape))
    np.testing.assert_allclose(y, expected, rtol=2**-21)
    np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=2**-21)
    assert ((y == 0) == (expected == 0)).all()


def test_axes_may_share_a_decision():
    x = weights((4, 3, 6, 20))
    y = renormalized(key(), x, RATE, broadcast_dims=(0, -3))
    expected = by_the_paper(x, kept_by(key(), RATE, (1, 1, 6, 20)))
    np.testing.assert_allclose(y, expected, rtol=2**-21)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_shares_are_rounded_once(dtype):
    x = weights((20, 50), dtype)
    y = renormalized(key(), x, RATE)
    assert y.dtype == dtype
    expected = by_the_paper(x, kept_by(key(), RATE, x.shape))
    for after, exact in zip(np.asarray(y).ravel().tolist(), expected.ravel().tolist()):
        ulp = Fraction(2) ** (math.frexp(exact)[1] - 1 - jnp.finfo(dtype).nmant)
        ulp = max(ulp, Fraction(float(jnp.finfo(dtype).smallest_subnormal)))
        assert abs(Fraction(after) - Fraction(exact)) <= ulp * Fraction("0.51")


@each_rate
def test_gradient_is_that_of_the_equation(rate):
    """dw = m * (g - sum(g * y)) / sum(w'), in reverse and forward mode, with many empty rows."""
    shape = (40, 6, 3)
    x, g = weights(shape), data(shape[::-1]).T
    rate = type(rate)(0.7) if isinstance(rate, float) else jnp.float32(0.7)
    y, pull = jax.vjp(lambda x: renormalized(key(), x, rate), x)
    keep = kept_by(key(), 0.7, shape)
    exact = by_the_paper(x, keep)
    total = np.where(keep, np.asarray(x, np.float64), 0).sum(axis=-1, keepdims=True)
    empty = ~keep.any(axis=-1)
    assert 0 < empty.sum() < empty.size
    inner = (np.asarray(g) * exact).sum(axis=-1, keepdims=True)
    expected = np.where(keep, (np.asarray(g) - inner) / np.where(total == 0, 1, total), 0)
    gradient = np.asarray(pull(g)[0])
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(y)[empty], 0)
    np.testing.assert_array_equal(gradient[empty], 0)
    tangent = jax.jvp(lambda x: renormalized(key(), x, rate), (x,), (g,))[1]
    np.testing.assert_allclose(jnp.vdot(tangent, g), jnp.vdot(g, pull(g)[0]), rtol=1e-3)


def test_hessian_is_that_of_the_plain_quotient():
    x = weights((4, 5))
    keep = kept_by(key(), RATE, x.shape)

    def plain(x):
        kept = jnp.where(keep, x, 0)
        return jnp.sum((kept / kept.sum(-1, keepdims=True)) ** 3)

    hessian = jax.hessian(lambda x: jnp.sum(renormalized(key(), x, RATE) ** 3))(x)
    np.testing.assert_allclose(hessian, jax.hessian(plain)(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_gradient_of_very_small_and_large_sums_is_finite(size):
    x, g = weights((8, 20)), data((8, 20))
    _, pull = jax.vjp(lambda x: renormalized(key(), x, RATE), x * np.float32(size))
    _, plain = jax.vjp(lambda x: renormalized(key(), x, RATE), x)
    np.testing.assert_allclose(pull(g)[0] * np.float32(size), plain(g)[0], rtol=1e-3, atol=1e-4)


# Ends.


def test_off_it_is_x_itself():
    x = weights((4, 5))
    assert renormalized(None, x, 0.0) is x
    assert renormalized(None, x, RATE, deterministic=True) is x
    assert_same_bits(renormalized(None, x, 1), jnp.zeros_like(x))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_traced_ends_with_their_gradients(dtype):
    @jax.jit
    def value_and_gradient(x, rate, deterministic):
        fn = lambda x: renormalized(key(), x, rate, deterministic=deterministic)  # noqa: E731
        y, pull = jax.vjp(fn, x)
        return y, pull(g)[0]

    special = np.resize([0.0, -0.0, 1.0, 1e-40, -1e-45, np.inf, np.nan], (8, 32))
    x, g = jnp.asarray(special.astype(dtype)), data((8, 32), dtype)
    for rate, flag in ((0.0, False), (RATE, True), (1.0, True)):
        y, gradient = value_and_gradient(x, rate, flag)
        assert_same_bits(y, x)
        assert_same_bits(gradient, g)
    for result in value_and_gradient(x, 1.0, False):
        assert_same_bits(result, jnp.zeros_like(x))


def test_rates_may_differ_by_head_with_both_ends():
    x = weights((16, 3, 5, 8))
    y = renormalized(key(), x, jnp.array([0.0, 0.5, 1.0])[:, None, None])
    assert_same_bits(y[:, 0], x[:, 0])
    np.testing.assert_array_equal(y[:, 2], 0)
    keep = kept_by(key(), 0.5, x.shape)
    np.testing.assert_allclose(y[:, 1], by_the_paper(x, keep)[:, 1], rtol=2**-21)


def test_rates_may_differ_by_key():
    """A row with one key that is never dropped is normalised like the others."""
    x = weights((64, 4))
    y = renormalized(key(), x, jnp.array([0.0, 0.5, 0.5, 0.5]))
    keep = kept_by(key(), [0.0, 0.5, 0.5, 0.5], x.shape)
    np.testing.assert_allclose(y, by_the_paper(x, keep), rtol=2**-21)


def test_a_traced_rate_out_of_range_gives_nan():
    for rate in (-0.1, 1.5, float("nan")):
        y = jax.jit(lambda key, rate: renormalized(key, weights((4, 5)), rate))(key(), rate)
        assert jnp.isnan(y).all(), rate


def test_dropped_poison_is_gone_and_so_is_its_gradient():
    keep = kept_by(key(), RATE, (8, 20))
    x = jnp.where(keep, weights((8, 20)), jnp.nan)
    y, pull = jax.vjp(lambda x: renormalized(key(), x, RATE), x)
    np.testing.assert_allclose(y, by_the_paper(x, keep), rtol=2**-21)
    gradient = np.asarray(pull(data((8, 20)))[0])
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[~keep], 0)


def test_survivors_of_no_weight_leave_an_empty_row():
    """As where a query may look at keys that are masked out, and those that are not are dropped."""
    x = jnp.zeros((4, 20)).at[2:].set(weights((2, 20)))
    y, pull = jax.vjp(lambda x: renormalized(key(), x, RATE), x)
    gradient = np.asarray(pull(data((4, 20)))[0])
    np.testing.assert_array_equal(y[:2], 0)
    np.testing.assert_array_equal(gradient[:2], 0)
    assert np.isfinite(gradient).all()
    assert (gradient[2:] != 0).any()


# Programs.


def test_the_words_and_x_are_kept():
    x = weights((8, 2, 32, 40))
    for rate in (RATE, jnp.float32(RATE)):
        assert kept_bytes(lambda x: renormalized(key(), x, rate), x) <= x.nbytes + x.size / 8 + 64  # noqa: B023


def test_jit_and_vmap_give_what_a_loop_gives():
    x = weights((3, 4, 8, 20))
    keys = jax.random.split(key(), 3)
    loop = [renormalized(one, each, RATE) for one, each in zip(jax.random.split(key(), 3), x)]
    mapped = jax.vmap(lambda key, x: renormalized(key, x, RATE))(keys, x)
    np.testing.assert_allclose(mapped, jnp.stack(loop), rtol=2**-21)
    jitted = jax.jit(lambda key, x: renormalized(key, x, RATE))(jax.random.split(key(), 3)[0], x[0])
    assert_same_bits(jitted, loop[0])


@each_rate
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda t: t.name)
def test_examples_and_heads_may_be_split(axis_type, rate):
    """Without a collective; a split axis of keys needs one, to sum a row."""

    def value_and_gradient(key, x):
        y, pull = jax.vjp(lambda x: renormalized(key, x, rate), x)
        return y, pull(x)[0]

    x = weights((8, 16, 5, 20))
    sharding = placement(x.shape, "both", axis_type)
    sharded = put(x, sharding)
    expected = value_and_gradient(key(), x)
    for result, one in zip(compiled(value_and_gradient, key(), sharded)(key(), sharded), expected):
        assert result.sharding.is_equivalent_to(sharding, x.ndim)
        np.testing.assert_allclose(result, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda t: t.name)
def test_keys_may_be_split(axis_type):
    x = weights((4, 8, 64))
    sharded = put(x, placement(x.shape, "last", axis_type))
    y = jax.jit(lambda key, x: renormalized(key, x, RATE))(key(), sharded)
    assert y.sharding.is_equivalent_to(sharded.sharding, x.ndim)
    np.testing.assert_allclose(y, renormalized(key(), x, RATE), rtol=1e-5)
