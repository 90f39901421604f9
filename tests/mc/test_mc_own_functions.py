"""Models that drop by functions and keys of their own, told by a flag that parents hand down."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import mc
from tests.support.cases import assert_same_bits, data, key

# A transformer as large public implementations have it: the flag is handed down in calls, and
# attention drops by a function and a key of the module's own.


class SelfAttention(nn.Module):
    rate: float = 0.5

    @nn.compact
    def __call__(self, x, deterministic=True):
        query, value = (nn.DenseGeneral((2, 4))(x) for _ in range(2))
        dropout_rng = None
        if not deterministic and self.rate > 0:
            dropout_rng = self.make_rng("dropout")
        weights = nn.dot_product_attention_weights(
            query,
            query,
            dropout_rng=dropout_rng,
            dropout_rate=self.rate,
            broadcast_dropout=False,
            deterministic=deterministic,
        )
        return jnp.einsum("...hqk,...khd->...qhd", weights, value).reshape(x.shape)


class Block(nn.Module):
    """With a BatchNorm whose flag is tied to that of dropout."""

    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        x = x + SelfAttention()(x, deterministic=deterministic)
        x = nn.BatchNorm()(x, use_running_average=deterministic)
        return nn.Dropout(0.5)(nn.Dense(8)(x), deterministic=deterministic)


class Transformer(nn.Module):
    wrap: str = ""

    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        block = Block
        if self.wrap == "remat":
            block = nn.remat(Block, static_argnums=(2,))
        elif self.wrap == "jit":
            block = nn.jit(Block, static_argnums=(2,))
        for number in range(2):
            x = block(name=f"layer_{number}")(x, deterministic)
        return x


@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize("wrap", ["", "remat", "jit"])
def test_flags_that_are_handed_down_are_turned_and_batchnorm_is_not(wrap):
    model, x = Transformer(wrap), data((2, 5, 8))
    variables = Transformer().init(key(3), x)
    before = jax.tree.map(np.asarray, variables)
    fn = mc.from_linen(model, variables)
    report = mc.audit(fn, key(), x)
    paths = [(site.path, site.kind) for site in report.sites if site.live]
    assert len(paths) == 4
    for number in range(2):
        number = 0 if wrap == "jit" else number  # traced once for both
        assert (f"layer_{number}/SelfAttention_0", "SelfAttention") in paths
        assert (f"layer_{number}/Dropout_0", "Dropout") in paths
    # Attention alone: its own dropout shows, and the statistics stay those of the variables.
    alone = mc.from_linen(model, variables, sites="*SelfAttention_0")
    first, second = alone(key(1), x), alone(key(2), x)
    assert (first != second).any()
    still = model.apply(variables, x)
    mean = mc.predict(alone, key(4), x, num_samples=2000, chunk_size=100).mean
    assert np.abs(mean - still).mean() < 0.5 * np.abs(first - still).mean()
    jax.tree.map(assert_same_bits, jax.tree.map(np.asarray, variables), before)


@pytest.mark.parametrize(
    ("sites", "live"),
    [
        ("layer_1", set()),
        ("layer_0*", {"layer_0/SelfAttention_0", "layer_0/Dropout_0"}),
        (lambda path: "Attention" not in path, {"layer_0/Dropout_0", "layer_1/Dropout_0"}),
        ("layer_1/Self*", {"layer_1/SelfAttention_0"}),
    ],
    ids=["block", "inside", "others", "attention"],
)
def test_a_parent_that_is_told_to_drop_does_not_tell_what_is_not_chosen(sites, live):
    x = data((2, 5, 8))
    fn = mc.from_linen(Transformer(), Transformer().init(key(3), x), sites=sites)
    report = mc.audit(fn, key(), x)
    assert {site.path for site in report.sites if site.live} == live
    assert report.depends_on_key == bool(live)


def test_norms_of_a_users_own_are_not_told_to_train():
    class MyBatchNorm(nn.Module):
        @nn.compact
        def __call__(self, x, deterministic=True):
            return x if deterministic else x - x.mean(0, keepdims=True)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, deterministic=True):
            x = nn.Dropout(0.5)(x, deterministic=deterministic)
            return MyBatchNorm()(x, deterministic=deterministic)

    # The flag that the parent hands down is on, so the norm has to be told that it is off.
    y = np.asarray(mc.from_linen(Model(), {})(key(), jnp.ones((6, 8))))
    assert set(np.unique(y)) == {0.0, 2.0}


class Own(nnx.Module):
    """Drops by a function, unless an attribute says otherwise."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(8, 8, rngs=rngs)
        self.rngs = rngs.fork()
        self.deterministic = False

    def __call__(self, x):
        x = self.linear(x)
        return jaxdrop.dropout(self.rngs.dropout(), x, 0.5, deterministic=self.deterministic)


class Handed(nnx.Module):
    """Drops by a function and a stream, if an argument says so."""

    def __init__(self, rngs):
        self.stream = rngs.dropout.fork()

    def __call__(self, x, deterministic=True):
        return x if deterministic else jaxdrop.dropout(self.stream(), x, 0.5)


class Always(nnx.Module):
    """Drops, whatever anyone says."""

    def __init__(self, rngs):
        self.rngs = rngs.fork()

    def __call__(self, x):
        return jaxdrop.dropout(self.rngs.dropout(), x, 0.5)


class Parent(nnx.Module):
    """With a BatchNorm whose flag is tied to that of dropout."""

    def __init__(self, rngs):
        self.first, self.second = Handed(rngs), Handed(rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)

    def __call__(self, x, deterministic=True):
        x = self.second(self.first(x, deterministic), deterministic=deterministic)
        return self.norm(x, use_running_average=deterministic)


class Stacked(nnx.Module):
    """Three blocks under a scan."""

    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def blocks(rngs):
            return Always(rngs)

        self.blocks = blocks(rngs)

    def __call__(self, x):
        def step(x, block):
            return block(x), x

        return nnx.scan(step, in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))(x, self.blocks)


ROWS = data((4, 8)) + 3


@pytest.mark.parametrize("module", [Own, Handed, Always])
def test_nnx_functions_of_a_users_own_drop_and_show(module):
    model = module(nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.state(model, nnx.Not(nnx.RngKey)))
    fn = mc.from_nnx(model)
    (site,) = mc.audit(fn, key(), ROWS).sites
    assert (site.kind, site.live) == (module.__name__, True)
    samples = np.asarray(mc.predict(fn, key(), ROWS, num_samples=64, summary=mc.samples()))
    assert 0.4 < (samples == 0).mean() < 0.6
    assert len({sample.tobytes() for sample in samples}) == 64
    assert_same_bits(fn(key(1), ROWS), jax.jit(fn)(key(1), ROWS))
    after = nnx.state(model, nnx.Not(nnx.RngKey))
    jax.tree.map(assert_same_bits, jax.tree.map(np.asarray, after), before)


@pytest.mark.parametrize("module", [Own, Handed])
def test_nnx_functions_that_are_not_chosen_stay_off(module):
    fn = mc.from_nnx(module(nnx.Rngs(0)), sites="elsewhere")
    assert (fn(key(), ROWS) != 0).all()


@pytest.mark.parametrize("sites", ["first", "second"])
def test_nnx_flags_are_turned_for_the_chosen_and_batchnorm_keeps_its_averages(sites):
    model = Parent(nnx.Rngs(0))
    fn = mc.from_nnx(model, sites=sites)
    found = {site.path: site.live for site in mc.audit(fn, key(), ROWS).sites}
    assert found == {path: path == sites for path in ("first", "second")}
    scale = 1 / np.sqrt(1 + model.norm.epsilon)
    values = np.asarray(fn(key(), ROWS)) / (2 * np.asarray(ROWS) * scale)
    np.testing.assert_allclose(values, values.round(), atol=1e-5)  # all 0 or 1: nothing was centred
    assert 0 < values.mean() < 1
    assert not mc.audit(mc.from_nnx(model), key(), ROWS).changes
    (first, second) = (np.asarray(mc.from_nnx(model, sites=s)(key(), ROWS)) for s in ("f*", "s*"))
    assert ((first == 0) != (second == 0)).any()  # each has masks of its own


def test_nnx_functions_under_a_scan_draw_for_each_layer():
    fn = mc.from_nnx(Stacked(nnx.Rngs(0)))
    assert [site.path for site in mc.audit(fn, key(), ROWS).sites] == ["blocks"]
    last, entered = fn(key(), jnp.ones((64, 64)))
    zeros = np.asarray([*entered, last]) == 0
    shares = zeros.mean(axis=(1, 2))
    np.testing.assert_allclose(shares, [0, 0.5, 0.75, 0.875], atol=0.05)


class NormOfAUser(nnx.Module):
    """Keeps averages, and is told by other words."""

    def __init__(self):
        self.norm = nnx.BatchNorm(8, rngs=nnx.Rngs(0))

    def __call__(self, x, train=False):
        return self.norm(x, use_running_average=not train)


class Trained(nnx.Module):
    def __init__(self, rngs):
        self.drop, self.norm = Handed(rngs), NormOfAUser()

    def __call__(self, x, deterministic=True):
        return self.drop(self.norm(x, train=not deterministic), deterministic=deterministic)


def test_nnx_norms_of_a_users_own_are_not_told_to_train():
    fn = mc.from_nnx(Trained(nnx.Rngs(0)))
    assert not mc.audit(fn, key(), ROWS).changes
    assert (np.asarray(fn(key(), ROWS)).max(axis=1) > 2).any()  # not centred
