"""Dropout that the adapters put beside layers of a model that has none, and rates by group."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from flax.nnx import bridge

from jaxdrop import linen, mc
from jaxdrop import nnx as ours
from tests.mc import test_mc_sites as sites
from tests.support.cases import assert_same_bits, data, key

IMAGES = data((4, 8, 8, 3))
TOKENS = jnp.arange(12).reshape(2, 6) % 5
ONES = sites.ONES


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        y = nn.Conv(x.shape[-1], (3, 3))(x)
        return nn.relu(x + nn.BatchNorm(use_running_average=not train)(y))


class ResNet(nn.Module):
    """One of its blocks is computed again on the way back."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.remat(Block)(name="Block_0")(nn.Conv(6, (3, 3))(x))
        x = Block(name="Block_1")(x, train).mean((1, 2))
        return nn.Dense(3)(nn.relu(nn.Dense(16)(x)))


class DecoderLayer(nn.Module):
    @nn.compact
    def __call__(self, x, mask):
        x += nn.MultiHeadDotProductAttention(2, name="attention")(nn.LayerNorm()(x), mask=mask)
        return x + nn.Dense(8, name="down")(nn.gelu(nn.Dense(16, name="up")(x))), None


class Decoder(nn.Module):
    """Its layers lie in a loop, whose keys are those of parameters: it knows no dropout."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(5, 8)
        axes = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
        layers = nn.scan(DecoderLayer, in_axes=nn.broadcast, length=3, **axes)(name="layers")
        x, _ = layers(embed(tokens), nn.make_causal_mask(tokens))
        return embed.attend(x)


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(6, 6, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(6, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(x + self.norm(self.conv(x)))


class NnxResNet(nnx.Module):
    """Ends in a stack of layers that a loop runs through."""

    def __init__(self, rngs):
        self.stem = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.blocks = nnx.List([NnxBlock(rngs) for _ in range(2)])
        self.stack = nnx.vmap(lambda rngs: nnx.Linear(6, 6, rngs=rngs))(rngs.split(3))
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.remat(lambda block, x: block(x))(self.blocks[0], self.stem(x))
        x = self.blocks[1](x).mean((1, 2))
        axes = {"in_axes": (nnx.Carry, 0), "out_axes": nnx.Carry}
        return self.head(nnx.scan(lambda x, layer: layer(x), **axes)(x, self.stack))


def _linen(model, x):
    variables = model.init(key(), x)
    return lambda **options: mc.from_linen(model, variables, **options), x, model.bind(variables)


def _nnx(model, x):
    model.eval()
    return lambda **options: mc.from_nnx(model, **options), x, model


# Model, what is inserted, and the paths of the sites in order.
NETS = {
    "linen ResNet": (
        lambda: _linen(ResNet(), IMAGES),
        {"Block_?/Conv_0": mc.Insert(0.1, spatial=True), nn.Dense: 0.1},
        ["Block_0/Conv_0:after", "Block_1/Conv_0:after", "Dense_1:after", "Dense_0:after"],
    ),
    "linen decoder": (
        lambda: _linen(Decoder(), TOKENS),
        {"*down": 0.1, "*/attention": mc.Insert(0.1, before=True), "Embed_0": 0.1},
        ["Embed_0:after", "layers/attention:before", "layers/down:after"],
    ),
    "nnx ResNet": (
        lambda: _nnx(NnxResNet(nnx.Rngs(0)), IMAGES),
        {"blocks/*": 0.1, nnx.Linear: 0.1, lambda path: path == "stem": 0.1},
        ["stem:after", "blocks/0:after", "blocks/1:after", "stack:after", "head:after"],
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_a_model_without_dropout_gets_it_where_it_is_named_and_at_rate_0_nothing_changes(name):
    make, inserted, paths = NETS[name]
    adapt, x, plain = make()
    fn = adapt(insert=inserted)
    report = mc.audit(fn, key(), x)
    drops = [site for site in report.sites if site.kind == "Dropout"]
    assert [site.path for site in drops] == paths
    assert all(site.live and site.rate == 0.1 for site in drops)
    assert not report.changes
    assert not report.unreached
    assert_same_bits(adapt(insert=inserted, rate=0)(key(), x), plain(x))
    assert_same_bits(adapt(insert=dict.fromkeys(inserted, 0.0))(key(), x), plain(x))
    passes = [fn(one, x) for one in (key(0), key(0), key(1))]
    assert_same_bits(*passes[:2])
    assert not (passes[0] == passes[2]).all()
    alone = mc.audit(adapt(insert=inserted, sites=paths[-1]), key(), x).sites
    assert [site.path for site in alone if site.live] == paths[-1:]


class OfParameters(nn.Module):
    """A loop that hands on keys for parameters alone, as one that knows no dropout does."""

    @nn.compact
    def __call__(self, x):
        scan = nn.scan(sites.Layer, split_rngs={"params": True}, length=3)
        return scan()(x, None)[1]


class MappedLayer(nn.Module):
    """The layer itself is mapped: its copies have one path."""

    @nn.compact
    def __call__(self, x):
        axes = {"in_axes": None, "axis_size": 3, "split_rngs": {"params": True}}
        return nn.vmap(nn.Dropout, **axes)(0.5, deterministic=True)(x)


@pytest.mark.parametrize(
    "model",
    [
        *(sites.Names(), sites.Shared(), sites.Mixed(), sites.Scanned(), sites.Vmapped()),
        *(sites.Remat(), OfParameters(), MappedLayer()),
        *(sites.NnxNames, sites.NnxMixed, sites.NnxRemat, sites.NnxScanned),
    ],
    ids=lambda model: getattr(model, "__name__", type(model).__name__),
)
def test_no_two_calls_of_a_layer_share_a_mask(model):
    """The layers are dropout modules, whose own dropout is off."""
    if isinstance(model, nn.Module):
        inserted = {nn.Dropout: 0.5, linen.MCDropout: 0.5}
        inserted = inserted if isinstance(model, sites.Mixed) else {nn.Dropout: 0.5}
        fn = mc.from_linen(model, {}, insert=inserted, sites="*:after")
    else:
        inserted = {nnx.Dropout: 0.5, ours.MCDropout: 0.5}
        inserted = inserted if model is sites.NnxMixed else {nnx.Dropout: 0.5}
        fn = mc.from_nnx(model(), insert=inserted, sites="*:after")
    own = [site for site in mc.audit(fn, key(), ONES).sites if site.path and ":" not in site.path]
    assert own
    assert not any(site.live for site in own)
    sites.assert_independent(jax.jit(fn)(key(), ONES))


def test_inserted_dropout_is_dropout_of_the_output_the_input_or_whole_feature_maps():
    nnx_conv = nnx.Conv(3, 40, (3, 3), rngs=nnx.Rngs(0))
    convolution = nn.Conv(40, (3, 3))
    linen_variables = convolution.init(key(), IMAGES)
    adapters = (
        (lambda insert: mc.from_nnx(nnx_conv, insert={"": insert}), nnx_conv),
        (
            lambda insert: mc.from_linen(convolution, linen_variables, insert={"": insert}),
            convolution.bind(linen_variables),
        ),
    )
    for adapt, plain in adapters:
        for x in (IMAGES, IMAGES[0], IMAGES[None]):  # without examples, and with two axes of them
            fn, full = adapt(mc.Insert(0.5, spatial=True)), np.asarray(plain(x))
            dropped = np.asarray(fn(key(), x)) == 0
            assert (dropped == dropped[..., :1, :1, :]).all()
            maps = dropped[..., 0, 0, :].reshape(-1, 40)
            assert 0.3 < maps.mean() < 0.7
            assert len({row.tobytes() for row in maps}) == len(maps)
            np.testing.assert_array_equal(np.asarray(fn(key(), x))[~dropped], 2 * full[~dropped])
        single = np.asarray(adapt(0.5)(key(), IMAGES)) == 0
        assert not (single == single[:, :1, :1]).all()
        before = adapt(mc.Insert(0.5, before=True))
        assert (before(key(), IMAGES) != 0).all()
        assert_same_bits(before(key(), jnp.zeros_like(IMAGES)), plain(jnp.zeros_like(IMAGES)))
        assert mc.audit(before, key(), IMAGES).sites[0].shape == IMAGES.shape
        by_name = before(key(), inputs=IMAGES)
        assert_same_bits(by_name, before(key(), IMAGES))


def test_balanced_passes_share_inserted_drops_out_exactly():
    model = sites.Shared()
    fn = mc.from_linen(model, {}, insert={nn.Dropout: 0.25}, sites="*:after")
    options = {"num_samples": 64, "summary": mc.samples(), "chunk_size": 16, "balanced": True}
    out = mc.predict(lambda key, x: fn(key, x)[0], key(), jnp.ones(64), **options)
    assert ((np.asarray(out).reshape(4, 16, 64) == 0).sum(1) == 4).all()
    assert not mc.audit(fn, key(), ONES).independent


class Pair(nn.Module):
    deep: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="a")(x)
        return Pair(name="b")(x) if self.deep else nn.Dense(4, name="b")(x)


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="p")(Pair(deep=True, name="pair")(x))


@pytest.mark.parametrize(
    ("inserted", "paths"),
    [
        ({"p*": 0.5}, ["pair:after", "p:after"]),  # not what is inside
        ({"pair/*": 0.5}, ["pair/a:after", "pair/b:after"]),
        ({"*/a": 0.5}, ["pair/a:after", "pair/b/a:after"]),
        ({"p": 0.1, "p*": mc.Insert(0.5, before=True)}, ["pair:before", "p:after"]),
        ({"": 0.5}, [":after"]),
        ({"*": 0.5}, ["pair:after", "p:after"]),
        ({Pair: 0.5}, ["pair/b:after", "pair:after"]),
        ({lambda path: path.count("/") == 1: 0.5}, ["pair/a:after", "pair/b:after"]),
    ],
    ids=["inside", "children", "depths", "first", "model", "star", "class", "function"],
)
def test_which_layers_a_name_names(inserted, paths):
    x = jnp.ones((2, 4))
    fn = mc.from_linen(Nested(), Nested().init(key(), x), insert=inserted)
    assert [site.path for site in mc.audit(fn, key(), x).sites] == paths


class Others(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.RNN(nn.LSTMCell(6))(nn.Embed(5, 6)(tokens))
        nn.while_loop(lambda _, x: x.sum() > 0, lambda layer, x: layer(x) - 99, Fixed(), x)
        return nn.Dense(2)(x)


class Fixed(nn.Module):
    def __call__(self, x):
        return x


@pytest.mark.parametrize(("number", "more"), [(39, ""), (42, " and 3 more")])
def test_a_message_names_forty_layers_at_most(number, more):
    model = nn.Sequential([Fixed() for _ in range(number)])
    fn = mc.from_linen(model, {}, insert={"nope": 0.1})
    with pytest.raises(ValueError, match=rf"layers_38' \(Fixed\){more}; write for example"):
        fn(key(), jnp.ones((2, 4)))


@pytest.mark.parametrize(
    ("inserted", "kind", "message"),
    [
        ([0.1], TypeError, r"dict .* got \[0.1\]; write for example insert={'\*Dense_\*': 0.1}"),
        ({3: 0.1}, TypeError, "a pattern, a class or a function .* got 3; write"),
        ({"x": True}, TypeError, "real number in .* got True"),
        ({"x": mc.Insert(0.1, spatial=1)}, TypeError, "True or False for spatial, got 1; write"),
        ({"x": 1.5}, ValueError, r"in \[0, 1\], got 1.5"),
        (
            {"x": jnp.full(2, 0.1)},
            ValueError,
            r"known now for 'x', got .*pass what varies as rate=",
        ),
        ({"Dens_*": 0.1}, ValueError, r"got 'Dens_\*', which names none.* 'Dense_0' \(Dense\).*wr"),
        ({"Dense_0": 0.1, nn.Dense: 0.1}, None, None),
        ({"Dense_0": 0.1, "*Dense_0": 0.1}, ValueError, r"got '\*Dense_0', which .* a name before"),
        (
            {nn.Embed: mc.Insert(0.1, before=True)},
            TypeError,
            r"Embed_0 \(Embed\).* takes dtype int",
        ),
        ({"*LSTMCell*": 0.1}, TypeError, r"LSTMCell_0 \(LSTMCell\), which returns tuple; name"),
        ({Fixed: 0.1}, ValueError, r"gets keys, got Fixed_0 \(Fixed\) inside a transform"),
    ],
    ids=str,
)
def test_what_cannot_be_inserted_is_refused_with_a_message_that_teaches(inserted, kind, message):
    variables = Others().init(key(), TOKENS)
    run = lambda: mc.from_linen(Others(), variables, insert=inserted)(key(), TOKENS)  # noqa: E731
    if kind is None:
        run()
        return
    with pytest.raises(kind, match=rf"(?s){message}"):
        run()


def test_an_nnx_layer_that_is_not_called_or_returns_no_array_is_refused():
    class Model(nnx.Module):
        def __init__(self):
            self.cell = nnx.LSTMCell(4, 4, rngs=nnx.Rngs(0))
            self.unused = nnx.Linear(4, 4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.cell((x, x), x)[1]

    with pytest.raises(ValueError, match=r"got 'unused', which names none.*'cell' \(LSTMCell\)"):
        mc.from_nnx(Model(), insert={"unused": 0.1})(key(), jnp.ones((2, 4)))
    with pytest.raises(TypeError, match=r"got cell \(LSTMCell\), which returns tuple"):
        mc.from_nnx(Model(), insert={"cell": 0.1})(key(), jnp.ones((2, 4)))


class Head(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(64)(x)


class Jitted(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.jit(Head)()(x)


class NnxJitted(nnx.Module):
    def __init__(self):
        self.a = nnx.Linear(4, 64, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return nnx.jit(lambda a, x: a(x))(self.a, x)


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_a_part_that_is_compiled_gets_the_dropout_of_each_call(framework):
    x = jnp.ones((1, 4))
    fn = mc.from_nnx(NnxJitted(), insert={"a": 0.5})
    if framework == "linen":
        fn = mc.from_linen(Jitted(), Jitted().init(key(), x), insert={"*/Dense_0": 0.5})
    passes = [np.asarray(fn(one, x)) for one in (key(0), key(0), key(1))]
    assert_same_bits(*passes[:2])
    assert not (passes[0] == passes[2]).all()
    assert ((passes[0] == 0).mean() > 0.2).all()


class Inner(nnx.Module):
    def __init__(self, rngs):
        self.a, self.b = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return self.b(self.a(x))


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(bridge.ToLinen(Inner, name="bridge")(x))


def _nnx_around_linen():
    model = bridge.ToNNX(nn.Sequential([nn.Dense(4), nn.Dense(4)]), rngs=nnx.Rngs(0))
    return nnx.Sequential(model.lazy_init(jnp.ones((2, 4))), nnx.Linear(4, 2, rngs=nnx.Rngs(0)))


def _in_linen(x, **options):
    return mc.from_linen(Outer(), Outer().init(key(), x), **options)


def _in_nnx(x, **options):
    del x
    return mc.from_nnx(_nnx_around_linen(), **options)


@pytest.mark.parametrize(
    ("make", "inner", "outer", "other"),
    [
        (_in_linen, "bridge/a", "bridge", "Dense_0"),
        (_in_nnx, "layers/0/layers_0", "layers/0", "layers/1"),
    ],
    ids=["nnx in linen", "linen in nnx"],
)
def test_both_frameworks_in_one_model_and_rates_by_group(make, inner, outer, other):
    x = jnp.ones((2, 4))
    fn = make(x, insert={inner: 0.5, outer: 0.25, other: 0.1})
    rates = lambda fn: {site.path: site.rate for site in mc.audit(fn, key(), x).sites}  # noqa: E731
    names = [f"{path}:after" for path in (inner, outer, other)]
    assert rates(fn) == dict(zip(names, (0.5, 0.25, 0.1)))
    grouped = fn.with_rate({f"{outer}:*": 0.0, f"{outer}/*": 0.3})
    assert rates(grouped) == dict(zip(names, (None, 0.0, 0.1)))
    one, many = (
        jax.jit(lambda rate, star=star: fn.with_rate({"*": rate} if star else rate)(key(), x))
        for star in (False, True)
    )
    assert_same_bits(one(0.3), many(0.3))
    assert not (one(0.3) == one(0.6)).all()
    with pytest.raises(ValueError, match=r"got 'nope', which matches none of those there are: '"):
        fn.with_rate({"*": 0.1, "nope": 0.1})(key(), x)
    with pytest.raises(ValueError, match=r"got '\*' and '.*:after', which both match '.*:after'"):
        fn.with_rate({"*": 0.1, names[0]: 0.1})(key(), x)
    for bad in ({}, {3: 0.1}):
        with pytest.raises(TypeError, match="rate: expected patterns of sites as keys"):
            fn.with_rate(bad)


@pytest.mark.parametrize("framework", ["linen", "nnx"])
def test_inserted_dropout_shares_its_decisions_along_axes(framework):
    if framework == "linen":
        model = nn.Sequential([nn.Dense(8), nn.Dense(8)])
        make, name = lambda **o: mc.from_linen(model, model.init(key(), x), **o), "layers_1"
    else:
        model = nnx.Sequential(*(nnx.Linear(4 * n, 8, rngs=nnx.Rngs(n)) for n in (1, 2)))
        make, name = lambda **o: mc.from_nnx(model, **o), "layers/1"
    x = data((3, 5, 4))
    fn = make(insert={name: 0.5}, broadcast_dims={"*": -2})
    dropped = fn(key(1), x) == 0
    assert_same_bits(dropped, jnp.broadcast_to(dropped[:, :1], dropped.shape))
    assert 0 < dropped.mean() < 1 and (dropped[0] != dropped[1]).any()
