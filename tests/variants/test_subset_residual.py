"""A residual branch on a part of the batch: which part, what it costs, and the laws that apply."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from scipy import stats

import jaxdrop
from jaxdrop import mc, subset_residual
from jaxdrop.masks import _noise
from tests.flax.test_modules import Key
from tests.laws.test_laws_sharding import compiled, mesh_of, put
from tests.support.cases import FALSE_ALARM, assert_same_bits, data, key
from tests.support.models import each_framework

RATE = 0.5
X = data((8, 3, 16))
WEIGHT = data((16, 16)) / 4


def branch(x):
    return jnp.tanh(x @ WEIGHT)


def residual(one, x=X, rate=RATE, branch=branch, **options):
    return subset_residual(one, branch, x, rate, **options)


def kept_of(y, x=X):
    """Which examples have changed."""
    return np.asarray((y != x).any(axis=(1, 2)))


@pytest.mark.parametrize(
    ("rate", "batch", "groups", "count"),
    [(0.5, 8, 1, 4), (0.25, 8, 2, 6), (0.4, 8, 4, 4), (0.99, 8, 1, 1),
     (0.01, 8, 1, 8), (0.9, 1, 1, 1)],
)  # fmt: skip
def test_exactly_so_many_are_drawn_and_rescaled_and_the_others_pass(rate, batch, groups, count):
    x = X[:batch].at[0, 0, 0].set(-0.0)
    y = residual(key(), x, rate, num_groups=groups)
    kept = kept_of(y, x)
    assert kept.sum() == count
    assert (kept.reshape(groups, -1).sum(axis=1) == count // groups).all()
    expected = x + branch(x) * (batch / count)
    np.testing.assert_allclose(y[kept], expected[kept], rtol=1e-5, atol=1e-6)
    assert_same_bits(y[~kept], x[~kept])


def test_the_drawn_are_the_first_of_a_random_order_in_the_order_of_the_batch():
    seen = []
    y = residual(key(), branch=lambda x: seen.append(x) or x)
    places = np.flatnonzero(kept_of(y))
    assert_same_bits(seen[0], X[places])
    order = _noise.permutations(key(), (1, 8))[0]
    assert sorted(order[:4].tolist()) == places.tolist()


def test_every_subset_is_drawn_equally_often():
    """So the mean over keys is the full residual, and so is that of gradients."""
    ones = jnp.zeros((6, 1, 1))
    keys = jax.random.split(key(), 2**14)
    run = jax.jit(jax.vmap(lambda one: residual(one, ones, branch=jnp.ones_like)[:, 0, 0] > 0))
    codes = (np.asarray(run(keys)) << np.arange(6)).sum(axis=1)
    codes, counts = np.unique(codes, return_counts=True)
    assert set(codes) == {sum(1 << i for i in c) for c in itertools.combinations(range(6), 3)}
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_mean_of_value_and_gradients_is_that_of_the_full_residual():
    """Exactly: every subset of 2 of 4 examples counts once."""
    x, w = X[:4], WEIGHT

    def loss(w, x, one):
        y = residual(one, x, branch=lambda x: x @ w)
        return jnp.vdot(y, jnp.cos(x)), y

    def full(w, x):
        return jnp.vdot(x + x @ w, jnp.cos(x))

    keys, found = iter(jax.random.split(key(), 200)), {}
    run = jax.jit(jax.grad(loss, (0, 1), has_aux=True))
    while len(found) < 6:
        gradients, y = run(w, x, next(keys))
        found[kept_of(y, x).tobytes()] = (*gradients, y)
    means = [sum(parts) / 6 for parts in zip(*found.values())]
    expected = (*jax.grad(full, (0, 1))(w, x), x + x @ w)
    for mean, value in zip(means, expected):
        np.testing.assert_allclose(mean, value, rtol=1e-4, atol=1e-5)


def test_ends_and_deterministic_are_bits_of_the_plain_residual_and_need_no_key():
    for y in (residual(None, rate=0), residual(None, deterministic=True), residual(None, rate=0.0)):
        assert_same_bits(y, X + branch(X))
    assert residual(None, rate=1) is X
    gradient = jax.grad(lambda x: residual(None, x, rate=1).sum())(X)
    assert_same_bits(gradient, jnp.ones_like(X))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_dtype_is_kept_and_the_scale_rounded_once(dtype):
    x = X.astype(dtype)
    y = residual(key(), x, rate=0.7, branch=lambda x: x)  # 2 of 8 are kept
    kept = kept_of(y, x)
    assert y.dtype == dtype
    assert_same_bits(y[kept], (x + (x.astype(jnp.float32) * 4).astype(dtype))[kept])
    assert residual(key(), x, branch=lambda x: x.astype(jnp.float32)).dtype == dtype


def test_dropped_poison_stays_where_it_is_and_reaches_no_gradient():
    kept = kept_of(residual(key()))
    x = jnp.where(kept[:, None, None], X, jnp.nan)

    def loss(w, x):
        y = residual(key(), x, branch=lambda x: jnp.tanh(x @ w))
        return jnp.where(jnp.isnan(y), 0.0, y).sum()

    y = residual(key(), x)
    assert_same_bits(y[kept], residual(key())[kept])
    for gradient in jax.jit(jax.grad(loss, (0, 1)))(WEIGHT, x):
        assert np.isfinite(gradient).all()


def test_all_modes_of_differentiation_agree():
    def f(x):
        return residual(key(), x)

    y, tangent = jax.jvp(f, (X,), (X,))
    assert_same_bits(y, f(X))
    pulled = jax.vjp(f, X)[1](y)[0]
    np.testing.assert_allclose(jnp.vdot(pulled, X), jnp.vdot(y, tangent), rtol=1e-4)
    curvature = jax.jit(jax.hessian(lambda t: jnp.sum(f(X * t) ** 2)))(1.0)
    step = jax.jit(jax.grad(lambda t: jnp.sum(f(X * t) ** 2)))
    np.testing.assert_allclose(curvature, (step(1.01) - step(0.99)) / 0.02, rtol=2e-3)


def test_jit_and_vmap_are_the_loop_and_legacy_keys_the_typed_ones():
    xs = jnp.stack([X, X + 1])
    mapped = jax.jit(jax.vmap(residual))(jax.random.split(key(), 2), xs)
    for y, one, x in zip(mapped, jax.random.split(key(), 2), xs):
        np.testing.assert_allclose(y, residual(one, x), rtol=1e-5, atol=1e-6)
    assert_same_bits(residual(jax.random.PRNGKey(3)), residual(key(3)))


def test_a_reused_key_is_caught():
    one = key()
    residual(one)
    with pytest.raises(jax.errors.KeyReuseError, match="consumed"):
        residual(one)


def test_deterministic_may_be_traced():
    run = jax.jit(lambda one, flag: residual(one, deterministic=flag))
    np.testing.assert_allclose(run(key(), True), residual(None, rate=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run(key(), False), residual(key()), rtol=1e-5, atol=1e-6)


def test_other_axes_and_extra_arrays():
    mask = jnp.arange(8.0, dtype=jnp.float32)
    weighted = lambda x, mask: x * mask[:, None, None]  # noqa: E731
    y = residual(key(), branch=weighted, extra=(mask,))
    kept = kept_of(residual(key()))
    expected = np.where(kept[:, None, None], X * (1 + 2 * mask[:, None, None]), X)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    swapped = residual(key(), X.swapaxes(0, 1), batch_axis=1)
    np.testing.assert_allclose(swapped.swapaxes(0, 1), residual(key()), rtol=1e-5, atol=1e-6)


def test_operations_are_halved():
    """Forward and backward: the branch is a feed-forward block of 64 units."""

    def operations(function):
        def loss(weights, x):
            return (function(lambda x: jnp.maximum(x @ weights[0], 0) @ weights[1], x) ** 2).sum()

        weights = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((64, 256), (256, 64))]
        x = jax.ShapeDtypeStruct((32, 16, 64), jnp.float32)
        with jax.debug_key_reuse(False):
            step = jax.jit(jax.grad(loss, (0, 1))).lower(weights, x).compile()
        return step.cost_analysis()["flops"]

    full = operations(lambda branch, x: x + branch(x))
    thin = operations(lambda branch, x: residual(key(), x, branch=branch))
    assert 0.4 * full < thin <= 0.52 * full


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("groups", [1, 4])
def test_with_a_group_a_device_none_needs_another(kind, groups):
    def run(key, x):
        y, pull = jax.vjp(lambda x: residual(key, x, branch=jnp.tanh, num_groups=groups), x)
        return y, pull(y)[0]

    sharding = jax.NamedSharding(mesh_of((4, 2), kind), P("data"))
    x = put(X, sharding)
    program = compiled if groups == 4 else lambda f, *args: jax.jit(f)
    for result, expected in zip(program(run, key(), x)(key(), x), run(key(), X)):
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
        if kind == AxisType.Explicit or groups == 4:
            assert result.sharding.is_equivalent_to(sharding, 3)


_BAD = {
    "traced rate": (
        lambda: jax.jit(lambda rate: residual(key(), rate=rate))(0.5),
        TypeError,
        "a Python number, since the number of examples that are kept is a shape, got .*drop_path",
    ),
    "rate 2": (lambda: residual(key(), rate=2), ValueError, r"in \[0, 1\], got 2"),
    "no function": (
        lambda: residual(key(), branch=X),
        TypeError,
        "branch: expected a function .*drop_path",
    ),
    "output shape": (
        lambda: residual(key(), branch=lambda x: x[..., :2]),
        ValueError,
        r"\(4, 3, 16\), got \(4, 3, 2\); project",
    ),
    "output integer": (
        lambda: residual(key(), branch=jnp.argsort),
        TypeError,
        r"branch\(x\): expected a floating",
    ),
    "output complex": (
        lambda: residual(key(), branch=lambda x: x.astype(complex)),
        TypeError,
        "expected a real output .* cast x",
    ),
    "groups": (
        lambda: residual(key(), num_groups=3),
        ValueError,
        "a divisor of the batch of 8, got 3; take",
    ),
    "extra": (
        lambda: residual(key(), extra=(X[:3],)),
        ValueError,
        r"extra\[0\]: expected 8 examples on axis 0, .* got \(3, 3, 16\)",
    ),
    "axis": (lambda: residual(key(), batch_axis=5), ValueError, "batch_axis: expected an axis in"),
    "key": (lambda: residual(None), TypeError, "one PRNG key, got None"),
    "flag": (
        lambda: residual(key(), deterministic=1),
        TypeError,
        "True, False or a boolean scalar",
    ),
}


@each_framework
def test_any_batch_will_do_where_nothing_is_drawn(framework):
    """The last batch of an evaluation, and the one example that parameters are made with."""
    x = X[:5]
    y = residual(None, x, num_groups=4, deterministic=True)
    np.testing.assert_allclose(y, x + branch(x), rtol=1e-5)
    options = {"rate": RATE, "num_groups": 4, "deterministic": True}
    if framework == "linen":
        layer = jaxdrop.linen.SubsetResidual(nn.Dense(16), **options)
        y = layer.apply(layer.init(key(), x[:1]), x)
    else:
        dense = nnx.Linear(16, 16, rngs=nnx.Rngs(0))
        y = jaxdrop.nnx.SubsetResidual(dense, **options)(x)
    assert y.shape == x.shape and (y != x).any(axis=(1, 2)).all()


@pytest.mark.parametrize("name", _BAD)
def test_bad_input_is_refused(name):
    call, error, message = _BAD[name]
    with pytest.raises(error, match=message):
        call()


# The classes.


def of_linen(**options):
    layer = jaxdrop.linen.SubsetResidual(nn.Dense(16), RATE, **options)
    flag = {} if options else {"deterministic": False}
    return layer, layer.init({"params": key()}, X, **flag)


def test_linen_class_is_the_function():
    layer, variables = of_linen()
    dense = lambda x: nn.Dense(16).apply({"params": variables["params"]["branch"]}, x)  # noqa: E731
    y = layer.apply(variables, X, deterministic=False, rng=key(1))
    assert_same_bits(y, residual(key(1), branch=dense))
    drawn = Key().apply({}, rngs={"dropout": key(1)})
    y = layer.apply(variables, X, deterministic=False, rngs={"dropout": key(1)})
    assert_same_bits(y, residual(drawn, branch=dense))
    assert_same_bits(layer.apply(variables, X, deterministic=True), X + dense(X))
    run = jax.jit(lambda flag: layer.apply(variables, X, deterministic=flag, rng=key(1)))
    np.testing.assert_allclose(run(True), X + dense(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(run(False), residual(key(1), branch=dense), rtol=1e-5, atol=1e-6)


def test_nnx_class_is_the_function():
    dense = nnx.Linear(16, 16, rngs=nnx.Rngs(0))
    layer = jaxdrop.nnx.SubsetResidual(dense, RATE, rngs=nnx.Rngs(1))
    stream = nnx.Rngs(1).dropout.fork()
    for _ in range(2):
        assert_same_bits(layer(X), residual(stream(), branch=dense))
    for transform in (jax.jit, lambda f: f):
        y = transform(lambda one: layer(X, rngs=one))(key(2))
        np.testing.assert_allclose(y, residual(key(2), branch=dense), rtol=1e-5, atol=1e-6)
    run = jax.jit(lambda one, flag: layer(X, rngs=one, deterministic=flag))
    np.testing.assert_allclose(run(key(2), True), X + dense(X), rtol=1e-5, atol=1e-6)
    layer.eval()
    assert_same_bits(layer(X), X + dense(X))


@each_framework
def test_adapters_turn_it_on_at_its_own_rate(framework):
    if framework == "linen":
        layer, variables = of_linen(deterministic=True)
        fn = mc.from_linen(layer, variables, rate=0.1)
    else:
        dense = nnx.Linear(16, 16, rngs=nnx.Rngs(0))
        layer = jaxdrop.nnx.SubsetResidual(dense, RATE, deterministic=True)
        fn = mc.from_nnx(layer, rate=0.1)
    y, other = fn(key(1), X), fn(key(2), X)
    assert kept_of(y).sum() == kept_of(other).sum() == 4
    assert (kept_of(y) != kept_of(other)).any()
    (site,) = mc.audit(fn, key(), X).sites
    assert (site.kind, site.rate, site.shape, site.live) == ("SubsetResidual", RATE, X.shape, True)
