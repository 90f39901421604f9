"""Calibrated numbers: variance scaling, split-conformal intervals, and the report of all scores."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdrop import uncertainty
from jaxdrop.uncertainty import conformal_interval, conformal_quantile, report, variance_scaling

RNG = np.random.default_rng(0)


def test_variance_scaling_is_the_most_likely_factor():
    mean, variance = RNG.normal(size=400), RNG.uniform(0.2, 3, 400)
    targets = mean + 1.7 * np.sqrt(variance) * RNG.normal(size=400)
    scale = float(variance_scaling(mean, variance, targets))
    assert 0.85 * 1.7**2 < scale < 1.15 * 1.7**2
    loss = lambda s: uncertainty.gaussian_negative_log_likelihood(mean, s * variance, targets)  # noqa: E731
    assert loss(scale) < min(loss(0.99 * scale), loss(1.01 * scale))
    np.testing.assert_allclose(variance_scaling(mean, scale * variance, targets), 1, rtol=1e-5)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.29, 0.7, 0.93])
def test_quantile_is_the_order_statistic_of_the_definition(alpha):
    for count in (1, 5, 9, 18, 19, 99, 100):
        scores = RNG.permutation(np.arange(1.0, count + 1)).astype(np.float32)
        whole = (count + 1) * round(100 * (1 - alpha))  # in hundredths, which are exact
        rank = -(-whole // 100)
        expected = rank if rank <= count else np.inf
        assert float(conformal_quantile(scores, alpha)) == expected
        assert float(jax.jit(conformal_quantile)(scores, alpha)) == expected
    columns = RNG.normal(size=(40, 3)).astype(np.float32)
    each = [conformal_quantile(column, alpha) for column in columns.T]
    np.testing.assert_array_equal(conformal_quantile(columns, alpha), each)


@pytest.mark.parametrize(("count", "alpha"), [(19, 0.1), (50, 0.2), (7, 0.3)])
def test_intervals_cover_with_the_probability_of_the_theorem(count, alpha):
    """Of skewed errors, as often as the order statistic of a uniform number says."""
    trials = 20_000
    key, new = jax.random.split(jax.random.key(0))
    errors = jax.random.exponential(key, (count, trials))
    mean, deviation = jnp.full(trials, 3.0), jnp.linspace(0.5, 2, trials)
    interval = conformal_interval(mean, conformal_quantile(errors, alpha), deviation)
    sign = jnp.where(jnp.arange(trials) % 2, 1, -1)
    targets = mean + sign * deviation * jax.random.exponential(new, (trials,))
    covered = round(float(uncertainty.interval_coverage(*interval, targets)) * trials)
    chance = np.ceil((count + 1) * (1 - alpha) - 1e-9) / (count + 1)
    assert chance >= 1 - alpha - 1e-9
    assert stats.binomtest(covered, trials, chance).pvalue > 1e-6


def test_too_few_scores_bound_nothing_and_nan_stays():
    assert np.isinf(conformal_quantile(np.arange(8.0), 0.1))
    for deviation in (0.0, 1.0):
        lower, upper = conformal_interval(np.zeros(2), np.inf, deviation)
        assert (lower == -np.inf).all()
        assert (upper == np.inf).all()
    assert float(conformal_quantile([1.0, np.inf, 2.0], 0.5)) == 2


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
def test_what_is_traced_and_wrong_is_nan():
    assert np.isnan(jax.jit(conformal_quantile)(jnp.array([1.0, jnp.nan, 0.0]), 0.5))
    for alpha in (0.0, 1.0, -1.0):
        assert np.isnan(jax.jit(conformal_quantile)(jnp.ones(3), alpha))
    assert np.isnan(jax.jit(conformal_interval)(jnp.ones(1), -1.0)[0]).all()
    assert np.isnan(jax.jit(variance_scaling)(jnp.ones(1), 0.0, jnp.ones(1)))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: conformal_quantile(1.0, 0.1), ValueError, r"\(N, ...\) .* got \(\); put"),
        (lambda: conformal_quantile(np.ones(0), 0.1), ValueError, r"at least one .* got \(0,\)"),
        (lambda: conformal_quantile([np.nan], 0.1), ValueError, "scores: expected numbers, got"),
        (lambda: conformal_quantile([1.0], 0.0), ValueError, r"in \(0, 1\), .* got 0.0; write"),
        (lambda: conformal_quantile([1.0], 90), ValueError, r"in \(0, 1\), .* got 90; write"),
        (lambda: conformal_quantile([1.0], [0.1, 0.2]), ValueError, "alpha: expected one number"),
        (lambda: conformal_quantile(None, 0.1), TypeError, "scores: expected an array of numbers"),
        (lambda: conformal_interval([1.0], -1.0), ValueError, "quantile: .* at least 0, got -1"),
        (lambda: conformal_interval([1.0], 1.0, [1.0, 2.0]), ValueError, "deviation: expected one"),
        (lambda: conformal_interval([np.inf], 1.0), ValueError, "mean: expected finite numbers"),
        (lambda: variance_scaling([1.0], 0.0, [1.0]), ValueError, "variance: .* above 0, got 0"),
        (lambda: report({}), TypeError, "predictions: expected at least one, got none; write"),
        (lambda: report("a"), TypeError, "predictions: expected probabilities, a pair .* got str"),
        (lambda: report([[2.0, 1.0]]), ValueError, "probabilities: expected numbers in"),
        (lambda: report([[0.5, 0.5]], [2]), ValueError, r"class numbers in \[0, 2\)"),
        (lambda: report((np.ones(2), -np.ones(2))), ValueError, "variance: expected numbers of at"),
        (lambda: report((np.ones(2), 1.0), np.ones(3)), ValueError, "mean, targets: expected one"),
    ],
)
def test_refused_with_a_message_that_teaches(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.usefixtures("nan_on_purpose")
def test_a_report_has_every_score_by_the_name_of_its_function():
    p = jax.nn.softmax(jnp.asarray(RNG.normal(size=(60, 3)), jnp.float32))
    labels = jnp.asarray(RNG.integers(0, 3, 60))
    result = types.SimpleNamespace(probabilities=p[::-1], mutual_information=jnp.arange(4.0))
    both = report({"one pass": p, "many": result}, labels)
    for name in ("accuracy", "negative_log_likelihood", "brier_score", "smooth_calibration_error"):
        np.testing.assert_allclose(
            both.scores["one pass"][name], getattr(uncertainty, name)(p, labels)
        )
    wrong, entropies = p.argmax(-1) != labels, uncertainty.entropy(p)
    np.testing.assert_allclose(
        both.scores["one pass"]["auroc"], uncertainty.auroc(entropies, wrong)
    )
    scaled = uncertainty.temperature_scaling(jnp.log(p), labels)
    np.testing.assert_allclose(both.scores["one pass"]["temperature_scaling"], scaled, rtol=1e-4)
    head, first, *_, last = str(both).split("\n")
    assert head.split() == ["one", "pass", "many"]
    assert first.split()[0] == "accuracy"
    assert last.split() == ["mutual_information", "-", "1.5000"]
    assert str(report(p)).split()[0] == "predictive_entropy"
    perfect = report(jax.nn.one_hot(labels, 3), labels)
    assert "auroc                             -\n" in str(perfect)

    mean, variance = jnp.asarray(RNG.normal(size=(20, 2)), jnp.float32), jnp.ones((20, 2))
    numbers = types.SimpleNamespace(mean=mean, total=variance, epistemic=variance / 4)
    found = report(numbers, mean + 1).scores[""]
    assert found["root_mean_squared_error"] == found["variance_scaling"] == 1
    assert found["interval_coverage"] == 1
    np.testing.assert_allclose(found["interval_width"], 2 * 1.6448536, rtol=1e-6)
    assert (found["variance"], found["epistemic"]) == (1, 0.25)
    assert set(report(numbers).scores[""]) == {"variance", "epistemic"}
    traced = jax.jit(lambda mean: report((mean, variance), mean + 1))(mean)
    assert str(traced) == str(report((mean, variance), mean + 1))
