"""The rules of a pass as a table, over all combinations; and both frameworks apply the same one."""

import itertools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx

from jaxdrop import linen, mc
from jaxdrop import nnx as ours
from jaxdrop.mc import _decide
from jaxdrop.mc._decide import Override, Plan
from tests.support.cases import key

RATE = jnp.array(0.2)
FEATURES = 8
X = jnp.ones((4, FEATURES))


@pytest.mark.parametrize("role", ["drops", "drops shapes", "always on", "cell", "attention"])
def test_a_decision_is_that_of_the_table(role):
    traced = object()  # neither a number nor a bool, as a tracer
    for own, flag, fixed, sites, override, zero_rates in itertools.product(
        [0, 0.0, 0.5, 1, traced],
        [None, False, True, traced],
        [False, True],
        [None, "a/*", "b"],
        [Override(), Override(off=True), Override(RATE)],
        [False, True],
    ):
        plan = Plan(sites, override._replace(zero_rates=zero_rates))
        live, rate, told, marked = plan.decide(role, ("a", "site"), own, flag, fixed)
        # Who drops: sites that are chosen; of them only one that is always on may say no.
        chosen = sites != "b" and not override.off
        assert told is (True if not chosen else flag if role == "always on" else False)
        # At what rate: another one only if the rate may be another, and is not 0 on purpose.
        keeps = fixed or role == "drops shapes" or (own in (0, 0.0) and not zero_rates)
        if keeps or override == Override():
            assert rate is own
        else:
            assert rate is RATE if override.rate is RATE else rate == 0.0
        assert live is (told is not True and not (isinstance(rate, int | float) and rate == 0))
        assert marked == (float(rate) if isinstance(rate, int | float) else None)


def test_a_module_with_no_rate_of_its_own_is_live_and_keeps_what_it_has():
    decision = Plan(None, Override(RATE)).decide("drops", ("noise",), None, fixed=True)
    assert decision == (True, None, False, None)


@pytest.mark.parametrize("path, chosen", [("a", True), ("a/b", True), ("b", False), ("", False)])
def test_a_site_is_chosen_by_a_pattern_or_a_function(path, chosen):
    for sites in ("a*", lambda path: path.startswith("a")):
        assert Plan(sites).is_chosen(tuple(path.split("/"))) is chosen
        assert not Plan(sites, Override(off=True)).is_chosen(tuple(path.split("/")))


def test_one_common_rate_is_that_of_all_that_drop():
    assert _decide.common_rate((0.0, 0, 0.5, 0.5)) == 0.5
    assert _decide.common_rate((0.0,)) == 0.0
    assert _decide.common_rate((0.5, 0.25)) is None
    assert _decide.common_rate((0.5, jnp.array([0.5, 0.5]))) is None


class LinenTwin(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=True, name="flax")(x)
        x = linen.DropPath(0.25, name="path")(x, deterministic=True)
        x = linen.MCDropout(0.1, name="on")(x)
        x = linen.MCDropout(0.1, deterministic=True, name="off")(x)
        x = linen.Dropout(0.0, deterministic=True, name="zero")(x)
        x = linen.GaussianNoise(0.1, deterministic=True, name="noise")(x)
        x = linen.TokenDropout(0.5, deterministic=True, name="tokens")(x[None])[0][0]
        attention = nn.MultiHeadDotProductAttention(2, dropout_rate=0.2, name="attention")
        x = attention(x, deterministic=True)
        cell = linen.ZoneoutCell(nn.LSTMCell(FEATURES, name="cell"), rate=0.1, deterministic=True)
        return nn.RNN(cell)(x[None])


class NnxTwin(nnx.Module):
    def __init__(self, rngs):
        self.flax = nnx.Dropout(0.5, rngs=rngs)
        self.path = ours.DropPath(0.25, rngs=rngs)
        self.on = ours.MCDropout(0.1, rngs=rngs)
        self.off = ours.MCDropout(0.1, deterministic=True, rngs=rngs)
        self.zero = ours.Dropout(0.0, rngs=rngs)
        self.noise = ours.GaussianNoise(0.1, rngs=rngs)
        self.tokens = ours.TokenDropout(0.5, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            2, FEATURES, dropout_rate=0.2, decode=False, rngs=rngs
        )
        cell = nnx.LSTMCell(FEATURES, FEATURES, rngs=rngs)
        self.rnn = nnx.RNN(ours.ZoneoutCell(cell, rate=0.1, rngs=rngs))

    def __call__(self, x):
        x = self.zero(self.off(self.on(self.path(self.flax(x)))))
        x = self.tokens(self.noise(x)[None])[0][0]
        return self.rnn(self.attention(x)[None])


KINDS = {"MultiHeadDotProductAttention": "MultiHeadAttention"}
PATHS = {"rnn/cell": "cell"}


def _rows(report):
    """The sites of an audit without the names that only one of the frameworks has."""
    return [
        site._replace(path=PATHS.get(site.path, site.path), kind=KINDS.get(site.kind, site.kind))
        for site in report.sites
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rate": 0.3},
        {"rate": 0.3, "zero_rates": True},
        {"rate": 0.0},
        {"sites": "[pa]*"},
        {"sites": lambda path: "o" in path, "rate": 0.3},
    ],
    ids=lambda options: ", ".join(options) or "none",
)
def test_twin_models_have_equal_audits(options):
    model = LinenTwin()
    variables = jax.eval_shape(model.init, key(), X)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables)
    in_linen = mc.audit(mc.from_linen(model, variables, **options), key(), X)
    in_nnx = mc.audit(mc.from_nnx(NnxTwin(nnx.Rngs(0)), **options), key(), X)
    assert len(in_linen.sites) == 9
    assert _rows(in_linen) == _rows(in_nnx)
    assert in_linen.depends_on_key == in_nnx.depends_on_key == (options.get("rate") != 0.0)
    assert in_linen.unreached == in_nnx.unreached == ()


class Preparing(nnx.Module):
    """Its methods are named as helpers might be."""

    def __init__(self, rngs):
        self.rngs = rngs.fork()

    def prepare(self, x):
        return jnp.where(jax.random.bernoulli(self.rngs.dropout(), 0.5, x.shape), x, 0)

    def __call__(self, x):
        return self.told(self.prepare(x))

    def told(self, x):
        return 2 * x


def test_a_model_may_name_its_methods_as_it_likes():
    fn = mc.from_nnx(Preparing(nnx.Rngs(0)))
    assert set(jnp.unique(fn(key(), X)).tolist()) == {0.0, 2.0}
