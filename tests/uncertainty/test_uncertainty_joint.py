"""The likelihood of several labels together against a product in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxdrop.uncertainty import joint_log_likelihood, negative_log_likelihood


def simplex(*shape, scale=2.0, seed=0):
    """Random rows of probabilities, float32."""
    logits = np.random.default_rng(seed).normal(size=shape) * scale
    return special.softmax(logits, axis=-1).astype(np.float32)


def random_labels(*shape, classes, seed=1):
    return np.random.default_rng(seed).integers(0, classes, shape)


def close(got, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(got, expected, rtol, atol)


@pytest.mark.parametrize("shape", [(9, 5, 4), (1, 3, 2), (7, 6, 5, 3), (4, 2, 3, 10, 2), (5, 1, 3)])
def test_joint_likelihood_is_that_of_a_loop(shape):
    p, labels = simplex(*shape), random_labels(*shape[1:-1], classes=shape[-1])
    groups = p.astype(np.float64).reshape(shape[0], -1, *shape[-2:])
    expected = []
    for group, chosen in enumerate(labels.reshape(-1, shape[-2])):
        each = [np.prod(sample[group, np.arange(shape[-2]), chosen]) for sample in groups]
        expected.append(np.log(np.mean(each)))
    close(joint_log_likelihood(p, labels), np.mean(expected))


def test_one_input_is_the_likelihood_of_the_average():
    p, labels = simplex(7, 20, 4), random_labels(20, classes=4)
    expected = -negative_log_likelihood(p.mean(0), labels)
    close(joint_log_likelihood(p[:, :, None], labels[:, None]), expected)
    close(joint_log_likelihood(p[:1], labels), 20 * -negative_log_likelihood(p[0], labels))


def test_equal_averages_are_told_apart_by_labels_together():
    """A fair coin, and one that is bent either way, throw after throw."""
    throws = np.zeros(50, int)
    bent = np.repeat(np.array([[[0.9, 0.1]], [[0.1, 0.9]]]), 50, axis=1)
    fair = np.full((2, 50, 2), 0.5)
    close(joint_log_likelihood(bent, throws), np.log((0.9**50 + 0.1**50) / 2))
    close(joint_log_likelihood(fair, throws), 50 * np.log(0.5))


def test_many_inputs_do_not_vanish():
    p, labels = simplex(5, 3000, 10), random_labels(3000, classes=10)
    logs = np.log(p.astype(np.float64))[:, np.arange(3000), labels].sum(-1)
    close(joint_log_likelihood(p, labels), special.logsumexp(logs) - np.log(5))
    assert logs.max() < -1000  # far below what a product of floats can hold


def test_a_sample_that_rules_the_labels_out_does_not_count():
    p, labels = np.array([[[0.5, 0.5]] * 3, [[0.0, 1.0]] * 3], np.float32), np.array([0, 0, 1])
    close(joint_log_likelihood(p, labels), np.log(0.125 / 2))
    nowhere = np.repeat(p[1:], 2, axis=0)
    close(joint_log_likelihood(nowhere, labels), 2 * np.log(np.finfo(np.float32).tiny))
    assert np.isfinite(jax.grad(joint_log_likelihood)(nowhere, labels)).all()


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
@pytest.mark.parametrize("bad", [-1, 4])
def test_traced_labels_that_are_no_class_give_nan(bad):
    p, labels = simplex(3, 5, 4), random_labels(5, classes=4)
    assert np.isfinite(jax.jit(joint_log_likelihood)(p, labels))
    assert np.isnan(jax.jit(joint_log_likelihood)(p, np.append(labels[1:], bad)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint32])
def test_labels_of_any_integer_dtype(dtype):
    p, labels = simplex(3, 5, 300), random_labels(5, classes=100)
    close(joint_log_likelihood(p, labels.astype(dtype)), joint_log_likelihood(p, labels), rtol=0)


P = simplex(3, 5, 4)
BAD = [
    (P[0], np.zeros(4, int), ValueError, r"expected shape \(S, B..., T, C\), got \(5, 4\); put"),
    (P[0, 0], 0, ValueError, r"expected shape \(S, ..., C\) with at least one sample, got \(4,\)"),
    (P, np.zeros((3, 5), int), ValueError, r"labels: expected shape \(5,\) .*got \(3, 5\); give"),
    (P, np.full(5, 4), ValueError, r"labels: .* in \[0, 4\), got values from 4 to 4; count"),
    (P, np.zeros(5), TypeError, "labels: expected class numbers of an integer dtype, got dtype fl"),
    (P[:, :0], np.zeros(0, int), ValueError, r"at least one example, got shape \(0,\); leave"),
    (jnp.log(P), np.zeros(5, int), ValueError, "numbers in .* that sum to 1 .*jax.nn.softmax"),
    (P[..., :1], np.zeros(5, int), ValueError, r"two classes.*concatenate\(\[1 - p, p\]"),
]


@pytest.mark.parametrize(("p", "labels", "error", "match"), BAD)
def test_bad_groups_are_refused(p, labels, error, match):
    with pytest.raises(error, match=match):
        joint_log_likelihood(p, labels)
