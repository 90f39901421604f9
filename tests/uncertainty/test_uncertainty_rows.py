"""What every function makes of rows: their order, equals among them, NaN in one, one class.

Hypothesis draws the rows from few numbers, so that most of them are equal to others.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxdrop import mc, uncertainty
from tests.mc.test_mc_summaries import reduce
from tests.uncertainty.test_uncertainty import OF_PAIRS, OF_SAMPLES

# Many calls of a few compiled functions, most of them with rows that are refused if known.
pytestmark = pytest.mark.usefixtures("jitted")
_SIZE = 7  # rows; one size, so that each function is compiled once
_ROWS = np.array([[0.5, 0.5, 0], [0, 0.5, 0.5], [0.25, 0.25, 0.5], [1, 0, 0]], np.float32)
_FEW = np.array([-1, -0.5, 0, 0.5, 1], np.float32)


def _close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), got, expected)


# The arguments of a function by kind, one letter each: l labels of three classes, b labels of
# both kinds, p rows of probabilities, x numbers, v variances; capitals samples of them, on axis 0.
CURVES = {
    "reliability_curve": "pl",
    "risk_coverage": "xx",
    "quantile_curve": "xvx",
    "negative_log_likelihood": "pl",
    "brier_score": "pl",
    "accuracy": "pl",
    "expected_calibration_error": "pl",
    "classwise_calibration_error": "pl",
    "area_under_risk_coverage": "xx",
    "area_under_generalized_risk_coverage": "xx",
    "auroc": "xb",
    "false_positive_rate": "xb",
    "joint_log_likelihood": "Pl",
    "smooth_calibration_error": "pl",
    "gaussian_negative_log_likelihood": "xvx",
    "gaussian_crps": "xvx",
    "sample_crps": "Xx",
    "root_mean_squared_error": "xx",
    "quantile_calibration_error": "xvx",
    "mixture_log_likelihood": "Xx",
    "interval_coverage": "xvx",
    "interval_width": "xv",
    "temperature_scaling": "pl",
    "variance_scaling": "xvx",
    "conformal_quantile": "x",
}
PER_ROW = {
    "entropy": "p",
    "predictive_entropy": "P",
    "expected_entropy": "P",
    "mutual_information": "P",
    "variation_ratio": "P",
    "mean_std": "P",
    "epistemic_by_class": "P",
    "scoring_rule_split": "P",
    "variance_split": "XV",
    "conformal_interval": "xv",
    "mc.moments": "X",
    "mc.quantiles": "X",
    "mc.samples": "X",
    "mc.classification": "P",
    "mc.classification, probabilities": "P",
    "mc.classification, binary": "X",
    "mc.classification, binary probabilities": "V",
    "mc.regression": "XV",
    "mc.regression, precision": "X",
}
SUMMARIES = {
    "mc.moments": mc.moments(),
    "mc.quantiles": mc.quantiles((0.25, 0.5)),
    "mc.samples": mc.samples(),
    "mc.classification": mc.classification(),
    "mc.classification, probabilities": mc.classification(from_logits=False),
    "mc.classification, binary": mc.classification(binary=True),
    "mc.classification, binary probabilities": mc.classification(binary=True, from_logits=False),
    "mc.regression": mc.regression(),
    "mc.regression, precision": mc.regression(precision=2.0),
}


@functools.cache
def compiled(name):
    if name in SUMMARIES:
        return lambda *drawn: reduce(SUMMARIES[name], drawn if len(drawn) > 1 else drawn[0], 3)
    fn = getattr(uncertainty, name)
    if name == "mixture_log_likelihood":
        fn = functools.partial(fn, precision=2.0)
    if name == "conformal_quantile":
        fn = functools.partial(fn, alpha=0.25)
    if name == "conformal_interval":
        fn = lambda mean, deviation: uncertainty.conformal_interval(mean, 1.5, deviation)  # noqa: E731
    if name.startswith("interval"):  # v is how far above the lower end the upper one is
        plain = fn
        fn = lambda lower, width, *rest: plain(lower, lower + width, *rest)  # noqa: E731
    return jax.jit(fn)


def by_row(name, result):
    """The result with rows on axis 0."""
    axis = 1 if name in ("mc.quantiles", "mc.samples") else 0
    return jax.tree.map(lambda x: np.moveaxis(np.asarray(x), axis, 0), result)


def argument(kind, rng):
    leading = (4,) if kind.isupper() else ()
    if kind == "l":
        return rng.integers(0, 3, _SIZE)
    if kind == "b":
        return np.append(rng.integers(0, 2, _SIZE - 2), [0, 1])
    if kind in "pP":
        return _ROWS[rng.integers(0, len(_ROWS), (*leading, _SIZE))]
    numbers = _FEW[rng.integers(0, len(_FEW), (*leading, _SIZE))]
    return abs(numbers) / 2 + np.float32(0.25) if kind in "vV" else numbers


def arguments(name, seed):
    """Arguments of a function, and the generator they are from."""
    rng = np.random.default_rng(seed)
    return [argument(kind, rng) for kind in (CURVES | PER_ROW)[name]], rng


def axes(name):
    return [int(kind.isupper()) for kind in (CURVES | PER_ROW)[name]]


def turned(name, given, order):
    return [x.take(order, axis) for x, axis in zip(given, axes(name))]


def test_every_function_of_rows_has_a_case():
    functions = {name for name in uncertainty.__all__ if name[0].islower()}
    others = {"batch_bald", "epig", "report"}  # of what is not rows, and of what is not traced
    assert functions == (CURVES.keys() | PER_ROW.keys()) - SUMMARIES.keys() | others


@pytest.mark.parametrize("name", CURVES)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_rows_does_not_matter(name, seed):
    given, rng = arguments(name, seed)
    other = turned(name, given, rng.permutation(_SIZE))
    _close(compiled(name)(*other), compiled(name)(*given))


@pytest.mark.parametrize("name", PER_ROW)
@given(seed=st.integers(0, 2**32 - 1))
def test_what_is_said_of_a_row_goes_with_it(name, seed):
    given, rng = arguments(name, seed)
    order = rng.permutation(_SIZE)
    got = by_row(name, compiled(name)(*turned(name, given, order)))
    _close(got, jax.tree.map(lambda x: x[order], by_row(name, compiled(name)(*given))))


# --- equals


@given(seed=st.integers(0, 2**32 - 1))
def test_risk_is_its_mean_over_all_orders_of_equals(seed):
    (uncertain, errors), _ = arguments("risk_coverage", seed)
    uncertain, errors = uncertain[:6], errors[:6]
    risks = [
        np.cumsum(errors[list(order)]) / np.arange(1, 7)
        for order in itertools.permutations(range(6))
        if (np.diff(uncertain[list(order)]) >= 0).all()
    ]
    curve = uncertainty.risk_coverage(uncertain, errors)
    _close(curve.risk, np.mean(risks, 0))
    _close(uncertainty.area_under_risk_coverage(uncertain, errors), np.mean(risks))
    kept = np.mean(risks, 0) * np.arange(1, 7) / 6
    area = np.trapezoid(np.append(0, kept), dx=1 / 6)
    _close(uncertainty.area_under_generalized_risk_coverage(uncertain, errors), area)


def test_uncertainties_that_are_all_equal_tell_nothing():
    errors = jnp.array([True, True, False, False])
    for order in (errors, errors[::-1]):
        for same in (0.0, jnp.inf, -jnp.inf):
            assert uncertainty.area_under_risk_coverage(jnp.full(4, same), order) == 0.5
            all_same = uncertainty.area_under_generalized_risk_coverage(jnp.full(4, same), order)
            assert all_same == 0.25
    zeros = jnp.array([-0.0, 0.0, -0.0, 0.0])
    assert uncertainty.area_under_risk_coverage(zeros, errors) == 0.5


def test_an_infinite_error_among_equals_is_infinite_risk():
    risk = uncertainty.risk_coverage(jnp.array([0.0, 1, 1, 2]), jnp.array([1, jnp.inf, 1, 1])).risk
    np.testing.assert_array_equal(risk, [1, np.inf, np.inf, np.inf])


def test_ties_among_classes_go_to_the_first():
    """As ``argmax`` decides; so does every function that needs a decision."""
    p, labels = jnp.full((4, 3), 1 / 3), jnp.array([0, 0, 1, 2])
    assert uncertainty.accuracy(p, labels) == 0.5
    np.testing.assert_allclose(uncertainty.expected_calibration_error(p, labels), 1 / 6, rtol=1e-5)
    np.testing.assert_array_equal(uncertainty.variation_ratio(p[None]), 0)
    votes = reduce(mc.classification(from_logits=False), jnp.stack([p, p])).votes
    np.testing.assert_array_equal(votes, [[2, 0, 0]] * 4)


# --- NaN


def with_nan(name, seed, place):
    """Arguments of which one, in one row, has one NaN."""
    given, rng = arguments(name, seed)
    row, other = rng.integers(0, _SIZE), rng.integers(0, 3)
    index = (row, other) if given[place].ndim > axes(name)[place] + 1 else (row,)
    index = (rng.integers(0, 4), *index) if axes(name)[place] else index
    given[place] = given[place].copy()
    given[place][index] = np.nan
    return given, row


def floating(table):
    kinds = {
        name: [i for i, k in enumerate(kinds) if k not in "lb"] for name, kinds in table.items()
    }
    return [(name, i) for name, places in kinds.items() for i in places]


@pytest.mark.usefixtures("nan_on_purpose")
@pytest.mark.parametrize(("name", "place"), floating(PER_ROW))
@given(seed=st.integers(0, 2**32 - 1))
def test_nan_in_a_row_gives_nan_for_it_alone(name, place, seed):
    given, row = with_nan(name, seed, place)
    got = by_row(name, compiled(name)(*given))
    fields = got._asdict() if hasattr(got, "_asdict") else {"": got}
    touched = fields.keys() - {"votes"}
    if name == "mc.samples":
        touched = {}
    if "aleatoric" in fields:  # what is of the other argument stays
        touched = {"total", "aleatoric"} if place else {"mean", "epistemic", "total"}
    for field, x in fields.items():
        if x is None:
            continue
        nan = np.isnan(x).reshape(_SIZE, -1)
        assert not np.delete(nan, row, 0).any(), field
        assert nan[row].all() or field not in touched, field
    if "votes" in fields:
        np.testing.assert_array_equal(got.votes.sum(-1), 4 - (np.arange(_SIZE) == row))


@pytest.mark.usefixtures("nan_on_purpose")
@pytest.mark.parametrize(("name", "place"), floating(CURVES))
@given(seed=st.integers(0, 2**32 - 1))
def test_nan_in_a_row_shows_in_what_is_said_of_all(name, place, seed):
    given, _ = with_nan(name, seed, place)
    got = compiled(name)(*given)
    unknown = {
        "risk_coverage": {"risk"},
        "quantile_curve": {"frequency"},
        "reliability_curve": {"confidence", "accuracy", "share"},
    }
    for field in unknown.get(name, {""}):
        assert np.isnan(getattr(got, field) if field else got).any(), field


@pytest.mark.usefixtures("nan_on_purpose")
def test_risk_is_known_up_to_what_is_unknown():
    risk = jax.jit(uncertainty.risk_coverage)(jnp.array([0.2, jnp.nan, 0.1, 0.3]), jnp.ones(4)).risk
    np.testing.assert_array_equal(risk, [1, 1, 1, np.nan])
    share = jax.jit(uncertainty.reliability_curve)(jnp.full((2, 2), jnp.nan), jnp.zeros(2, int))[2]
    assert np.isnan(share).all()


# --- one class


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("shape", [(4, 1), (1,), (4, 5, 1)])
def test_one_class_is_refused_with_the_way_to_two(shape, traced):
    """One logit or probability a row; probabilities of 1 would pass as rows that sum to 1."""
    ones, labels = jnp.ones(shape), jnp.zeros(shape[:-1], int)
    call = jax.jit if traced else lambda fn: fn
    refused = rf"at least two classes, got \({shape[0]},.*1?\); put .*jnp.concatenate\(\[1 - p, p\]"
    for fn in (uncertainty.entropy, *OF_PAIRS, uncertainty.reliability_curve):
        with pytest.raises(ValueError, match=refused):
            call(fn)(ones, *([] if fn is uncertainty.entropy else [labels]))
    for fn in (*OF_SAMPLES, uncertainty.mean_std, lambda p: uncertainty.batch_bald(p, 1)):
        with pytest.raises(ValueError, match=r"at least two classes.*\[1 - p, p\], axis=-1\)"):
            call(fn)(ones[None])
    with pytest.raises(ValueError, match=r"two classes.*concatenate\(\[jnp.zeros_like\(z\), z\]"):
        call(uncertainty.temperature_scaling)(ones, labels)


def test_the_ways_to_two_classes_work():
    z, labels = jnp.array([[2.0], [-1.0], [0.5], [-1.5]]), jnp.array([1, 0, 0, 0])
    p = jax.nn.sigmoid(z)
    two = jnp.concatenate([1 - p, p], axis=-1)
    _close(uncertainty.accuracy(two, labels), 0.75)
    right = jnp.where(labels[:, None] == 1, p, 1 - p)
    _close(uncertainty.negative_log_likelihood(two, labels), -jnp.log(right).mean())
    logits = jnp.concatenate([jnp.zeros_like(z), z], axis=-1)
    _close(jax.nn.softmax(logits), two)
    assert jnp.isfinite(uncertainty.temperature_scaling(logits, labels))
    with pytest.raises(ValueError, match=r"sum to 1.*jnp.stack\(\[1 - p, p\], axis=-1\) if each"):
        uncertainty.accuracy(p[:, 0], labels)
    with pytest.raises(ValueError, match=r"labels: .*jnp.stack\(\[jnp.zeros_like\(z\), z\], axis"):
        uncertainty.temperature_scaling(z[:, 0], labels)
