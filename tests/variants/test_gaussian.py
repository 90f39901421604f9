"""Gaussian dropout and noise beside Keras's, and in models that the adapters run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import linen, mc
from tests.support.cases import key
from tests.support.models import each_framework

SIZE = 2**18


@pytest.mark.parametrize(
    ("name", "level", "ours"),
    [
        ("GaussianDropout", 0.2, jaxdrop.gaussian_dropout),
        ("GaussianNoise", 0.7, jaxdrop.gaussian_noise),
    ],
)
def test_moments_are_those_of_keras(name, level, ours, monkeypatch):
    """To five standard errors of each: 1 % of the standard deviation."""
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras", reason="the peer is Keras, which is not installed")
    x = jnp.full((SIZE,), 3.0, jnp.float32)
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
        jax.debug_key_reuse(False),
    ):
        theirs = np.asarray(getattr(keras.layers, name)(level, seed=0)(x, training=True))
    y = np.asarray(ours(key(), x, level))
    assert abs(y.mean() - theirs.mean()) < 0.015 * y.std()
    assert abs(y.std() / theirs.std() - 1) < 0.01


class Noisy(nn.Module):
    stddev: float = 0.5

    @nn.compact
    def __call__(self, x):
        x = linen.GaussianDropout(0.3, deterministic=True, name="first")(x)
        return linen.GaussianNoise(self.stddev, deterministic=True, name="second")(x)


class NnxNoisy(nnx.Module):
    def __init__(self, stddev=0.5):
        self.first = jaxdrop.nnx.GaussianDropout(0.3, deterministic=True)
        self.second = jaxdrop.nnx.GaussianNoise(stddev, deterministic=True)

    def __call__(self, x):
        return self.second(self.first(x))


@each_framework
def test_adapters_turn_noise_on_and_the_audit_lists_it(framework):
    def adapted(stddev):
        if framework == "linen":
            return mc.from_linen(Noisy(stddev), {})
        return mc.from_nnx(NnxNoisy(stddev))

    x = jnp.ones((512, 512))
    fn = adapted(0.5)
    y, again, other = fn(key(1), x), fn(key(1), x), fn(key(2), x)
    np.testing.assert_array_equal(y, again)
    assert (y != other).mean() > 0.99
    np.testing.assert_allclose((y.mean(), y.var()), (1, 0.3 / 0.7 + 0.25), rtol=0.02)
    report = mc.audit(fn, key(), x)
    assert report.sites == (
        mc.Site("first", "GaussianDropout", 0.3, x.shape, True),
        mc.Site("second", "GaussianNoise", None, x.shape, True),
    )
    assert "second  GaussianNoise    -     (512, 512)  live" in str(report)
    assert [site.live for site in mc.audit(adapted(0.0), key(), x).sites] == [True, False]


def test_a_stddev_of_1_draws_and_one_of_0_needs_no_key():
    """Where a rate of 1 needs no key either."""
    x = jnp.ones((8, 40))
    for rngs, stddev in (({}, 0), ({"dropout": key()}, 1)):
        y = linen.GaussianNoise(stddev, deterministic=False).apply({}, x, rngs=rngs)
        assert (y == x).all() == (stddev == 0)
        y = jaxdrop.nnx.GaussianNoise(stddev, rngs=nnx.Rngs(0) if stddev else None)(x)
        assert (y == x).all() == (stddev == 0)


def test_a_stddev_is_learned_by_its_gradient():
    """d/ds of mean((s n)**2) is 2 s mean(n**2): the gradient is that of the drawn noise."""
    x = jnp.zeros((64, 40))

    def spread(stddev):
        return jnp.square(jaxdrop.gaussian_noise(key(), x, stddev)).mean()

    noise = jaxdrop.gaussian_noise(key(), x, 1.0)
    expected = 2 * 0.5 * np.square(noise).mean()
    np.testing.assert_allclose(jax.grad(spread)(0.5), expected, rtol=1e-5)
