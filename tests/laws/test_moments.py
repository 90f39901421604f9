"""What is left on average over keys, in float32 and in both narrow dtypes.

The decisions have exact tests of their own. Here the numbers themselves are averaged, so that a
scale that is off, or rounded to one side, shows. Bounds: 4.9 standard errors, which fair bits pass
but once in 10**6, and one rounding to the dtype of x.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdrop import zoneout
from tests.support.cases import FALSE_ALARM, NOISE_CASES, data, each_case, key

RATE = 0.1  # that of `test_laws.test_realised_rate_of_groups`, whose programs are the same
ERRORS = stats.norm.isf(FALSE_ALARM / 2)
each_dtype = pytest.mark.parametrize(
    "dtype", [jnp.float32, jnp.bfloat16, jnp.float16], ids=lambda dtype: dtype.__name__
)


def half_ulp(dtype):
    return float(jnp.finfo(dtype).eps) / 2


def under_many_keys(case, x, level, groups, draws=2**18):
    """Outputs under so many keys that ``draws`` independent groups are drawn, in float64."""
    keys = jax.random.split(key(1), -(-draws // groups))
    y = jax.jit(jax.vmap(lambda key: case.call(key, x, level)))(keys)
    assert y.dtype == x.dtype
    return np.asarray(y, np.float64)


@each_dtype
@each_case
def test_mean_over_keys(case, dtype):
    """It is x; for alpha dropout, what its affine map makes of x; for zoneout, its expectation."""
    x = data(case.shape, dtype)
    independent = (slice(None), *case.independent)
    share = x.size // math.prod(case.mask_shape)
    y = under_many_keys(case, x, RATE, np.asarray(x)[case.independent].size // share)
    keep = float(case.keep_probability(RATE))
    exact = np.asarray(x, np.float64)
    lost, survivor = float(case.lost(RATE, keep)), case.survivor(exact, RATE, keep)
    expected = keep * survivor + (1 - keep) * lost
    if not case.affine and case.name != "zoneout":
        np.testing.assert_allclose(expected, exact, rtol=1e-6)  # which is what it should be
    # In units of what a decision is worth, so that all entries have the same variance.
    apart = ((y - expected) / (survivor - lost))[independent]
    groups = apart.size / share
    bound = ERRORS * math.sqrt(keep * (1 - keep) / groups)
    weight = (np.abs(survivor) + abs(lost)) / np.abs(survivor - lost)
    assert abs(apart.mean()) <= bound + half_ulp(dtype) * weight.mean() + 1e-6


@each_dtype
@pytest.mark.parametrize(
    "case", [c for c in NOISE_CASES if not c.name.startswith("concrete")], ids=lambda c: c.name
)
def test_mean_and_variance_of_noise(case, dtype):
    """Of normal noise: both are those of the distribution, at x = 1."""
    x = jnp.ones(case.shape, dtype)
    noise_size = math.prod(case.noise_shape)
    y = under_many_keys(case, x, case.level, noise_size)
    shared = tuple(slice(0, 1) if n == 1 else slice(None) for n in case.noise_shape)
    own = y[:, *shared].ravel()
    asked = case.distribution(case.level)
    rounding = half_ulp(dtype) * (1 + asked.std())
    assert abs(own.mean() - asked.mean()) <= ERRORS * asked.std() / math.sqrt(own.size) + rounding
    bound = asked.var() * ERRORS * math.sqrt(2 / own.size)
    assert abs(own.var() - asked.var()) <= bound + rounding**2 + 1e-6


@each_dtype
def test_zoneout_from_an_old_state_that_is_not_zero(dtype):
    old = data((64, 40), dtype)
    new = old + jnp.where(old > 0, 2, -2).astype(dtype)
    keys = jax.random.split(key(1), 64)
    y = np.asarray(jax.vmap(lambda key: zoneout(key, old, new, RATE))(keys), np.float64)
    expected = np.asarray(zoneout(None, old, new, RATE, deterministic=True), np.float64)
    apart = np.asarray(new, np.float64) - np.asarray(old, np.float64)
    bound = ERRORS * math.sqrt(RATE * (1 - RATE) / y.size)
    weight = np.abs(expected / apart).mean()
    assert abs(((y - expected) / apart).mean()) <= bound + half_ulp(dtype) * weight
