"""Uncertainty by scoring rule and by class, against sums in float64 and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import special, stats

from jaxdrop.uncertainty import (
    accuracy,
    brier_score,
    epistemic_by_class,
    mutual_information,
    negative_log_likelihood,
    scoring_rule_split,
)

ENTROPIES = {
    "log": lambda p: stats.entropy(p, axis=-1),
    "brier": lambda p: 1 - np.square(p).sum(-1),
    "zero_one": lambda p: 1 - p.max(-1),
}
LOSSES = {
    "log": negative_log_likelihood,
    "brier": brier_score,
    "zero_one": lambda p, labels: 1 - accuracy(p, labels),
}
each_rule = pytest.mark.parametrize("rule", ENTROPIES)


def simplex(*shape, scale=2.0, seed=0):
    """Random rows of probabilities, float32."""
    logits = np.random.default_rng(seed).normal(size=shape) * scale
    return special.softmax(logits, axis=-1).astype(np.float32)


def close(got, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol, atol), got, expected)


# --- by scoring rule


@pytest.mark.parametrize("shape", [(9, 4), (1, 3), (5, 2), (6, 4, 2, 10), (3, 0, 2)])
@each_rule
def test_parts_are_the_entropies_of_the_rule(rule, shape):
    p = simplex(*shape)
    wide, entropy = p.astype(np.float64), ENTROPIES[rule]
    total, aleatoric = entropy(wide.mean(0)), entropy(wide).mean(0)
    close(tuple(scoring_rule_split(p, rule)), (total - aleatoric, aleatoric, total))


@each_rule
def test_total_is_the_loss_that_the_prediction_expects(rule):
    """Of labels drawn from it: the mean over all labels, by the library's score."""
    p = simplex(7, 4)
    mean = p.mean(0)
    losses = [float(LOSSES[rule](mean[None], np.array([label]))) for label in range(4)]
    close(scoring_rule_split(p, rule).total, mean @ np.array(losses))


@pytest.mark.parametrize(("scale", "rtol"), [(1e-1, 1e-4), (1e-2, 1e-3)])
@each_rule
def test_epistemic_part_keeps_its_digits_and_is_never_negative(rule, scale, rtol):
    p = simplex(50, 300, 5, scale=scale)
    split = scoring_rule_split(p, rule)
    wide, entropy = p.astype(np.float64), ENTROPIES[rule]
    assert (np.asarray(split.epistemic) >= 0).all()
    close(split.epistemic, entropy(wide.mean(0)) - entropy(wide).mean(0), rtol=rtol, atol=1e-8)


def test_log_is_the_default_and_is_mutual_information():
    p = simplex(9, 4)
    np.testing.assert_array_equal(scoring_rule_split(p).epistemic, mutual_information(p))


def test_brier_is_the_variance():
    p = simplex(9, 5, 4)
    close(scoring_rule_split(p, "brier").epistemic, p.astype(np.float64).var(0).sum(-1))


def test_zero_one_is_what_the_vote_costs():
    agreed = np.array([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0]], np.float32)
    close(tuple(scoring_rule_split(agreed, "zero_one")), (0, 0.3, 0.3), atol=1e-7)
    at_odds = np.array([[1.0, 0, 0], [0, 1, 0]], np.float32)
    close(tuple(scoring_rule_split(at_odds, "zero_one")), (0.5, 0, 0.5))
    tied = np.array([[0.6, 0.4], [0.4, 0.6]], np.float32)
    close(scoring_rule_split(tied, "zero_one").epistemic, 0.1)


@each_rule
def test_closed_forms_of_splits(rule):
    at_odds = np.eye(4, dtype=np.float32)
    most = np.log(4) if rule == "log" else 3 / 4
    close(tuple(scoring_rule_split(at_odds, rule)), (most, 0, most), atol=1e-7)
    close(tuple(scoring_rule_split(np.full((3, 4), 0.25), rule)), (0, most, most), atol=1e-7)
    for part in scoring_rule_split(at_odds[:1], rule):
        assert part == 0 and not np.signbit(part)


@each_rule
def test_gradients_of_splits(rule):
    with jax.enable_x64(True):
        p = simplex(5, 3, 4, scale=0.5).astype(np.float64)
        check_grads(lambda p: tuple(scoring_rule_split(p, rule)), (p,), order=1, rtol=1e-4)


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
@each_rule
def test_nan_in_a_row_is_in_every_part_of_it_alone(rule):
    p = jnp.asarray(simplex(5, 3, 4)).at[1, 2, 0].set(jnp.nan)
    for part in jax.jit(lambda p: scoring_rule_split(p, rule))(p):
        np.testing.assert_array_equal(np.isnan(part), [False, False, True])


@pytest.mark.parametrize("rule", ["brier_score", None, 2, ["log"], np.array(["log", "brier"])])
def test_unknown_rules_are_refused(rule):
    with pytest.raises(ValueError, match=r"rule: expected 'log', 'brier' or 'zero_one', got .*; w"):
        scoring_rule_split(simplex(5, 4), rule)


# --- by class


@pytest.mark.parametrize("shape", [(9, 4), (1, 3), (6, 4, 2, 10), (3, 0, 2)])
def test_share_of_a_class_is_variance_over_twice_the_mean(shape):
    p = simplex(*shape)
    wide = p.astype(np.float64)
    assert epistemic_by_class(p).shape == shape[1:]
    close(epistemic_by_class(p), wide.var(0) / (2 * wide.mean(0)))


def test_shares_add_up_to_mutual_information_to_second_order():
    """The rest is of third order: a tenth of the spread leaves a thousandth of it."""
    rest = []
    for scale in (1e-1, 1e-2):
        with jax.enable_x64(True):
            p = special.softmax(scale * np.random.default_rng(0).normal(size=(50, 5, 4)), axis=-1)
            information = np.asarray(mutual_information(p))
            difference = np.asarray(epistemic_by_class(p)).sum(-1) - information
        assert abs(difference).max() < information.min() * scale
        rest.append(abs(difference).max())
    assert 500 < rest[0] / rest[1] < 2000


def test_rare_classes_keep_their_share():
    p = np.array([[1, 2e-30, 0, 1e-40], [1, 0, 0, 0]], np.float32)
    close(epistemic_by_class(p), [0, 5e-31, 0, 0], rtol=1e-6, atol=0)
    never = np.array([[0.5, 0.5, 0], [0.25, 0.75, 0]], np.float32)
    slope = jax.grad(lambda p: epistemic_by_class(p).sum())(never)
    assert np.isfinite(slope).all() and not slope[:, 2].any()


def test_gradient_of_shares():
    with jax.enable_x64(True):
        check_grads(epistemic_by_class, (simplex(5, 3, 4).astype(np.float64),), order=2, rtol=1e-4)


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
def test_nan_in_a_class_is_in_the_whole_row():
    p = jnp.asarray(simplex(5, 3, 4)).at[1, 2, 0].set(jnp.nan)
    got = np.isnan(jax.jit(epistemic_by_class)(p))
    np.testing.assert_array_equal(got, np.broadcast_to([[False], [False], [True]], (3, 4)))
