"""`from_linen` and `from_nnx`: the dropout of a model is on, and nothing else has changed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import linen, mc
from tests.support import models, reference
from tests.support.cases import assert_probability, assert_same_bits, data, key
from tests.support.models import each_framework
from tests.support.transforms import TRANSFORMS


class Only(nn.Module):
    """Nothing but dropout, switched off in the code."""

    rate: float = 0.3

    @nn.compact
    def __call__(self, x):
        return nn.Dropout(self.rate, deterministic=True)(x)


def only(framework, rate=0.3):
    if framework == "linen":
        return mc.from_linen(Only(rate), {})
    return mc.from_nnx(nnx.Sequential(nnx.Dropout(rate, deterministic=True)))


@each_framework
def test_dropout_is_on_and_all_else_as_evaluated(framework):
    """Bit for bit: BatchNorm uses its running averages, which differ from those of the batch."""
    fn, evaluate = models.net(framework)
    x = models.inputs()
    y, again, other = np.asarray(fn(key(1), x)), fn(key(1), x), fn(key(2), x)
    assert_same_bits(again, y)
    assert (other != y).any()
    kept = y != 0
    assert_probability(kept.sum(), kept.size, 0.5)
    assert_same_bits(y[kept], np.asarray(2 * evaluate(x))[kept])


@each_framework
def test_realised_rate_and_scale(framework):
    x = jnp.ones((512, 512))
    y, keep = only(framework)(key(), x), reference.keep_probability(0.3)
    assert_probability((y != 0).sum(), x.size, keep)
    np.testing.assert_allclose(y[y != 0], 1 / float(keep), rtol=1e-6)


@each_framework
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_works_in_transforms_of_jax(framework, transform):
    fn, x = only(framework, 0.5), jnp.ones((8, 40))
    masks = TRANSFORMS[transform](fn, jax.random.split(key(), 3), x)
    for mask, single in zip(masks, jax.random.split(key(), 3)):
        assert_same_bits(mask, fn(single, x))
    assert len({np.asarray(mask).tobytes() for mask in masks}) == 3


@each_framework
def test_gradients_of_a_whole_model(framework):
    """By the input and by the variables; jax.checkpoint draws the masks of the first pass."""
    fn, _ = models.net(framework, head=True)

    def loss(fn, x):
        return jnp.square(fn(key(1), x)).sum()

    results = []
    for wrapped in (loss, jax.checkpoint(loss)):
        gradient = jax.jit(jax.grad(wrapped, argnums=(0, 1), allow_int=True))
        results.append(jax.tree.leaves(gradient(fn, models.inputs())))
    for plain, recomputed in zip(*results):
        if jnp.issubdtype(plain.dtype, jnp.floating):
            np.testing.assert_allclose(plain, recomputed, rtol=1e-4, atol=1e-4)
            assert np.isfinite(plain).all()
    assert (results[0][-1] != 0).any()


def test_variables_of_a_linen_model_are_untouched():
    model = models.LinenNet()
    variables = models.linen_variables(model)
    before, shown, x = models.bits(variables), repr(model), models.inputs()
    evaluated = model.apply(variables, x, train=False)
    fn = mc.from_linen(model, variables)
    fn(key(), x, train=False)
    jax.jit(fn, static_argnames="train")(key(), x, train=False)
    mc.predict(fn, key(), x, train=False, num_samples=2)
    assert models.bits(variables) == before
    assert repr(model) == shown
    assert_same_bits(model.apply(variables, x, train=False), evaluated)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_nnx_model_is_untouched(mode):
    model = models.nnx_model()
    getattr(model, mode)()
    graph, before = nnx.graphdef(model), models.bits(nnx.state(model))
    fn = mc.from_nnx(model)
    fn(key(), models.inputs())
    jax.jit(fn)(key(), models.inputs())
    mc.predict(fn, key(), models.inputs(), num_samples=2)
    assert nnx.graphdef(model) == graph
    assert models.bits(nnx.state(model)) == before
    assert type(model.dropout) is nnx.Dropout
    assert (model.norm.use_running_average, model.dropout.deterministic) == (mode == "eval",) * 2


def test_function_of_an_nnx_model_is_a_snapshot():
    model, x = models.nnx_model(), models.inputs()
    fn = mc.from_nnx(model)
    expected = fn(key(), x)
    model.linear.kernel[...] = jnp.zeros_like(model.linear.kernel[...])
    model.dropout.rate = 0.9
    assert_same_bits(fn(key(), x), expected)


class Counting(nnx.Module):
    """Counts its calls, as a cache or a statistic does."""

    def __init__(self):
        self.calls = nnx.Variable(jnp.float32(0))
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x):
        self.calls[...] += 1
        return self.dropout(x) * self.calls[...]


@pytest.mark.parametrize("transform", ["eager", *TRANSFORMS])
def test_nnx_model_that_changes_a_variable_is_refused_by_name(transform):
    """What it counts would be lost, and every call the first."""
    fn, x = mc.from_nnx(Counting()), jnp.ones((8, 40))
    with pytest.raises(
        ValueError, match=r"changes calls \(Variable\), which would be lost; switch"
    ):
        fn(key(), x) if transform == "eager" else TRANSFORMS[transform](fn, key()[None], x)
    with pytest.raises(ValueError, match=r"changes calls \(Variable\)"):
        mc.predict(fn, key(), x)
    assert mc.audit(fn, key(), x).changes == ("Variable",)
    assert jax.tree.leaves(fn)[0] == 0


# Flags and keys that the model has for itself.


class Flags(nn.Module):
    @nn.compact
    def __call__(self, x):
        one = jax.random.key(0)
        return (
            nn.Dropout(0.5)(x, deterministic=True),
            nn.Dropout(0.5, deterministic=False)(x, rng=one),
            nn.Dropout(0.5, rng_collection="noise")(x, True),
            linen.SpatialDropout(0.5)(x[None], deterministic=True)[0],
            linen.VariationalDropout(0.5, deterministic=True)(x[:, None])[:, 0],
            linen.MCDropout(0.5)(x),
            linen.MCDropout(0.5, deterministic=True)(x, deterministic=False),
            linen.MCDropout(0.5, deterministic=True)(x),
            linen.MCDropout(0.5)(x, deterministic=True),
            nn.Dropout(0.0, deterministic=False)(x),
        )


class NnxFlags(nnx.Module):
    def __init__(self):
        ours, rngs = jaxdrop.nnx, nnx.Rngs(0)
        self.dropout = nnx.Dropout(0.5)
        self.noise = nnx.Dropout(0.5, rng_collection="noise", rngs=rngs)
        self.spatial = ours.SpatialDropout(0.5, deterministic=None)
        self.variational = ours.VariationalDropout(0.5, rngs=rngs)
        self.on, self.off = ours.MCDropout(0.5, rngs=rngs), ours.MCDropout(0.5, deterministic=True)
        self.zero = nnx.Dropout(0.0)

    def __call__(self, x):
        return (
            self.dropout(x, deterministic=True),
            self.dropout(x, rngs=jax.random.key(0)),
            self.noise(x, deterministic=True),
            self.spatial(x[None])[0],
            self.variational(x[:, None], deterministic=True)[:, 0],
            self.on(x),
            self.off(x, deterministic=False),
            self.off(x),
            self.on(x, deterministic=True),
            self.zero(x),
        )


@each_framework
def test_only_an_mc_dropout_of_its_own_accord_stays_off(framework):
    """Flags and keys that the code passes down do not count: the key of the pass decides."""
    fn = mc.from_linen(Flags(), {}) if framework == "linen" else mc.from_nnx(NnxFlags())
    x = jnp.ones((16, 40))
    first, second = fn(key(1), x), fn(key(2), x)
    for y, other in zip(first[:7], second[:7]):
        assert set(np.unique(y)) == {0.0, 2.0}
        assert (y != other).any()
    for y in first[7:]:
        assert_same_bits(y, x)


def test_linen_function_runs_a_method_of_the_model():
    class Encoder(nn.Module):
        def setup(self):
            self.dropout = nn.Dropout(0.5)

        def encode(self, x, scale):
            return self.dropout(x, deterministic=True) * scale

    x = jnp.ones((16, 40))
    for method in ("encode", Encoder.encode):
        y = mc.from_linen(Encoder(), {}, method=method)(key(), x, scale=3.0)
        assert set(np.unique(y)) == {0.0, 6.0}


def test_linen_function_works_where_the_kernel_is_replaced():
    """The two contexts meet in one call, and the adapter's decides."""
    fn, x = mc.from_linen(Only(), {}), data((16, 40))
    expected = fn(key(), x)
    with linen.replace_dropout():
        assert_same_bits(fn(key(), x), expected)


@pytest.mark.parametrize(
    ("adapter", "model", "remedy"),
    [
        (lambda model: mc.from_linen(model, {}), nnx.Dropout(0.5), r"mc\.from_nnx\(model\)"),
        (mc.from_nnx, nn.Dropout(0.5), r"mc\.from_linen\(model, variables\)"),
    ],
    ids=["linen", "nnx"],
)
def test_model_of_the_other_kind_is_sent_to_the_other_adapter(adapter, model, remedy):
    with pytest.raises(TypeError, match=f"(?s)model: expected a flax.*Module, got .*{remedy}"):
        adapter(model)
