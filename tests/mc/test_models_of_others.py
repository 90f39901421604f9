"""Models in the styles of other people: where they drop is found, reached and switched off.

Each has its dropout in another way, and is evaluated without it. Packages of others are tried where
they are installed.
"""

import functools
import importlib.util
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import mc
from tests.support.cases import assert_same_bits, data, key

X = data((4, 6, 8))


def drop(rng, x, rate=0.5):
    """Dropout by the functions of JAX alone."""
    return jnp.where(jax.random.bernoulli(rng, 1 - rate, x.shape), x / (1 - rate), 0.0)


class Other(NamedTuple):
    """A model of others.

    Attributes:
        adapt: gives its function, of options of the adapter.
        evaluated: its own output without dropout, of the arguments.
        sites: paths of all its sites.
        keep: paths of those that keep a rate of their own.
        arguments: of the model.
    """

    adapt: Any
    evaluated: Any
    sites: tuple
    keep: tuple = ()
    arguments: tuple = (X,)


def of_linen(model, *sites, keep=(), arguments=(X,)):
    variables = model.init({"params": key(0), "dropout": key(1)}, *arguments)
    evaluated = lambda *args: model.apply(variables, *args)  # noqa: E731
    adapt = lambda **options: mc.from_linen(model, variables, **options)  # noqa: E731
    return Other(adapt, evaluated, sites, keep, arguments)


def of_nnx(make, *sites, keep=(), arguments=(X,)):
    def evaluated(*args):
        model = make()
        model.eval()
        return model(*args)

    return Other(
        lambda **options: mc.from_nnx(make(), **options), evaluated, sites, keep, arguments
    )


# Linen.


class MixerBlock(nn.Module):
    """Drops by a function under ``if train:``."""

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.gelu(nn.Dense(8)(nn.LayerNorm()(x)))
        return x + (drop(self.make_rng("dropout"), y) if train else y)


class Mixer(nn.Module):
    """Has a module under ``if train:``, and a BatchNorm whose flag is tied to that of dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        for number in range(2):
            x = MixerBlock(name=f"block_{number}")(x, train=train)
        x = nn.BatchNorm(use_running_average=not train)(x)
        if train:
            x = nn.Dropout(0.2, deterministic=False, name="last")(x)
        return nn.Dense(3)(x)


class DetrAttention(nn.Module):
    """Has its flag in a field."""

    train: bool = False

    @nn.compact
    def __call__(self, x):
        rng = self.make_rng("dropout") if self.train else None
        x = x[..., None, :]
        options = {"dropout_rng": rng, "dropout_rate": 0.3, "deterministic": not self.train}
        x = nn.dot_product_attention(x, x, x, **options)[..., 0, :]
        return nn.Dropout(0.5, deterministic=not self.train)(x)


class Detr(nn.Module):
    """Makes its modules in ``setup``, from a field."""

    train: bool = False

    def setup(self):
        self.encoder = DetrAttention(train=self.train)
        self.norm = nn.BatchNorm(use_running_average=not self.train)

    def __call__(self, x):
        return self.norm(self.encoder(x))


def flagged(flag):
    """A model whose flag has that name, in calls of a method that is not its call."""
    text = f"""
class Inner(nn.Module):
    def setup(self):
        self.dense = nn.Dense(8)

    def encode(self, x, *, {flag}=False):
        x = self.dense(x)
        return drop(self.make_rng("dropout"), x) if {flag} else x


class Flagged(nn.Module):
    @nn.compact
    def __call__(self, x, {flag}=False):
        return Inner(name="inner").encode(x, {flag}={flag})
"""
    names = {"nn": nn, "drop": drop}
    exec(text, names)
    return names["Flagged"]()


class Merged(nn.Module):
    """Takes its flag as a field and as an argument."""

    deterministic: bool | None = None

    @nn.compact
    def __call__(self, x, deterministic=None):
        flag = nn.merge_param("deterministic", self.deterministic, deterministic)
        return 2 * (x if flag else drop(self.make_rng("dropout"), x))


class KeyArgument(nn.Module):
    """Takes the key of its dropout, too."""

    @nn.compact
    def __call__(self, x, rng, deterministic=True):
        x = nn.Dense(8)(x)
        x = x if deterministic else jaxdrop.dropout(rng, x, 0.5)
        return nn.Dropout(0.1)(x, deterministic=deterministic)


class Streams(nn.Module):
    """Draws from streams of other names, with shared decisions."""

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = x if deterministic else drop(self.make_rng("drop_path"), x)
        shared = nn.Dropout(0.5, rng_collection="noise", broadcast_dims=(1,))
        return shared(x, deterministic=deterministic)


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        y = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        y = drop(self.make_rng("dropout"), y) if train else y
        return nn.Dropout(0.5)(y, deterministic=not train)


class Lifted(nn.Module):
    """A layer under one of Flax's transforms."""

    how: str

    @nn.compact
    def __call__(self, x, train=False):
        axes = {"params": 0, "batch_stats": 0}
        split = {"params": True, "dropout": True}

        class Step(nn.Module):
            @nn.compact
            def __call__(self, x, _):
                return Layer(name="layer")(x), None

        if self.how == "scan":
            steps = nn.scan(Step, variable_axes=axes, split_rngs=split, length=3)
            return steps(name="lifted")(x, None)[0]
        if self.how == "remat_scan":
            step = nn.remat(Step, prevent_cse=False)
            steps = nn.scan(step, variable_axes=axes, split_rngs=split, length=3)
            return steps(name="lifted")(x, None)[0]
        if self.how == "vmap":
            mapped = nn.vmap(Layer, variable_axes=axes, split_rngs=split, in_axes=0)
            return mapped(name="lifted")(x)
        transform = {"jit": nn.jit, "remat": nn.remat}[self.how]
        return transform(Layer, static_argnums=(2,))(name="lifted")(x, train)


class PreNormBlock(nn.Module):
    """Is no norm, whatever its name holds."""

    @nn.compact
    def __call__(self, x, deterministic=True):
        y = nn.LayerNorm()(x)
        return x + (y if deterministic else drop(self.make_rng("dropout"), y))


class Normed(nn.Module):
    """With each kind of norm that keeps something or is told something."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.SpectralNorm(nn.remat(nn.Dense)(8))(x, update_stats=train)
        x = nn.WeightNorm(nn.Dense(8))(x)
        x = nn.BatchNorm()(x, use_running_average=not train)
        return nn.Dropout(0.5, name="drop")(x, deterministic=not train)


class Held(nn.Module):
    """Modules in lists and dicts."""

    def setup(self):
        self.held = {"a": nn.Dropout(0.5), "b": [nn.Dropout(0.5), MixerBlock()]}

    def __call__(self, x, deterministic=True):
        x = self.held["a"](x, deterministic=deterministic)
        x = self.held["b"][0](x, deterministic)
        return self.held["b"][1](x, train=not deterministic)


class WithNnx(nn.Module):
    """An nnx model inside."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dropout(0.5, name="outer")(x, deterministic=not train)
        return nnx.bridge.ToLinen(NnxLayer, name="inner")(x)


class Attending(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.MultiHeadDotProductAttention(2, dropout_rate=0.5, name="attention")(
            x, deterministic=deterministic
        )
        return nn.MultiHeadAttention(2, dropout_rate=0.2, deterministic=True, name="second")(x)


LAYERS = tuple(nn.Dropout(rate, deterministic=True) for rate in (0.5, 0.2))

# nnx.


class NnxLayer(nnx.Module):
    """Drops by a module, and by a function and a stream; for `WithNnx` without evaluation."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(8, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs, use_running_average=True)
        self.drop = nnx.Dropout(0.5, rngs=rngs, deterministic=True)
        self.rngs = rngs.fork()
        self.deterministic = True

    def __call__(self, x):
        x = self.drop(self.norm(self.linear(x)))
        return x if self.deterministic else drop(self.rngs.dropout(), x)


class NnxMixerBlock(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(8, 8, rngs=rngs)
        self.rngs = rngs  # all modules share it

    def __call__(self, x, train=False):
        y = self.linear(x)
        return x + (drop(self.rngs.dropout(), y) if train else y)


class NnxMixer(nnx.Module):
    def __init__(self, rngs):
        self.blocks = nnx.List([NnxMixerBlock(rngs) for _ in range(2)])
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.last = nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x, train=False):
        for block in self.blocks:
            x = block(x, train=train)
        x = self.norm(x, use_running_average=not train)
        return self.last(x, deterministic=False) if train else x


class NnxField(nnx.Module):
    """Has its flag in an attribute of the class, and a method that is not its call."""

    is_training = False

    def __init__(self, rngs):
        self.rngs = rngs.fork()

    def encode(self, x):
        return drop(self.rngs.dropout(), x) if self.is_training else x


class NnxDetr(nnx.Module):
    def __init__(self, rngs):
        self.encoder = NnxField(rngs)

    def __call__(self, x):
        return 2 * self.encoder.encode(x)


class NnxDropPath(nnx.Module):
    """Takes its flag as an attribute of the class and as an argument, None by default."""

    deterministic: bool = False

    def __init__(self, rngs):
        self.rngs = rngs

    def __call__(self, x, *, deterministic: bool | None = None, rngs: nnx.Rngs | None = None):
        deterministic = self.deterministic if deterministic is None else deterministic
        if deterministic:
            return x
        rngs = self.rngs if rngs is None else rngs
        keep = jax.random.bernoulli(rngs["dropout"](), 0.5, (*x.shape[:2], 1))
        return x * keep.astype(x.dtype)


class NnxKeyArgument(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(8, 8, rngs=rngs)
        self.drop = nnx.Dropout(0.5)

    def __call__(self, x, key, deterministic=True):
        x = self.linear(x)
        return self.drop(x if deterministic else jaxdrop.dropout(key, x, 0.5))


class NnxRngsArgument(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x, rngs, training=False):
        x = self.linear(x)
        return jaxdrop.dropout(rngs.dropout(), x, 0.5) if training else x


class NnxInline(nnx.Module):
    """Makes its dropout when it is called."""

    def __init__(self, rngs):
        self.stream = rngs.dropout.fork()

    def __call__(self, x, train=False):
        return nnx.Dropout(0.5, deterministic=not train)(x, rngs=self.stream)


class NnxHeld(nnx.Module):
    """Modules and streams in lists and dicts."""

    def __init__(self, rngs):
        self.streams = nnx.List([rngs.fork(), rngs.dropout.fork()])
        self.held = nnx.Dict(a=nnx.Dropout(0.5), b=nnx.List([nnx.Dropout(0.2, rngs=rngs)]))
        self.deterministic = True

    def __call__(self, x):
        x = self.held["b"][0](self.held["a"](x))
        if self.deterministic:
            return x
        return drop(self.streams[1](), drop(self.streams[0].dropout(), x))


class NnxBlock(nnx.Module):
    def __init__(self, rngs, own):
        self.linear = nnx.Linear(8, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs if own else None)
        self.attention = nnx.MultiHeadAttention(
            2, 8, dropout_rate=0.5, decode=False, rngs=rngs, keep_rngs=own
        )

    def __call__(self, x):
        return self.attention(self.drop(self.norm(self.linear(x))))


def stacked_blocks(own):
    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=0, out_axes=0)
    def make(rngs):
        return NnxBlock(rngs, own)

    return make(nnx.Rngs(0))


class NnxStack(nnx.Module):
    """Layers stacked in one module and run by a transform, with streams of their own or without."""

    def __init__(self, how, own):
        self.how, self.blocks = how, stacked_blocks(own)

    def __call__(self, x):
        run = lambda x, block: block(x)  # noqa: E731
        if self.how == "vmap":
            return nnx.vmap(run, in_axes=(None, 0))(x, self.blocks)
        if self.how == "jax":
            graph, state = nnx.split(self.blocks)
            step = lambda x, state: (nnx.merge(graph, state)(x), None)  # noqa: E731
            return jax.lax.scan(step, x, state)[0]
        run = nnx.remat(run) if self.how == "remat" else run
        return nnx.scan(run, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, self.blocks)


class NnxCalled(nnx.Module):
    """A block, and a layer that drops by a function, under a transform of nnx."""

    def __init__(self, transform):
        self.block, self.layer = NnxBlock(nnx.Rngs(0), True), NnxLayer(nnx.Rngs(1))
        self.transform = transform

    def __call__(self, x):
        run = self.transform(lambda module, x: module(x))
        return run(self.layer, run(self.block, x))


class NnxDecorated(nnx.Module):
    def __init__(self, rngs):
        self.rngs = rngs.fork()

    @nnx.jit(static_argnames=("train",))
    def __call__(self, x, train=False):
        return drop(self.rngs.dropout(), x) if train else x


class NnxNormed(nnx.Module):
    def __init__(self, rngs):
        layers = [nnx.Linear(8, 8, rngs=rngs) for _ in range(2)]
        self.spectral = nnx.SpectralNorm(layers[0], rngs=rngs)
        self.weight = nnx.WeightNorm(layers[1], rngs=rngs)
        self.batch = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.batch(self.weight(self.spectral(x))))


class NnxPreNormBlock(nnx.Module):
    def __init__(self, rngs):
        self.rngs = rngs.fork()

    def __call__(self, x, deterministic=True):
        return x if deterministic else drop(self.rngs.dropout(), x)


class WithLinen(nnx.Module):
    """A linen model inside, and perhaps an nnx model in that."""

    def __init__(self, module):
        rngs = nnx.Rngs(params=0, dropout=1)
        self.inner = nnx.bridge.ToNNX(module, rngs=rngs).lazy_init(X)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.inner(x))


class NnxShared(nnx.Module):
    """One dropout module in two places."""

    def __init__(self, rngs):
        self.first = nnx.Dropout(0.5, rngs=rngs)
        self.second, self.linear = self.first, nnx.Linear(8, 8, rngs=rngs)

    def __call__(self, x):
        return self.second(self.linear(self.first(x)))


def sequential():
    inner = nnx.Sequential(nnx.Dropout(0.5), nnx.Dropout(0.2, rngs=nnx.Rngs(1)))
    return nnx.Sequential(nnx.Linear(8, 8, rngs=nnx.Rngs(0)), inner)


BLOCKS = ("blocks/drop", "blocks/attention")
CALLED = ("block/drop", "block/attention", "layer/drop", "layer")
LIFTED = {"scan": "lifted/layer", "remat_scan": "lifted/layer"}
FLAGS = ("train", "training", "is_training", "is_train", "enable_dropout", "use_dropout")
TYPED, LEGACY = jax.random.key(7), jax.random.PRNGKey(7)

MODELS = {
    "Mixer": lambda: of_linen(Mixer(), "block_0", "block_1", "last", keep=("block_0", "block_1")),
    "DETR": lambda: of_linen(Detr(), "encoder", "encoder/Dropout_0", keep=("encoder",)),
    **{flag: lambda flag=flag: of_linen(flagged(flag), "inner", keep=("inner",)) for flag in FLAGS},
    "field and argument": lambda: of_linen(Merged(True), "", keep=("",)),
    "key argument": lambda: of_linen(
        KeyArgument(), "", "Dropout_0", keep=("",), arguments=(X, TYPED)
    ),
    "legacy key argument": lambda: of_linen(
        KeyArgument(), "", "Dropout_0", keep=("",), arguments=(X, LEGACY)
    ),
    "streams": lambda: of_linen(Streams(), "", "Dropout_0", keep=("",)),
    **{
        f"nn.{how}": lambda how=how: of_linen(
            Lifted(how),
            LIFTED.get(how, "lifted"),
            LIFTED.get(how, "lifted") + "/Dropout_0",
            keep=(LIFTED.get(how, "lifted"),),
        )
        for how in ("scan", "remat_scan", "vmap", "jit", "remat")
    },
    "PreNormBlock": lambda: of_linen(PreNormBlock(), "", keep=("",)),
    "norms": lambda: of_linen(Normed(), "drop"),
    "held": lambda: of_linen(Held(), "held_a", "held_b_0", "held_b_1", keep=("held_b_1",)),
    "ToLinen": lambda: of_linen(WithNnx(), "outer", "inner/drop", "inner", keep=("inner",)),
    "attention": lambda: of_linen(Attending(), "attention", "second"),
    "nested Sequential": lambda: of_linen(
        nn.Sequential([nn.Dense(8), nn.Sequential(LAYERS)]),
        "layers_1/layers_0",
        "layers_1/layers_1",
    ),
    "nnx Mixer": lambda: of_nnx(
        lambda: NnxMixer(nnx.Rngs(0)),
        "blocks/0",
        "blocks/1",
        "last",
        keep=("blocks/0", "blocks/1"),
    ),
    "nnx DETR": lambda: of_nnx(lambda: NnxDetr(nnx.Rngs(0)), "encoder", keep=("encoder",)),
    "nnx DropPath": lambda: of_nnx(lambda: NnxDropPath(nnx.Rngs(0)), "", keep=("",)),
    "nnx key argument": lambda: of_nnx(
        lambda: NnxKeyArgument(nnx.Rngs(0)), "", "drop", keep=("",), arguments=(X, TYPED)
    ),
    "nnx legacy key argument": lambda: of_nnx(
        lambda: NnxKeyArgument(nnx.Rngs(0)), "", "drop", keep=("",), arguments=(X, LEGACY)
    ),
    "nnx rngs argument": lambda: of_nnx(
        lambda: NnxRngsArgument(nnx.Rngs(0)), "", keep=("",), arguments=(X, nnx.Rngs(5))
    ),
    "nnx inline": lambda: of_nnx(lambda: NnxInline(nnx.Rngs(0)), "", keep=("",)),
    "nnx held": lambda: of_nnx(lambda: NnxHeld(nnx.Rngs(0)), "held/a", "held/b/0", "", keep=("",)),
    **{
        f"nnx {how}, {'own streams' if own else 'no streams'}": lambda how=how, own=own: of_nnx(
            lambda: NnxStack(how, own), *BLOCKS
        )
        for how in ("scan", "remat", "vmap", "jax")
        for own in (True, False)
    },
    "nnx.jit": lambda: of_nnx(lambda: NnxCalled(nnx.jit), *CALLED, keep=("layer",)),
    "nnx.remat": lambda: of_nnx(lambda: NnxCalled(nnx.remat), *CALLED, keep=("layer",)),
    "nnx decorated": lambda: of_nnx(lambda: NnxDecorated(nnx.Rngs(0)), "", keep=("",)),
    "nnx norms": lambda: of_nnx(lambda: NnxNormed(nnx.Rngs(0)), "drop"),
    "nnx PreNormBlock": lambda: of_nnx(lambda: NnxPreNormBlock(nnx.Rngs(0)), "", keep=("",)),
    "ToNNX": lambda: of_nnx(
        lambda: WithLinen(Mixer()),
        "inner/block_0",
        "inner/block_1",
        "inner/last",
        "drop",
        keep=("inner/block_0", "inner/block_1"),
    ),
    "ToNNX of ToLinen": lambda: of_nnx(
        lambda: WithLinen(WithNnx()),
        "inner/outer",
        "inner/inner/drop",
        "inner/inner",
        "drop",
        keep=("inner/inner",),
    ),
    "nnx shared": lambda: of_nnx(lambda: NnxShared(nnx.Rngs(0)), "first"),
    "nnx Sequential": lambda: of_nnx(sequential, "layers/1/layers/0", "layers/1/layers/1"),
}


# Packages of others, where they are installed. Tried: jraph 0.0.6 and jraphx 0.1.0, which go with
# this Flax; vitax, flaxmodels, memorax and jimmy-vision, which do not, or not without more.


def of_jraphx():
    models = importlib.import_module("jraphx.nn.models")
    edges = jnp.array([[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 0]])
    options = {"in_features": 8, "hidden_features": 8, "out_features": 3, "num_layers": 2}
    return {
        "jraphx MLP": lambda: of_nnx(
            lambda: models.MLP([8, 16, 3], dropout_rate=0.3, norm="batch_norm", rngs=nnx.Rngs(0)),
            "dropout",
            arguments=(X[0],),
        ),
        "jraphx GAT": lambda: of_nnx(
            lambda: models.GAT(**options, dropout_rate=0.3, rngs=nnx.Rngs(0)),
            "convs/0/dropout",
            "convs/1/dropout",
            "dropout",
            arguments=(X[0], edges),
        ),
    }


class Graph(NamedTuple):
    """A stand-in for graphs of others: nodes, and what is no array of features."""

    nodes: Any
    edges: Any
    senders: Any
    receivers: Any
    n_node: Any


class GraphNet(nn.Module):
    """Takes a graph and gives one."""

    @nn.compact
    def __call__(self, graph, train=False):
        sent = nn.Dense(4)(graph.nodes)[graph.senders]
        nodes = jax.ops.segment_sum(sent, graph.receivers, graph.nodes.shape[0])
        return graph._replace(nodes=nn.Dropout(0.5, deterministic=not train)(nodes))


def graph(kind=Graph, **more):
    ring = jnp.arange(6)
    arrays = {"senders": ring, "receivers": (ring + 1) % 6, "n_node": jnp.array([6])}
    return kind(nodes=X[0], edges=None, **arrays, **more)


def test_a_graph_goes_in_and_one_field_of_another_comes_out():
    model = GraphNet()
    variables = model.init(key(), graph())
    fn = mc.from_linen(model, variables)
    (site,) = mc.audit(fn, key(), graph()).sites
    assert (site.path, site.shape, site.live) == ("Dropout_0", (6, 4), True)
    out = mc.predict(lambda key, g: fn(key, g).nodes, key(), graph(), num_samples=8)
    assert (out.variance > 0).any()
    off = mc.from_linen(model, variables, rate=0.0)(key(), graph())
    jax.tree.map(assert_same_bits, off, model.apply(variables, graph()))


@pytest.mark.skipif(not importlib.util.find_spec("jraph"), reason="jraph is not installed")
def test_a_graph_of_jraph():
    jraph = importlib.import_module("jraph")
    given = graph(jraph.GraphsTuple, globals=None, n_edge=jnp.array([6]))
    model = GraphNet()
    fn = mc.from_linen(model, model.init(key(), given))
    assert [site.live for site in mc.audit(fn, key(), given).sites] == [True]
    out = mc.predict(lambda key, g: fn(key, g).nodes, key(), given, num_samples=8)
    assert (out.variance > 0).any()


@pytest.mark.skipif(not importlib.util.find_spec("jraphx"), reason="jraphx is not installed")
@pytest.mark.parametrize("name", ["jraphx MLP", "jraphx GAT"])
def test_a_model_of_jraphx(name):
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        check_everything(of_jraphx()[name]())


# What holds for every model.

each_model = pytest.mark.parametrize("name", MODELS)


@functools.cache
def model(name):
    """Initialized once for all that is checked of it."""
    return MODELS[name]()


def outputs(fn, other, seed):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(fn(key(seed), *other.arguments))]


def differ(first, second):
    return any((a != b).any() for a, b in zip(first, second))


def check_audit(other):
    """All sites are found, live, and nothing is left."""
    report = mc.audit(other.adapt(), key(), *other.arguments)
    assert {site.path for site in report.sites} == set(other.sites)
    assert all(site.live for site in report.sites)
    assert report.depends_on_key and not report.changes and not report.unreached


def check_nothing_chosen(other):
    """Bit for bit the model's own output, and the audit still lists all sites."""
    expected = [np.asarray(leaf) for leaf in jax.tree.leaves(other.evaluated(*other.arguments))]
    for options in ({"sites": "nowhere"}, {"rate": 0.0}):
        fn = other.adapt(**options)
        for got, wanted in zip(outputs(fn, other, 1), expected, strict=True):
            assert_same_bits(got, wanted)
        report = mc.audit(fn, key(), *other.arguments)
        assert {site.path for site in report.sites} == set(other.sites)
        assert not any(site.live for site in report.sites) and not report.depends_on_key


def check_each_site(other):
    """Alone, it differs from pass to pass, and the others are off."""
    for path in other.sites:
        fn = other.adapt(sites=path)
        assert differ(outputs(fn, other, 1), outputs(fn, other, 2)), path
        report = mc.audit(fn, key(), *other.arguments)
        assert {site.path for site in report.sites if site.live} == {path}
        assert {site.path for site in report.sites} == set(other.sites)
        assert not report.unreached


def check_rate(other):
    """It reaches every site, or the audit says which it does not."""
    fn = other.adapt(rate=0.9)
    assert differ(outputs(fn, other, 1), outputs(other.adapt(), other, 1)) or other.keep
    report = mc.audit(fn, key(), *other.arguments)
    assert len(report.unreached) == len(other.keep)
    for path in other.keep:
        name = f"{path or 'the model'} ("
        assert any(name in s and "rate= does not reach it" in s for s in report.unreached), path
    for site in report.sites:
        assert site.live and site.rate is None  # an array to the program, or unknown


def check_everything(other):
    for check in (check_audit, check_nothing_chosen, check_each_site, check_rate):
        check(other)


@each_model
@pytest.mark.parametrize("check", [check_audit, check_nothing_chosen, check_each_site, check_rate])
def test_model_of_others(name, check):
    check(model(name))


@each_model
def test_predictions_vary(name):
    other = model(name)
    summary = mc.samples()
    draws = mc.predict(other.adapt(), key(), *other.arguments, num_samples=4, summary=summary)
    for a in range(4):
        for b in range(a):
            assert (draws[a] != draws[b]).any()
