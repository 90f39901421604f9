"""AUROC, false alarms, temperature, refusal against scikit-learn, SciPy, loops, closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special, stats
from sklearn import metrics

from jaxdrop.uncertainty import (
    area_under_generalized_risk_coverage,
    area_under_risk_coverage,
    auroc,
    expected_calibration_error,
    false_positive_rate,
    negative_log_likelihood,
    risk_coverage,
    temperature_scaling,
)


def close(got, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(got, expected, rtol, atol)


# --- AUROC


@pytest.mark.parametrize("num_values", [2, 5, 10**6])  # nearly all tied, many, none
@pytest.mark.parametrize("size", [2, 10, 1001])
def test_auroc_is_sklearns_and_that_of_all_pairs(size, num_values):
    rng = np.random.default_rng(size)
    scores = rng.integers(0, num_values, size).astype(np.float32) - 2
    labels = (np.arange(size) % 3 == 0).astype(int)
    expected = metrics.roc_auc_score(labels, scores)
    close(auroc(scores, labels), expected)
    one, zero = scores[labels == 1][:, None], scores[labels == 0][None]
    close(auroc(scores, labels == 1), ((one > zero) + 0.5 * (one == zero)).mean())
    close(auroc(-scores, labels), 1 - expected)
    close(auroc(scores, 1 - labels), 1 - expected)


def test_auroc_of_ties_and_of_perfect_orders():
    labels = np.array([0, 1, 0, 1])
    assert float(auroc(np.zeros(4), labels)) == 0.5
    assert float(auroc(np.array([0, 1, 0, 1]), labels)) == 1
    assert float(auroc(np.array([1.0, 0, 1, 0]), labels)) == 0
    assert float(auroc(np.array([-0.0, 0.0, 0.0, -0.0]), labels)) == 0.5
    assert float(auroc(np.array([-np.inf, np.inf, 0, 1]), labels)) == 1


def test_auroc_of_many_examples_is_exact():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 1000, 2**20), rng.integers(0, 2, 2**20)
    shifted = (scores + 30 * labels).astype(np.float32)
    close(auroc(shifted, labels), metrics.roc_auc_score(labels, shifted), rtol=1e-6, atol=0)


def test_auroc_of_two_gaussians():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0, 1, 20_000), rng.normal(1, 1, 10_000)
    labels = np.repeat([False, True], [20_000, 10_000])
    got = auroc(np.concatenate([inside, outside]), labels)
    close(got, stats.norm.cdf(np.sqrt(0.5)), atol=0.02, rtol=0)


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1], [0, 1, 2], [-1, 1, 0]])
def test_traced_labels_that_are_not_of_both_kinds_give_nan(labels):
    scores = np.array([0.1, 0.2, 0.3])
    assert np.isnan(jax.jit(auroc)(scores, np.array(labels)))
    assert jax.jit(auroc)(scores, np.array([0, 1, 1])) == 1


def test_gradient_of_auroc_is_zero():
    slope = jax.grad(auroc)(jnp.array([0.1, 0.4, 0.4]), np.array([0, 0, 1]))
    np.testing.assert_array_equal(slope, 0)


BAD_SCORES = [
    (np.ones(2) + 0j, [0, 1], TypeError, "scores: expected real numbers, got dtype complex.*cast"),
    (np.array([np.nan, 1]), [0, 1], ValueError, "scores: expected numbers, got values from nan"),
    (np.ones(2), [0.0, 1.0], TypeError, "labels: expected booleans, or 0 and 1.*float.*; write"),
    (np.ones(2), [0, 1, 1], ValueError, r"shape \(N,\).*got \(2,\) and \(3,\); flatten"),
    (np.ones((2, 1)), [[0], [1]], ValueError, r"got \(2, 1\) and \(2, 1\); flatten both"),
    (np.ones(0), np.zeros(0, int), ValueError, r"N of at least 1, got \(0,\) and \(0,\)"),
    (np.ones(2), [1, 1], ValueError, "both 0 and 1 and nothing else, got values from 1 to 1; give"),
    (np.ones(2), [False, False], ValueError, "got values from 0 to 0; give examples of both"),
    (np.ones(3), [0, 1, 2], ValueError, "got values from 0 to 2"),
    (np.ones(2), [-1, 1], ValueError, "got values from -1 to 1"),
]


@pytest.mark.parametrize("fn", [auroc, false_positive_rate])
@pytest.mark.parametrize(("scores", "labels", "error", "match"), BAD_SCORES)
def test_bad_scores_and_labels_are_refused(scores, labels, error, match, fn):
    with pytest.raises(error, match=match):
        fn(scores, np.asarray(labels))


# --- false alarms


@pytest.mark.parametrize("recall", [0.01, 0.5, 0.8, 0.95, 1.0])
@pytest.mark.parametrize("num_values", [2, 5, 10**6])  # nearly all tied, many, none
@pytest.mark.parametrize("size", [2, 60, 1001])
def test_false_positive_rate_is_that_of_sklearns_curve(size, num_values, recall):
    rng = np.random.default_rng(size)
    scores = rng.integers(0, num_values, size).astype(np.float32) - 2
    labels = (np.arange(size) % 3 == 0).astype(int)
    got = false_positive_rate(scores, labels, at_recall=recall)
    false, true, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    close(got, false[np.argmax(true >= recall)])
    threshold = max(s for s in scores if (scores[labels == 1] >= s).mean() >= recall)
    close(got, (scores[labels == 0] >= threshold).mean())
    close(false_positive_rate(scores, labels == 1, at_recall=recall), got)


@pytest.mark.parametrize("num_positive", [20, 40, 100, 10**6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_recall_that_is_reached_exactly_is_reached(num_positive, dtype):
    """However 0.95 and 19 / 20 are rounded; one false alarm lies just below."""
    with jax.enable_x64(dtype is np.float64):
        missed = num_positive // 20
        scores = np.repeat([0, 1, 2], [missed + 1, 1, num_positive - missed]).astype(dtype)
        labels = np.repeat([1, 0, 1], [missed, 2, num_positive - missed])
        assert float(false_positive_rate(scores, labels)) == 0
        assert float(false_positive_rate(scores, labels, at_recall=0.9501)) == 1


def test_false_positive_rate_of_ties_and_of_perfect_orders():
    labels = np.array([0, 1, 0, 1])
    assert float(false_positive_rate(np.zeros(4), labels)) == 1
    assert float(false_positive_rate(np.array([0, 1, 0, 1]), labels)) == 0
    assert float(false_positive_rate(np.array([1.0, 0, 1, 0]), labels)) == 1
    assert float(false_positive_rate(np.array([-np.inf, np.inf, 0, 1]), labels)) == 0
    mixed = np.array([0, 1, 2, 3])
    assert float(false_positive_rate(mixed, labels)) == 0.5
    assert float(false_positive_rate(mixed, labels, at_recall=0.5)) == 0
    assert float(false_positive_rate(np.array([-0.0, 0.0, 1, 2]), labels)) == 1


def test_false_positive_rate_of_two_gaussians():
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(0, 1, 20_000), rng.normal(1, 1, 10_000)
    labels = np.repeat([False, True], [20_000, 10_000])
    got = false_positive_rate(np.concatenate([inside, outside]), labels)
    close(got, stats.norm.sf(1 + stats.norm.ppf(0.05)), atol=0.02, rtol=0)


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
def test_what_a_traced_rate_cannot_be_told_of_gives_nan():
    scores = np.array([0.1, 0.2, 0.3])
    rate = jax.jit(false_positive_rate)
    for labels in ([0, 0, 0], [1, 1, 1], [0, 1, 2], [-1, 1, 0]):
        assert np.isnan(rate(scores, np.array(labels)))
    for recall in (0.0, -1.0, 1.5, np.nan):
        assert np.isnan(rate(scores, np.array([0, 1, 1]), at_recall=recall))
    assert rate(scores, np.array([0, 1, 1]), at_recall=1.0) == 0


def test_many_recalls_at_once():
    scores, labels = np.arange(6.0), np.array([0, 1, 0, 1, 0, 1])
    recalls = jnp.array([0.3, 0.6, 1.0])
    got = jax.vmap(lambda r: false_positive_rate(scores, labels, at_recall=r))(recalls)
    close(got, [0, 1 / 3, 2 / 3])


BAD_RECALLS = [
    (0, ValueError, r"at_recall: expected a number in \(0, 1\], got 0; write for example at_rec"),
    (95, ValueError, r"at_recall: expected a number in \(0, 1\], got 95; write"),
    (np.nan, ValueError, "at_recall: expected numbers, got values from nan"),
    ([0.9, 0.95], ValueError, r"at_recall: expected one number, got shape \(2,\); .*jax.vmap"),
    ("95 %", TypeError, "at_recall: expected an array of numbers, got str; convert"),
    (True, TypeError, "at_recall: expected real numbers, got dtype bool; cast"),
]


@pytest.mark.parametrize(("recall", "error", "match"), BAD_RECALLS)
def test_bad_recalls_are_refused(recall, error, match):
    with pytest.raises(error, match=match):
        false_positive_rate(np.arange(2.0), np.array([0, 1]), at_recall=recall)


# --- refusal


@pytest.mark.parametrize("size", [1, 30])
def test_area_under_risk_coverage_is_that_of_a_loop(size):
    rng = np.random.default_rng(0)
    uncertainty, errors = rng.random(size), rng.random(size) < 0.4
    order = np.argsort(uncertainty)
    expected = np.mean([errors[order[: k + 1]].mean() for k in range(size)])
    close(area_under_risk_coverage(uncertainty, errors), expected)
    close(risk_coverage(uncertainty, errors).risk.mean(), expected)


def test_area_under_risk_coverage_at_its_ends():
    wrong = np.arange(1000) >= 900
    best = area_under_risk_coverage(np.linspace(0, 1, 1000), wrong)
    worst = area_under_risk_coverage(np.linspace(1, 0, 1000), wrong)
    chance = area_under_risk_coverage(np.random.default_rng(0).random(1000), wrong)
    close(best, 0.1 + 0.9 * np.log(0.9), atol=1e-3)  # in the limit of many examples
    close(chance, 0.1, atol=0.03)
    close(worst, 0.1 * (1 - np.log(0.1)), atol=3e-3)


@pytest.mark.parametrize("num_values", [1, 3, 10**6])  # all tied, many, none
@pytest.mark.parametrize("size", [1, 30, 1001])
def test_generalized_risk_is_that_of_a_loop_and_of_the_auroc(size, num_values):
    rng = np.random.default_rng(0)
    uncertainty = rng.integers(0, num_values, size).astype(np.float32)
    for errors in (rng.random(size) < 0.4, rng.normal(size=size)):
        mean = [errors[uncertainty == u].mean() for u in np.sort(uncertainty)]
        curve = np.append(0, np.cumsum(mean)) / size
        got = area_under_generalized_risk_coverage(uncertainty, errors)
        close(got, np.trapezoid(curve, dx=1 / size))
    wrong = np.arange(size) % 3 == 0
    share = wrong.mean()
    area = metrics.roc_auc_score(wrong, uncertainty) if size > 1 else 0.5
    expected = share * (1 - share) * (1 - area) + share**2 / 2
    close(area_under_generalized_risk_coverage(uncertainty, wrong), expected)


def test_generalized_risk_at_its_ends():
    wrong, order = np.arange(1000) >= 900, np.linspace(0, 1, 1000)
    close(area_under_generalized_risk_coverage(order, wrong), 0.005)
    close(area_under_generalized_risk_coverage(-order, wrong), 0.1 - 0.005)
    close(area_under_generalized_risk_coverage(0 * order, wrong), 0.05)
    infinite = np.array([0, np.inf, 0], np.float32)
    assert area_under_generalized_risk_coverage(np.arange(3.0), infinite) == np.inf


# --- temperature


def classifier(size, classes, truth, scale, dtype=np.float32):
    """Logits that are ``truth`` times as large as those their labels are drawn from."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(size, classes)) * scale
    labels = (logits + rng.gumbel(size=(size, classes))).argmax(-1)
    return (truth * logits).astype(dtype), labels


def loss(logits, labels, temperature):
    """The negative log-likelihood in float64."""
    scaled = special.log_softmax(logits.astype(np.float64) / temperature, axis=-1)
    return -scaled[np.arange(len(labels)), labels].mean()


@pytest.mark.parametrize("truth", [0.1, 0.5, 1.0, 3.0, 40.0])
@pytest.mark.parametrize("classes", [2, 10])
def test_temperature_is_scipys_minimum(classes, truth):
    logits, labels = classifier(500, classes, truth, 1.5)
    best = optimize.minimize_scalar(
        lambda u: loss(logits, labels, np.exp(u)), bounds=(-4, 5), options={"xatol": 1e-9}
    )
    got = temperature_scaling(logits, labels)
    close(got, np.exp(best.x), rtol=1e-4)
    assert abs(np.log(got / truth)) < 0.25  # what the labels were drawn with
    assert loss(logits, labels, float(got)) <= loss(logits, labels, 1.0) + 1e-7


def test_temperature_in_float64_and_at_any_scale():
    with jax.enable_x64(True):
        logits, labels = classifier(300, 4, 2.0, 1.5, np.float64)
        got = float(temperature_scaling(logits, labels))
        for factor in (0.1, 10.0):
            close(temperature_scaling(factor * logits, labels), factor * got, rtol=1e-9)
        inverse = optimize.brentq(lambda b: slope(logits, labels, b), 0.01, 10, xtol=1e-14)
        close(got, 1 / inverse, rtol=1e-9)
        close(temperature_scaling(logits + 1e3, labels), got, rtol=1e-9)


def slope(logits, labels, inverse):
    p = special.softmax(inverse * logits, axis=-1)
    return ((p * logits).sum(-1) - logits[np.arange(len(labels)), labels]).mean()


def test_temperature_calibrates():
    logits, labels = classifier(20_000, 5, 4.0, 1.0)
    temperature = temperature_scaling(logits, labels)
    before, after = jax.nn.softmax(logits), jax.nn.softmax(logits / temperature)
    assert expected_calibration_error(after, labels) < 0.02
    assert expected_calibration_error(before, labels) > 0.2
    assert negative_log_likelihood(after, labels) < negative_log_likelihood(before, labels)
    np.testing.assert_array_equal(before.argmax(-1), after.argmax(-1))


def test_temperature_at_its_limits():
    logits, right = np.eye(3, dtype=np.float32) * 5, np.arange(3)
    assert float(temperature_scaling(logits, right)) == np.float32(0.01)
    assert float(temperature_scaling(logits, (right + 1) % 3)) == 100
    assert float(temperature_scaling(200 * logits, right)) == np.float32(0.01)
    assert float(temperature_scaling(np.zeros((4, 3)), np.array([0, 1, 2, 0]))) == 1
    for labels in (right, (right + 1) % 3):
        np.testing.assert_array_equal(jax.grad(temperature_scaling)(logits, labels), 0)


def test_masked_classes_do_not_matter():
    logits, labels = classifier(200, 4, 2.0, 1.0)
    masked = np.concatenate([logits, np.full((200, 1), -1e9, np.float32)], axis=-1)
    close(temperature_scaling(masked, labels), temperature_scaling(logits, labels), rtol=1e-4)


def test_temperature_has_the_gradient_of_the_minimum():
    with jax.enable_x64(True):
        logits, labels = classifier(20, 3, 1.0, 1.0, np.float64)
        direction = np.random.default_rng(3).normal(size=logits.shape)
        ahead, behind = (temperature_scaling(logits + s * direction, labels) for s in (1e-5, -1e-5))
        expected = (ahead - behind) / 2e-5
        got = (jax.grad(temperature_scaling)(logits, labels) * direction).sum()
        close(got, expected, rtol=1e-5)


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_traced_logits_that_are_not_finite_give_nan(bad):
    logits, labels = classifier(20, 3, 1.0, 1.0)
    logits[3, 1] = bad
    assert np.isnan(jax.jit(temperature_scaling)(logits, labels))
    with pytest.raises(ValueError, match=r"logits: expected finite.*mask classes with -1e9"):
        temperature_scaling(logits, labels)


BAD_LOGITS = [
    (np.ones((2, 3), int), [0, 1], TypeError, "logits: expected a floating array, got dtype int"),
    (1.0, 0, ValueError, r"logits: expected shape \(..., C\).*got \(\); put the classes"),
    (np.ones((2, 0)), [0, 1], ValueError, r"at least two classes, got \(2, 0\)"),
    (np.ones((2, 3)), [0, 3], ValueError, r"class numbers in \[0, 3\), got values from 0 to 3"),
    (np.ones((2, 3)), [0], ValueError, r"labels: expected shape \(2,\) for logits of shape"),
    (np.ones((2, 3)), [0.5, 1], TypeError, "labels: expected class numbers of an integer dtype"),
    (np.ones((0, 3)), np.zeros(0, int), ValueError, r"at least one example, got shape \(0,\)"),
]


@pytest.mark.parametrize(("logits", "labels", "error", "match"), BAD_LOGITS)
def test_bad_logits_are_refused(logits, labels, error, match):
    with pytest.raises(error, match=match):
        temperature_scaling(logits, np.asarray(labels))
