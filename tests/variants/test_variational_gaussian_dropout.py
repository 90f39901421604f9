"""Variational Gaussian dropout: the true divergence, the gradient of the variance, the pruning."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxdrop.functional import (
    gaussian_dropout,
    variational_gaussian_dropout,
    variational_gaussian_kl,
    variational_gaussian_pruned,
)
from tests.support import reference
from tests.support.cases import data, key

SHAPE = (64, 40)


def true_kl(log_alpha):
    """E log|e| - log(alpha) / 2 for e of N(1, alpha), less its limit for a large alpha.

    Kingma, Salimans & Welling 2015, appendix C, with the constant for which it falls to 0.
    """
    spread = np.exp(log_alpha / 2)
    limit = -(np.euler_gamma + np.log(2)) / 2  # E log|n| of a standard normal n

    def integrand(n):
        return np.log(abs(1 + spread * n)) * stats.norm.pdf(n)

    pole = -1 / spread
    ends = sorted({-12.0, min(max(pole, -12.0), 12.0), 12.0})
    mean = sum(integrate.quad(integrand, a, b, limit=500)[0] for a, b in pairwise(ends))
    return mean - log_alpha / 2 - limit


@pytest.mark.parametrize("log_alpha", [-8.0, -3.0, -1.0, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0])
def test_kl_is_near_the_true_one(log_alpha):
    np.testing.assert_allclose(variational_gaussian_kl(log_alpha), true_kl(log_alpha), atol=0.02)


def test_kl_is_equation_14_summed():
    log_alpha = np.linspace(-10, 10, 60).reshape(3, 20)
    k1, k2, k3 = 0.63576, 1.87320, 1.48695
    negative = k1 / (1 + np.exp(-(k2 + k3 * log_alpha))) - 0.5 * np.log(1 + np.exp(-log_alpha)) - k1
    for given in (log_alpha, jnp.asarray(log_alpha, jnp.float32)):
        kl = variational_gaussian_kl(given)
        assert (kl.shape, kl.dtype) == ((), jnp.float32)
        np.testing.assert_allclose(kl, -negative.sum(), rtol=1e-5)


def test_kl_is_stable_and_pulls_the_noise_up():
    for log_alpha, slope in ((-80.0, -0.5), (80.0, 0.0)):
        value, gradient = jax.value_and_grad(variational_gaussian_kl)(log_alpha)
        np.testing.assert_allclose(value, -slope * 80 + (0.63576 if slope else 0), 1e-5, 1e-6)
        np.testing.assert_allclose(gradient, slope, atol=1e-6)
    assert (jax.vmap(jax.grad(variational_gaussian_kl))(jnp.linspace(-5, 5, 101)) < 0).all()


@pytest.mark.parametrize("shape", [(), (40,), SHAPE], ids=str)
def test_gradient_of_the_variance_is_that_of_differences(shape):
    """In float64, of the function itself and of the equation of the paper on the same noise."""
    z = reference.normal(jax.random.key_data(key()), SHAPE)
    with jax.enable_x64(True):
        x = data(SHAPE, jnp.float64)
        weight = data(SHAPE[::-1], jnp.float64).T
        log_alpha = jnp.asarray(np.resize([-3.0, -0.5, 1.0], shape))
        step = np.resize([1.0, -0.5, 0.7], shape)

        def loss(log_alpha):
            return jnp.vdot(weight, variational_gaussian_dropout(key(), x, log_alpha))

        def theirs(log_alpha):
            y = reference.variational_gaussian_dropout(np.asarray(x), z, log_alpha)
            return np.vdot(weight, y)

        slope = np.vdot(jax.jit(jax.grad(loss))(log_alpha), step)
        tangent = jax.jvp(loss, (log_alpha,), (jnp.asarray(step),))[1]
        h = 1e-5
        for function, tolerance in ((loss, 1e-6), (theirs, 1e-4)):  # the noise is float32
            difference = function(log_alpha + h * step) - function(log_alpha - h * step)
            np.testing.assert_allclose(slope, difference / (2 * h), rtol=tolerance)
    np.testing.assert_allclose(tangent, slope, rtol=1e-9)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_at_the_variance_of_a_rate_it_is_gaussian_dropout(rate):
    x = data(SHAPE)
    y = variational_gaussian_dropout(key(), x, np.log(rate / (1 - rate)))
    np.testing.assert_allclose(y, gaussian_dropout(key(), x, rate), rtol=1e-4, atol=1e-5)


def test_without_noise_it_is_the_identity():
    x = data(SHAPE)
    np.testing.assert_array_equal(variational_gaussian_dropout(key(), x, -80.0), x)


def test_pruned_are_those_above_the_threshold():
    log_alpha = jnp.array([[-3.0, 3.0, 3.5], [0.0, 10.0, 2.0]])
    result = variational_gaussian_pruned(log_alpha)
    np.testing.assert_array_equal(result.pruned, log_alpha > 3)
    assert result.pruned.dtype == jnp.bool_
    np.testing.assert_allclose(result.share, 2 / 6)
    pruned, share = jax.jit(variational_gaussian_pruned)(log_alpha, -1.0)
    np.testing.assert_array_equal(pruned, log_alpha > -1)
    np.testing.assert_allclose(share, 5 / 6)
