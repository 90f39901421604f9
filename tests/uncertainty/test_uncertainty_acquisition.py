"""Acquisition scores and batches against loops over all labels, in NumPy and float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import special

from jaxdrop.uncertainty import batch_bald, mean_std, mutual_information


def simplex(*shape, scale=2.0, seed=0):
    """Random rows of probabilities, float32."""
    logits = np.random.default_rng(seed).normal(size=shape) * scale
    return special.softmax(logits, axis=-1).astype(np.float32)


def close(got, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(got, expected, rtol, atol)


# --- mean deviation


@pytest.mark.parametrize("shape", [(9, 4), (1, 3), (5, 2), (6, 4, 2, 10), (3, 0, 2)])
def test_mean_std_is_numpys(shape):
    p = simplex(*shape)
    close(mean_std(p), p.astype(np.float64).std(0).mean(-1))


def test_gradient_of_mean_std():
    slope = jax.grad(lambda p: mean_std(p).sum())(np.eye(3, dtype=np.float32)[None])
    np.testing.assert_array_equal(slope, 0)
    with jax.enable_x64(True):
        check_grads(mean_std, (simplex(5, 3, 4).astype(np.float64),), order=2)


# --- batches


def joint_information(p, chosen):
    """Mutual information of the labels of the chosen examples and the weights, label by label."""
    p = p.astype(np.float64)
    joint, classes = 0.0, range(p.shape[2])
    for labels in itertools.product(classes, repeat=len(chosen)):
        mean = np.prod([p[:, i, c] for i, c in zip(chosen, labels)], axis=0).mean()
        joint += special.entr(mean)
    return joint - special.entr(p[:, chosen]).sum(-1).mean(0).sum()


def greedy(p, batch_size):
    chosen, scores = [], []
    for _ in range(batch_size):
        rest = [i for i in range(p.shape[1]) if i not in chosen]
        values = [joint_information(p, [*chosen, i]) for i in rest]
        chosen.append(rest[int(np.argmax(values))])
        scores.append(max(values))
    return chosen, scores


@pytest.mark.parametrize(
    ("shape", "batch_size"),
    [((6, 12, 3), 4), ((20, 8, 2), 6), ((1, 4, 3), 3), ((5, 3, 4), 3), ((4, 5, 2), 5)],
)
def test_batch_is_that_of_a_loop_over_all_labels(shape, batch_size):
    p = simplex(*shape)
    got = batch_bald(p, batch_size)
    chosen, scores = greedy(p, batch_size)
    close(got.scores, scores, atol=2e-6)
    assert len(set(got.indices.tolist())) == batch_size
    if shape[0] > 1:  # else all scores are 0
        assert got.indices.tolist() == chosen


def test_first_choice_is_that_of_mutual_information():
    p = simplex(50, 100, 10)
    got = batch_bald(p, 1)
    scores = mutual_information(p)
    assert int(got.indices[0]) == int(scores.argmax())
    close(got.scores[0], scores.max(), rtol=1e-6)


def test_copies_are_not_chosen_twice():
    p = simplex(30, 6, 3)
    p = p[:, np.argsort(-mutual_information(p))]
    copies = np.concatenate([p[:, :1]] * 4 + [p[:, 1:]], axis=1)
    chosen = batch_bald(copies, 3).indices.tolist()
    assert chosen[0] == 0 and min(chosen[1:]) >= 4  # the others lie behind the four copies
    assert np.argsort(-mutual_information(copies), stable=True)[:3].tolist() == [0, 1, 2]


def test_sure_samples_tell_no_more_than_their_number():
    votes = np.random.default_rng(0).integers(0, 2, (4, 10))
    got = batch_bald(np.eye(2, dtype=np.float32)[votes], 5)
    close(got.scores[-1], np.log(4))
    assert (np.asarray(got.scores) <= np.log(4) + 1e-6).all()
    agreed = batch_bald(np.broadcast_to(np.eye(3, dtype=np.float32), (7, 3, 3)), 3)
    np.testing.assert_array_equal(agreed.scores, 0)
    assert agreed.indices.tolist() == [0, 1, 2]


def test_scores_never_fall():
    got = batch_bald(simplex(3, 16, 2, scale=0.01), 16)
    assert (np.diff(got.scores) >= 0).all()
    assert sorted(got.indices.tolist()) == list(range(16))


def test_large_joint_distributions_are_added_up_well():
    p = simplex(8, 7, 10, scale=1.0)
    with jax.enable_x64(True):
        expected = batch_bald(p.astype(np.float64), 5)
    got = batch_bald(p, 5)
    np.testing.assert_array_equal(got.indices, expected.indices)
    close(got.scores, expected.scores, rtol=2e-5)


@pytest.mark.usefixtures("jitted")
def test_memory_does_not_grow_with_the_candidates():
    def temporary(candidates):
        shape = jax.ShapeDtypeStruct((20, candidates, 10), jnp.float32)
        compiled = jax.jit(lambda p: batch_bald(p, 5)).lower(shape).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(1000) < 2**24  # all candidates at once would take 400 MB
    assert temporary(1000) < 1.1 * temporary(200)


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
def test_traced_nan_gives_nan_scores():
    p = jnp.asarray(simplex(5, 6, 3)).at[0, 2].set(jnp.nan)
    assert np.isnan(jax.jit(lambda p: batch_bald(p, 2))(p).scores).all()


THIRD = np.full((4, 5, 3), 1 / 3, np.float32)
BAD = [
    (THIRD[0], 2, ValueError, r"expected shape \(S, N, C\), got \(5, 3\); put samples"),
    (THIRD[None], 2, ValueError, r"\(S, N, C\), got \(1, 4, 5, 3\)"),
    (THIRD * 2, 2, ValueError, "sum to 1 over the last axis.*jax.nn.softmax"),
    (THIRD, 6, ValueError, "at most 5, the number of candidates, got 6; choose fewer"),
    (THIRD, 0, ValueError, "batch_size: expected at least one example, got 0; write"),
    (THIRD, 2.0, TypeError, "batch_size: expected a Python integer, got 2.0; write"),
    (THIRD, True, TypeError, "batch_size: expected a Python integer, got True"),
    (simplex(2, 20, 10), 7, ValueError, r"at most 6 for 10 classes, got 7.*10\*\*7.*top_k"),
    (simplex(2, 30, 2), 20, ValueError, r"at most 19 for 2 classes, got 20: the joint.*million"),
]


@pytest.mark.parametrize(("p", "batch_size", "error", "match"), BAD)
def test_bad_batches_are_refused(p, batch_size, error, match):
    with pytest.raises(error, match=match):
        batch_bald(p, batch_size)
    batch_bald(THIRD, np.int64(2))
