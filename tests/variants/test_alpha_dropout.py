"""Alpha dropout: mean 0 and variance 1 stay, and PyTorch draws the same two lines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrop.functional import alpha_dropout, feature_alpha_dropout
from tests.support import reference
from tests.support.cases import key

SIZE = 2**20


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("rate", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("function", [alpha_dropout, feature_alpha_dropout])
def test_mean_0_and_variance_1_are_kept(function, rate, dtype):
    """To six standard errors, of the mean and of the mean square, and the rounding of b."""
    x = jax.random.normal(key(1), (SIZE // 32, 32)).astype(dtype)
    y = np.asarray(function(key(2), x, rate), np.float64)
    rounding = float(jnp.finfo(dtype).eps)
    assert abs(y.mean()) <= 6 / np.sqrt(SIZE) + rounding
    assert abs(np.square(y).mean() - 1) <= 6 * np.square(y).std() / np.sqrt(SIZE) + 2 * rounding


def test_mean_and_variance_of_the_equation_are_0_and_1():
    """Of a mixture of two: by the numbers that the code gives, not by those of a sample."""
    for rate in (0.1, 0.5, 0.9):
        keep = float(reference.keep_probability(rate))
        y = np.asarray(alpha_dropout(key(), jnp.tile(jnp.array([0.0, 1.0]), 500), rate))
        lost = float(y[0::2].min()) if rate else 0.0
        b, a_plus_b = float(y[0::2].max()), float(y[1::2].max())
        a = a_plus_b - b
        assert lost < b < a_plus_b
        np.testing.assert_allclose(keep * b + (1 - keep) * lost, 0, atol=1e-6)
        np.testing.assert_allclose(
            keep * (a**2 + b**2) + (1 - keep) * lost**2, 1, rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("rate", [1e-5, 1 - 1e-5])
def test_values_stay_finite_near_the_ends(rate):
    for asked in (rate, jnp.float32(rate)):
        value, gradient = jax.value_and_grad(
            lambda x, asked=asked: alpha_dropout(key(), x, asked).sum()
        )(jnp.ones(2**17))
        assert np.isfinite(value)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5])
def test_pytorch_maps_entries_alike(rate):
    torch = pytest.importorskip("torch", reason="the peer is PyTorch, which is not installed")
    x = np.linspace(-1, 1, 1000, dtype=np.float32)
    torch.manual_seed(0)
    theirs = torch.nn.functional.alpha_dropout(torch.from_numpy(x), rate, training=True).numpy()
    ours = np.asarray(alpha_dropout(key(), x, rate))
    (a, b, lost), (our_a, our_b, our_lost) = (_maps(x, y) for y in (theirs, ours))
    np.testing.assert_allclose((our_a, our_b, our_lost), (a, b, lost), atol=1e-3)


def _maps(x, y):
    """``(a, b, lost)`` of an output: the line of the survivors, and the constant of the others."""
    values, counts = np.unique(np.round(y, 5), return_counts=True)
    lost = values[counts.argmax()]
    kept = np.abs(y - lost) > 1e-4
    assert 0.2 < kept.mean() < 0.98
    a, b = np.polyfit(x[kept].astype(np.float64), y[kept], 1)
    np.testing.assert_allclose(y[kept], a * x[kept] + b, atol=1e-5)
    return a, b, lost
