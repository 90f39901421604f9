"""The rate of dropout after training: one program, and the best of the rates there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxdrop
from jaxdrop import mc, uncertainty
from tests.support.cases import data, key

X = data((60, 8))
WEIGHTS = jnp.linspace(-2, 2, 24).reshape(8, 3)[::-1]
LABELS = jax.random.categorical(key(5), X @ WEIGHTS / 2)
RATES = [0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.9]


class Logits(nn.Module):
    """Too sure of itself, so that some dropout helps."""

    @nn.compact
    def __call__(self, x):
        counts.append(1)
        x = nn.Dense(64, name="up")(x)
        return nn.Dense(3, name="head")(nn.relu(x))


counts = []


def model_fn(**options):
    variables = Logits().init(key(1), X)
    up = jnp.concatenate([jnp.eye(8)] * 4 + [-jnp.eye(8)] * 4, axis=1)
    head = jnp.concatenate([WEIGHTS] * 4 + [-WEIGHTS] * 4, axis=0) * 0.75
    params = {
        "up": {**variables["params"]["up"], "kernel": up},
        "head": {**variables["params"]["head"], "kernel": head},
    }
    return mc.from_linen(Logits(), {"params": params}, insert={"*": mc.Insert(0.1)}, **options)


def brute_force(fn, number=0, rows=slice(None)):
    """Log-likelihood and temperature, by a prediction for itself."""
    options = {"num_samples": 64, "balanced": True, "summary": mc.classification()}
    out = mc.predict(fn, jax.random.fold_in(key(), number), X[rows], **options)
    temperature = uncertainty.temperature_scaling(out.log_probabilities, LABELS[rows])
    return -uncertainty.negative_log_likelihood(out.probabilities, LABELS[rows]), temperature


@pytest.mark.usefixtures("jitted")
def test_all_rates_are_one_program_and_the_best_is_that_of_a_loop():
    fn = model_fn()
    mc.tune(fn, key(), X, LABELS, RATES[:1], progress=False)
    counts.clear()
    tuned = mc.tune(fn, key(), X, LABELS, RATES, progress=False)
    assert not counts  # the program of one rate is that of all
    expected = [brute_force(fn.with_rate(rate)) for rate in RATES[1:]]
    np.testing.assert_allclose(tuned.log_likelihood[1:], [each for each, _ in expected], rtol=1e-3)
    np.testing.assert_allclose(tuned.scale[1:], [each for _, each in expected], rtol=1e-2)
    assert 0 < tuned.best < len(RATES) - 1
    assert tuned.rate == RATES[tuned.best] == RATES[np.argmax(tuned.log_likelihood)]
    assert (tuned.scaled_log_likelihood >= tuned.log_likelihood - 1e-5).all()
    again, _ = brute_force(tuned.fn)
    np.testing.assert_allclose(again, tuned.log_likelihood[tuned.best], rtol=1e-3)
    head, *rows = str(tuned).split("\n")
    assert head.split() == ["rate", "log-likelihood", "temperature", "scaled", "log-likelihood"]
    assert len(rows) == len(RATES)
    assert [row.endswith("best") for row in rows].index(True) == tuned.best


@pytest.mark.slow
def test_groups_are_all_combinations_and_batches_have_keys_of_their_own():
    fn = model_fn()
    rates = {"up*": [0.0, 0.5], "head*": [0.1, 0.3, 0.6]}
    tuned = mc.tune(fn, key(), X, LABELS, rates, progress=False, batch_size=40)
    assert tuned.rates["up*"].tolist() == [0.0, 0.0, 0.0, 0.5, 0.5, 0.5]
    assert tuned.rates["head*"].tolist() == [0.1, 0.3, 0.6] * 2
    assert str(tuned).split()[:2] == ["up*", "head*"]
    assert tuned.rate == {name: each[tuned.best] for name, each in tuned.rates.items()}
    one = fn.with_rate({"up*": 0.5, "head*": 0.3})
    parts = [
        brute_force(one, number, rows)[0] * len(range(60)[rows])
        for number, rows in enumerate((slice(0, 40), slice(40, 60)))
    ]
    np.testing.assert_allclose(tuned.log_likelihood[4], sum(parts) / 60, rtol=1e-3)


@pytest.mark.usefixtures("nan_on_purpose")
def test_a_regression_is_scaled_before_it_is_chosen():
    def at(rate):
        return lambda key, x: jaxdrop.dropout(key, x, rate) @ jnp.ones((8, 1))

    targets = X.sum(-1, keepdims=True) + jax.random.normal(key(3), (60, 1))
    options = {"num_samples": 256, "progress": False}
    tuned = mc.tune(at, key(), X, targets, [0.0, 0.1, 0.5], **options)
    assert np.isnan(tuned.scaled_log_likelihood[0])
    out = mc.predict(at(0.1), jax.random.fold_in(key(), 0), X, num_samples=256, balanced=True)
    scale = uncertainty.variance_scaling(out.mean, out.variance, targets)
    np.testing.assert_allclose(tuned.scale[1], scale, rtol=1e-2)
    loss = uncertainty.gaussian_negative_log_likelihood(out.mean, scale * out.variance, targets)
    np.testing.assert_allclose(tuned.scaled_log_likelihood[1], -loss, rtol=1e-3)
    assert tuned.best == np.nanargmax(tuned.scaled_log_likelihood)
    assert "variance scale" in str(tuned)
    with_noise = mc.regression(precision=2.0)
    noisy = mc.tune(at, key(), X, targets, [0.0, 0.1], summary=with_noise, **options)
    assert np.isfinite(noisy.log_likelihood).all()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"fn": lambda key, x: x}, TypeError, r"fn: .* one that takes \(key, x\); write"),
        ({"fn": lambda rate: 3}, TypeError, "fn: .* a rate that returns int; write"),
        ({"fn": Logits()}, TypeError, "got the model Logits; write jaxdrop.mc.from_linen"),
        ({"rates": 0.1}, ValueError, r"rates: expected known numbers of shape \(R,\).*got 0.1"),
        ({"rates": []}, ValueError, r"at least one, got \[\]; write"),
        ({"rates": [1.5]}, ValueError, r"in \[0, 1\], got 1.5"),
        ({"rates": {"nope": [0.1]}}, ValueError, "'nope', which matches none .*'up:after'"),
        ({"y": LABELS[:3]}, ValueError, "labels: expected shape"),
        ({"y": LABELS + 3}, ValueError, r"class numbers in \[0, 3\)"),
        ({"summary": mc.samples(), "balanced": False}, TypeError, "classification, regression or"),
        ({"output": lambda out: out.sum()}, ValueError, "expected"),
        ({"output": lambda out: out[:5]}, ValueError, "with its 60 examples on axis 0, got"),
        ({"rates": [0.0], "y": X[:, :3]}, ValueError, "NaN at all of 1; .* give rates above 0"),
        ({"batch_size": 0}, ValueError, "batch_size: "),
        ({"x": (X, X[:3])}, ValueError, "x: expected arrays with the same number of examples"),
    ],
)
@pytest.mark.usefixtures("nan_on_purpose")
def test_refused_with_a_message_that_teaches(options, error, match):
    given = {"fn": model_fn(), "x": X, "y": LABELS, "rates": [0.1], "num_samples": 8, **options}
    with pytest.raises(error, match=match):
        mc.tune(key=key(), progress=False, **given)
