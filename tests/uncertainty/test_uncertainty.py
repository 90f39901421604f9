"""`jaxdrop.uncertainty` against SciPy, scikit-learn, NumPy in float64 and closed forms."""

import doctest
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import special, stats
from sklearn import calibration, metrics

from jaxdrop import uncertainty
from jaxdrop.uncertainty import (
    accuracy,
    brier_score,
    classwise_calibration_error,
    entropy,
    expected_calibration_error,
    expected_entropy,
    mutual_information,
    negative_log_likelihood,
    predictive_entropy,
    reliability_curve,
    risk_coverage,
    variation_ratio,
)

OF_SAMPLES = (predictive_entropy, expected_entropy, mutual_information, variation_ratio)
OF_PAIRS = (
    negative_log_likelihood,
    brier_score,
    accuracy,
    expected_calibration_error,
    classwise_calibration_error,
)
EVERY = (entropy, *OF_SAMPLES, *OF_PAIRS, reliability_curve, risk_coverage)
ONE_HOT = np.eye(3, dtype=np.float32)
THIRD = np.full((2, 3), 1 / 3, np.float32)

each = pytest.mark.parametrize("fn", EVERY, ids=lambda fn: fn.__name__)
of_pairs = pytest.mark.parametrize("fn", OF_PAIRS, ids=lambda fn: fn.__name__)


def simplex(*shape, scale=2.0, seed=0):
    """Random rows of probabilities, float32."""
    logits = np.random.default_rng(seed).normal(size=shape) * scale
    return special.softmax(logits, axis=-1).astype(np.float32)


def random_labels(*shape, classes, seed=1):
    return np.random.default_rng(seed).integers(0, classes, shape)


def arguments(fn, dtype=np.float32, vmapped=(), batch=(5,)):
    """Valid arguments of a function: 7 samples, a batch of examples, 4 classes."""
    batch = vmapped + batch
    if fn is risk_coverage:
        values = np.random.default_rng(2).random((2, *vmapped, 30))
        return jnp.asarray(values[0], dtype), jnp.asarray(values[1], dtype)
    if fn in OF_PAIRS or fn is reliability_curve:
        return jnp.asarray(simplex(*batch, 4), dtype), jnp.asarray(random_labels(*batch, classes=4))
    return (jnp.asarray(simplex(7, *batch, 4), dtype),)


def close(got, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), got, expected)


# --- entropies


@pytest.mark.parametrize("shape", [(4,), (2,), (5, 3), (3, 2, 100), (0, 3)])
def test_entropy_is_scipys(shape):
    p = simplex(*shape)
    assert entropy(p).shape == shape[:-1]
    close(entropy(p), stats.entropy(p.astype(np.float64), axis=-1))


@pytest.mark.parametrize("small", [1e-5, 1e-8, 1e-20, 2e-38])
def test_small_probabilities_count(small):
    p = np.array([1, small], np.float32)
    close(entropy(p), -float(p[1]) * np.log(float(p[1])), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(9, 4), (1, 3), (5, 2), (6, 4, 2, 10)])
def test_entropies_of_samples_are_scipys_and_add_up(shape):
    p = simplex(*shape)
    wide = p.astype(np.float64)
    whole, within = stats.entropy(wide.mean(0), axis=-1), stats.entropy(wide, axis=-1).mean(0)
    close(predictive_entropy(p), whole)
    close(expected_entropy(p), within)
    close(mutual_information(p), whole - within)
    close(predictive_entropy(p), expected_entropy(p) + mutual_information(p))


@pytest.mark.parametrize(("scale", "rtol"), [(1.0, 1e-6), (1e-2, 1e-5), (1e-3, 1e-4)])
def test_mutual_information_keeps_what_a_difference_of_entropies_rounds_away(scale, rtol):
    logits = np.random.default_rng(0).normal(size=(50, 40, 5)) * scale
    p = special.softmax(logits + np.linspace(0, 3, 5), axis=-1).astype(np.float32)
    wide = p.astype(np.float64)
    divergence = special.kl_div(wide, wide.mean(0)).sum(-1).mean(0)
    close(mutual_information(p), divergence, rtol=rtol, atol=0)


def test_mutual_information_of_samples_far_below_their_mean():
    p = np.array([[1 - 1e-6, 1e-6], [1e-30, 1], [1e-9, 1]], np.float32)
    wide = p.astype(np.float64)
    close(mutual_information(p), special.kl_div(wide, wide.mean(0)).sum(-1).mean(), rtol=1e-6)


def test_mutual_information_is_never_negative():
    p = np.broadcast_to(simplex(1000, 7), (13, 1000, 7))
    assert (mutual_information(p) >= 0).all()
    assert (mutual_information(simplex(13, 1000, 7, scale=1e-4)) >= 0).all()


@pytest.mark.parametrize("classes", [2, 3, 1000])
def test_closed_forms(classes):
    one_hot, uniform = np.eye(classes, dtype=np.float32), np.full((1, classes), 1 / classes)
    zero = np.zeros(classes)
    for value in (entropy(one_hot), *(fn(one_hot[None]) for fn in OF_SAMPLES)):
        np.testing.assert_array_equal(value, zero)
        assert not np.signbit(value).any()
    close(entropy(uniform), [np.log(classes)])
    # Each sample is sure of a class of its own.
    close(predictive_entropy(one_hot), np.log(classes))
    close(mutual_information(one_hot), np.log(classes))
    close(expected_entropy(one_hot), 0.0)
    close(variation_ratio(one_hot), 1 - 1 / classes)


def test_gradients_of_entropies():
    with jax.enable_x64(True):
        p = simplex(5, 3, 4, scale=0.5).astype(np.float64)
        for fn in (entropy, predictive_entropy, expected_entropy, mutual_information):
            check_grads(fn, (p,), order=2, modes=("fwd", "rev"), rtol=1e-4)


@pytest.mark.parametrize("p", [ONE_HOT, ONE_HOT[:1], np.array([[1, 0], [1, 0]], np.float32)])
def test_gradients_at_one_hot_rows_are_finite_and_vanish_through_a_softmax(p):
    for fn in (entropy, predictive_entropy, expected_entropy, mutual_information):
        assert np.isfinite(jax.grad(lambda p, fn=fn: fn(p).sum())(p)).all()
        through = jax.grad(lambda z, fn=fn: fn(jax.nn.softmax(z)).sum())(200 * p)
        np.testing.assert_allclose(through, np.zeros_like(p), atol=1e-6)
    slope = jax.grad(lambda p: entropy(p).sum())(p)
    np.testing.assert_array_equal(slope, -p)
    whole, within, between = (jax.grad(lambda p, fn=fn: fn(p).sum())(p) for fn in OF_SAMPLES[:3])
    close(whole, within + between)


def test_numbers_too_small_to_be_normal_count_as_zero():
    p = np.array([[1.0, 1e-40], [1.0, 0.0]], np.float32)
    for fn in (entropy, predictive_entropy, expected_entropy, mutual_information):
        np.testing.assert_array_equal(fn(p), np.zeros(fn(p).shape))


def test_variation_ratio_is_scipys():
    p = simplex(9, 50, 4, scale=0.3)
    votes = stats.mode(p.argmax(-1), axis=0).count
    close(variation_ratio(p), 1 - votes / 9)
    assert len(set(votes.tolist())) > 3
    np.testing.assert_array_equal(variation_ratio(THIRD), 0)  # equal classes: all vote for one


# --- scores


@pytest.mark.parametrize("batch", [(200,), (1,), (), (3, 4)])
@pytest.mark.parametrize("classes", [2, 7])
def test_scores_are_sklearns(batch, classes):
    p, labels = simplex(*batch, classes), random_labels(*batch, classes=classes)
    wide, flat = p.astype(np.float64).reshape(-1, classes), labels.ravel()
    wide /= wide.sum(-1, keepdims=True)
    one_hot = np.eye(classes)[flat]
    loss = metrics.log_loss(flat, wide, labels=range(classes))
    close(negative_log_likelihood(p, labels), loss)
    close(brier_score(p, labels), ((wide - one_hot) ** 2).sum(-1).mean())
    close(accuracy(p, labels), metrics.accuracy_score(flat, wide.argmax(-1)))
    if classes == 2:
        binary = metrics.brier_score_loss(flat, wide[:, 1], pos_label=1)
        close(brier_score(p, labels), 2 * binary)


@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.int64])
def test_labels_of_any_integer_dtype(dtype):
    p, labels = simplex(50, 300), random_labels(50, classes=100)
    for fn in OF_PAIRS:
        np.testing.assert_array_equal(fn(p, labels.astype(dtype)), fn(p, labels))
        np.testing.assert_array_equal(fn(p, labels.tolist()), fn(p, labels))
        with jax.enable_x64(True):
            close(fn(p, labels.astype(dtype)), fn(p, labels))


def test_probability_zero_costs_the_smallest_normal_number():
    p, labels = np.array([[0.0, 1.0], [0.5, 0.5]]), np.array([0, 1])
    value = negative_log_likelihood(p.astype(np.float32), labels)
    close(value, (-np.log(np.finfo(np.float32).tiny) + np.log(2)) / 2)
    with jax.enable_x64(True):
        close(negative_log_likelihood(p, labels), (708.3964185 + np.log(2)) / 2)
    slope = jax.grad(negative_log_likelihood)(p.astype(np.float32), labels)
    np.testing.assert_array_equal(slope, [[0, 0], [0, -1]])  # -1 / (N p) for the true class


def test_scores_at_their_ends():
    right, wrong = np.array([0, 1, 2]), np.array([1, 2, 0])
    assert [float(fn(ONE_HOT, right)) for fn in OF_PAIRS] == [0, 0, 1, 0, 0]
    assert [float(fn(ONE_HOT, wrong)) for fn in OF_PAIRS[1:4]] == [2, 0, 1]
    close(classwise_calibration_error(ONE_HOT, wrong), 2 / 3)
    assert not any(np.signbit(fn(ONE_HOT, right)) for fn in OF_PAIRS)


# --- calibration


def curve_by_loop(confidence, correct, num_bins):
    """Bins one by one, an example at a time; edges rounded as confidences are."""
    edges = (np.arange(num_bins + 1) / num_bins).astype(confidence.dtype)
    rows = []
    for m, (low, high) in enumerate(itertools.pairwise(edges)):
        members = [i for i, value in enumerate(confidence) if low < value and value <= high]
        means = [np.mean([float(of[i]) for i in members or [0]]) for of in (confidence, correct)]
        centre = (m + 0.5) / num_bins
        rows.append([*(means if members else (centre, centre)), len(members) / len(confidence)])
    return np.array(rows).T


@pytest.mark.parametrize("num_bins", [1, 2, 10, 15, 100])
@pytest.mark.parametrize("batch", [(300,), (1,), (4, 5), ()])
def test_reliability_curve_is_that_of_a_loop(batch, num_bins):
    p, labels = simplex(*batch, 5), random_labels(*batch, classes=5)
    correct = (p.argmax(-1) == labels).ravel()
    expected = curve_by_loop(p.max(-1).ravel(), correct, num_bins)
    curve = reliability_curve(p, labels, num_bins=num_bins)
    assert all(part.shape == (num_bins,) for part in curve)
    close(np.stack(curve), expected)
    gap = (expected[2] * np.abs(expected[1] - expected[0])).sum()
    close(expected_calibration_error(p, labels, num_bins=num_bins), gap)


@pytest.mark.parametrize("num_bins", [1, 4, 15])
@pytest.mark.parametrize("batch", [(300,), (1,), (4, 5), ()])
def test_classwise_error_is_that_of_a_loop(batch, num_bins):
    p, labels = simplex(*batch, 5), random_labels(*batch, classes=5)
    gaps = []
    for c in range(5):
        mean, frequency, share = curve_by_loop(p[..., c].ravel(), (labels == c).ravel(), num_bins)
        gaps.append((share * np.abs(frequency - mean)).sum())
    close(classwise_calibration_error(p, labels, num_bins=num_bins), np.mean(gaps))


def test_reliability_curve_is_sklearns_where_bins_are_filled():
    p, labels = simplex(500, 3), random_labels(500, classes=3)
    correct = p.argmax(-1) == labels
    curve = reliability_curve(p, labels)
    true, predicted = calibration.calibration_curve(correct, p.max(-1), n_bins=15)
    filled = np.asarray(curve.share) > 0
    assert 5 < filled.sum() < 15
    close(np.asarray(curve.accuracy)[filled], true)
    close(np.asarray(curve.confidence)[filled], predicted)
    close(curve.share.sum(), 1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_are_closed_on_the_right(dtype):
    with jax.enable_x64(True):
        for num_bins in (3, 4, 10, 15):
            for m in range((num_bins + 1) // 2, num_bins + 1):
                edge = np.array([m / num_bins], dtype)
                above = np.nextafter(edge, dtype(2)) if m < num_bins else edge
                for value, index in ((edge, m - 1), (above, min(m, num_bins - 1))):
                    p = np.stack([value, 1 - value], axis=-1)
                    share = reliability_curve(p, np.array([0]), num_bins=num_bins).share
                    assert share.argmax() == index, (value, num_bins)


def test_empty_bins_lie_on_the_diagonal():
    curve = reliability_curve(ONE_HOT, np.array([0, 0, 0]), num_bins=4)
    close(curve.confidence, [0.125, 0.375, 0.625, 1])
    close(curve.accuracy, [0.125, 0.375, 0.625, 1 / 3])
    np.testing.assert_array_equal(curve.share, [0, 0, 0, 1])


def test_confidence_that_rounding_put_above_1_is_in_the_last_bin():
    p = np.array([[np.nextafter(np.float32(1), np.float32(2)), 0]])
    np.testing.assert_array_equal(reliability_curve(p, [0], num_bins=2).share, [0, 1])


def test_many_examples_keep_their_confidence():
    p = jnp.broadcast_to(jnp.array([0.95, 0.05]), (2**20, 2))
    labels = (jnp.arange(2**20) % 4 == 0).astype(jnp.int32)
    close(reliability_curve(p, labels).confidence[-1], 0.95, rtol=1e-6)
    close(expected_calibration_error(p, labels), 0.2, rtol=1e-6)


def test_gradient_of_the_calibration_error():
    p = np.array([[0.9, 0.1], [0.8, 0.2]], np.float32)
    slope = jax.grad(expected_calibration_error)(p, np.array([0, 1]))
    np.testing.assert_array_equal(slope, [[-0.5, 0], [0.5, 0]])


# --- refusing


@pytest.mark.parametrize("dtype", [bool, np.int32, np.float32])
def test_risk_coverage_is_that_of_a_loop(dtype):
    rng = np.random.default_rng(0)
    uncertainty = rng.integers(0, 6, 40).astype(np.float32)  # many ties
    errors = (rng.random(40) * 3).astype(dtype)
    mean = {u: np.mean([float(e) for e in errors[uncertainty == u]]) for u in uncertainty}
    kept = [mean[u] for u in np.sort(uncertainty)]  # of equals, each is expected to be any of them
    risk = np.cumsum(kept) / np.arange(1, 41)
    curve = risk_coverage(uncertainty, errors)
    close(curve.coverage, np.arange(1, 41) / 40)
    close(curve.risk, risk)
    assert {part.dtype for part in curve} == {np.dtype(np.float32)}


def test_risk_coverage_of_ties_of_one_example_and_of_a_perfect_order():
    close(risk_coverage(np.zeros(4), np.array([1, 0, 0, 1])).risk, [1 / 2] * 4)
    close(np.stack(risk_coverage(np.ones(1), np.array([True]))), [[1], [1]])
    perfect = risk_coverage(np.array([0.1, 0.9, 0.2, 0.8]), np.array([0, 1, 0, 1])).risk
    close(perfect, [0, 0, 1 / 3, 1 / 2])


# --- what holds for all of them


@pytest.mark.usefixtures("jitted")
@each
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_narrow_floats_are_widened(fn, dtype):
    given = arguments(fn, dtype)
    wide = tuple(x.astype(jnp.float32) if x.dtype == dtype else x for x in given)
    got = fn(*given)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype(np.float32)}
    expected = jax.jit(fn)(*wide)  # traced: rows rounded to 16 bits may sum to 1.002
    close(got, expected)


@each
def test_float64_is_kept(fn):
    with jax.enable_x64(True):
        got, near = fn(*arguments(fn, np.float64)), fn(*arguments(fn))
        assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {np.dtype(np.float64)}
        assert {leaf.dtype for leaf in jax.tree.leaves(near)} == {np.dtype(np.float32)}
        close(got, near)


@each
def test_jit_and_vmap_change_nothing(fn):
    given = arguments(fn)
    close(jax.jit(fn)(*given), fn(*given), rtol=1e-6)
    batched = arguments(fn, vmapped=(6,))
    axes = (1,) if fn is entropy or fn in OF_SAMPLES else (0, 0)
    loop = [fn(*(jnp.take(x, i, axis) for x, axis in zip(batched, axes))) for i in range(6)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)
    close(jax.vmap(fn, in_axes=axes)(*batched), stacked, rtol=1e-6)


@each
def test_examples_run(fn):
    names = {"jax": jax, "jnp": jnp, "np": np} | vars(uncertainty)
    tests = doctest.DocTestFinder().find(fn, fn.__name__, globs=names)
    result = [doctest.DocTestRunner().run(test) for test in tests]
    assert [(r.failed, r.attempted > 0) for r in result] == [(0, True)]


# --- what is traced cannot be refused


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
@pytest.mark.parametrize("fn", EVERY[:-1], ids=lambda fn: fn.__name__)
def test_traced_nan_stays_nan(fn):
    given = arguments(fn)
    bad = given[0].at[..., 0, :].set(jnp.nan)  # the first example of every sample
    got = jax.tree.leaves(jax.jit(fn)(bad, *given[1:]))[0]
    if got.ndim == 1 and fn is not reliability_curve:
        np.testing.assert_array_equal(np.isnan(got), [True, False, False, False, False])
    else:
        assert np.isnan(got).any()


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
@pytest.mark.parametrize("fn", (entropy, *OF_SAMPLES[:3]), ids=lambda fn: fn.__name__)
def test_traced_negative_numbers_give_nan(fn):
    assert np.isnan(jax.jit(fn)(np.array([[-1.0, 2.0], [-2.0, 3.0]]))).all()


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
@of_pairs
@pytest.mark.parametrize("bad", [-1, 3])
def test_traced_labels_that_are_no_class_give_nan(fn, bad):
    assert np.isnan(jax.jit(fn)(THIRD, np.array([0, bad])))
    assert np.isfinite(jax.jit(fn)(THIRD, np.array([0, 2])))


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
@each
def test_known_values_are_checked_inside_a_trace_and_traced_ones_are_not(fn):
    given = arguments(fn)
    bad = given[0] * (jnp.nan if fn is risk_coverage else 3)
    jax.jit(fn)(bad, *given[1:])
    jax.jit(lambda x: (x, fn(*given)))(1.0)
    with pytest.raises(ValueError, match=r"jax\.nn\.softmax|got NaN"):
        jax.jit(lambda x: (x, fn(bad, *given[1:])))(1.0)
