"""How results are shown: one short line a field, whatever the arrays are and hold."""

import copy
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdrop
from jaxdrop import mc, uncertainty
from tests.support.cases import key

X = jnp.zeros((5, 3))


def noise(key, x):
    return x + jax.random.normal(key, x.shape, x.dtype)


def predict(summary, x=X, **options):
    return mc.predict(noise, key(), x, summary=summary, num_samples=20, **options)


P = jax.nn.softmax(jax.random.normal(jax.random.key(0), (7, 30, 4)))
RESULTS = {
    "moments": lambda: predict(mc.moments()),
    "classification": lambda: predict(mc.classification()),
    "binary": lambda: predict(mc.classification(binary=True)),
    "regression": lambda: predict(mc.regression(precision=2.0)),
    "regression of targets": lambda: predict(mc.regression(precision=2.0, targets=X)),
    "quantiles": lambda: predict(mc.quantiles((0.1, 0.9))),
    "delta": lambda: mc.delta(lambda key, x: jaxdrop.dropout(key, x, 0.5), key(), X + 1),
    "reliability_curve": lambda: uncertainty.reliability_curve(P[0], jnp.zeros(30, int)),
    "risk_coverage": lambda: uncertainty.risk_coverage(P[0, :, 0], P[1, :, 0]),
    "quantile_curve": lambda: uncertainty.quantile_curve(P[0], 0.1, P[1]),
    "variance_split": lambda: uncertainty.variance_split(P, 0.1),
    "conformal_interval": lambda: uncertainty.conformal_interval(P[0, :, 0], 2.0),
    "scoring_rule_split": lambda: uncertainty.scoring_rule_split(P),
    "batch_bald": lambda: uncertainty.batch_bald(P, 3),
}
each = pytest.mark.parametrize("name", RESULTS)


def test_every_kind_of_result_is_among_them():
    kinds = {
        kind
        for floor in (mc, uncertainty)
        for kind in vars(floor).values()
        if isinstance(kind, type) and issubclass(kind, tuple)
    }
    seen = {type(make()) for make in RESULTS.values()}
    assert seen == kinds - {
        mc.Adaptive,
        mc.Audit,
        mc.Insert,
        mc.Site,
        mc.Summary,
        mc.Tuned,
        uncertainty.Report,
    }


@each
def test_each_field_is_one_short_line(name):
    out = RESULTS[name]()
    first, *lines = repr(out).split("\n")
    assert first.startswith(type(out).__name__) and len(lines) == len(out._fields)
    for field, value, line in zip(out._fields, out, lines):
        assert line.split()[0] == field
        if value is None:
            assert line.split()[1] == "None"
        else:
            shape = ",".join(map(str, value.shape))
            low, high = float(value.min()), float(value.max())
            mean = np.asarray(value, np.float64).mean()
            expected = f"{value.dtype}[{shape}]  mean {mean:.3g}, {low:.3g} to {high:.3g}"
            assert line.split(None, 1)[1] == expected
    assert str(out) == repr(out)
    assert repr(jax.tree.map(np.asarray, out)) == repr(out)


@pytest.mark.usefixtures("jitted")
@each
def test_what_is_not_known_has_a_shape(name):
    shown = []

    @jax.jit
    def call():
        out = RESULTS[name]()
        shown.append(repr(out))
        return out

    abstract = jax.eval_shape(call)
    known = [
        re.sub(r"(?<=\])  mean .*", "", line) for line in repr(RESULTS[name]()).split("\n")[1:]
    ]
    assert shown[0].split("\n")[1:] == known
    assert repr(abstract).split("\n")[1:] == known


@each
def test_results_stay_named_tuples_and_pytrees(name):
    out = RESULTS[name]()
    assert type(jax.tree.map(lambda x: x, out)) is type(out)
    for again in (copy.deepcopy(out), pickle.loads(pickle.dumps(out)), out._replace()):
        assert repr(again) == repr(out)
    assert len(out) == len(out._fields) == len(tuple(out))


@pytest.mark.usefixtures("nan_on_purpose")
def test_the_number_of_samples_is_shown_where_votes_tell_it():
    out = predict(mc.classification())
    for votes in (out.votes, out.votes[None]):
        assert repr(out._replace(votes=votes)).startswith("Classification, 20 samples\n")
    unknown = predict(mc.classification(), X.at[0].set(jnp.nan))
    assert repr(unknown).startswith("Classification, 20 samples\n")
    assert "1 NaN" in repr(unknown)
    assert "Classification\n" in repr(unknown._replace(votes=None))


ONES = jnp.ones(3, jnp.float32)
ARRAYS = {
    "a scalar": (jnp.float32(0.25), "float32[]  0.25"),
    "nothing": (np.zeros((0, 3), np.float32), "float32[0,3]"),
    "NaN": (np.full(3, np.nan, np.float32), "float32[3]  3 NaN"),
    "infinities": (np.array([np.inf, -np.inf], np.float32), "float32[2]  mean nan, -inf to inf"),
    "bfloat16": (jnp.ones(3, jnp.bfloat16), "bfloat16[3]  mean 1, 1 to 1"),
    "booleans": (np.array([True, False]), "bool[2]  mean 0.5, 0 to 1"),
    "complex": (jnp.ones(3, jnp.complex64), "complex64[3]"),
    "keys": (jax.random.split(jax.random.key(0, impl="threefry2x32"), 3), "key<fry>[3]"),
    "a number": (0.1, "0.1"),
    "no array": ([], "[]"),
    "a pytree": (
        {"a": ONES, "b": (jnp.zeros((2, 2), jnp.float32),)},
        "2 arrays: float32[3], float32[2,2]",
    ),
    "a pytree of one": ({"a": ONES}, "float32[3]  mean 1, 1 to 1"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_fields_of_any_kind(name):
    value, expected = ARRAYS[name]
    line = repr(mc.Moments(value, None, None)).split("\n")[1]
    assert line.removeprefix("  mean").strip() == expected


def test_lines_fit_the_screen():
    many = {f"layer_{i}": jnp.ones((128, 128)) for i in range(99)}
    long = np.full((100_000, 1, 1, 1, 1, 1, 1, 1, 1, 1), -1.2345e-30)
    for out in (mc.Moments(many, long, long), predict(mc.moments(), X - 1e30)):
        assert all(len(line) <= 80 for line in repr(out).split("\n"))


def test_what_was_given_away_has_a_shape():
    x = jnp.ones(3, jnp.float32)
    x.delete()
    assert repr(mc.Moments(x, x, x)).endswith("standard_error  float32[3]")


def test_an_adaptive_result_says_how_many_samples_it_took_and_shows_the_result():
    run = lambda x, t: mc.predict(noise, key(), x, tolerance=t)  # noqa: E731
    out = run(X, 1e3)
    assert repr(out).split("\n")[0] == "Adaptive, 64 samples, reached: True"
    assert repr(out).split("\n")[1:] == ["  " + line for line in repr(out.result).split("\n")]
    parts = mc.predict_batches(noise, key(), [X, X], tolerance=1e3, progress=False)
    assert repr(parts).split("\n")[0] == "Adaptive, 64 to 64 samples, reached: 10 of 10"
    jax.make_jaxpr(lambda x: repr(run(x, 0.5)) and x)(X)
