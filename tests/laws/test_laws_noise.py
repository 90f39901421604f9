"""The laws over every variant with continuous noise, which decides nothing but is as well ordered.

The noise is the same everywhere, to two roundings of float32: what XLA fuses, it may round less.
"""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from scipy import stats

from tests.laws.test_laws import special
from tests.laws.test_laws_gradient import kept_bytes, really_kept_bytes
from tests.laws.test_laws_sharding import (
    compiled,
    each_placement,
    mesh_of,
    operations,
    placement,
    put,
)
from tests.support.cases import (
    FALSE_ALARM,
    NOISE_CASES,
    OTHER_KEYS,
    assert_same_bits,
    data,
    each_noise,
    first_of_each,
    key,
)

ROUNDING = 2.0**-22


def assert_same(actual, desired):
    assert actual.dtype == desired.dtype
    scale = float(np.abs(np.asarray(desired, np.float64)).max())
    np.testing.assert_allclose(actual, desired, rtol=ROUNDING, atol=ROUNDING * scale)


of_each_function = pytest.mark.parametrize(
    "case", first_of_each(NOISE_CASES), ids=lambda case: case.name
)


# Law 1: the same noise.


@each_noise
@pytest.mark.parametrize("traced", [False, True], ids=["static", "traced"])
def test_equation_of_the_paper_on_the_noise_of_the_reference(case, traced):
    """For the entries that the table says, so that an axis shared or not by mistake shows."""
    x = data(case.shape)
    y = case.call(key(), x, jnp.float32(case.level) if traced else case.level)
    noise = case.noise(jax.random.key_data(key()), case.noise_shape)
    exact = case.equation(np.asarray(x, np.float64), noise, case.level)
    assert y.dtype == x.dtype
    np.testing.assert_allclose(y, exact, rtol=1e-4, atol=2e-5)


@each_noise
def test_eager_jit_vmap_and_scan_agree(case):
    xs, level = data((3, *case.shape)), jnp.float32(case.level)
    levels = level * jnp.array([1.0, 0.5, 0.1])
    each = [
        case.call(one, x, level) for one, x, level in zip(jax.random.split(key(), 3), xs, levels)
    ]
    mapped = jax.vmap(case.call)(jax.random.split(key(), 3), xs, levels)
    keys = jax.random.split(key(), 3)
    scanned = jax.lax.scan(lambda _, args: (None, case.call(*args)), None, (keys, xs, levels))[1]
    jitted = [
        jax.jit(lambda one, x, level=level: case.call(one, x, float(level)))(one, x)
        for one, x, level in zip(jax.random.split(key(), 3), xs, levels)
    ]
    for results in (mapped, scanned, jitted):
        for y, expected in zip(results, each):
            assert_same(y, expected)


@each_noise
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_noise_does_not_depend_on_the_dtype_and_is_rounded_once(case, dtype):
    x = data(case.shape, dtype)
    y = np.asarray(case.call(key(), x))
    assert y.dtype == dtype
    with jax.enable_x64(True):
        exact = np.asarray(case.call(key(), np.asarray(x, np.float64)))
    assert exact.dtype == np.float64
    half = float(jnp.finfo(dtype).eps) / 2 * 2.0 ** np.floor(np.log2(np.abs(exact)))
    half = np.maximum(half, float(jnp.finfo(dtype).smallest_subnormal) / 2)
    computed = 1e-5 * (np.abs(exact) + np.abs(np.asarray(x, np.float64)))  # in float32
    assert (np.abs(y.astype(np.float64) - exact) <= 1.01 * half + computed).all()


@pytest.mark.parametrize("impl", OTHER_KEYS)
@of_each_function
def test_other_implementations_of_keys_work(case, impl):
    x = jnp.ones(case.shape)

    def keys():
        return jax.random.split(jax.random.key(0, impl=impl), 2)

    mapped = jax.vmap(lambda key: case.call(key, x))(keys())
    for single, y in zip(keys(), mapped):
        assert_same(y, case.call(single, x))
    assert (mapped[0] != mapped[1]).mean() > 0.9


@each_noise
def test_a_legacy_key_is_the_typed_one(case):
    x = data(case.shape)
    assert_same_bits(case.call(jax.random.PRNGKey(5), x), case.call(key(5), x))


# What is drawn.


@each_noise
def test_distribution(case):
    """Kolmogorov-Smirnov with 2**17 numbers or more, at a false alarm of 1e-6.

    It sees a distance of 0.0075: a standard deviation that is off by 3 %, or a mean by 2 % of it.
    """
    keys = jax.random.split(key(1), -(-(2**17) // math.prod(case.noise_shape)))
    y = np.asarray(jax.jit(jax.vmap(lambda key: case.call(key, jnp.ones(case.shape))))(keys))
    index = tuple(
        slice(None) if noise == size else slice(0, 1)
        for noise, size in zip(case.noise_shape, case.shape)
    )
    own = y[(slice(None), *index)]
    np.testing.assert_array_equal(y, np.broadcast_to(own, y.shape))
    fit = stats.kstest(own.ravel(), case.distribution(case.level).cdf)
    assert fit.pvalue > FALSE_ALARM, fit


@of_each_function
def test_entries_and_keys_are_independent(case):
    """Their correlation is 0 to 4.9 standard errors: a false alarm of 1e-6, for each of 9 pairs."""
    first, second = jax.random.split(key(3))
    keys = [first, second, jax.random.fold_in(key(4), 0), jax.random.fold_in(key(4), 1), key(5)]
    spread = case.distribution(case.level)
    *rest, shape = *case.shape[1:], (512, 512)  # of whole texts, which the noise depends on
    shape = shape if 2**18 % math.prod(rest) else (2**18 // math.prod(rest), *rest)
    draws = [spread.cdf(np.asarray(case.call(k, jnp.ones(shape)))).reshape(512, 512) for k in keys]
    a = draws[0]
    pairs = [
        (a[0::2], a[1::2]),
        (a[:, 0::2], a[:, 1::2]),
        (a[:256], a[256:]),
        (a[:, :256], a[:, 256:]),
        (a[:256], a[:255:-1, ::-1]),
        (draws[0], draws[1]),
        (draws[2], draws[3]),
        (draws[0], draws[4]),
        (np.abs(a[0::2] - 0.5) * 2, np.abs(a[1::2] - 0.5) * 2),  # of the sizes, too
    ]
    for u, v in pairs:
        correlation = 12 * np.mean((u - 0.5) * (v - 0.5))
        assert abs(correlation) * np.sqrt(u.size) < stats.norm.isf(FALSE_ALARM / 2)


# Law 3: ends.

GONE = {"gaussian_dropout": 1.0}  # the level at which nothing is left


@pytest.mark.parametrize("case", [c for c in NOISE_CASES if c.level > 0], ids=lambda c: c.name)
@pytest.mark.parametrize("traced", [False, True], ids=["static", "traced"])
def test_level_0_is_x_and_rate_1_is_zeros_with_their_gradients(case, traced):
    def value_and_gradient(x, level):
        y, pull = jax.vjp(lambda x: case.call(key(), x, level), x)
        return y, pull(data(case.shape))[0]

    run = jax.jit(value_and_gradient) if traced else value_and_gradient
    x = special(case.shape)
    y, gradient = run(x, 0.0)
    assert_same_bits(y, x)
    assert_same_bits(gradient, data(case.shape))
    if case.fn.__name__ in GONE:
        y, gradient = run(x, GONE[case.fn.__name__])
        np.testing.assert_array_equal(y, 0.0)
        np.testing.assert_array_equal(gradient, 0.0)
        assert case.call(None, x, 1).shape == x.shape
    assert case.call(None, x, 0) is x


@each_noise
def test_gradient_of_a_traced_level_is_finite(case):
    ends = (0.0, 1e-9, 0.5, 1 - 2**-24, 1.0)
    for level in (*ends, case.level):
        gradient = jax.grad(lambda level: case.call(key(), data(case.shape), level).sum())(level)
        assert np.isfinite(gradient), level
        if case.fn.__name__ == "gaussian_dropout":
            assert gradient == 0


# Law 5: the gradient is that of the noise, and nothing of it is kept.


@each_noise
def test_reverse_and_forward_mode_are_the_noise(case):
    x, weight = data(case.shape), data(case.shape[::-1]).T

    def function(x):
        return case.call(key(), x)

    @jax.jit
    def derivatives(x):
        y, tangent = jax.jvp(function, (x,), (weight,))
        return y, tangent, jax.grad(lambda x: jnp.vdot(weight, function(x)))(x)

    y, tangent, gradient = derivatives(x)
    assert_same(y, function(x))
    zero = function(jnp.zeros_like(x))
    np.testing.assert_allclose(tangent, function(weight) - zero, rtol=ROUNDING, atol=1e-6)
    assert_same(gradient, tangent)


@each_noise
def test_forward_over_reverse(case):
    """The loss is sum(y**4) / 12, its Hessian diagonal: y**2 times the slope squared."""

    def loss(x):
        return jnp.sum(case.call(key(), x) ** 4) / 12

    x, tangent = data(case.shape), data(case.shape[::-1]).T
    product = jax.jit(lambda x: jax.jvp(jax.grad(loss), (x,), (tangent,))[1])(x)
    slope = jax.jvp(lambda x: case.call(key(), x), (x,), (jnp.ones_like(x),))[1]
    expected = np.square(case.call(key(), x)) * np.square(slope) * tangent
    np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-5)


@each_noise
def test_only_the_key_is_kept(case):
    x = data(case.shape)
    assert really_kept_bytes(lambda x: case.call(key(), x), x) <= 64
    functions = {
        "static": lambda x: case.call(key(), x),
        "traced": lambda x: case.call(key(), x, jnp.float32(case.level)),
        "jit": jax.jit(lambda x: case.call(key(), x)),
        "remat": jax.checkpoint(lambda x: case.call(key(), x)),
        "in a network": lambda x: case.call(key(), x * 2) * 3,
        "flag": jax.jit(lambda x: case.call(key(), x, None, jnp.zeros((), bool))),
    }
    for name, function in functions.items():
        assert kept_bytes(function, x) <= 64, name

    def steps(x):
        keys = jax.random.split(key(), 5)
        return jax.lax.scan(lambda x, key: (case.call(key, x), None), x, keys)[0]

    assert kept_bytes(steps, x) <= 5 * 64


# Laws 6 and 7: one program, explicit keys.


@each_noise
def test_one_trace_serves_all_levels_and_flags(case):
    traces = []

    @jax.jit
    def run(key, x, level, deterministic):
        traces.append(1)
        return case.call(key, x, level, deterministic)

    x = data(case.shape)
    for level in (case.level, 0.1, 0.0, 1.0):
        assert_same(run(key(), x, level, False), case.call(key(), x, level))
        assert_same_bits(run(key(), x, level, True), x)
    assert len(traces) == 1


@each_noise
def test_each_entry_of_an_array_of_levels_has_its_own(case):
    x = data(case.shape)
    levels = np.resize(np.float32([0.1, case.level]), case.noise_shape)
    y = np.asarray(case.call(key(), x, jnp.asarray(levels)))
    levels = np.broadcast_to(levels, case.shape)
    for level in (0.1, case.level):
        own = levels == np.float32(level)
        assert_same(y[own], np.asarray(case.call(key(), x, level))[own])
    last = jnp.full(case.shape[-1:], case.level, jnp.float32)
    assert_same(case.call(key(), x, last), case.call(key(), x))


@each_noise
def test_deterministic_leaves_no_random_bit_in_the_program(case):
    def program(deterministic):
        traced = jax.jit(lambda key, x: case.call(key, x, None, deterministic)).trace(key(), x)
        return len(traced.jaxpr.eqns), traced.lower().as_text()

    x = data(case.shape)
    drawing = re.compile("xor|shift|rng|random|threefry")
    equations, text = program(True)
    assert equations == 0
    assert not drawing.search(text)
    equations, text = program(False)
    assert equations > 0
    assert drawing.search(text)
    assert case.call(None, x, None, True) is x
    assert case.call(None, x, None, np.True_) is x


@each_noise
def test_a_reused_key_is_caught(case):
    def twice(key, x):
        return case.call(key, x), case.call(key, x)

    x = data(case.shape)
    for run in (twice, jax.jit(twice)):
        with pytest.raises(jax.errors.KeyReuseError, match="consumed"):
            run(key(), x)


@each_noise
def test_a_checkpoint_draws_the_same_noise_and_uses_the_key_once(case):
    x = data(case.shape)

    def loss(x):
        return jnp.square(case.call(key(), x)).sum()

    assert_same(jax.jit(jax.grad(jax.checkpoint(loss)))(x), jax.jit(jax.grad(loss))(x))
    assert_same(jax.grad(jax.checkpoint(loss))(x), jax.grad(loss)(x))


# Law 8: sharding follows x.


@each_noise
@each_placement
def test_values_and_gradients_on_a_mesh_are_those_of_one_device(case, split, axis_type):
    def value_and_gradient(key, x):
        y, pull = jax.vjp(lambda x: case.call(key, x), x)
        return y, pull(x)[0]

    x = data(case.shape)
    sharding = placement(case.shape, split, axis_type)
    sharded = put(x, sharding)
    results = compiled(value_and_gradient, key(), sharded)(key(), sharded)
    for result, expected in zip(results, jax.jit(value_and_gradient)(key(), x)):
        assert result.sharding.is_equivalent_to(sharding, x.ndim)
        assert_same(np.asarray(result), np.asarray(expected))


@each_noise
def test_eager_calls_with_arrays_of_levels_follow_x(case):
    x = data(case.shape)
    sharding = placement(case.shape, "both", AxisType.Explicit)
    levels = jnp.asarray(np.resize(np.float32([0.1, case.level]), case.noise_shape))
    y = case.call(key(), put(x, sharding), levels)
    assert y.sharding.is_equivalent_to(sharding, x.ndim)
    assert_same(np.asarray(y), np.asarray(case.call(key(), x, levels)))


@of_each_function
@pytest.mark.parametrize("spec", [P("data"), P(None, "data"), P("data", "model")], ids=str)
@pytest.mark.parametrize(
    "axis_type", [AxisType.Explicit, pytest.param(AxisType.Auto, marks=pytest.mark.slow)]
)
def test_each_device_does_its_share_of_the_work(case, spec, axis_type):
    x = jnp.ones((256, 512))
    mesh = mesh_of((4, 2) if "model" in spec else (8,), axis_type)
    whole = operations(case.fn, x, case.level)
    share = operations(case.fn, put(x, NamedSharding(mesh, spec)), case.level)
    assert share <= 1.1 / 8 * whole
