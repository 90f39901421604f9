"""What the adapters may be told: which sites, what rate, one sub-network for a whole batch."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import mc
from tests.support.cases import assert_same_bits, data, key

WIDTH = 40
X = data((8, WIDTH))
each_framework = pytest.mark.parametrize("framework", ["linen", "nnx"])


class Two(nn.Module):
    """Two sites, the second inside a block."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(self.rate, name="first", deterministic=True)(x)
        return Inner(self.rate, name="block")(x)


class Inner(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, x):
        return jaxdrop.linen.Dropout(self.rate, name="second", deterministic=True)(x) + 1


class NnxInner(nnx.Module):
    def __init__(self, rate):
        self.second = jaxdrop.nnx.Dropout(rate, rngs=nnx.Rngs(2))

    def __call__(self, x):
        return self.second(x) + 1


class NnxTwo(nnx.Module):
    def __init__(self, rate):
        self.first = nnx.Dropout(rate, rngs=nnx.Rngs(1))
        self.block = NnxInner(rate)

    def __call__(self, x):
        return self.block(self.first(x))


def two(framework, own=0.5, **options):
    if framework == "nnx":
        return mc.from_nnx(NnxTwo(own), **options)
    return mc.from_linen(Two(own), {}, **options)


@each_framework
@pytest.mark.parametrize(
    ("sites", "live"),
    [
        ("first", {"first"}),
        ("block/*", {"block/second"}),
        ("*second", {"block/second"}),
        (lambda path: path.startswith("f"), {"first"}),
        (None, {"first", "block/second"}),
        ("*", {"first", "block/second"}),
    ],
    ids=["name", "block", "end", "function", "all", "any"],
)
def test_chosen_sites_drop_and_the_others_do_not(framework, sites, live):
    fn = two(framework, sites=sites)
    report = mc.audit(fn, key(), X)
    assert {site.path for site in report.sites if site.live} == live
    assert {site.path for site in report.sites} == {"first", "block/second"}
    whole = two(framework)
    share = float((np.asarray(fn(key(), X)) == 1).mean())
    assert abs(share - (1 - 0.5 ** len(live))) < 0.1
    if len(live) == 2:
        assert_same_bits(fn(key(), X), whole(key(), X))


@each_framework
def test_a_site_draws_the_same_whoever_else_is_chosen(framework):
    first, second, both = (
        np.asarray(two(framework, sites=sites)(key(), X)) for sites in ("first", "block/*", None)
    )
    np.testing.assert_array_equal(both == 1, (first == 1) | (second == 1))


@each_framework
def test_nothing_chosen_is_refused_by_predict(framework):
    with pytest.raises(ValueError, match=r"0 of 2 sites are live"):
        mc.predict(two(framework, sites="nowhere"), key(), X)


@each_framework
@pytest.mark.parametrize("own", [0.5, 0.0, 1.0])
def test_an_override_is_the_model_with_that_rate(framework, own):
    """Bit for bit, and where the model's own rate is 0, too, if that is asked for."""
    for rate in (0.2, 0.9):
        y = two(framework, own, rate=rate, zero_rates=True)(key(), X)
        assert_same_bits(y, two(framework, np.float32(rate).item())(key(), X))
    assert_same_bits(two(framework, own, rate=0.0)(key(), X), X + 1)
    assert_same_bits(two(framework, own, rate=1.0, zero_rates=True)(key(), X), jnp.ones_like(X))


@each_framework
@pytest.mark.parametrize("make", ["two", "attention", "recurrent"])
def test_what_the_model_has_off_by_a_rate_of_0_stays_off(framework, make):
    """Bit for bit that model without the override, where a site stays and where all do."""
    x = X if make == "two" else data((2, 6, 8)) if make == "attention" else data((3, 5, 4))
    adapted = {"two": two, "attention": attention, "recurrent": recurrent_at}[make]
    off = adapted(framework, 0.0)(key(), x)
    fn = adapted(framework, 0.0, rate=0.25)
    assert_same_bits(fn(key(), x), off)
    assert_same_bits(jax.jit(lambda rate: adapted(framework, 0.0, rate=rate)(key(), x))(0.25), off)
    sites = mc.audit(fn, key(), x).sites
    assert sites and not any(site.live or site.rate for site in sites)
    assert (adapted(framework, 0.0, rate=0.25, zero_rates=True)(key(), x) != off).any()


def recurrent_at(framework, own, **options):
    """All rates of a cell the same."""
    if framework == "nnx":
        cell = nnx.LSTMCell(4, 6, rngs=nnx.Rngs(0))
        cell = jaxdrop.nnx.VariationalCell(cell, *[own] * 3, rngs=nnx.Rngs(1))
        return mc.from_nnx(nnx.RNN(cell), **options)
    cell = jaxdrop.linen.VariationalCell(nn.LSTMCell(6), *[own] * 3, deterministic=True)
    model = nn.RNN(cell)
    return mc.from_linen(model, model.init(key(5), data((3, 5, 4))), **options)


@each_framework
@pytest.mark.parametrize("rate", [0, 0.0, np.float32(0), np.zeros(()), jnp.float32(0)])
def test_with_a_rate_that_is_known_to_be_0_nothing_is_drawn(framework, rate):
    fn = two(framework, 0.5, rate=rate)
    report = mc.audit(fn, key(), X)
    assert [(site.rate, site.live) for site in report.sites] == [(0.0, False)] * 2
    assert not report.depends_on_key and not report.unreached


@pytest.mark.usefixtures("jitted")
@each_framework
def test_a_sweep_over_rates_compiles_once(framework):
    count = 0

    def run(fn, key):
        nonlocal count
        count += 1
        return fn(key, X)

    program = jax.jit(run)
    shares = [
        float((program(two(framework, rate=rate), key()) == 1).mean()) for rate in (0.1, 0.4, 0.7)
    ]
    assert shares == sorted(shares)
    # linen models compare by their fields, nnx graphs by theirs: equal ones are one program.
    assert count == 1


class Attention(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(2, dropout_rate=self.rate, deterministic=True)(x)


def attention(framework, own, **options):
    if framework == "nnx":
        model = nnx.MultiHeadAttention(
            num_heads=2, in_features=8, dropout_rate=own, decode=False, rngs=nnx.Rngs(0)
        )
        return mc.from_nnx(model, **options)
    variables = Attention(0.0).init(key(5), data((2, 6, 8)))
    return mc.from_linen(Attention(own), variables, **options)


@each_framework
@pytest.mark.parametrize("own", [0.5, 0.0])
def test_an_override_reaches_attention(framework, own):
    x = data((2, 6, 8))
    options = {"rate": 0.25, "zero_rates": True}
    y = attention(framework, own, **options)(key(), x)
    np.testing.assert_allclose(y, attention(framework, 0.25)(key(), x), rtol=1e-5, atol=1e-6)
    (site,) = mc.audit(attention(framework, own, **options), key(), x).sites
    assert site.live
    off = attention(framework, 0.5, sites="nowhere", **options)
    assert_same_bits(off(key(), x), attention(framework, 0.0)(key(), x))
    assert not mc.audit(off, key(), x).sites[0].live


def recurrent(framework, own, **options):
    if framework == "nnx":
        cell = nnx.LSTMCell(4, 6, rngs=nnx.Rngs(0))
        cell = jaxdrop.nnx.VariationalCell(cell, own, output_rate=0.0, rngs=nnx.Rngs(1))
        return mc.from_nnx(nnx.RNN(cell), **options)
    cell = jaxdrop.linen.VariationalCell(nn.LSTMCell(6), own, deterministic=True)
    model = nn.RNN(cell)
    return mc.from_linen(model, model.init(key(5), data((3, 5, 4))), **options)


@each_framework
def test_an_override_reaches_recurrent_cells_where_they_drop(framework):
    x = data((3, 5, 4))
    y = recurrent(framework, 0.5, rate=0.25)(key(), x)
    np.testing.assert_allclose(y, recurrent(framework, 0.25)(key(), x), rtol=1e-5, atol=1e-6)
    every = recurrent(framework, 0.5, rate=0.25, zero_rates=True)(key(), x)
    assert (every != y).any() and ((every == 0) & (y != 0)).any()  # its outputs drop as well
    off = recurrent(framework, 0.5, sites="nowhere")(key(), x)
    np.testing.assert_allclose(off, recurrent(framework, 0.0)(key(), x), rtol=1e-5)


@pytest.mark.parametrize("rate", [0.25, None])
def test_tokens_that_are_left_out_keep_their_rate(rate):
    model = jaxdrop.linen.TokenDropout(0.5, deterministic=True)
    fn = mc.from_linen(model, {}, rate=rate)
    assert fn(key(), data((2, 8, 4))).kept.shape == (2, 4, 4)


# One sub-network for all.


@each_framework
def test_shared_masks_are_the_same_for_every_example(framework):
    x = jnp.tile(X[:1], (8, 1))
    y = np.asarray(two(framework, shared_masks=True)(key(), x))
    np.testing.assert_array_equal(y, np.broadcast_to(y[:1], y.shape))
    assert_same_bits(y[:1], two(framework)(key(), x[:1]))
    assert (np.asarray(two(framework, shared_masks=True)(key(1), x)) != y).any()
    own = np.asarray(two(framework)(key(), x))
    assert (own != own[:1]).any()


@each_framework
@pytest.mark.parametrize("make", [attention, recurrent], ids=["attention", "recurrent"])
def test_shared_masks_reach_attention_and_recurrent_cells(framework, make):
    x = jnp.tile(data((1, 5, 8 if make is attention else 4)), (3, 1, 1))
    y = np.asarray(make(framework, 0.5, shared_masks=True)(key(), x))
    np.testing.assert_allclose(y, np.broadcast_to(y[:1], y.shape), rtol=1e-5, atol=1e-6)


@each_framework
def test_shared_masks_are_drawn_once_and_predict_takes_them(framework):
    fn = two(framework, shared_masks=True)
    x = data((64, WIDTH))
    out = mc.predict(fn, key(), x, num_samples=20, summary=mc.samples())
    kept = np.asarray(out) != 1
    np.testing.assert_array_equal(kept, np.broadcast_to(kept[:, :1], kept.shape))
    words = [
        equation.outvars[0].aval.shape
        for equation in jax.make_jaxpr(fn)(key(), x).jaxpr.eqns
        if "random" in equation.primitive.name
    ]
    assert all(np.prod(shape, dtype=int) < 64 for shape in words)


def test_arguments_without_examples_are_refused():
    fn = mc.from_linen(Two(), {}, shared_masks=True)
    assert fn(key(), X).shape == X.shape
    two_arguments = mc.from_linen(Scaled(), {}, shared_masks=True)
    assert two_arguments(key(), X, jnp.float32(2)).shape == X.shape  # a scalar is for all
    with pytest.raises(ValueError, match=r"shared_masks: expected .*\(8, 40\), \(40,\).*; bind"):
        two_arguments(key(), X, jnp.ones(WIDTH))


class Scaled(nn.Module):
    @nn.compact
    def __call__(self, x, scale):
        return nn.Dropout(0.5, deterministic=True)(x) * scale


@each_framework
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"sites": 3}, TypeError, "sites: expected a pattern or a function .*got 3; write"),
        ({"rate": 1.5}, ValueError, r"rate: .*\[0, 1\], got 1.5"),
        ({"rate": "half"}, TypeError, "rate: expected a real number"),
        ({"rate": jnp.ones(2) / 2}, ValueError, r"rate: expected a scalar.*got shape \(2,\)"),
    ],
)
def test_wrong_options_are_refused(framework, options, kind, message):
    with pytest.raises(kind, match=message):
        two(framework, **options)


def test_options_hold_in_predict_and_its_transforms():
    fn = two("linen", sites="first", rate=0.25, shared_masks=True)
    predict = functools.partial(mc.predict, num_samples=50, summary=mc.samples())
    whole = predict(fn, key(), X)
    assert_same_bits(jax.jit(predict)(fn, key(), X), whole)
    assert abs(float((np.asarray(whole) == 1).mean()) - 0.25) < 0.1


def test_functions_of_mc_share_the_defaults_of_what_they_share():
    defaults = {}
    for name in mc.__all__:
        function = getattr(mc, name)
        parameters = inspect.signature(function).parameters if inspect.isfunction(function) else {}
        for setting, parameter in parameters.items():
            if parameter.default is not parameter.empty:
                found = defaults.setdefault(setting, {})
                found.setdefault(repr(parameter.default), []).append(name)
    differing = {setting: found for setting, found in defaults.items() if len(found) > 1}
    assert differing == {
        "num_samples": {"100": ["predict", "predict_batches"], "64": ["tune"]},
        "mutable": {"()": ["from_linen"], "None": ["from_nnx"]},
    }
