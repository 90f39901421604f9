"""What the regression metrics refuse: expected, received, remedy."""

import jax
import numpy as np
import pytest

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

ONE = np.ones(3, np.float32)
GAUSSIAN = (
    gaussian_crps,
    gaussian_negative_log_likelihood,
    quantile_calibration_error,
    quantile_curve,
)
of_gaussian = pytest.mark.parametrize("fn", GAUSSIAN, ids=lambda fn: fn.__name__)

BAD_NUMBERS = {
    "complex": (ONE + 0j, TypeError, "expected real numbers, got dtype complex64; cast them"),
    "booleans": (ONE == 1, TypeError, "expected real numbers, got dtype bool; cast"),
    "nothing": (None, TypeError, "expected an array of numbers, got NoneType; convert"),
    "NaN": (
        [np.nan, 1, 1],
        ValueError,
        "expected finite numbers, got values from nan to nan; look",
    ),
    "infinity": (
        [np.inf, 1, 1],
        ValueError,
        "expected finite numbers, got values from 1 to inf; look",
    ),
}


@pytest.mark.parametrize("case", BAD_NUMBERS)
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.usefixtures("nan_on_purpose")
@of_gaussian
def test_what_is_no_real_number_is_refused(fn, place, case):
    bad, error, match = BAD_NUMBERS[case]
    given = [ONE, ONE, ONE]
    given[place] = bad
    with pytest.raises(error, match=f"^{('mean', 'variance', 'targets')[place]}: {match}"):
        fn(*given)


@of_gaussian
def test_shapes_are_never_broadcast(fn):
    for mean, targets in ((ONE[:, None], ONE), (ONE, ONE[:, None]), (1.0, ONE), (ONE[:1], ONE)):
        match = r"^mean, targets: expected one shape for all, got \(.*\), \(.*\); reshape them"
        with pytest.raises(ValueError, match=match):
            fn(mean, 1.0, targets)
    with pytest.raises(ValueError, match=r"variance: expected one number or shape \(3,\), that of"):
        fn(ONE, ONE[:, None], ONE)
    with pytest.raises(ValueError, match=r"got shape \(1,\); reshape it, or give one noise level"):
        fn(ONE, ONE[:1], ONE)
    with pytest.raises(ValueError, match=r"at least one element, got shape \(0,\); leave empty"):
        fn(ONE[:0], 1.0, ONE[:0])


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
@of_gaussian
def test_negative_variances_are_refused(fn):
    least = "above 0" if fn is gaussian_negative_log_likelihood else "of at least 0"
    with pytest.raises(ValueError, match=f"variance: expected numbers {least}, got -2; take"):
        fn(ONE, -2 * ONE, ONE)
    assert np.isnan(jax.tree.leaves(jax.jit(fn)(ONE, -2 * ONE, ONE))[-1]).all()


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
def test_likelihood_needs_a_variance_above_zero():
    with pytest.raises(ValueError, match=r"variance: expected numbers above 0, got 0; take jnp\.e"):
        gaussian_negative_log_likelihood(ONE, 0, ONE)
    assert np.isnan(jax.jit(gaussian_negative_log_likelihood)(ONE, 0 * ONE, ONE))
    for name in ("precision", "variances"):
        with pytest.raises(ValueError, match=f"{name}: expected numbers above 0, got 0; take"):
            mixture_log_likelihood(ONE[None], ONE, **{name: 0})
        traced = jax.jit(lambda v, name=name: mixture_log_likelihood(ONE[None], ONE, **{name: v}))
        assert np.isnan(traced(0.0)) and np.isnan(traced(-1.0)) and np.isfinite(traced(1.0))


def test_mixture_takes_one_kind_of_noise():
    with pytest.raises(TypeError, match="one of precision and variances, got neither; write prec"):
        mixture_log_likelihood(ONE[None], ONE)
    with pytest.raises(TypeError, match="one of precision and variances, got both; write"):
        mixture_log_likelihood(ONE[None], ONE, precision=1, variances=1)
    with pytest.raises(ValueError, match=r"precision: expected one number, got shape \(3,\); resh"):
        mixture_log_likelihood(ONE[None], ONE, precision=ONE)
    with pytest.raises(ValueError, match=r"variances: expected one number or shape \(1, 3\)"):
        mixture_log_likelihood(ONE[None], ONE, variances=ONE)


OF_SAMPLES = {
    "means": lambda samples, targets: mixture_log_likelihood(samples, targets, precision=1),
    "samples": sample_crps,
}


@pytest.mark.parametrize("name", OF_SAMPLES)
def test_samples_lie_on_axis_0(name):
    fn = OF_SAMPLES[name]
    with pytest.raises(ValueError, match=rf"^{name}: .*at least one sample, got \(\); stack"):
        fn(1.0, 1.0)
    with pytest.raises(ValueError, match=rf"^{name}: .*at least one sample, got \(0, 3\); stack"):
        fn(np.ones((0, 3)), ONE)
    with pytest.raises(ValueError, match=rf"^{name}\[0\], targets: .*got \(\), \(3,\); reshape"):
        fn(ONE, ONE)
    with pytest.raises(ValueError, match=r"got \(3, 1\), \(3,\); reshape"):
        fn(np.ones((5, 3, 1)), ONE)
    with pytest.raises(ValueError, match=r"at least one element, got shape \(0,\); leave"):
        fn(np.ones((5, 0)), ONE[:0])


def test_bad_splits_are_refused():
    with pytest.raises(ValueError, match=r"means: .*at least one sample, got"):
        variance_split(1.0, 1.0)
    with pytest.raises(ValueError, match=r"variances: expected one number or shape \(2, 3\), that"):
        variance_split(np.ones((2, 3)), ONE)
    with pytest.raises(ValueError, match="variances: expected numbers of at least 0, got -1; take"):
        variance_split(np.ones((2, 3)), -1.0)
    assert variance_split(np.ones((2, 0)), 1.0).total.shape == (0,)


def test_fairness_needs_two_samples():
    with pytest.raises(ValueError, match=r"at least two for fair=True, got shape \(1, 3\); draw"):
        sample_crps(ONE[None], ONE, fair=True)


def test_bad_intervals_are_refused():
    swapped = "expected lower <= upper everywhere, got the opposite for 3 of 3; swap"
    with pytest.raises(ValueError, match=swapped):
        interval_coverage(ONE, 0 * ONE, ONE)
    with pytest.raises(ValueError, match=swapped):
        interval_width(ONE, 0 * ONE)
    with pytest.raises(ValueError, match=r"lower, upper, targets: .*got \(3,\), \(3,\), \(1,\)"):
        interval_coverage(ONE, ONE, ONE[:1])
    with pytest.raises(ValueError, match="lower: expected numbers, got values from nan to nan"):
        interval_coverage(ONE * np.nan, ONE, ONE)
    with pytest.raises(ValueError, match="upper: expected finite numbers, got values from inf"):
        interval_width(ONE, ONE * np.inf)
    with pytest.raises(ValueError, match=r"mean, targets: .*got \(3, 1\), \(3,\); reshape"):
        root_mean_squared_error(ONE[:, None], ONE)


@pytest.mark.parametrize("fn", [quantile_calibration_error, quantile_curve])
def test_num_levels_is_an_integer(fn):
    with pytest.raises(TypeError, match=r"num_levels: expected a Python integer, got 2\.0; write"):
        fn(ONE, 1.0, ONE, num_levels=2.0)
    with pytest.raises(ValueError, match="num_levels: expected at least one level, got 0; write"):
        fn(ONE, 1.0, ONE, num_levels=0)
