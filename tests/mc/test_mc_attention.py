"""Dropout inside Flax's attention, which no replacing of Dropout modules reaches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxdrop import linen, mc
from tests.support import models
from tests.support.cases import assert_probability, assert_same_bits, data, key

RATE = 0.3
QUERIES = 2**14


class Attention(nn.Module):
    """All queries of one head look at one key: its weight is 1, or 0 where it is dropped."""

    how: str
    rate: float = RATE

    @nn.compact
    def __call__(self, x, train=False):
        cls = nn.MultiHeadDotProductAttention
        if self.how == "subclass":
            cls = nn.MultiHeadAttention  # calls its parent's call
        elif self.how == "remat":
            cls = nn.remat(nn.MultiHeadDotProductAttention)
        make = functools.partial(cls, 1, dropout_rate=self.rate, name="attention")
        if self.how == "argument":
            return make()(x, x[:, :1], deterministic=not train)
        return make(deterministic=not train)(x, x[:, :1])


class NnxAttention(nnx.Module):
    def __init__(self, keep_rngs, flag, rate=RATE):
        self.attention = nnx.MultiHeadAttention(
            1,
            8,
            dropout_rate=rate,
            deterministic=flag,
            keep_rngs=keep_rngs,
            decode=False,
            rngs=nnx.Rngs(0),
        )

    def __call__(self, x, flag=None):
        return self.attention(x, x[:, :1], deterministic=flag)


@functools.cache
def linen_variables():
    model, x = Attention("field"), data((1, QUERIES, 8))
    variables = jax.jit(model.init)(key(), x)
    return variables, jax.jit(model.apply)(variables, x), x


@functools.cache
def linen_case(how):
    variables, evaluated, x = linen_variables()
    return mc.from_linen(Attention(how), variables), evaluated, x


@functools.cache
def nnx_case(keep_rngs, flag, argument=None):
    model, x = NnxAttention(keep_rngs, flag), data((1, QUERIES, 8))
    fn = mc.from_nnx(model)
    evaluated = jax.jit(lambda x: model(x, True))(x)
    return lambda key, x: fn(key, x, argument), evaluated, x


CASES = {
    **{how: functools.partial(linen_case, how) for how in ("field", "argument", "subclass")},
    "remat": functools.partial(linen_case, "remat"),
    "nnx": functools.partial(nnx_case, True, None),
    "nnx-train": functools.partial(nnx_case, True, False),
    "nnx-argument": functools.partial(nnx_case, True, None, True),
    "nnx-without-rngs": functools.partial(nnx_case, False, True),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@each_case
def test_weights_are_dropped_at_their_rate(case):
    """Without a bias, the output of a query whose weight is dropped is 0."""
    fn, evaluated, x = case()
    fn = jax.jit(fn)
    y, again, other = np.asarray(fn(key(1), x)), fn(key(1), x), fn(key(2), x)
    assert_same_bits(again, y)
    assert (other != y).any()
    kept = (y != 0).any(axis=-1)
    assert_probability(kept.sum(), QUERIES, 1 - RATE)
    np.testing.assert_allclose(y[kept], evaluated[kept] / (1 - RATE), rtol=1e-4, atol=1e-6)


@each_case
def test_site_is_found(case):
    fn, _, x = case()
    (site,) = mc.audit(fn, key(), x).sites
    assert (site.kind[:9], site.rate, site.live) == ("MultiHead", RATE, True)
    assert "ttention" in site.path


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_attention_at_rate_0_draws_nothing(framework):
    x = data((1, 5, 8))
    if framework == "linen":
        model = Attention("argument", rate=0.0)
        fn = mc.from_linen(model, model.init(key(), x))
    else:
        fn = mc.from_nnx(NnxAttention(True, None, rate=0.0))
    report = mc.audit(fn, key(), x)
    assert not any(site.live for site in report.sites)
    assert not report.depends_on_key


def test_flag_of_a_linen_module_is_put_back():
    """It is lifted for the length of a call, for Flax refuses to be told twice."""

    class Twice(nn.Module):
        def setup(self):
            self.attention = nn.MultiHeadDotProductAttention(
                1, dropout_rate=0.5, deterministic=True
            )

        def __call__(self, x):
            first = self.attention(x, x[:, :1])
            assert self.attention.deterministic is True
            with pytest.raises(TypeError, match="unexpected"):
                self.attention(x, no_such_argument=1)
            assert self.attention.deterministic is True
            return first, self.attention(x, x[:, :1])

    x = jnp.ones((1, QUERIES, 8))
    variables = jax.jit(Twice().init)(key(), x)
    y = jax.jit(mc.from_linen(Twice(), variables))(key(), x)
    first, second = ((np.asarray(part) != 0).any(axis=-1) for part in y)
    assert_probability((first == second).sum(), QUERIES, 0.5)


def test_nnx_module_is_left_without_a_stream():
    model = NnxAttention(keep_rngs=False, flag=True)
    before = models.bits(nnx.state(model))
    mc.from_nnx(model)(key(), data((1, 5, 8)))
    assert models.bits(nnx.state(model)) == before
    assert model.attention.rngs is None
    assert type(model.attention) is nnx.MultiHeadAttention


def test_examples_have_masks_of_their_own_unless_the_user_shares_them():
    """Whatever ``broadcast_dropout`` says, whose default in Flax is one mask for all."""
    x, variables = jnp.ones((3, 64, 8)), None
    shared = functools.partial(linen.attention_fn, broadcast_dims=(0, 1))
    for own in ({}, {"broadcast_dropout": False}, {"attention_fn": shared}):
        attention = nn.MultiHeadDotProductAttention(2, dropout_rate=0.5, deterministic=True, **own)
        variables = variables or jax.jit(attention.init)(key(), x)
        y = np.asarray(jax.jit(mc.from_linen(attention, variables))(key(), x))
        same = np.ptp(y, axis=0).max() < 1e-6
        assert same == ("attention_fn" in own)


def test_decisions_of_stacked_layers_differ():
    """Layers that are stacked for a scan have one stream each in one array."""

    class Stacked(nnx.Module):
        def __init__(self):
            @nnx.split_rngs(splits=3)
            @nnx.vmap
            def layers(rngs):
                return nnx.MultiHeadAttention(1, 8, dropout_rate=0.5, decode=False, rngs=rngs)

            self.layers = layers(nnx.Rngs(0))

        def __call__(self, x):
            @nnx.scan(in_axes=(0, None), out_axes=0)
            def run(layer, x):
                return layer(x, x[:, :1], deterministic=True)

            return run(self.layers, x)

    fn, x = mc.from_nnx(Stacked()), jnp.ones((1, 4096, 8))
    kept = (np.asarray(jax.jit(fn)(key(), x)) != 0).any(axis=-1)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert_probability((kept[a] == kept[b]).sum(), kept[a].size, 0.5)
