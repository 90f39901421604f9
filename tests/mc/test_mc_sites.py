"""Two dropout sites never share a mask, and neither do two calls of one."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from jaxdrop import linen, mc
from jaxdrop import nnx as ours
from tests.support.cases import assert_probability, assert_same_bits, key

SIZE = 2**14
ONES = jnp.ones(SIZE)


def assert_independent(outputs):
    """At a rate of a half, two masks agree in half of their entries, up to chance."""
    masks = [np.asarray(y) != 0 for y in outputs]
    assert len(masks) > 1
    for mask in masks:
        assert_probability(mask.sum(), SIZE, 0.5)
    for a, b in itertools.combinations(masks, 2):
        assert_probability((a == b).sum(), SIZE, 0.5)


def drop(**arguments):
    return nn.Dropout(0.5, deterministic=True, **arguments)


class Named(nn.Module):
    inner: str

    @nn.compact
    def __call__(self, x):
        return drop(name=self.inner)(x)


class Names(nn.Module):
    """Paths that are the same once their names are joined."""

    @nn.compact
    def __call__(self, x):
        return Named("c", name="ab")(x), Named("bc", name="a")(x), drop(name="abc")(x)


class Shared(nn.Module):
    @nn.compact
    def __call__(self, x):
        one = drop()
        return one(x), one(x), drop()(x)


class Mixed(nn.Module):
    """Classes, collections and attributes; the first two are handed one key."""

    def setup(self):
        self.listed = [drop(), drop()]
        self.named = {"a": drop(), "b": drop(rng_collection="noise")}
        self.mc = linen.MCDropout(0.5)

    def __call__(self, x):
        one = self.make_rng("dropout")
        first = [layer(x, rng=jax.random.clone(one)) for layer in self.listed]
        return *first, self.named["a"](x), self.named["b"](x), self.mc(x)


class Layer(nn.Module):
    """Hands x on as it is, and what is dropped from it to the side."""

    @nn.compact
    def __call__(self, x, _=None):
        return x, drop()(x)


class Scanned(nn.Module):
    """Layers in a loop, whose body is traced once."""

    split: bool = True

    @nn.compact
    def __call__(self, x):
        rngs = {"params": True, "dropout": self.split}
        scan = nn.scan(Layer, variable_axes={"params": 0}, split_rngs=rngs, length=3)
        return scan()(x, None)[1]


class Vmapped(nn.Module):
    @nn.compact
    def __call__(self, x):
        rngs = {"params": True, "dropout": True}
        mapped = nn.vmap(Layer, in_axes=None, axis_size=3, split_rngs=rngs)
        return mapped()(x)[1]


class Remat(nn.Module):
    @nn.compact
    def __call__(self, x):
        layer = nn.remat(Layer)
        return layer()(x)[1], layer()(x)[1], nn.remat(nn.Dropout)(0.5)(x, deterministic=True)


@pytest.mark.parametrize(
    "model",
    [Names(), Shared(), Mixed(), Scanned(), Vmapped(), Remat()],
    ids=lambda m: type(m).__name__,
)
def test_linen_sites_share_no_mask(model):
    fn = mc.from_linen(model, {})
    assert_independent(jax.jit(fn)(key(), ONES))


@pytest.mark.usefixtures("jitted")  # with jit off, Flax's own dropout draws again at each turn
def test_mask_that_the_model_shares_over_a_loop_stays_shared():
    """A loop that does not split its keys is how a linen model ties a mask, over time say."""
    masks = mc.from_linen(Scanned(split=False), {})(key(), ONES)
    assert_same_bits(masks[0], masks[1])
    assert (masks[0] == 0).any()


def test_rematerialised_masks_are_those_of_the_first_pass():
    fn = mc.from_linen(Remat(), {})
    y, pull = jax.vjp(lambda x: fn(key(), x)[0], ONES)
    assert_same_bits(pull(ONES)[0], y)


# nnx.


class NnxNamed(nnx.Module):
    def __init__(self, name):
        setattr(self, name, nnx.Dropout(0.5))


class NnxNames(nnx.Module):
    def __init__(self):
        self.ab, self.a, self.abc = NnxNamed("c"), NnxNamed("bc"), nnx.Dropout(0.5)

    def __call__(self, x):
        return self.ab.c(x), self.a.bc(x), self.abc(x)


class NnxMixed(nnx.Module):
    """All streams forked from one seed; a shared module; one key handed to two."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first = nnx.Dropout(0.5, rngs=rngs)
        self.listed = nnx.List([self.first, nnx.Dropout(0.5, rngs=nnx.Rngs(0))])
        self.named = nnx.Dict(a=nnx.Dropout(0.5), b=nnx.Dropout(0.5))
        self.mc = ours.MCDropout(0.5)

    def __call__(self, x):
        one = jax.random.key(7)
        return (
            *(layer(x) for layer in (self.first, self.first, *self.listed)),
            *(layer(x, rngs=jax.random.clone(one)) for layer in self.named.values()),
            self.mc(x),
        )


class NnxLayer(nnx.Module):
    def __init__(self, rngs):
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.scale = nnx.Param(jnp.float32(1))

    @nnx.remat
    def rematerialised(self, x):
        return self.dropout(x)

    def __call__(self, x):
        return self.dropout(x) * self.scale[...]


class NnxRemat(nnx.Module):
    def __init__(self):
        self.layers = nnx.List([NnxLayer(nnx.Rngs(0)) for _ in range(2)])

    def __call__(self, x):
        return [layer.rematerialised(x) for layer in self.layers]


class NnxScanned(nnx.Module):
    """Layers stacked in one module, whose streams are arrays."""

    def __init__(self):
        self.layers = nnx.vmap(NnxLayer)(nnx.Rngs(0).split(3))

    def __call__(self, x):
        return nnx.scan(lambda layer, x: layer(x), in_axes=(0, None), out_axes=0)(self.layers, x)


@pytest.mark.parametrize("cls", [NnxNames, NnxMixed, NnxRemat, NnxScanned])
def test_nnx_sites_share_no_mask(cls):
    fn = mc.from_nnx(cls())
    assert_independent(jax.jit(fn)(key(), ONES))


def test_samples_share_no_mask():
    fn = mc.from_nnx(nnx.Sequential(nnx.Dropout(0.5)))
    keys = [key(0), key(1), *(jax.random.fold_in(key(0), i) for i in range(3))]
    assert_independent([fn(one, ONES) for one in keys])


@pytest.mark.parametrize(
    ("adapt", "decisions"),
    [
        (lambda: mc.from_linen(Names(), {}), "f262dda5 cb55958c e4f96a9b"),
        (lambda: mc.from_nnx(NnxNames()), "2e28ed16 ef277ac2 6e9b549b"),
    ],
    ids=["linen", "nnx"],
)
def test_masks_are_pinned(adapt, decisions):
    """If this fails alone, the key of a site has changed, and with it every user's samples.

    Where the words of masks have changed as well, these change with them: see
    `test_words_are_pinned`.
    """
    one = jax.random.key(7, impl="threefry2x32")
    kept = np.packbits([np.asarray(y[:32]) != 0 for y in adapt()(one, jnp.ones(64))])
    assert kept.tobytes().hex(" ", 4) == decisions
