"""Whole blocks that run or are skipped: how often, at what cost, and the laws that apply."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import layer_drop, masks, mc
from tests.flax.test_modules import Key
from tests.support.cases import assert_probability, assert_same_bits, data, key
from tests.support.models import each_framework

RATE = 0.5
X = data((4, 16))
WEIGHT = data((16, 16)) / 4


def block(x):
    return x + jnp.tanh(x @ WEIGHT)


def drop(one, x=X, rate=RATE, block=block, **options):
    return layer_drop(one, block, x, rate, **options)


@functools.cache
def _seed(runs):
    with jax.ensure_compile_time_eval():
        kept = [bool(masks.sample(key(seed), RATE, ()).unpack()) for seed in range(20)]
    return kept.index(runs)


def key_that(runs):
    """A fresh key that runs the block, or skips it, at a rate of one half."""
    return key(_seed(runs))


@pytest.mark.parametrize("traced", [False, True], ids=["eager", "jitted"])
def test_a_block_runs_or_its_input_passes_bit_for_bit(traced):
    run = jax.jit(drop) if traced else drop
    assert_same_bits(run(key_that(False)), X)
    np.testing.assert_allclose(run(key_that(True)), block(X), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rate", [0.3, jnp.float32(0.3)], ids=["static", "traced"])
def test_realised_rate_is_that_of_a_mask(rate):
    keys = jax.random.split(key(), 2**12)
    run = jax.jit(jax.vmap(lambda one: drop(one, jnp.zeros(()), rate, jnp.ones_like) == 0))
    skipped = run(keys)
    assert_probability(skipped.sum(), 2**12, 0.3)
    for one, was_skipped in zip(jax.random.split(key(), 20), skipped):
        assert masks.sample(one, rate, ()).unpack() != was_skipped


@pytest.mark.parametrize("rate", [0.25, jnp.float32(0.25)], ids=["static", "traced"])
def test_rescaled_the_mean_is_exact(rate):
    """Both outcomes, weighted with their probabilities; as in the paper it is not."""
    found = {}
    for one in jax.random.split(key(), 40):
        runs = bool(masks.sample(jax.random.clone(one), rate, ()).unpack())
        found[runs] = [drop(jax.random.clone(one), rate=rate, rescale=r) for r in (True, False)]
    means = [0.25 * skipped + 0.75 * run for skipped, run in zip(found[False], found[True])]
    np.testing.assert_allclose(means[0], block(X), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(means[1], X + 0.75 * (block(X) - X), rtol=1e-5, atol=1e-6)


def test_ends_and_deterministic_need_no_key():
    for y in (drop(None, rate=0), drop(None, deterministic=True), drop(None, rate=0, rescale=True)):
        assert_same_bits(y, block(X))
    assert drop(None, rate=1) is X


@pytest.mark.parametrize("rescale", [False, True])
def test_traced_ends_and_flags(rescale):
    @jax.jit
    def run(rate, flag):
        return drop(key_that(False), X, rate, deterministic=flag, rescale=rescale)

    expected = jax.jit(block)(X)
    for y in (run(0.0, False), run(RATE, True), run(1.0, True)):
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    for y in (run(1.0, False), run(RATE, False)):
        assert_same_bits(y, X)
    gradient = jax.grad(lambda rate: drop(key(), X, rate, rescale=rescale).sum())(0.3)
    assert gradient == 0


def test_a_block_that_is_never_skipped_is_not_rescaled():
    """Where the sum of the input and the difference would round the output away."""
    small = lambda x: x * 1e-9  # noqa: E731
    y = jax.jit(lambda rate: drop(key(), X, rate, small, rescale=True))(0.0)
    assert_same_bits(y, jax.jit(small)(X))


def test_a_skipped_block_is_not_computed():
    """It says so itself: a callback counts its runs, forward and under a gradient."""
    seen = []

    def counted(x):
        jax.debug.callback(lambda: seen.append(1))
        return block(x)

    run = jax.jit(jax.grad(lambda x, one: drop(one, x, block=counted).sum()))
    jax.block_until_ready(run(X, key_that(False)))
    jax.effects_barrier()
    assert not seen
    jax.block_until_ready(run(X, key_that(True)))
    jax.effects_barrier()
    assert seen


def test_poison_of_a_skipped_block_does_not_spread():
    def loss(weight, x, one):
        return drop(one, x, block=lambda x: x + x @ weight / 0).sum()

    gradients = jax.jit(jax.grad(loss, (0, 1)))(WEIGHT * jnp.nan, X, key_that(False))
    assert_same_bits(gradients[0], jnp.zeros_like(WEIGHT))
    assert_same_bits(gradients[1], jnp.ones_like(X))


def test_modes_of_differentiation_agree_and_vmap_is_the_loop():
    run = lambda x: drop(key_that(True), x)  # noqa: E731
    y, tangent = jax.jvp(jax.jit(run), (X,), (X,))
    pulled = jax.vjp(run, X)[1](y)[0]
    np.testing.assert_allclose(jnp.vdot(pulled, X), jnp.vdot(y, tangent), rtol=1e-4)
    hessian = jax.hessian(lambda t: jnp.sum(jax.jit(run)(X * t) ** 2))(1.0)
    expected = jax.hessian(lambda t: jnp.sum(block(X * t) ** 2))(1.0)
    np.testing.assert_allclose(hessian, expected, rtol=1e-4)
    mapped = jax.vmap(drop)(jax.random.split(key(), 8))
    for y, one in zip(mapped, jax.random.split(key(), 8)):
        np.testing.assert_allclose(y, drop(one), rtol=1e-5, atol=1e-6)


def test_rates_of_layers_under_scan_and_pytrees():
    def layer(x, key_and_rate):
        return drop(key_and_rate[0], x, key_and_rate[1], lambda x: {"x": x["x"] + 1}), None

    rates = jnp.array([0.0, 1.0, 0.0], jnp.float32)
    x, _ = jax.lax.scan(layer, {"x": X}, (jax.random.split(key(), 3), rates))
    np.testing.assert_allclose(x["x"], X + 2, rtol=1e-6)


def test_a_reused_key_is_caught_and_a_legacy_one_is_the_typed_one():
    one = key()
    drop(one)
    with pytest.raises(jax.errors.KeyReuseError, match="consumed"):
        drop(one)
    for seed in range(4):
        assert_same_bits(drop(jax.random.PRNGKey(seed)), drop(key(seed)))


_BAD = {
    "block": (lambda: drop(key(), block=X), TypeError, "block: expected a function of x, got"),
    "shape": (
        lambda: drop(None, rate=0, block=lambda x: x[:2]),
        ValueError,
        "output like x, .* got .*; project",
    ),
    "dtype": (
        lambda: drop(key_that(True), block=lambda x: x.astype(jnp.bfloat16)),
        ValueError,
        "output like x, .*float32.* got .*bfloat16",
    ),
    "rates": (lambda: drop(key(), rate=np.full(3, 0.5)), ValueError, "scalar, .* drop_path"),
    "rate": (lambda: drop(key(), rate=-1), ValueError, r"in \[0, 1\], got -1"),
    "key": (lambda: drop(None), TypeError, "one PRNG key, got None"),
}


@pytest.mark.parametrize("name", _BAD)
def test_bad_input_is_refused(name):
    call, error, message = _BAD[name]
    with pytest.raises(error, match=message):
        call()


# The classes.


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return x + nn.BatchNorm(use_running_average=not train)(nn.Dense(16)(x))


def test_linen_class_is_the_function_and_has_all_parameters():
    layer = jaxdrop.linen.LayerDrop(nn.Dense(16), RATE)
    variables = layer.init(key(), X, deterministic=False)  # which needs no other key
    dense = lambda x: nn.Dense(16).apply({"params": variables["params"]["block"]}, x)  # noqa: E731
    run = jax.jit(lambda one: layer.apply(variables, X, deterministic=False, rng=one))
    for runs in (False, True):
        y = layer.apply(variables, X, deterministic=False, rng=key_that(runs))
        assert_same_bits(y, drop(key_that(runs), block=dense))
        np.testing.assert_allclose(run(key_that(runs)), y, rtol=1e-5, atol=1e-6)
    for seed in range(4):
        y = layer.apply(variables, X, deterministic=False, rngs={"dropout": key(seed)})
        drawn = Key().apply({}, rngs={"dropout": key(seed)})
        assert_same_bits(y, drop(drawn, block=dense))
    assert_same_bits(layer.apply(variables, X, deterministic=True), dense(X))


def test_linen_class_updates_statistics_only_where_its_block_runs():
    layer = jaxdrop.linen.LayerDrop(Normed(), RATE, deterministic=False)
    variables = layer.init(key(), X)
    run = jax.jit(lambda one: layer.apply(variables, X, train=True, rng=one, mutable="batch_stats"))
    for runs in (False, True):
        _, after = run(key_that(runs))
        before, after = map(jax.tree.leaves, (variables["batch_stats"], after["batch_stats"]))
        assert any((a != b).any() for a, b in zip(after, before)) == runs


@pytest.mark.parametrize("remat", [False, True], ids=["scan", "scan of remat"])
def test_linen_class_works_under_scan_with_a_rate_a_layer(remat):
    kind = nn.remat(jaxdrop.linen.LayerDrop) if remat else jaxdrop.linen.LayerDrop

    class Layers(nn.Module):
        @nn.compact
        def __call__(self, x, rates):
            def body(module, x, rate):
                return kind(nn.Dense(16), rate, deterministic=False)(x), None

            split = {"params": True, "dropout": True}
            scan = nn.scan(body, variable_axes={"params": 0}, split_rngs=split, length=3)
            return scan(self, x, rates)[0]

    rates = jnp.array([0.0, 1.0, 1.0], jnp.float32)
    variables = Layers().init({"params": key(), "dropout": key(1)}, X, rates)
    (params,) = variables["params"].values()  # a layer made in a compact model has its own name
    assert params["kernel"].shape == (3, 16, 16)

    @jax.jit
    def run(variables):
        y = Layers().apply(variables, X, rates, rngs={"dropout": key(2)})
        return y.sum(), y

    gradient, y = jax.grad(run, has_aux=True)(variables)
    first = jax.tree.map(lambda leaf: leaf[0], params)
    np.testing.assert_allclose(y, nn.Dense(16).apply({"params": first}, X), rtol=1e-4, atol=1e-5)
    (gradient,) = gradient["params"].values()
    assert gradient["kernel"][0].any()
    assert not gradient["kernel"][1:].any()


class NnxNormed(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(16, 16, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(16, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return x + self.norm(self.linear(x))


def test_nnx_class_is_the_function_in_transforms_of_jax_too():
    linear = nnx.Linear(16, 16, rngs=nnx.Rngs(0))
    layer = jaxdrop.nnx.LayerDrop(linear, RATE, rngs=nnx.Rngs(1))
    stream = nnx.Rngs(1).dropout.fork()
    for _ in range(4):
        assert_same_bits(layer(X), drop(stream(), block=linear))
    run = jax.jit(lambda one: layer(X, rngs=one))
    for runs in (False, True):
        expected = drop(key_that(runs), block=linear)
        np.testing.assert_allclose(run(key_that(runs)), expected, rtol=1e-5, atol=1e-6)
    layer.eval()
    assert_same_bits(layer(X), linear(X))


@pytest.mark.parametrize("runs", [False, True])
def test_nnx_class_updates_statistics_only_where_its_block_runs(runs):
    layer = jaxdrop.nnx.LayerDrop(NnxNormed(), RATE)
    nnx.jit(lambda layer, one: layer(X, rngs=one))(layer, key_that(runs))
    assert bool((layer.block.norm.mean[...] != 0).any()) == runs


@each_framework
def test_adapters_turn_it_on(framework):
    if framework == "linen":
        layer = jaxdrop.linen.LayerDrop(nn.Dense(16), 0.1, deterministic=True)
        fn = mc.from_linen(layer, layer.init(key(), X), rate=RATE)
    else:
        layer = jaxdrop.nnx.LayerDrop(nnx.Linear(16, 16, rngs=nnx.Rngs(0)), 0.1, deterministic=True)
        fn = mc.from_nnx(layer, rate=RATE)
    outputs = jax.vmap(fn, (0, None))(jax.random.split(key(), 16), X)
    skipped = (outputs == X[None]).all(axis=(1, 2))
    assert 0 < skipped.sum() < 16
    (site,) = mc.audit(fn, key(), X).sites
    assert (site.kind, site.shape, site.live) == ("LayerDrop", X.shape, True)
