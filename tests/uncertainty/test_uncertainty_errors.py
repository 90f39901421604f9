"""What `jaxdrop.uncertainty` refuses: expected, received, remedy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrop.uncertainty import (
    accuracy,
    brier_score,
    classwise_calibration_error,
    entropy,
    epistemic_by_class,
    expected_calibration_error,
    expected_entropy,
    mutual_information,
    negative_log_likelihood,
    predictive_entropy,
    reliability_curve,
    risk_coverage,
    scoring_rule_split,
    smooth_calibration_error,
    variation_ratio,
)

OF_SAMPLES = (
    predictive_entropy,
    expected_entropy,
    mutual_information,
    variation_ratio,
    epistemic_by_class,
    scoring_rule_split,
)
OF_LABELS = (
    negative_log_likelihood,
    brier_score,
    accuracy,
    smooth_calibration_error,
    expected_calibration_error,
    classwise_calibration_error,
    reliability_curve,
)
THIRD = np.full((2, 3), 1 / 3, np.float32)

BAD_PROBABILITIES = {
    "an int array": (np.eye(2, dtype=int), TypeError, "expected a floating array.*int.*astype"),
    "a bool array": (np.eye(2, dtype=bool), TypeError, "expected a floating array, got dtype bool"),
    "complex": (np.eye(2) + 0j, TypeError, "floating array, got dtype complex.*; cast it"),
    "nothing": (None, TypeError, "probabilities: expected an array of numbers, got NoneType"),
    "ragged": ([[0.5], [1, 2]], TypeError, "an array of numbers, got list; convert it"),
    "a scalar": (1.0, ValueError, r"expected shape \(.*C\).*got \(\); .*classes on the last axis"),
    "no classes": (np.ones((2, 0)), ValueError, r"got \(2, 0\)"),
    "logits": ([[2.0, -1.0]] * 2, ValueError, r"values from -1 to 2 and sums.*jax.nn.softmax"),
    "above 1": ([[1.5, -0.5]] * 2, ValueError, r"in \[0, 1\] that sum to 1.*from -0.5 to 1.5"),
    "a sum of 1.002": ([[0.502, 0.5], [0.5, 0.5]], ValueError, r"sums from 1 to 1.002; pass"),
    "a sum of 0.998": ([[0.498, 0.5], [0.5, 0.5]], ValueError, r"sums from 0.998 to 1; pass"),
    "NaN": ([[np.nan, 1.0], [0.5, 0.5]], ValueError, "values from nan to nan"),
    "infinity": ([[np.inf, 0.0], [0.5, 0.5]], ValueError, "values from 0 to inf"),
    "half": (jnp.array([[0.52, 0.5]] * 2, jnp.float16), ValueError, "sums from 1.0"),
}


@pytest.mark.parametrize("case", BAD_PROBABILITIES)
@pytest.mark.parametrize("fn", (entropy, *OF_SAMPLES, *OF_LABELS), ids=lambda fn: fn.__name__)
def test_bad_probabilities_are_refused(fn, case):
    bad, error, match = BAD_PROBABILITIES[case]
    labels = () if fn is entropy or fn in OF_SAMPLES else (np.array([0, 1]),)
    with pytest.raises(error, match=match):
        fn(bad, *labels)


@pytest.mark.parametrize("shape", [(3,), (0, 3)])
@pytest.mark.parametrize("fn", OF_SAMPLES, ids=lambda fn: fn.__name__)
def test_samples_are_required(fn, shape):
    with pytest.raises(ValueError, match=r"expected shape \(S, ..., C\).*stack samples along"):
        fn(np.full(shape, 1 / 3))


def test_rounding_is_no_error():
    for dtype in (jnp.bfloat16, jnp.float16):
        for classes in (3, 7, 1000, 50_000):
            entropy(jax.nn.softmax(jnp.linspace(0, 1, classes, dtype=dtype)))
            entropy(jnp.full(classes, 1 / classes, dtype))
    entropy([0.5005, 0.5])


BAD_LABELS = {
    "floats": (
        np.array([0.0, 1.0]),
        TypeError,
        r"labels: expected class numbers.*float.*;.*astype",
    ),
    "booleans": (np.array([True, False]), TypeError, "of an integer dtype, got dtype bool; write"),
    "one-hot": (np.eye(3)[:2], TypeError, r"got dtype float.*; write.*labels.argmax\(-1\)"),
    "integer one-hot": (np.eye(3, dtype=int)[:2], ValueError, r"shape \(2,\).*got \(2, 3\);.*argm"),
    "too few": (
        np.array([0]),
        ValueError,
        r"labels: expected shape \(2,\) .* got \(1,\); give one",
    ),
    "a column": (np.array([[0], [1]]), ValueError, r"expected shape \(2,\) .* got \(2, 1\)"),
    "a scalar": (1, ValueError, r"expected shape \(2,\) .* got \(\)"),
    "minus one": (np.array([0, -1]), ValueError, r"in \[0, 3\), got values from -1 to 0; count"),
    "counted from 1": (np.array([3, 1]), ValueError, r"in \[0, 3\), got values from 1 to 3; count"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
@pytest.mark.parametrize("fn", OF_LABELS, ids=lambda fn: fn.__name__)
def test_bad_labels_are_refused(fn, case):
    bad, error, match = BAD_LABELS[case]
    with pytest.raises(error, match=match):
        fn(THIRD, bad)


@pytest.mark.parametrize("fn", OF_LABELS, ids=lambda fn: fn.__name__)
def test_no_example_is_refused(fn):
    with pytest.raises(ValueError, match=r"at least one example, got shape \(0,\); leave empty"):
        fn(np.ones((0, 3)), np.zeros(0, int))


@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize("bad", [True, 2.0, "many", None])
@pytest.mark.parametrize("fn", OF_LABELS[-3:])
def test_num_bins_is_an_integer(fn, bad):
    with pytest.raises(TypeError, match=r"num_bins: expected a Python integer, got .*num_bins=15"):
        fn(THIRD, [0, 1], num_bins=bad)
    with pytest.raises(ValueError, match="num_bins: expected at least one bin, got 0; write"):
        fn(THIRD, [0, 1], num_bins=0)
    with pytest.raises(TypeError, match="num_bins: expected a Python integer"):
        jax.jit(lambda n: fn(THIRD, [0, 1], num_bins=n))(3)
    fn(THIRD, [0, 1], num_bins=np.int64(3))


BAD_RANKINGS = [
    (np.arange(3), np.ones(3), TypeError, "uncertainty: expected a floating array, got dtype int"),
    (np.ones(3), np.ones(3) + 0j, TypeError, "errors: expected booleans or real losses.*complex"),
    (np.ones(3), "abc", TypeError, "errors: expected an array of numbers, got str; convert"),
    (np.ones(3), np.ones(2), ValueError, r"shape \(N,\).*got \(3,\) and \(2,\); flatten.*ravel"),
    (np.ones((3, 1)), np.ones((3, 1)), ValueError, r"got \(3, 1\) and \(3, 1\); flatten"),
    (np.ones(0), np.ones(0), ValueError, r"N of at least 1, got \(0,\) and \(0,\)"),
    (np.array([np.nan, 1]), np.ones(2), ValueError, "that can be sorted, got NaN; look for"),
]


@pytest.mark.parametrize(("uncertainty", "errors", "error", "match"), BAD_RANKINGS)
@pytest.mark.usefixtures("nan_on_purpose")
def test_bad_rankings_are_refused(uncertainty, errors, error, match):
    with pytest.raises(error, match=match):
        risk_coverage(uncertainty, errors)
