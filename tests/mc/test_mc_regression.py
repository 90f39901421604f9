"""Variances that are none, noise that is none, and targets that each batch brings itself."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrop import mc
from tests.mc.test_mc_summaries import by_scipy, normal, reduce
from tests.support.cases import key

X = jnp.ones((3, 4))


def noise(key, x):
    return x + jax.random.normal(key, x.shape, x.dtype)


def with_variance(variance):
    return lambda key, x: (noise(key, x), jnp.broadcast_to(jnp.asarray(variance, x.dtype), x.shape))


def close(got, expected):
    np.testing.assert_allclose(got, expected, 1e-5, 1e-6)


# --- variances


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
@pytest.mark.parametrize("variance", [-3.0, -1e-30, -np.inf, np.nan])
@pytest.mark.parametrize("targets", [None, X])
def test_a_variance_that_is_none_is_refused_or_nan(variance, targets):
    """As from a network that predicts a logarithm."""
    summary = mc.regression(targets=targets)
    fn = with_variance([1.0, 2.0, variance, 1.0])
    match = r"variances of at least 0, got neg.* for 3 of 12 elements; write .*jnp.exp.*softplus"
    with pytest.raises(ValueError, match=match):
        mc.predict(fn, key(), X, summary=summary)
    with pytest.raises(ValueError, match=match):
        mc.predict(fn, key(), X, summary=mc.combine(r=summary))
    out = jax.jit(lambda x: mc.predict(fn, key(), x, summary=summary))(X)
    unknown = np.tile([False, False, True, False], (3, 1))
    for field in ("aleatoric", "total", *(() if targets is None else ("log_likelihood",))):
        np.testing.assert_array_equal(np.isnan(getattr(out, field)), unknown, field)
    assert np.isfinite(out.mean).all() and np.isfinite(out.epistemic).all()


@pytest.mark.usefixtures("nan_on_purpose")
def test_one_negative_variance_among_the_samples_is_enough():
    """Their mean is positive."""
    drawn = normal(20, 3), jnp.ones((20, 3)).at[7, 1].set(-1)
    out = reduce(mc.regression(), drawn)
    np.testing.assert_array_equal(np.isnan(out.aleatoric), [False, True, False])
    with pytest.raises(ValueError, match="1 of 3 elements"):
        mc.regression().check(out)


def test_a_network_of_logarithms_is_right_through_what_the_message_says():
    for write in (jnp.exp, jax.nn.softplus):
        fn = lambda key, x, f=write: (noise(key, x), f(jnp.full(x.shape, -3.0)))  # noqa: E731
        close(mc.predict(fn, key(), X, summary=mc.regression()).aleatoric, write(-3.0))


@pytest.mark.usefixtures("nan_on_purpose")
@pytest.mark.parametrize("chunk_size", [1, 7, 20])
def test_ends_of_variances(chunk_size):
    means = normal(20, 3)
    variances = jnp.tile(jnp.array([0.0, 1.0, jnp.inf]), (20, 1)).at[3:, 2].set(1)
    out = reduce(mc.regression(targets=jnp.zeros(3)), (means, variances), chunk_size)
    np.testing.assert_array_equal(out.aleatoric, [0, 1, np.inf])
    assert np.isfinite(out.total[:2]).all() and np.isposinf(out.total[2])
    assert np.isnan(out.log_likelihood[0]) and np.isfinite(out.log_likelihood[1:]).all()


@pytest.mark.usefixtures("nan_on_purpose")
def test_predictions_of_nan_are_nan_and_no_error():
    x = X.at[1].set(jnp.nan)
    fn = lambda key, x: (noise(key, x), x**2)  # noqa: E731
    clean, out = (mc.predict(fn, key(), x, summary=mc.regression(targets=X)) for x in (X, x))
    for got, expected in zip(out, clean):
        np.testing.assert_array_equal(got, np.where(np.isnan(x), np.nan, expected))


# --- precision


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, np.array([1.0, -2.0]), 1e300, 1e-40])
def test_a_precision_that_is_none_is_refused_or_nan(bad):
    with pytest.raises(ValueError, match=r"precision: expected precisions, in \(0, inf\), got"):
        mc.regression(precision=bad)


@pytest.mark.usefixtures("nan_on_purpose", "jitted")
@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_a_traced_precision_that_is_none_gives_nan(bad):
    def predict(precision):
        return mc.predict(noise, key(), X, summary=mc.regression(precision=precision, targets=X))

    out = jax.jit(predict)(jnp.float32(bad))
    assert all(np.isnan(part).all() for part in (out.aleatoric, out.total, out.log_likelihood))
    close(jax.jit(predict)(jnp.float32(4)).aleatoric, 0.25)


@pytest.mark.parametrize(
    "precision", [Fraction(1, 4), 0.25, np.float64(0.25), np.full((3, 1), 0.25)]
)
def test_precisions_of_every_kind(precision):
    out = mc.predict(noise, key(), X, summary=mc.regression(precision=precision))
    np.testing.assert_array_equal(out.aleatoric, np.full((3, 4), 4))


# --- targets


@pytest.mark.parametrize("known", [True, False])
def test_returned_targets_are_given_ones(known):
    means, targets = normal(20, 4, 3), 2 * normal(4, 3, seed=2)
    variances = jnp.full((20, 4, 3), 0.5) if known else jnp.exp(normal(20, 4, 3, seed=1))
    options = {"precision": 2.0} if known else {}
    drawn = (means,) if known else (means, variances)
    alone = drawn[0] if known else drawn
    given = reduce(mc.regression(targets=targets, **options), alone, 7)
    own = reduce(
        mc.regression(targets="returned", **options), (*drawn, jnp.tile(targets, (20, 1, 1))), 7
    )
    jax.tree.map(close, own, given)
    close(own.log_likelihood, by_scipy(means, np.asarray(variances, np.float64), targets))


@pytest.mark.parametrize("keys", ["batch", "example", "call"])
def test_batches_bring_their_targets(keys):
    """The last batch is filled up, and its targets with it."""
    x, y = normal(10, 4), normal(10, 4, seed=1)
    fn = lambda key, x, y: (noise(key, x), y)  # noqa: E731
    batches = [(x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]
    options = {"num_samples": 30, "keys": keys, "progress": False}
    summary = mc.combine(r=mc.regression(precision=1.0, targets="returned"), s=mc.samples())
    out = mc.predict_batches(fn, key(), batches, summary=summary, **options)
    samples, targets = out["s"]
    np.testing.assert_array_equal(targets[0], y)
    close(out["r"].log_likelihood, by_scipy(samples, np.float64(1), y))


def test_what_the_message_on_targets_says_to_write_works():
    fn = lambda key, x: noise(key, x[:, :1])  # noqa: E731
    vector = jnp.zeros(3)
    with pytest.raises(ValueError, match=r"write targets\.reshape\(\(3, 1\)\): a column"):
        mc.predict(fn, key(), X, summary=mc.regression(precision=1.0, targets=vector))
    summary = mc.regression(precision=1.0, targets=vector.reshape((3, 1)))
    assert mc.predict(fn, key(), X, summary=summary).log_likelihood.shape == (3, 1)


# --- messages

PAIR = with_variance(1.0)
BAD = {
    "targets of another number": (
        lambda: mc.predict(noise, key(), X, summary=mc.regression(precision=1.0, targets=X[:2])),
        ValueError,
        r"shape of the predicted means, \(3, 4\), got \(2, 4\); .*lambda key, x, y.*'returned'",
    ),
    "targets in a loop over batches": (
        lambda: mc.predict_batches(
            noise, key(), [X], summary=mc.regression(precision=1.0, targets=X), progress=False
        ),
        ValueError,
        r"got \(3, 4\); give one target .*lambda key, x, y: \(fn\(key, x\), y\), and write",
    ),
    "targets named otherwise": (
        lambda: mc.regression(targets="labels"),
        TypeError,
        "targets: expected an array of real numbers or 'returned', got 'labels'; write 'returned'",
    ),
    "complex targets": (
        lambda: mc.regression(targets=X.astype(jnp.complex64)),
        TypeError,
        "targets: expected an array of real numbers or 'returned', got dtype complex64",
    ),
    "returned targets that are complex": (
        lambda: mc.predict(
            lambda key, x: (noise(key, x), x.astype(jnp.complex64)),
            key(),
            X,
            summary=mc.regression(precision=1.0, targets="returned"),
        ),
        TypeError,
        "targets: expected an array of real numbers or 'returned', got dtype complex64",
    ),
    "targets that are no numbers": (
        lambda: mc.regression(targets=[Fraction(1, 2)]),
        TypeError,
        r"targets: expected an array of numbers, got list; convert.*np.asarray\(x, float\)",
    ),
    "targets that are not returned": (
        lambda: mc.predict(
            noise, key(), X, summary=mc.regression(precision=1.0, targets="returned")
        ),
        ValueError,
        r"returns a pair \(mean, targets\) of arrays, got \(3, 4\); leave precision out",
    ),
    "a pair for a triple": (
        lambda: mc.predict(PAIR, key(), X, summary=mc.regression(targets="returned")),
        ValueError,
        r"a triple \(mean, variance, targets\) of arrays of one shape, got \(\(3, 4\), \(3, 4\)\)",
    ),
    "means alone": (
        lambda: mc.predict(noise, key(), X, summary=mc.regression()),
        ValueError,
        r"a pair \(mean, variance\) of arrays of one shape, got \(3, 4\); give the known precision",
    ),
    "more than a pair": (
        lambda: mc.predict(lambda key, x: (noise(key, x), x, x), key(), X, summary=mc.regression()),
        ValueError,
        r"a pair \(mean, variance\) of arrays of one shape, got \(\(3, 4\), \(3, 4\), \(3, 4\)\)",
    ),
    "variances of another shape": (
        lambda: mc.predict(
            lambda key, x: (noise(key, x), x[:, :1]), key(), X, summary=mc.regression()
        ),
        ValueError,
        r"arrays of one shape, got \(\(3, 4\), \(3, 1\)\)",
    ),
    "integer variances": (
        lambda: mc.predict(
            lambda key, x: (noise(key, x), x.astype(jnp.int32)), key(), X, summary=mc.regression()
        ),
        TypeError,
        "expected a function with floating outputs, got dtype int32",
    ),
    "a precision that does not broadcast": (
        lambda: mc.predict(noise, key(), X, summary=mc.regression(precision=jnp.ones(5))),
        ValueError,
        r"precision: expected one number or a shape .* to \(3, 4\).*got \(5,\); reshape",
    ),
    "a precision for each example, as a vector": (
        lambda: mc.predict(noise, key(), X, summary=mc.regression(precision=jnp.ones(3))),
        ValueError,
        r"precision: .*got \(3,\); reshape it, such as precision\[:, None\] for one prec",
    ),
    "a precision that is larger than the output": (
        lambda: mc.predict(noise, key(), X, summary=mc.regression(precision=jnp.ones((2, 3, 4)))),
        ValueError,
        r"broadcasts to \(3, 4\), that of the predicted means, got \(2, 3, 4\)",
    ),
    "quantiles of a matrix": (
        lambda: mc.quantiles(np.full((2, 2), 0.5)),
        ValueError,
        "probabilities: expected one number in .* or more, got",
    ),
    "quantiles of an array outside": (
        lambda: mc.quantiles(jnp.array([0.5, 2])),
        ValueError,
        "got 2",
    ),
    "quantiles of NaN": (lambda: mc.quantiles(np.array([np.nan])), ValueError, "got nan"),
    "quantiles of booleans": (
        lambda: mc.quantiles(np.array([True])),
        TypeError,
        "a real number in",
    ),
    "traced quantiles": (
        lambda: jax.jit(lambda q: mc.predict(noise, key(), X, summary=mc.quantiles(q)))(X[0]),
        TypeError,
        r"probabilities: expected known numbers in \[0, 1\], got .*; write .*outside of jax.jit",
    ),
    "one quantile": (
        lambda: mc.quantiles(0.5),
        ValueError,
        r"got 0\.5; write for example quantiles\(",
    ),
}


@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize("case", BAD)
def test_bad_summaries_are_refused(case):
    call, kind, match = BAD[case]
    with pytest.raises(kind, match=match):
        call()


@pytest.mark.parametrize(
    "asked",
    [np.array([0.1, 0.9]), jnp.array([0.1, 0.9]), [Fraction(1, 10), 0.9], np.float16([0.1, 0.9])],
)
def test_quantiles_of_arrays_are_those_of_numbers(asked):
    got = mc.predict(noise, key(), X, summary=mc.quantiles(asked)).values
    close(got, mc.predict(noise, key(), X, summary=mc.quantiles([float(a) for a in asked])).values)
