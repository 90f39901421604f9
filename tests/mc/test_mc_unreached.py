"""What an adapter does not decide is said by name, and `predict` warns of it once."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import mc
from tests.support.cases import assert_probability, assert_same_bits, data, key
from tests.support.models import each_framework

X = data((8, 40))


class OwnKey(nn.Module):
    """Drops by a module, and by a key that it makes itself."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dropout(0.5, deterministic=True)(x)
        return jaxdrop.dropout(jax.random.key(3), x, 0.5) if train else x


class NnxOwnKey(nnx.Module):
    def __init__(self):
        self.drop = nnx.Dropout(0.5)

    def __call__(self, x, train=False):
        x = self.drop(x)
        return jaxdrop.dropout(nnx.Rngs(3).dropout(), x, 0.5) if train else x


def own_key(framework, **options):
    if framework == "linen":
        return mc.from_linen(OwnKey(), {}, **options)
    return mc.from_nnx(NnxOwnKey(), **options)


@each_framework
@pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit, lambda fn: lambda key, x: fn(key, x)])
def test_a_key_of_the_models_own_is_named_with_its_place(framework, wrap):
    report = mc.audit(wrap(own_key(framework)), key(), X)
    (sentence,) = report.unreached
    name = "OwnKey" if framework == "linen" else "NnxOwnKey"
    assert sentence.startswith(f"{name}.__call__ (test_mc_unreached.py:")
    assert sentence.endswith("draws by a key that is not that of the pass: the same in every pass")
    assert len(report.sites) == 1  # the other one, whose masks differ
    lines = str(report).splitlines()
    assert max(map(len, lines)) <= 80
    assert "Not reached: " + sentence + "." in " ".join(lines)


@pytest.mark.usefixtures("jitted")
@each_framework
def test_predict_warns_once(framework):
    fn = own_key(framework)
    with pytest.warns(UserWarning, match="not all dropout is decided by the key.*OwnKey.__call__"):
        mc.predict(fn, key(), X, num_samples=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mc.predict(fn, key(1), X, num_samples=2)
        mc.predict(own_key(framework, sites="*rop*", rate=0.5), key(), X, num_samples=2)


def test_the_key_of_a_function_that_nobody_gives_is_named():
    def fn(key, x):
        return jax.random.normal(jax.random.key(7), x.shape, x.dtype) + jaxdrop.dropout(key, x, 0.5)

    def loop(key, x):
        return jax.lax.fori_loop(0, 3, lambda i, x: fn(jax.random.key(i), x), x)

    def branch(key, x):
        return jax.lax.cond(x.sum() > 0, fn, lambda _, x: x, key, x)

    for function in (fn, loop, branch):
        report = mc.audit(function, key(), X)
        (sentence,) = report.unreached
        assert sentence.startswith("test_the_key_of_a_function")
        assert report.depends_on_key == (function is not loop)


class Always(nn.Module):
    """Drops, whatever anyone says."""

    @nn.compact
    def __call__(self, x):
        return jaxdrop.dropout(self.make_rng("dropout"), x, 0.5)


class NnxAlways(nnx.Module):
    def __init__(self):
        self.stream = nnx.Rngs(0).dropout.fork()

    def __call__(self, x):
        return jaxdrop.dropout(self.stream(), x, 0.5)


class NnxInside(nnx.Module):
    def __init__(self):
        self.always, self.drop = NnxAlways(), nnx.Dropout(0.2)

    def __call__(self, x):
        return self.drop(self.always(x))


class Inside(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.2, deterministic=True, name="drop")(Always(name="always")(x))


def inside(framework, **options):
    if framework == "linen":
        return mc.from_linen(Inside(), {}, **options)
    return mc.from_nnx(NnxInside(), **options)


@each_framework
@pytest.mark.parametrize("options", [{"sites": "drop"}, {"rate": 0.0}])
def test_what_no_flag_switches_off_is_named(framework, options):
    fn = inside(framework, **options)
    report = mc.audit(fn, key(), X)
    live = {site.path for site in report.sites if site.live}
    assert live == ({"always", "drop"} if "sites" in options else {"always"})
    (sentence,) = report.unreached
    assert sentence.startswith("always (") and "though it is not chosen" in sentence
    assert not mc.audit(inside(framework), key(), X).unreached
    with pytest.warns(UserWarning, match="always .*though it is not chosen"):
        mc.predict(fn, key(), X, num_samples=2)


@each_framework
def test_a_rate_that_does_not_reach_a_site_is_named(framework):
    fn = inside(framework, rate=0.9)
    (sentence,) = mc.audit(fn, key(), X).unreached
    assert sentence.startswith("always (") and sentence.endswith("rate= does not reach it")
    kept = np.asarray(fn(key(), jnp.ones((64, 64)))) != 0
    assert_probability(kept.sum(), kept.size, 0.1 * 0.5)


@each_framework
@pytest.mark.parametrize(
    "sites", ["nowhere", lambda path: "no" in path], ids=["pattern", "function"]
)
def test_a_choice_that_matches_nothing_says_which_paths_there_are(framework, sites):
    fn = own_key(framework, sites=sites)
    path = "Dropout_0" if framework == "linen" else "drop"
    name = "sites='nowhere'" if sites == "nowhere" else "the function given as sites="
    expected = f"{name} matches none of the paths there are: '{path}'"
    assert mc.audit(fn, key(), X).unreached[0] == expected
    with pytest.raises(ValueError, match=f"(?s)Its sites:.*matches\\s+none .*are:\\s+'{path}'"):
        mc.predict(fn, key(), X)


@each_framework
def test_a_model_without_dropout_is_told_what_to_do(framework):
    if framework == "linen":
        model = nn.Dense(3)
        fn = mc.from_linen(model, model.init(key(), X))
    else:
        fn = mc.from_nnx(nnx.Linear(40, 3, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"(?s)no dropout site was found.*Add a layer that drops"):
        mc.predict(fn, key(), X)


class Zero(nn.Module):
    """Takes a key for a rate of 0, by which nothing is drawn."""

    @nn.compact
    def __call__(self, x, rng):
        return jaxdrop.dropout(rng, nn.Dropout(0.5, deterministic=True)(x), 0.0)


class NnxZero(nnx.Module):
    def __init__(self):
        self.drop, self.stream = nnx.Dropout(0.5), nnx.Rngs(0).dropout.fork()

    def __call__(self, x):
        return jaxdrop.dropout(self.stream(), self.drop(x), 0.0)


def test_what_draws_nothing_is_no_live_site():
    report = mc.audit(mc.from_linen(Zero(), {}), key(), X, jax.random.key(2))
    assert [site.path for site in report.sites] == ["Dropout_0"]
    assert [site.path for site in mc.audit(mc.from_nnx(NnxZero()), key(), X).sites] == ["drop"]


# Keys among the arguments.


class Tied(nn.Module):
    """Shares its decisions between two modules by one key, and has another."""

    @nn.compact
    def __call__(self, x, rngs):
        first, second = (Given(name=name)(x, rngs["tied"]) for name in ("first", "second"))
        return first, second, Given(name="third")(x, rngs["own"])


class Given(nn.Module):
    @nn.compact
    def __call__(self, x, rng):
        return jaxdrop.dropout(rng, x, 0.5)


def test_keys_among_the_arguments_vary_with_the_pass_and_tie_what_they_tied():
    x, rngs = jnp.ones((64, 64)), {"tied": jax.random.key(1), "own": jax.random.key(2)}
    fn = mc.from_linen(Tied(), {})
    first, second, third = fn(key(1), x, rngs)
    assert_same_bits(first, second)
    assert_probability((np.asarray(first) == third).sum(), x.size, 0.5)
    other = fn(key(2), x, rngs)
    assert_probability((np.asarray(first) == other[0]).sum(), x.size, 0.5)
    again = fn(key(1), x, {"tied": jax.random.key(1), "own": jax.random.key(1)})
    assert_same_bits(again[2], first)
    assert [site.path for site in mc.audit(fn, key(), x, rngs).sites] == [
        "first",
        "second",
        "third",
    ]


def test_streams_of_the_callers_own_vary_with_the_pass():
    """As Flax's ``apply`` takes them."""
    fn, x = mc.from_linen(Always(), {}), jnp.ones((64, 64))
    rngs = {"dropout": jax.random.key(1)}
    first, second = (np.asarray(fn(key(seed), x, rngs=rngs)) for seed in (1, 2))
    assert_probability((first == second).sum(), x.size, 0.5)
    assert_same_bits(fn(key(1), x, rngs=rngs), first)
    assert (np.asarray(fn(key(1), x)) != first).any()


def test_arrays_that_are_no_keys_stay_as_they_are():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x, counts, key):
            return nn.Dropout(0.5, deterministic=True)(x), counts, key

    counts = jnp.array([[1, 2], [3, 4]], jnp.uint32)
    _, got, key_as_attention = mc.from_linen(Plain(), {})(key(), X, counts, X)
    assert_same_bits(got, counts)
    assert_same_bits(key_as_attention, X)
