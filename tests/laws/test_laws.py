"""Laws 1 to 4 over every variant: same mask, exact mean, ends, dropped means gone."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrop import masks
from jaxdrop.functional import dropout
from jaxdrop.masks import _rate
from tests.support import reference
from tests.support.cases import (
    RATE,
    assert_probability,
    assert_same_bits,
    data,
    decisions,
    derivatives,
    each_case,
    kept_entries,
    key,
)

DTYPES = [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64]


def x64(dtype):
    return jax.enable_x64(jnp.dtype(dtype) == jnp.float64)


# Law 1: same key, rate and shape: same mask.


@each_case
def test_decisions_are_those_of_the_reference(case):
    """For the groups that the table says, so that an axis shared or not by mistake shows."""
    check_decisions(case, jnp.float32)


@each_case
def test_decisions_in_bfloat16_are_those_of_the_reference(case):
    check_decisions(case, jnp.bfloat16)


def check_decisions(case, dtype):
    y = case.call(key(), data(case.shape, dtype), RATE)
    assert y.dtype == dtype
    assert y.shape == case.shape
    expected = case.keep(jax.random.key_data(key()), RATE, case.mask_shape)
    np.testing.assert_array_equal(decisions(case, y, RATE), expected)


@each_case
def test_eager_and_jitted_give_the_same_bits(case):
    x = data(case.shape)
    y, _, _ = derivatives(case)(key(), x, x)
    assert_same_bits(y, case.call(key(), x, RATE))


@each_case
def test_vmap_is_the_loop(case):
    """Over keys, examples and rates at once: nothing leaks from one to the next."""
    rates = np.float32([0, 0.1, RATE])
    xs = data((3, *case.shape))
    mapped = np.asarray(jax.vmap(case.call)(jax.random.split(key(), 3), xs, rates))
    for i, single in enumerate(jax.random.split(key(), 3)):
        x = jnp.asarray(np.asarray(xs)[i])
        assert_same_bits(mapped[i], case.call(single, x, jnp.asarray(rates[i])))


@pytest.mark.parametrize("shape", [(64, 40), (72, 72)])
def test_vmap_over_one_argument_is_the_loop(shape):
    xs = data((3, *shape))
    mapped = jax.vmap(lambda key: dropout(key, xs[0], RATE))(jax.random.split(key(), 3))
    for i, single in enumerate(jax.random.split(key(), 3)):
        assert_same_bits(mapped[i], dropout(single, xs[0], RATE))
    mapped = jax.vmap(lambda x: dropout(key(), x, RATE))(xs)
    for i in range(3):
        assert_same_bits(mapped[i], dropout(key(), xs[i], RATE))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float64, jnp.complex64, jnp.float8_e4m3fn])
@pytest.mark.parametrize("traced", [False, True], ids=["static", "traced"])
def test_decisions_do_not_depend_on_the_dtype(dtype, traced):
    expected = reference.keep(jax.random.key_data(key()), RATE, (64, 40))
    with x64(dtype):
        y = dropout(key(), jnp.ones((64, 40), dtype), jnp.float32(RATE) if traced else RATE)
    assert y.dtype == dtype
    np.testing.assert_array_equal(np.asarray(y) != 0, expected)


@pytest.mark.parametrize(
    ("shape", "rate", "words"),
    [
        ((128,), 0.5, "e1822b7b 8c09a667 e8658362 fd146ea1"),
        ((32, 4), 0.1, "ffffffff efcffef7 fdffdff7 fffffffb"),
        ((11, 11), 1 / 3, "fdbbaf7b 8f09be77 f8658b66 fd3c6ef1"),
        ((2, 2, 3, 10), 0.7, "41020938 8c09a446 a0608362 e9002ca1"),
    ],
    ids=str,
)
def test_words_are_pinned(shape, rate, words):
    """If this fails, every user's masks have changed.

    Unless that is what you set out to do, repair the code. If it is, write the new words here, and
    the change and its reason into the CHANGELOG under *Randomness*, in a release that breaks.
    """
    for one, asked in (
        (key(7), rate),
        (key(7), jnp.float32(rate)),
        (jax.random.PRNGKey(7), rate),
    ):
        mask = masks.sample(one, asked, shape)
        assert " ".join(f"{word:08x}" for word in np.asarray(mask.words).ravel()) == words


# Law 2: exact mean.


@each_case
def test_realised_rate_of_groups(case):
    """2**18 groups, under as many keys as that takes: a bias of 0.003 is found."""
    x = data(case.shape)
    share = x.size // math.prod(case.mask_shape)
    groups = np.asarray(x)[case.independent].size // share
    keys = jax.random.split(key(1), -(-(2**18) // groups))
    y = jax.jit(jax.vmap(lambda key: case.call(key, x, 0.1)))(keys)
    dropped = np.sum(~kept_entries(case, y, 0.1)[:, *case.independent])
    assert dropped % share == 0
    draws = len(keys) * groups
    assert_probability(dropped // share, draws, 1 - case.keep_probability(0.1))


@pytest.mark.parametrize("rate", [0.1, 0.9, 1 / 3, 1e-3, 1e-4, 1e-5, 0.999])
@pytest.mark.parametrize("traced", [False, True], ids=["static", "traced"])
def test_realised_rate_of_entries(rate, traced):
    """2**25 entries: 336 of them dropped at a rate of 1e-5."""
    shape = (2**13, 2**12)
    mask = masks.sample(key(2), jnp.float32(rate) if traced else rate, shape)
    kept = int(jax.lax.population_count(mask.words).astype(jnp.int32).sum())
    assert_probability(kept, math.prod(shape), reference.keep_probability(rate))


def test_realised_rate_of_each_channel():
    rates = jnp.linspace(0, 1, 16)
    x = jnp.ones((2**16, 16))
    dropped = (dropout(key(3), x, rates) == 0).sum(axis=0)
    for hits, rate in zip(dropped, rates):
        assert_probability(hits, 2**16, 1 - reference.keep_probability(rate))


def test_realised_rate_is_near_the_asked_one():
    """Within 2**-16, and within 1 % of the chance to drop and to survive down to 1e-5."""
    asked = np.geomspace(1e-7, 1, 20_001)
    asked = np.concatenate([asked, 1 - asked]).astype(np.float32)
    asked, keep = asked.astype(np.float64), np.float64(_rate.odds(asked).keep_prob)
    error = np.abs((1 - keep) - asked)
    least = np.minimum(asked, 1 - asked)
    assert (error <= 2**-16).all()
    assert (error <= 0.01 * least)[least >= 1e-5].all()


@pytest.mark.parametrize("rate", [0.5, 0.25, 0.75, 0.125, 2**-16])
def test_rates_that_the_bits_can_hold_are_exact(rate):
    for asked in (rate, jnp.float32(rate)):
        assert masks.sample(key(), asked, (4,)).keep_prob == 1 - rate
    assert reference.keep_probability(rate) == 1 - Fraction(rate)


@each_case
def test_survivors_are_x_over_keep_probability(case):
    x = data(case.shape)
    y = case.call(key(), x, RATE)
    kept = kept_entries(case, y, RATE)
    keep_prob = float(case.keep_probability(RATE))
    exact = case.survivor(np.asarray(x, np.float64), RATE, keep_prob)
    np.testing.assert_allclose(
        np.asarray(y)[kept], exact[kept], rtol=2**-22, atol=2**-22 if case.affine else 0
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rate", [0.1, 0.3, 0.999])
@pytest.mark.parametrize("traced", [False, True], ids=["static", "traced"])
def test_survivors_are_rounded_once(dtype, rate, traced):
    """Half an ulp in narrow dtypes; in wide ones the scale has a rounding of its own."""
    with x64(dtype):
        x = data((5000,), dtype)
        y = dropout(key(), x, jnp.float32(rate) if traced else rate)
    x, y = np.asarray(x), np.asarray(y)
    keep = reference.keep_probability(rate)
    wide = jnp.dtype(dtype).itemsize >= 4
    kept = np.flatnonzero(y)[:300]
    assert kept.size > 1
    for before, after in zip(x[kept].tolist(), y[kept].tolist()):
        exact = Fraction(before) / keep
        ulp = Fraction(2) ** (math.frexp(exact)[1] - 1 - jnp.finfo(dtype).nmant)
        assert abs(Fraction(after) - exact) <= ulp * (1.5 if wide else 0.51)


# Law 3: ends.

SPECIAL = (0.0, -0.0, 1.0, -1.0, 1e-40, -1e-45, 3e38, math.inf, -math.inf, math.nan)


def special(shape, dtype=jnp.float32):
    """Numbers that arithmetic would change: signed zeros, denormals, the infinite."""
    with np.errstate(over="ignore"):  # 3e38 is infinite in float16
        values = np.array(SPECIAL).astype(dtype)
    return jnp.asarray(np.resize(values, shape))


@each_case
def test_rate_0_is_x_and_rate_1_is_zeros_with_their_gradients(case):
    check_ends(case, lambda run: run)


@each_case
def test_traced_rate_0_is_x_and_rate_1_is_zeros_with_their_gradients(case):
    check_ends(case, jax.jit)


def check_ends(case, transform):
    @transform
    def run(x, rate):
        y, pull = jax.vjp(lambda x: case.call(key(), x, rate), x)
        return y, pull(data(case.shape))[0]

    x = special(case.shape)
    y, gradient = run(x, 0.0)
    assert_same_bits(y, x)
    assert_same_bits(gradient, data(case.shape))
    y, gradient = run(x, 1.0)
    np.testing.assert_array_equal(y, 0.0)
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_traced_ends_in_every_dtype(dtype):
    with x64(dtype):
        x = special((64,), dtype)
        assert_same_bits(dropout(key(), x, jnp.float32(0)), x)
        assert_same_bits(dropout(key(), x, jnp.float32(1)), np.zeros_like(x))


@pytest.mark.parametrize("shape", [(40,), (64, 40), (64, 1)])
def test_arrays_of_rates_with_both_ends(shape):
    rates = np.resize(np.float32([0, 1, 0.5]), shape)

    @jax.jit
    def value_and_gradient(x):
        y, pull = jax.vjp(lambda x: dropout(key(), x, jnp.asarray(rates)), x)
        return y, pull(jnp.ones_like(y))[0]

    x = special((64, 40))
    y, gradient = map(np.asarray, value_and_gradient(x))
    rates = np.broadcast_to(rates, x.shape)
    assert_same_bits(y[rates == 0], np.asarray(x)[rates == 0])
    np.testing.assert_array_equal(gradient[rates == 0], 1)
    np.testing.assert_array_equal(y[rates == 1], 0)
    np.testing.assert_array_equal(gradient[rates == 1], 0)
    assert set(gradient[rates == 0.5].tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("rate", [0.0, 1e-9, 0.5, 1 - 2**-24, 1.0])
def test_gradient_of_a_traced_rate_is_finite(rate):
    """The rate has no gradient of its own: it is 0, and never NaN where it meets others."""
    gradient = jax.grad(lambda rate: dropout(key(), data((64, 40)), rate).sum())(rate)
    assert gradient == 0


# Law 4: dropped means gone.


@each_case
def test_dropped_poison_is_gone_and_so_is_its_gradient(case):
    x = jnp.asarray(np.resize(np.float32([math.inf, -math.inf, math.nan, 1]), case.shape))
    keep = case.keep(jax.random.key_data(key()), RATE, case.mask_shape)
    keep = np.broadcast_to(keep, case.shape)
    lost = np.float32(case.lost(RATE, float(case.keep_probability(RATE))))

    for result, dropped in zip(derivatives(case)(key(), x, x), (lost, 0, 0)):
        result = np.asarray(result)
        np.testing.assert_allclose(result[~keep], dropped, rtol=2**-22)
        np.testing.assert_array_equal(np.isfinite(result[keep]), np.isfinite(x)[keep])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rate_shape", [(), (40,)], ids=str)
def test_dropped_poison_is_gone_under_traced_rates(dtype, rate_shape):
    rate = jnp.full(rate_shape, RATE, jnp.float32)
    dropped = ~reference.keep(jax.random.key_data(key()), RATE, (64, 40))

    @jax.jit
    def value_and_gradient(x):
        y, pull = jax.vjp(lambda x: dropout(key(), x, rate), x)
        return y, pull(x)[0]

    with x64(dtype):
        for result in value_and_gradient(special((64, 40), dtype)):
            np.testing.assert_array_equal(np.asarray(result)[dropped], 0)
