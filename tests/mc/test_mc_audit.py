"""`audit`: every dropout site of whatever ends in an adapter's function, and nothing is run."""

import functools
import math

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import linen, mc
from tests.support import models
from tests.support.cases import key
from tests.support.models import each_framework

X = jnp.ones((8, 40))


class Small(nn.Module):
    @nn.compact
    def __call__(self, x, scale=1.0):
        x = nn.Dropout(0.1, deterministic=True, name="first")(x)
        return nn.relu(linen.VariationalDropout(0.25, time_axis=0, name="second")(x, True)) * scale


class NnxSmall(nnx.Module):
    def __init__(self):
        self.first = nnx.Dropout(0.1)
        self.second = jaxdrop.nnx.VariationalDropout(0.25, time_axis=0, deterministic=True)

    def __call__(self, x, scale=1.0):
        return nnx.relu(self.second(self.first(x))) * scale


def small(framework):
    return mc.from_linen(Small(), {}) if framework == "linen" else mc.from_nnx(NnxSmall())


SITES = (
    mc.Site("first", "Dropout", 0.1, (8, 40), True),
    mc.Site("second", "VariationalDropout", 0.25, (8, 40), True),
)

FORMS = {
    "itself": lambda fn: fn,
    "lambda": lambda fn: lambda key, x: fn(key, x, 2.0),
    "partial": lambda fn: functools.partial(fn, scale=2.0),
    "jit": jax.jit,
    "jit-lambda": lambda fn: jax.jit(lambda key, x: fn(key, x)),
    "checkpoint": jax.checkpoint,
    "loop": lambda fn: lambda key, x: jax.lax.fori_loop(0, 3, lambda _, x: fn(key, x), x),
    "branch": lambda fn: lambda key, x: jax.lax.cond(x.sum() > 0, fn, lambda _, x: x, key, x),
    "gradient": lambda fn: lambda key, x: jax.grad(lambda x: fn(key, x).sum())(x),
    "postprocessed": lambda fn: lambda key, x: {"probabilities": jax.nn.softmax(fn(key, x))},
}


@each_framework
@pytest.mark.parametrize("form", FORMS)
def test_sites_are_found_in_every_form(framework, form):
    fn = FORMS[form](small(framework))
    report = mc.audit(fn, key(), X)
    assert report.sites == SITES
    assert report.depends_on_key


@each_framework
def test_sites_of_a_compiled_and_cached_function(framework):
    """What has been traced before is not traced again, and yet tells its sites."""
    fn = jax.jit(small(framework))
    fn(key(), X)
    fn(key(), X)
    for _ in range(2):
        assert mc.audit(fn, key(), X).sites == SITES
        assert mc.audit(lambda key, x: fn(key, x), key(), X).sites == SITES


@each_framework
def test_sites_of_a_mapped_function(framework):
    """A map over examples has the shape of all of them; one over keys too."""
    fn = small(framework)
    report = mc.audit(jax.vmap(fn, (None, 0)), key(), jnp.ones((3, 8, 40)))
    assert [site[:3] for site in report.sites] == [site[:3] for site in SITES]
    report = mc.audit(jax.vmap(fn, (0, None)), jax.random.split(key(), 3), X)
    assert [site[:3] for site in report.sites] == [site[:3] for site in SITES]
    assert report.depends_on_key


@each_framework
def test_function_without_marks_compiles_to_the_same_program(framework):
    """The notes cost nothing: none is left after lowering."""
    text = jax.jit(small(framework)).lower(key(), X).as_text()
    assert "jaxdrop.site" not in text


def test_nothing_is_run():
    """An array of 4 TB, and a callback that would tell."""
    called = []

    class Huge(nn.Module):
        @nn.compact
        def __call__(self, x):
            jax.debug.callback(lambda: called.append(1))
            x = jnp.broadcast_to(x, (2**20, 2**20))
            return nn.Dropout(0.5, deterministic=True)(x)

    fn = mc.from_linen(Huge(), {})
    for x in (jnp.ones(()), jax.ShapeDtypeStruct((2**20, 2**20), jnp.float32)):
        (site,) = mc.audit(fn, key(), x).sites
        assert site.shape == (2**20, 2**20)
    jax.effects_barrier()
    assert not called


def test_key_is_not_consumed():
    one = key()
    mc.audit(small("linen"), one, X)
    jax.random.normal(one)


class Ends(nn.Module):
    """Live and dead ones, in order."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.0, deterministic=False)(x)
        x = linen.MCDropout(0.5, deterministic=True)(x)
        x = linen.MCDropout(0.5)(x, deterministic=True)
        x = nn.Dropout(np.float32(0), deterministic=False)(x)
        x = linen.SpatialDropout(0, deterministic=True)(x)
        x = linen.MCDropout(0.5)(x)
        return nn.Dropout(jnp.full(40, 0.1, jnp.float32), deterministic=True)(x)


class NnxEnds(nnx.Module):
    def __init__(self):
        ours = jaxdrop.nnx
        self.layers = nnx.List(
            [
                nnx.Dropout(0.0),
                ours.MCDropout(0.5, deterministic=True),
                ours.MCDropout(0.5),
                nnx.Dropout(np.float32(0)),
                ours.SpatialDropout(0, deterministic=True),
                ours.MCDropout(0.5),
                nnx.Dropout(nnx.data(jnp.full(40, 0.1, jnp.float32))),
            ]
        )

    def __call__(self, x):
        for i, layer in enumerate(self.layers):
            x = layer(x, deterministic=True) if i == 2 else layer(x)
        return x


@each_framework
def test_dead_sites_are_listed_as_dead(framework):
    fn = mc.from_linen(Ends(), {}) if framework == "linen" else mc.from_nnx(NnxEnds())
    report = mc.audit(fn, key(), X)
    assert [site.live for site in report.sites] == [False] * 5 + [True] * 2
    assert [site.rate for site in report.sites] == [0.0, 0.5, 0.5, 0.0, 0.0, 0.5, None]
    lines = str(report).splitlines()
    assert [line.split()[-1] for line in lines[1:-1]] == ["dead"] * 5 + ["live"] * 2
    assert lines[-1].startswith("2 of 7 sites are live. The output depends on the key")


@each_framework
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_output_that_no_key_changes_is_said_to_be_so(framework, rate):
    fn = (
        mc.from_linen(nn.Dropout(rate), {})
        if framework == "linen"
        else mc.from_nnx(nnx.Dropout(rate))
    )
    report = mc.audit(fn, key(), X)
    assert not report.depends_on_key
    assert "does not depend on the key" in str(report)


def test_plain_function_has_no_site_but_depends():
    report = mc.audit(lambda key, x: x + jax.random.normal(key, x.shape), key(), X)
    assert report[:2] == ((), True)
    assert "no dropout site was found" in str(report)
    assert "its passes differ all the same" in str(report)


class Deep(nn.Module):
    """Long names around the longest class that has dropout."""

    depth: int
    rate: float

    @nn.compact
    def __call__(self, x):
        if self.depth:
            name = "a_rather_long_name_of_a_block"
            return Deep(self.depth - 1, self.rate, name=name)(x)
        attention = nn.MultiHeadDotProductAttention(2, dropout_rate=0.5, deterministic=True)
        x = attention(linen.VariationalDropout(self.rate, name="end", deterministic=True)(x))
        return nn.Dropout(0.0, deterministic=True)(x)


@pytest.mark.parametrize("depth", [0, 1, 9])
@pytest.mark.parametrize("rate", [1 / 3, 1e-7])
def test_table_is_80_columns_wide_at_most(depth, rate):
    model, x = Deep(depth, rate), jnp.ones((2, 3, 8))
    fn = mc.from_linen(model, jax.eval_shape(model.init, key(), x))
    text = str(mc.audit(fn, key(), x))
    assert max(map(len, text.splitlines())) <= 80, text
    assert all(line == line.rstrip() for line in text.splitlines())
    # No path is cut short, so that sites can be told apart and copied into sites=.
    joined = text.replace("\n", "")
    assert all(site.path in joined for site in mc.audit(fn, key(), x).sites)
    dead = mc.from_linen(nn.Dropout(0.0), {})
    assert max(map(len, str(mc.audit(dead, key(), x)).splitlines())) <= 80


class Named(nn.Module):
    length: int

    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, name="a" * self.length, deterministic=True)(x)


def test_a_path_has_a_line_of_its_own_only_if_its_row_has_no_room():
    for length in range(44, 55):
        path, *rest = str(mc.audit(mc.from_linen(Named(length), {}), key(), X)).splitlines()[1:]
        beside = "  Dropout  0.5   (8, 40)  live"
        assert (path == "a" * length + beside) == (length + len(beside) <= 80)
        assert path == "a" * length + beside or rest[0].endswith(beside)


def test_table_reads_as_documented():
    assert str(mc.audit(small("linen"), key(), X)) == "\n".join(
        [
            "path    kind                rate  shape",
            "first   Dropout             0.1   (8, 40)  live",
            "second  VariationalDropout  0.25  (8, 40)  live",
            "2 of 2 sites are live. The output depends on the key.",
        ]
    )
    assert math.isclose(SITES[0].rate, 0.1)


class Centred(nn.Module):
    """Centres by a running mean, which it updates where it is told to drop."""

    @nn.compact
    def __call__(self, x, deterministic=True):
        seen = self.variable("averages", "mean", jnp.zeros, x.shape[-1:])
        if not deterministic and not self.is_initializing():
            seen.value = 0.9 * seen.value + 0.1 * x.mean(0)
        self.sow("intermediates", "input", x)
        return nn.Dropout(0.5, deterministic=deterministic)(x - seen.value[None])


class NnxCentred(nnx.Module):
    def __init__(self):
        self.mean = nnx.BatchStat(jnp.zeros(40))
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x):
        self.mean[...] = 0.9 * self.mean[...] + 0.1 * x.mean(0)
        return self.dropout(x - self.mean[...][None])


@each_framework
@pytest.mark.parametrize("wrap", [lambda fn: fn, jax.jit], ids=["plain", "jit"])
def test_collections_that_a_pass_would_change_are_named(framework, wrap):
    if framework == "linen":
        model = Centred()
        fn, name = mc.from_linen(model, model.init(key(), X)), "averages"
    else:
        fn, name = mc.from_nnx(NnxCentred()), "BatchStat"
    report = mc.audit(wrap(fn), key(), X)
    assert report.changes == (name,)
    assert str(report).endswith(f"The output depends on the key.\nA pass would change {name}.")
    if framework == "linen":
        with pytest.raises(flax.errors.ModifyScopeVariableError, match="averages"):
            fn(key(), X)


@each_framework
def test_a_model_that_evaluates_changes_no_collection(framework):
    """Though its BatchNorm has averages that training would move."""
    fn, _ = models.net(framework)
    assert mc.audit(fn, key(), models.inputs()).changes == ()


@pytest.mark.parametrize(
    "where",
    [
        lambda y: jnp.zeros(80).at[jnp.arange(40)].add(y),
        lambda y: jnp.zeros(80).at[jnp.where(y > 0, 1, 2)].apply(jnp.cos),
        lambda y: jax.lax.reduce(X, y[0], lambda a, b: a + b, (0, 1)),
        lambda y: jnp.sort(y),
    ],
)
def test_what_is_dropped_may_be_any_operand_of_what_follows(where):
    fn = lambda key, x: where(jaxdrop.dropout(key, x, 0.5))  # noqa: E731
    assert mc.audit(fn, key(), X[0]).depends_on_key
