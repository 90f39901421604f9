"""Class probabilities of samples: yes or no, one class, and numbers that rounding may spoil."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxdrop import mc
from tests.mc.test_mc_summaries import normal, reduce
from tests.support.cases import key

LOGITS = 3 * normal(23, 6, seed=3)
of_shapes = pytest.mark.parametrize("shape", [(6,), (6, 1), (2, 3), (2, 3, 1)])


def noise(key, x):
    return x + jax.random.normal(key, x.shape, x.dtype)


def close(got, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), got, expected)


# --- yes or no


@of_shapes
@pytest.mark.parametrize("from_logits", [True, False])
def test_yes_or_no_is_two_classes(shape, from_logits):
    given = (LOGITS if from_logits else jax.nn.sigmoid(LOGITS)).reshape(23, *shape)
    out = reduce(mc.classification(binary=True, from_logits=from_logits), given, 7)
    rows = shape[:-1] if shape[-1] == 1 else shape
    assert out.probabilities.shape == (*rows, 2)
    assert {leaf.shape for leaf in out[1:5]} == {rows}
    p = special.expit(np.asarray(LOGITS, np.float64)).reshape(23, *rows)
    close(out.probabilities, np.stack([1 - p, p], -1).mean(0))
    entropy = special.entr(p) + special.entr(1 - p)
    close(out.expected_entropy, entropy.mean(0))
    close(out.predictive_entropy, special.entr(p.mean(0)) + special.entr(1 - p.mean(0)))
    close(out.variation_ratio, 0.5 - abs((p > 0.5).mean(0) - 0.5))
    assert (out.mutual_information > 0.05).all()


def test_yes_or_no_is_a_softmax_over_no_and_yes():
    two = jnp.stack([jnp.zeros_like(LOGITS), LOGITS], -1)
    close(reduce(mc.classification(binary=True), LOGITS), reduce(mc.classification(), two))


def test_a_scalar_output_is_one_question():
    out = mc.predict(jax.random.normal, key(), summary=mc.classification(binary=True))
    assert out.probabilities.shape == (2,) and out.variation_ratio.shape == ()
    assert 0.3 < out.variation_ratio <= 0.5


@pytest.mark.parametrize("keys", ["batch", "example"])
def test_rows_of_batches_are_rows_whatever_their_number(keys):
    for output in (lambda key, x: noise(key, x[:, 0]), lambda key, x: noise(key, x[:, :1])):
        for sizes in ((4, 4, 1), (1, 1)):
            batches = [np.zeros((size, 3), np.float32) for size in sizes]
            summary = mc.classification(binary=True)
            out = mc.predict_batches(
                output, key(), batches, summary=summary, keys=keys, num_samples=20, progress=False
            )
            assert out.probabilities.shape == (sum(sizes), 2)
            assert out.mutual_information.shape == (sum(sizes),)


@pytest.mark.parametrize("shape", [(5, 1), (1,), (5, 3, 1)])
@pytest.mark.parametrize("from_logits", [True, False])
def test_one_class_is_refused_by_the_name_of_what_works(shape, from_logits):
    fn = lambda key: jax.nn.sigmoid(jax.random.normal(key, shape))  # noqa: E731
    summary = mc.classification(from_logits=from_logits)
    match = r"two classes or more .*; write classification\(binary=True\) .*from_logits=False\)"
    with pytest.raises(ValueError, match=match):
        mc.predict(fn, key(), summary=summary)
    with pytest.raises(ValueError, match=match):
        jax.jit(lambda key: mc.predict(fn, key, summary=summary))(key())
    works = mc.classification(binary=True, from_logits=False)
    assert mc.predict(fn, key(), summary=works).variation_ratio.shape == (shape[:-1] or (1,))


@pytest.mark.usefixtures("nan_on_purpose")
def test_sigmoids_of_several_classes_are_refused_by_the_name_of_what_works():
    fn = lambda key: jax.nn.sigmoid(jax.random.normal(key, (5, 3)))  # noqa: E731
    match = r"got other numbers; write.*classification\(binary=True, from_logits=False\) if each"
    with pytest.raises(ValueError, match=match):
        mc.predict(fn, key(), summary=mc.classification(from_logits=False))
    works = mc.classification(binary=True, from_logits=False)
    assert mc.predict(fn, key(), summary=works).probabilities.shape == (5, 3, 2)


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
@pytest.mark.parametrize("shift", [0.5, -0.5, 5])
def test_numbers_that_are_no_probability_are_refused_or_nan(shift):
    def predict(key):
        fn = lambda key: shift + jax.random.uniform(key, (5, 1))  # noqa: E731
        return mc.predict(fn, key, summary=mc.classification(binary=True, from_logits=False))

    with pytest.raises(ValueError, match=r"in \[0, 1\], got other.*classification\(binary=True"):
        predict(key())
    traced = jax.jit(predict)(key())
    assert all(np.isnan(leaf).all() for leaf in traced if leaf.dtype != jnp.int32)


@pytest.mark.usefixtures("nan_on_purpose")
def test_samples_that_are_probabilities_on_average_only_are_refused():
    drawn = jnp.array([[[0.5, 0.0]], [[0.5, 1.0]]])
    summary = mc.classification(from_logits=False)
    assert np.isnan(reduce(summary, drawn).probabilities).all()


# --- numbers


@pytest.mark.parametrize("num_samples", [3, 5, 7, 10, 30, 47, 49])
def test_shares_and_probabilities_stay_in_their_range(num_samples):
    """1 - 7 / 7 is less than 0 where the compiler multiplies by a rounded 1 / 7."""
    x = jnp.tile(jnp.array([[5.0, 0, 1], [0, 50, 0]]), (9, 1))
    fn = lambda key, x: x + 1e-3 * jax.random.normal(key, x.shape)  # noqa: E731
    options = {"num_samples": num_samples, "chunk_size": num_samples}
    out = mc.predict(fn, key(), x, summary=mc.classification(), **options)
    np.testing.assert_array_equal(out.variation_ratio, 0)
    assert (out.log_probabilities <= 0).all() and (out.probabilities <= 1).all()
    for part in (out.predictive_entropy, out.expected_entropy, out.mutual_information):
        assert (part >= 0).all()


def test_close_logits_vote_for_the_larger():
    """Their probabilities are rounded to the same number."""
    z = jnp.tile(jnp.array([[0, 1e-9], [1e-9, 0], [0, 0]], jnp.float32), (5, 1, 1))
    votes = reduce(mc.classification(), z).votes
    np.testing.assert_array_equal(votes, [[0, 5], [5, 0], [5, 0]])
    votes = reduce(mc.classification(binary=True), z).votes
    np.testing.assert_array_equal(votes, [[[5, 0], [0, 5]], [[0, 5], [5, 0]], [[5, 0], [5, 0]]])


@pytest.mark.usefixtures("nan_on_purpose")
@pytest.mark.parametrize("from_logits", [True, False])
def test_a_row_of_nan_leaves_the_others_as_they_are(from_logits):
    def fn(key, x):
        z = noise(key, x)
        return z if from_logits else jax.nn.softmax(z)

    x = jnp.zeros((5, 3))
    summary = mc.classification(from_logits=from_logits)
    clean = mc.predict(fn, key(), x, summary=summary)
    out = mc.predict(fn, key(), x.at[1].set(jnp.nan), summary=summary)
    for name, leaf in out._asdict().items():
        expected = np.asarray(getattr(clean, name)).copy()
        expected[1] = 0 if name == "votes" else np.nan
        np.testing.assert_allclose(leaf, expected, rtol=1e-6)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_classification_in_a_program_with_64_bits(dtype, from_logits, binary):
    with jax.enable_x64(True):

        def fn(key, x):
            z = noise(key, x)
            return z if from_logits else jax.nn.sigmoid(z) if binary else jax.nn.softmax(z)

        summary = mc.classification(from_logits=from_logits, binary=binary)
        out = mc.predict(fn, key(), jnp.zeros((5, 3), dtype), num_samples=25, summary=summary)
        wide = jnp.float64 if dtype == jnp.float64 else jnp.float32
        assert {leaf.dtype for leaf in out} == {np.dtype(wide), np.dtype("int32")}
        assert (out.votes.sum(-1) == 25).all()
        assert ((out.variation_ratio >= 0) & (out.variation_ratio < 1)).all()


@pytest.mark.parametrize("name", ["from_logits", "binary"])
@pytest.mark.parametrize("bad", [1, None, "yes", np.True_])
def test_switches_are_bools(name, bad):
    with pytest.raises(TypeError, match=rf"^{name}: expected True or False, got .*write classifi"):
        mc.classification(**{name: bad})
