"""Summaries of samples, against NumPy in float64 on the samples themselves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from jaxdrop import mc, uncertainty
from tests.support.cases import assert_same_bits, compilations, key

chunked = pytest.mark.parametrize("chunk_size", [1, 7, 100])


def reduce(summary, drawn, chunk_size=10):
    """The result of a summary of given samples that arrive in chunks, as `predict` hands them."""
    count = len(jax.tree.leaves(drawn)[0])
    sample = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), drawn)
    state, update = summary.init(sample, count), jax.jit(summary.update)
    for start in range(0, count, chunk_size):
        chunk = jax.tree.map(lambda leaf, s=start: leaf[s : s + chunk_size], drawn)
        state = update(state, chunk, jnp.int32(start))
    return jax.jit(summary.result)(state)


def normal(*shape, seed=0, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_moments(out, drawn, rtol=1e-5):
    drawn = np.asarray(drawn, np.float64)
    error = drawn.std(0, ddof=1) / np.sqrt(len(drawn))
    np.testing.assert_allclose(out.mean, drawn.mean(0), rtol=rtol, atol=1e-6)
    np.testing.assert_allclose(out.variance, drawn.var(0), rtol=rtol)
    np.testing.assert_allclose(out.standard_error, error, rtol=rtol)


@chunked
@pytest.mark.parametrize("num_samples", [2, 23, 100])
def test_moments_are_those_of_the_samples(num_samples, chunk_size):
    drawn = 3 + normal(num_samples, 4, 3)
    assert_moments(reduce(mc.moments(), drawn, chunk_size), drawn)


def test_moments_of_100_samples_are_the_default():
    drawn = mc.predict(noise, key(), jnp.zeros(5), num_samples=100, summary=mc.samples())
    for arguments in ({}, {"summary": mc.moments(), "num_samples": 100, "chunk_size": 7}):
        out = mc.predict(noise, key(), jnp.zeros(5), **arguments, balanced=False)
        assert_moments(out, drawn)


@chunked
def test_small_variance_beside_a_large_mean(chunk_size):
    """E[x²] - E[x]² would give 0 or worse: 1e-4 beside 1e6 is below float32."""
    drawn = 1000 + 0.01 * normal(100, 50)
    assert_moments(reduce(mc.moments(), drawn, chunk_size), drawn, rtol=0.01)


@chunked
def test_shift_between_chunks_is_variance_too(chunk_size):
    """Samples that drift apart while every chunk by itself is narrow."""
    drawn = jnp.linspace(0, 100, 100, dtype=jnp.float32)[:, None] + 0.01 * normal(100, 3)
    assert_moments(reduce(mc.moments(), drawn, chunk_size), drawn)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_outputs_accumulate_in_float32(dtype):
    """1000 times 128 or 129, neighbours in bfloat16, whose sum bfloat16 cannot hold."""
    drawn = jnp.where(normal(1000, 50) > 0, 129, 128).astype(dtype)
    out = reduce(mc.moments(), drawn)
    assert {leaf.dtype for leaf in out} == {np.dtype("float32")}
    assert_moments(out, drawn)
    out = reduce(mc.classification(), drawn)._replace(votes=jnp.float32(0))
    assert {leaf.dtype for leaf in out} == {np.dtype("float32")}


def test_wide_outputs_stay_wide():
    with jax.enable_x64(True):
        drawn = 1e9 + normal(23, 5, dtype=jnp.float64)
        out = reduce(mc.moments(), drawn)
        assert {leaf.dtype for leaf in out} == {np.dtype("float64")}
        assert_moments(out, drawn)


def test_one_sample_says_nothing_about_its_error():
    out = reduce(mc.moments(), normal(1, 3))
    assert (np.asarray(out.variance) == 0).all()
    assert np.isposinf(out.standard_error).all()


def test_outputs_may_be_a_pytree():
    drawn = {"a": normal(23, 4, 3), "b": (normal(23, seed=1), None)}
    out = reduce(mc.moments(), drawn)
    for part in out:
        assert jax.tree.structure(part) == jax.tree.structure(drawn)
        assert (part["a"].shape, part["b"][0].shape) == ((4, 3), ())
    for select in (lambda tree: tree["a"], lambda tree: tree["b"][0]):
        assert_moments(mc.Moments(*map(select, out)), select(drawn))
    jax.tree.map(assert_same_bits, reduce(mc.samples(), drawn), drawn)


def test_samples_have_the_dtype_and_number_of_the_outputs():
    def fn(key):
        return {
            "words": jax.random.bits(key, (5,)),
            "half": jax.random.normal(key, (), jnp.bfloat16),
        }

    with jax.debug_key_reuse(False):  # the same key twice, to see that samples of both go together
        drawn = mc.predict(fn, key(), num_samples=3, chunk_size=2, summary=mc.samples())
        for i in range(3):
            one = fn(jax.random.fold_in(key(), i))
            for name, leaf in one.items():
                assert_same_bits(drawn[name][i], leaf)


def noise(key, x):
    return x + jax.random.normal(key, x.shape)


# Classification.


@chunked
@pytest.mark.parametrize("from_logits", [True, False])
def test_classification_is_that_of_the_samples(from_logits, chunk_size):
    logits = normal(6, 4, seed=1)[None] + 2 * normal(23, 6, 4)
    probabilities = jax.nn.softmax(logits)
    summary = mc.classification(from_logits=from_logits)
    out = reduce(summary, logits if from_logits else probabilities, chunk_size)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    close(out.probabilities, probabilities.mean(0))
    close(out.predictive_entropy, uncertainty.predictive_entropy(probabilities))
    close(out.expected_entropy, uncertainty.expected_entropy(probabilities))
    close(out.mutual_information, uncertainty.mutual_information(probabilities))
    close(out.variation_ratio, uncertainty.variation_ratio(probabilities))
    close(out.log_probabilities, np.log(probabilities.mean(0)))
    close(out.standard_error, np.asarray(probabilities).std(0, ddof=1) / 23**0.5)
    votes = (np.asarray(probabilities).argmax(-1)[..., None] == np.arange(4)).sum(0)
    np.testing.assert_array_equal(out.votes, votes)
    assert {leaf.shape for leaf in out[1:5]} == {(6,)}
    assert len(np.unique(out.variation_ratio)) > 1


def test_logits_are_the_default():
    logits = normal(23, 6, 4)
    default, explicit = (
        reduce(summary, logits)
        for summary in (mc.classification(), mc.classification(from_logits=True))
    )
    jax.tree.map(assert_same_bits, default, explicit)
    np.testing.assert_allclose(default.probabilities.sum(-1), 1, rtol=1e-5)


def test_no_mutual_information_is_negative():
    """Where samples hardly differ, the difference of two rounded entropies would be."""
    logits = normal(1000, 10, seed=1)[None] + 1e-4 * normal(20, 1000, 10)
    out = reduce(mc.classification(), logits)
    assert (out.mutual_information >= 0).all()
    assert (out.mutual_information < 1e-5).all()
    assert (out.expected_entropy - out.predictive_entropy > 0).any()


def test_probabilities_that_underflow_have_their_logarithm():
    logits = jnp.array([[0.0, -200.0], [0.0, -201.0]], jnp.float32)
    out = reduce(mc.classification(), logits, chunk_size=1)
    assert out.probabilities[1] == 0
    expected = np.logaddexp(-200, -201) - np.log(2)
    np.testing.assert_allclose(out.log_probabilities[1], expected, rtol=1e-6)


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
def test_logits_for_probabilities_are_refused_or_nan():
    def predict(key):
        fn = lambda key: 3 + jax.random.normal(key, (5, 4))  # noqa: E731
        return mc.predict(fn, key, summary=mc.classification(from_logits=False))

    with pytest.raises(ValueError, match=r"expected probabilities.*got other numbers; write"):
        predict(key())
    traced = jax.jit(predict)(key())
    assert all(np.isnan(leaf).all() for leaf in traced if leaf.dtype != jnp.int32)
    one_hot = lambda key: jnp.eye(3) * (1 + 0 * jax.random.normal(key))  # noqa: E731
    out = mc.predict(one_hot, key(), summary=mc.classification(from_logits=False))
    np.testing.assert_array_equal(out.probabilities, jnp.eye(3))
    np.testing.assert_array_equal(out.predictive_entropy, 0)


# Regression, quantiles, several at once.


def by_scipy(means, variances, targets):
    """Log-density of the mixture, in float64."""
    logs = stats.norm.logpdf(np.asarray(targets), np.asarray(means), np.sqrt(variances))
    return special.logsumexp(logs, axis=0) - np.log(len(means))


@chunked
def test_variances_of_a_regression_add_up(chunk_size):
    means, variances = 5 + normal(23, 4, 3), jnp.exp(normal(23, 4, 3, seed=1))
    targets = 5 + 2 * normal(4, 3, seed=2)
    out = reduce(mc.regression(targets=targets), (means, variances), chunk_size)
    exact = np.asarray(means, np.float64), np.asarray(variances, np.float64)
    np.testing.assert_allclose(out.mean, exact[0].mean(0), rtol=1e-5)
    np.testing.assert_allclose(out.epistemic, exact[0].var(0), rtol=1e-4)
    np.testing.assert_allclose(out.aleatoric, exact[1].mean(0), rtol=1e-5)
    mixture = (exact[1] + exact[0] ** 2).mean(0) - exact[0].mean(0) ** 2
    np.testing.assert_allclose(out.total, mixture, rtol=1e-4)
    error = exact[0].std(0, ddof=1) / 23**0.5
    np.testing.assert_allclose(out.standard_error, error, rtol=1e-4)
    np.testing.assert_allclose(out.log_likelihood, by_scipy(*exact, targets), rtol=1e-4, atol=1e-5)


@chunked
@pytest.mark.parametrize("precision", [0.16, np.float32(7.0), jnp.array([0.5, 2.0, 4.0])])
def test_known_precision_is_the_inverse_of_the_noise(precision, chunk_size):
    means, targets = normal(23, 4, 3), 9 * normal(4, 3, seed=2)
    out = reduce(mc.regression(precision=precision, targets=targets), means, chunk_size)
    variance = np.broadcast_to(1 / np.asarray(precision, np.float64), (4, 3))
    np.testing.assert_allclose(out.aleatoric, variance, rtol=1e-6)
    np.testing.assert_allclose(out.total, np.asarray(means).var(0) + variance, rtol=1e-4)
    expected = by_scipy(means, variance[None], targets)
    np.testing.assert_allclose(out.log_likelihood, expected, rtol=1e-4, atol=1e-5)
    assert reduce(mc.regression(precision=precision), means).log_likelihood is None


@pytest.mark.usefixtures("jitted")
def test_new_targets_need_no_new_program():
    found, counts = [], []
    for scale in (1.0, 2.0):
        summary = mc.regression(precision=scale, targets=scale * jnp.ones(5))
        predict = functools.partial(mc.predict, noise, key(), jnp.zeros(5), summary=summary)
        count, result = compilations(predict)
        found.append(result)
        counts.append(count)
    assert counts[1] == 0
    assert (found[0].log_likelihood != found[1].log_likelihood).all()


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: mc.regression(precision=0.0), ValueError, "precision: .*got 0.0; a variance"),
        (lambda: mc.regression(precision="1"), TypeError, "precision: expected a real number"),
        (lambda: mc.regression(), ValueError, r"a pair \(mean, variance\).*got \(5,\)"),
        (
            lambda: mc.regression(precision=1.0, targets=jnp.zeros((5, 1))),
            ValueError,
            r"targets: expected the shape of the predicted means, \(5,\), got \(5, 1\)",
        ),
        (lambda: mc.quantiles(()), ValueError, "one number in .* or more, got"),
        (lambda: mc.quantiles(0.5), ValueError, "got 0.5; write"),
        (lambda: mc.quantiles((0.5, 1.5)), ValueError, "got 1.5"),
        (lambda: mc.combine(), ValueError, "one or more by name, got none"),
        (lambda: mc.combine(m=mc.moments), TypeError, "m: expected a Summary, got .*call it"),
        (lambda: mc.classification(from_logits=1), TypeError, "from_logits: expected True or"),
    ],
)
def test_wrong_summaries_are_refused(make, kind, message):
    with pytest.raises(kind, match=message):
        mc.predict(noise, key(), jnp.zeros(5), summary=make())


def test_precision_of_pairs_is_refused():
    fn = lambda key, x: (noise(key, x), x)  # noqa: E731
    with pytest.raises(ValueError, match=r"one array of means, got .*leave precision out"):
        mc.predict(fn, key(), jnp.zeros(5), summary=mc.regression(precision=1.0))


@chunked
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_quantiles_are_those_of_numpy(chunk_size, dtype):
    drawn = {"a": normal(23, 4, 3, dtype=dtype), "b": normal(23, seed=1, dtype=dtype)}
    asked = (0.05, 0.5, 0.9, 1.0)
    out = reduce(mc.quantiles(asked), drawn, chunk_size)
    for name, leaf in drawn.items():
        exact = np.asarray(leaf, np.float64)
        np.testing.assert_allclose(out.values[name], np.quantile(exact, asked, axis=0), rtol=1e-4)
        assert out.values[name].dtype == jnp.float32
        step = np.sqrt(0.9 * 0.1 / 23)
        low, high = np.quantile(exact, [0.9 - step, 0.9 + step], axis=0)
        np.testing.assert_allclose(out.standard_error[name][2], (high - low) / 2, rtol=1e-3)
    assert np.isposinf(reduce(mc.quantiles([0.5]), normal(1, 3)).standard_error).all()


def test_error_of_a_quantile_is_how_far_it_varies():
    drawn = normal(400, 2000)
    out = reduce(mc.quantiles((0.25, 0.5)), drawn)
    spread = np.asarray(out.values).std(1)
    np.testing.assert_allclose(np.asarray(out.standard_error).mean(1), spread, rtol=0.1)


@pytest.mark.usefixtures("nan_on_purpose")
def test_combined_summaries_are_each_of_them():
    fn = lambda key: jax.nn.softmax(jax.random.normal(key, (5, 3)))  # noqa: E731
    parts = {
        "moments": mc.moments(),
        "classes": mc.classification(from_logits=False),
        "band": mc.quantiles((0.1, 0.9)),
    }
    out = mc.predict(fn, key(), num_samples=23, summary=mc.combine(**parts))
    assert list(out) == sorted(parts)
    for name, summary in parts.items():
        alone = mc.predict(fn, key(), num_samples=23, summary=summary, balanced=False)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), out[name], alone)
    logits = lambda key: jax.random.normal(key, (5, 3))  # noqa: E731
    with pytest.raises(ValueError, match="expected probabilities"):
        mc.predict(logits, key(), summary=mc.combine(**parts))


# Summaries of a user, and outputs that do not fit.


def test_a_summary_is_three_functions():
    """The largest sample and its number, which needs the numbers that chunks start with."""

    def update(state, samples, start):
        best, number = state
        here = jnp.argmax(samples)
        better = samples[here] > best
        return (
            jnp.where(better, samples[here], best),
            jnp.where(better, start + here.astype(jnp.int32), number),
        )

    summary = mc.Summary(
        init=lambda sample, num_samples: (jnp.float32(-jnp.inf), jnp.int32(-num_samples)),
        update=update,
        result=lambda state: {"best": state[0], "number": state[1]},
    )
    fn = lambda key: jax.random.normal(key, (), jnp.float32)  # noqa: E731
    drawn = mc.predict(fn, key(), num_samples=23, summary=mc.samples())
    out = mc.predict(fn, key(), num_samples=23, chunk_size=7, summary=summary)
    assert_same_bits(out["best"], drawn.max())
    assert out["number"] == drawn.argmax()


@pytest.mark.parametrize(
    ("summary", "fn", "kind", "message"),
    [
        (mc.moments, jax.random.bits, TypeError, "expected a function with floating outputs"),
        (mc.classification, jax.random.bits, ValueError, r"one array of shape \(\.\.\., C\)"),
        (mc.classification, jax.random.uniform, ValueError, r"one array of shape \(\.\.\., C\)"),
        (
            mc.classification,
            lambda key: {"logits": jax.random.normal(key, (3,))},
            ValueError,
            r"pick the logits, as in output=lambda out: out\['logits'\]",
        ),
        (
            mc.classification,
            lambda key: jax.random.bits(key, (3,)),
            TypeError,
            "expected a function with floating outputs",
        ),
    ],
)
def test_outputs_that_do_not_fit_are_refused(summary, fn, kind, message):
    with pytest.raises(kind, match=message):
        mc.predict(fn, key(), summary=summary())
