"""Acquisition scores and batches against loops over all labels, in NumPy and float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy import special

from jaxdrop.uncertainty import batch_bald, epig, mean_std, mutual_information, predictive_entropy


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


# --- predictive information


def pairwise_information(p, q):
    """Mean over the targets of the mutual information of two labels, pair by pair."""
    p, q = p.astype(np.float64), q.astype(np.float64)
    scores = np.zeros(p.shape[1])
    for n, m in itertools.product(range(p.shape[1]), range(q.shape[1])):
        joint = np.einsum("sc,sd->cd", p[:, n], q[:, m]) / len(p)
        apart = np.outer(p[:, n].mean(0), q[:, m].mean(0))
        scores[n] += special.rel_entr(joint, apart).sum() / q.shape[1]
    return scores


@pytest.mark.parametrize(
    ("pool", "targets"),
    [
        ((6, 5, 3), (6, 4, 3)),
        ((20, 3, 2), (20, 7, 5)),
        ((1, 4, 3), (1, 2, 3)),
        ((4, 0, 3), (4, 1, 3)),
    ],
)
def test_epig_is_that_of_a_loop_over_all_pairs(pool, targets):
    p, q = simplex(*pool), simplex(*targets, seed=1)
    got = epig(p, q)
    assert got.shape == pool[1:2]
    close(got, pairwise_information(p, q))


@pytest.mark.parametrize(("scale", "rtol"), [(1.0, 3e-6), (1e-1, 2e-4), (1e-2, 2e-2)])
def test_epig_keeps_what_a_difference_of_entropies_rounds_away(scale, rtol):
    p, q = simplex(50, 300, 4, scale=scale, seed=2), simplex(50, 1, 4, scale=scale, seed=3)
    close(epig(p, q), pairwise_information(p, q), rtol=rtol, atol=0)
    assert (np.asarray(epig(p, q)) >= 0).all()


def test_epig_of_pairs_in_several_chunks():
    """As many classes and targets as do not fit at once, the rest of a chunk included."""
    p, q = simplex(3, 2, 300), simplex(3, 14, 300, seed=1)
    each = np.stack([epig(p, q[:, m : m + 1]) for m in range(14)])
    close(epig(p, q), each.mean(0))
    close(epig(p, q)[1:], pairwise_information(p[:, 1:], q))


def test_epig_is_at_most_what_the_label_tells_about_the_weights():
    p, q = simplex(30, 40, 3), simplex(30, 20, 4, seed=1)
    got = np.asarray(epig(p, q))
    assert (got <= mutual_information(p) + 1e-6).all()
    assert (got <= predictive_entropy(q).mean() + 1e-6).all()


def test_epig_of_closed_forms():
    sure = np.eye(3, dtype=np.float32)[:, None]  # each sample is sure of a class of its own
    agreed = np.full((3, 1, 3), 1 / 3, np.float32)
    close(epig(sure, sure), [np.log(3)])
    close(epig(sure, np.concatenate([sure, agreed], axis=1)), [np.log(3) / 2])
    for pair in ((sure, agreed), (agreed, sure), (agreed, agreed), (sure[:1], sure[:1])):
        close(epig(*pair), [0], atol=1e-7)
    # What one half of the samples says, and what the other: two bits, which are independent.
    first = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)[:, None]
    second = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], np.float32)[:, None]
    close(epig(first, second), [0])
    close(epig(first, first[:, :, ::-1]), [np.log(2)])


def test_epig_prefers_what_matters_for_the_targets():
    targets = simplex(40, 10, 3)
    far = 4 * np.random.default_rng(5).normal(size=(40, 1, 3))  # uncertain, and unlike them
    pool = np.concatenate([special.softmax(far, -1).astype(np.float32), targets[:, :1]], axis=1)
    assert int(mutual_information(pool).argmax()) == 0
    assert int(epig(pool, targets).argmax()) == 1


def test_gradient_of_epig():
    with jax.enable_x64(True):
        p, q = (simplex(5, 3, 4, seed=i).astype(np.float64) for i in (0, 1))
        check_grads(epig, (p, q), order=1, modes=("fwd", "rev"), rtol=1e-4)
    sure = np.eye(3, dtype=np.float32)[:, None]
    assert np.isfinite(jax.grad(lambda p: epig(p, sure).sum())(sure)).all()


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
def test_nan_in_a_candidate_is_its_own_and_nan_in_a_target_is_everyones():
    p, q = jnp.asarray(simplex(5, 4, 3)), jnp.asarray(simplex(5, 2, 3, seed=1))
    got = jax.jit(epig)(p.at[1, 2, 0].set(jnp.nan), q)
    np.testing.assert_array_equal(np.isnan(got), [False, False, True, False])
    assert np.isnan(jax.jit(epig)(p, q.at[1, 1, 0].set(jnp.nan))).all()


@pytest.mark.usefixtures("jitted")
def test_memory_of_epig_does_not_grow_with_candidates_and_targets():
    def temporary(candidates, targets, classes):
        shapes = [(20, number, classes) for number in (candidates, targets)]
        given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return jax.jit(epig).lower(*given).compile().memory_analysis().temp_size_in_bytes

    # All pairs at once would take 400 MB for ten classes and 16 GB for a thousand.
    assert temporary(1000, 1000, 10) < 2**26
    assert temporary(100, 40, 1000) < 2**26


BAD_PAIRS = [
    (THIRD[0], THIRD, ValueError, r"pool_probabilities: expected shape \(S, N, C\), got \(5, 3\)"),
    (THIRD, THIRD[None], ValueError, r"target_probabilities: .*, got \(1, 4, 5, 3\); put samples"),
    (THIRD, THIRD[:2], ValueError, "the same samples on axis 0, got 4 and 2; predict both with"),
    (THIRD, THIRD[:, :0], ValueError, r"at least one target, got shape \(4, 0, 3\); give inputs"),
    (THIRD, 2 * THIRD, ValueError, "^target_probabilities: .* sum to 1 .*jax.nn.softmax"),
    (2 * THIRD, THIRD, ValueError, "^pool_probabilities: .* sum to 1 .*jax.nn.softmax"),
    (THIRD > 0, THIRD, TypeError, "^pool_probabilities: expected a floating array, got dtype bool"),
    (THIRD, THIRD[..., :1], ValueError, r"^target_prob.* two classes.*concatenate\(\[1 - p, p\]"),
]


@pytest.mark.parametrize(("pool", "targets", "error", "match"), BAD_PAIRS)
def test_bad_pairs_are_refused(pool, targets, error, match):
    with pytest.raises(error, match=match):
        epig(pool, targets)
