"""Regression metrics against SciPy, NumPy in float64 and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import integrate, special, stats
from sklearn import metrics

from jaxdrop.uncertainty import (
    gaussian_crps,
    gaussian_negative_log_likelihood,
    interval_coverage,
    interval_width,
    mixture_log_likelihood,
    quantile_calibration_error,
    quantile_curve,
    root_mean_squared_error,
    sample_crps,
    variance_split,
)

SHAPES = [(40,), (1,), (), (5, 3)]
of_shapes = pytest.mark.parametrize("shape", SHAPES)


def numbers(*shape, seed=0, loc=0.0, scale=1.0):
    return np.random.default_rng(seed).normal(loc, scale, shape).astype(np.float32)


def gaussian(*shape):
    """Means, variances and targets."""
    return numbers(*shape), np.exp(numbers(*shape, seed=1)), numbers(*shape, seed=2, scale=2.0)


def wide(*arrays):
    return [np.asarray(x, np.float64) for x in arrays]


def close(got, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(got, expected, rtol, atol)


# --- variances


@of_shapes
@pytest.mark.parametrize("num_samples", [1, 2, 50])
def test_variances_are_numpys_and_add_up(shape, num_samples):
    means, variances = numbers(num_samples, *shape), np.exp(numbers(num_samples, *shape, seed=1))
    split = variance_split(means, variances)
    m, v = wide(means, variances)
    close(split.mean, m.mean(0))
    close(split.epistemic, m.var(0))
    close(split.aleatoric, v.mean(0))
    close(split.total, m.var(0) + v.mean(0))
    assert {part.shape for part in split} == {shape}


def test_total_variance_is_that_of_draws_from_the_mixture():
    means, variances = np.array([[-2.0], [0.0], [5.0]]), np.array([[1.0], [4.0], [0.25]])
    rng = np.random.default_rng(0)
    draws = rng.normal(means, np.sqrt(variances), (3, 10**6))
    split = variance_split(means, variances)
    close(split.total[0], draws.var(), rtol=0.01)
    close(split.mean[0], draws.mean(), rtol=0.01)


@pytest.mark.parametrize("mean", [1e3, -1e5])
def test_small_variance_beside_a_large_mean(mean):
    means = np.float32(mean) + numbers(100, 20, scale=0.03 * abs(mean) / 1e3)
    split = variance_split(means, 0)
    close(split.epistemic, means.astype(np.float64).var(0), rtol=1e-5, atol=0)
    close(split.mean, means.astype(np.float64).mean(0), rtol=1e-7)


def test_known_noise_is_one_number():
    means = numbers(7, 4)
    close(variance_split(means, 0.25).aleatoric, np.full(4, 0.25))
    close(variance_split(means, 1).total, wide(means)[0].var(0) + 1)
    one_sample = variance_split(means[:1], 0)
    np.testing.assert_array_equal(one_sample.epistemic, 0)
    np.testing.assert_array_equal(one_sample.total, 0)


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
def test_traced_negative_variance_gives_nan():
    args = np.zeros((2, 3)), np.array([[1.0, -1.0, 1.0], [1.0, 3.0, 1.0]])
    split = jax.jit(variance_split)(*args)
    np.testing.assert_array_equal(np.isnan(split.total), [False, True, False])


# --- likelihoods


@of_shapes
def test_gaussian_likelihood_is_scipys(shape):
    given = gaussian(*shape)
    m, v, y = wide(*given)
    expected = -stats.norm.logpdf(y, m, np.sqrt(v)).mean()
    close(gaussian_negative_log_likelihood(*given), expected)
    expected = -stats.norm.logpdf(y, m, 0.5).mean()
    close(gaussian_negative_log_likelihood(m, 0.25, y), expected)


@of_shapes
@pytest.mark.parametrize("num_samples", [1, 30])
def test_mixture_likelihood_is_that_of_the_formula(shape, num_samples):
    means, targets = numbers(num_samples, *shape), numbers(*shape, seed=2, scale=3.0)
    m, y = wide(means, targets)
    tau = 2.5
    expected = special.logsumexp(-tau / 2 * (y - m) ** 2, axis=0) - np.log(num_samples)
    expected = (expected - np.log(2 * np.pi) / 2 + np.log(tau) / 2).mean()
    close(mixture_log_likelihood(means, targets, precision=tau), expected)
    close(mixture_log_likelihood(means, targets, variances=1 / tau), expected)
    variances = np.exp(numbers(num_samples, *shape, seed=1))
    density = stats.norm.pdf(y, m, np.sqrt(wide(variances)[0]))
    expected = np.log(density.mean(0)).mean()
    close(mixture_log_likelihood(means, targets, variances=variances), expected)


def test_mixture_of_one_sample_is_its_gaussian():
    mean, variance, targets = gaussian(40)
    mixture = mixture_log_likelihood(mean[None], targets, variances=variance[None])
    close(mixture, -gaussian_negative_log_likelihood(mean, variance, targets))


def test_mixture_likelihood_far_from_every_sample():
    means = np.array([[1000.0], [1001.0]], np.float32)
    got = mixture_log_likelihood(means, [0.0], precision=100.0)
    m = means.astype(np.float64)
    expected = special.logsumexp(stats.norm.logpdf(0, m, 0.1)) - np.log(2)
    close(got, expected, rtol=1e-6)  # every density is 0 in float64 too
    slope = jax.grad(lambda m: mixture_log_likelihood(m, jnp.zeros(1), precision=100.0))(means)
    close(slope, [[-1e5], [0]])


# --- CRPS


@of_shapes
def test_gaussian_crps_is_the_integral(shape):
    given = gaussian(*shape)
    scores = []
    for m, v, y in zip(*(x.ravel() for x in wide(*given))):
        normal, reach = stats.norm(m, np.sqrt(v)), 12 * np.sqrt(v)
        below = integrate.quad(lambda t, of=normal: of.cdf(t) ** 2, min(m, y) - reach, y)[0]
        above = integrate.quad(lambda t, of=normal: of.sf(t) ** 2, y, max(m, y) + reach)[0]
        scores.append(below + above)
    close(gaussian_crps(*given), np.mean(scores))


def test_gaussian_crps_at_its_ends():
    mean, targets = numbers(30), numbers(30, seed=2)
    error = abs(mean - targets).mean()
    close(gaussian_crps(mean, 0, targets), error)
    close(gaussian_crps(mean, 1e-20, targets), error)
    close(gaussian_crps(0.0, 1.0, 0.0), (np.sqrt(2) - 1) / np.sqrt(np.pi))
    close(gaussian_crps(0.0, 1.0, 1e6), 1e6 - 1 / np.sqrt(np.pi), rtol=1e-7)
    slopes = jax.grad(gaussian_crps, (0, 1, 2))(np.zeros(2), np.array([0.0, 1.0]), np.ones(2))
    assert np.isfinite(slopes).all()


def pairs_crps(samples, target, fair):
    """The energy form, pair by pair."""
    count = len(samples)
    pairs = np.abs(samples[:, None] - samples[None]).sum() / (count * (count - fair))
    return np.abs(samples - target).mean() - pairs / 2


@of_shapes
@pytest.mark.parametrize(("num_samples", "fair"), [(1, False), (2, True), (2, False), (31, True)])
def test_sample_crps_is_that_of_all_pairs(shape, num_samples, fair):
    samples, targets = numbers(num_samples, *shape), numbers(*shape, seed=2)
    x, y = wide(samples, targets)
    scores = [pairs_crps(a, b, fair) for a, b in zip(x.reshape(num_samples, -1).T, y.ravel())]
    close(sample_crps(samples, targets, fair=fair), np.mean(scores))


def test_sample_crps_of_ties_of_one_sample_and_of_a_large_mean():
    close(sample_crps([[1.0], [1.0], [1.0]], [3.0]), 2.0)
    close(sample_crps([[1.0]], [3.0]), 2.0)
    close(sample_crps([[0.0], [1.0]], [0.0]), 0.25)  # integral of (F - 1)^2 = 1/4 over [0, 1]
    samples = np.float32(1e4) + numbers(200, 1, scale=0.1)
    x = samples.astype(np.float64)
    close(sample_crps(samples, [1e4]), pairs_crps(x[:, 0], 1e4, False), rtol=1e-4)


def test_sample_crps_nears_the_gaussian_one_and_fairly_so_with_few():
    mean, variance, targets = gaussian(6)
    expected = float(gaussian_crps(mean, variance, targets))
    rng = np.random.default_rng(5)
    many = rng.normal(mean, np.sqrt(variance), (10**5, 6))
    close(sample_crps(many, targets), expected, rtol=0.01)
    few = rng.normal(mean, np.sqrt(variance), (20_000, 3, 6)).swapaxes(0, 1)  # 20,000 trials
    targets = np.broadcast_to(targets, few.shape[1:])
    close(sample_crps(few, targets, fair=True), expected, rtol=0.01)
    assert sample_crps(few, targets) > 1.1 * expected


# --- intervals and errors


@of_shapes
def test_errors_and_intervals_are_sklearns_and_numpys(shape):
    mean, width, targets = gaussian(*shape)
    m, w, y = (np.atleast_1d(x).ravel() for x in wide(mean, width, targets))
    close(root_mean_squared_error(mean, targets), metrics.root_mean_squared_error(y, m))
    lower, upper = mean - width, mean + width
    close(interval_coverage(lower, upper, targets), (abs(y - m) <= w).mean())
    close(interval_width(lower, upper), 2 * w.mean())


def test_ends_of_intervals_count_as_inside():
    lower, upper = np.array([0.0, 0.0, -np.inf, 1.0]), np.array([1.0, 0.0, 0.0, np.inf])
    close(interval_coverage(lower, upper, [1.0, 0.0, -9.0, 0.5]), 3 / 4)
    close(interval_coverage(lower, upper, [0, 1, 1, 0]), 1 / 4)
    close(interval_width([0, 1], [0, 1]), 0)


def test_coverage_of_gaussian_intervals_is_nominal():
    targets = numbers(2**18)
    ends = stats.norm.interval(0.9)
    inside = interval_coverage(*(np.full(2**18, end) for end in ends), targets)
    assert stats.binomtest(round(float(inside) * 2**18), 2**18, 0.9).pvalue > 1e-6


def test_gradient_of_the_error_vanishes_where_there_is_none():
    slope = jax.grad(root_mean_squared_error)(np.ones(3), np.ones(3))
    np.testing.assert_array_equal(slope, 0)
    slope = jax.grad(root_mean_squared_error)(np.array([3.0, 4.0]), np.zeros(2))
    close(slope, np.array([3, 4]) / np.sqrt(12.5) / 2)


# --- quantiles


@pytest.mark.parametrize("num_levels", [1, 9, 99])
@of_shapes
def test_quantile_curve_is_that_of_the_distribution_function(shape, num_levels):
    given = gaussian(*shape)
    m, v, y = wide(*given)
    levels = np.linspace(0, 1, num_levels + 2)[1:-1]
    probability = stats.norm.cdf(y, m, np.sqrt(v)).ravel()
    frequency = [(probability <= level).mean() for level in levels]
    curve = quantile_curve(*given, num_levels=num_levels)
    close(curve.level, levels)
    close(curve.frequency, frequency)
    error = quantile_calibration_error(*given, num_levels=num_levels)
    close(error, abs(frequency - levels).mean())


def test_calibrated_and_other_predictions():
    targets = numbers(2**16)
    assert quantile_calibration_error(np.zeros(2**16), 1.0, targets) < 0.005
    narrow = quantile_curve(np.zeros(2**16), 0.25, targets)
    assert (narrow.frequency[:9] > narrow.level[:9] + 0.01).all()  # below the median
    assert (narrow.frequency[10:] < narrow.level[10:] - 0.01).all()
    close(quantile_calibration_error(np.full(9, -99.0), 1.0, np.zeros(9)), 0.5)  # never below


def test_quantiles_without_a_deviation_are_the_mean():
    curve = quantile_curve(np.zeros(4), 0, np.array([-1.0, 0.0, 0.0, 1.0]), num_levels=3)
    close(curve.frequency, [0.75] * 3)


# --- gradients


def test_gradients():
    with jax.enable_x64(True):
        mean, variance, targets = wide(*gaussian(4))
        samples = numbers(5, 4).astype(np.float64)
        check_grads(gaussian_negative_log_likelihood, (mean, variance, targets), order=2)
        check_grads(gaussian_crps, (mean, variance, targets), order=2)
        check_grads(sample_crps, (samples, targets), order=1)
        check_grads(root_mean_squared_error, (mean, targets), order=2)
        check_grads(lambda m, v: variance_split(m, v), (samples, samples**2), order=2)
        check_grads(
            lambda m, v: mixture_log_likelihood(m, targets, variances=v),
            (samples, samples**2 + 1),
            order=2,
        )
