"""DropConnect on pytrees of parameters, and the layers that wrap others.

The laws run over it on a dict of one leaf in `tests.support.cases`.
"""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import drop_connect, dropout, mc
from tests.flax.test_modules import Key, parameters
from tests.support import own
from tests.support.cases import assert_same_bits, data, key
from tests.support.models import each_framework
from tests.support.transforms import TRANSFORMS

RATE = 0.3
DENSE = {"bias": data((40,)), "kernel": data((32, 40))}


def kernels(path, leaf):
    return path[-1] == "kernel"


def tree():
    return {"a": DENSE, "b": [jnp.arange(3), data((64,))], "c": (data((8, 32)),)}


def leaf_keys(number, seed=0):
    return jax.random.split(key(seed), number)


def test_each_leaf_is_dropped_with_its_own_key():
    """In the order of the leaves, counting those that are not chosen."""
    params = tree()
    dropped = drop_connect(key(), params, RATE)
    assert jax.tree.structure(dropped) == jax.tree.structure(params)
    before, after, keys = jax.tree.leaves(params), jax.tree.leaves(dropped), leaf_keys(5)
    assert after[2] is before[2]
    for i in (0, 1, 3, 4):
        assert_same_bits(after[i], dropout(keys[i], before[i], RATE))


def wan(keep, weights, rate):
    """Equation 4, M being the mask of the connections, with the scale of inverted dropout."""
    m = keep.astype(weights.dtype)
    return m * weights / (1 - rate)


def test_is_equation_4_of_wan():
    weights = data((64, 32))
    x = data((5, 64))
    dropped = drop_connect(key(), [weights], 0.25)[0]
    keep = np.asarray(dropout(leaf_keys(1)[0], jnp.ones_like(weights), 0.25)) != 0
    expected = np.asarray(x) @ wan(keep, np.asarray(weights), 0.25)
    np.testing.assert_allclose(x @ dropped, expected, rtol=1e-4, atol=1e-5)


def test_choosing_fewer_leaves_changes_no_other_mask():
    params = tree()
    every, some = (
        drop_connect(key(), params, RATE),
        drop_connect(key(), params, RATE, where=kernels),
    )
    assert_same_bits(some["a"]["kernel"], every["a"]["kernel"])
    assert some["a"]["bias"] is params["a"]["bias"]
    assert some["b"][1] is params["b"][1]
    assert some["c"][0] is params["c"][0]


def test_leaves_of_one_shape_do_not_share_a_mask():
    params = [jnp.ones((64, 32)) for _ in range(3)]
    masks = {np.asarray(leaf).tobytes() for leaf in drop_connect(key(), params, 0.5)}
    assert len(masks) == 3


def test_predicate_sees_names_numbers_and_leaves():
    seen = []

    def where(path, leaf):
        seen.append((path, leaf.shape))
        return path == ("c", 0)

    drop_connect(key(), tree(), RATE, where=where)
    assert seen == [
        (("a", "bias"), (40,)),
        (("a", "kernel"), (32, 40)),
        (("b", 0), (3,)),
        (("b", 1), (64,)),
        (("c", 0), (8, 32)),
    ]


@pytest.mark.parametrize(
    "where", [lambda path: True, "kernel", lambda: True], ids=["path", "text", "nothing"]
)
def test_predicate_of_anything_else_is_refused(where):
    with pytest.raises(TypeError, match=r"where: expected a function of a path and a leaf, got"):
        drop_connect(key(), tree(), RATE, where=where)


def test_predicate_may_take_what_it_likes_and_may_itself_fail():
    loose = drop_connect(key(), tree(), RATE, where=lambda *named: kernels(*named))
    assert_same_bits(
        loose["a"]["kernel"], drop_connect(key(), tree(), RATE, where=kernels)["a"]["kernel"]
    )
    with pytest.raises(TypeError, match="'<' not supported"):
        drop_connect(key(), tree(), RATE, where=lambda path, leaf: path < 3)


def test_works_on_modules_of_equinox():
    equinox = pytest.importorskip("equinox")
    module = equinox.nn.MLP(32, 40, 64, 1, key=key(1))
    dropped = drop_connect(key(), module, RATE, where=lambda path, _: path[-1] == "weight")
    layers = jax.tree_util.tree_leaves(module)
    keys = leaf_keys(len(layers))
    for before, after, one in zip(layers, jax.tree.leaves(dropped), keys):
        if getattr(before, "ndim", 0) == 2:
            assert_same_bits(after, dropout(one, before, RATE))
        else:
            assert after is before


def test_works_on_parameters_of_flax():
    keys = leaf_keys(2)
    state = nnx.state(nnx.Linear(32, 40, rngs=nnx.Rngs(0)), nnx.Param)
    dropped = drop_connect(key(), state, RATE, where=lambda path, _: path == ("kernel", "value"))
    assert_same_bits(dropped["kernel"][...], dropout(keys[1], state["kernel"][...], RATE))
    assert_same_bits(dropped["bias"][...], state["bias"][...])

    variables = nn.Dense(40).init(key(2), data((3, 32)))
    dropped = drop_connect(key(), variables, RATE, where=kernels)["params"]
    assert_same_bits(
        dropped["kernel"], dropout(leaf_keys(2)[1], variables["params"]["kernel"], RATE)
    )


def test_leaves_that_are_no_arrays_pass():
    params = {"activation": jnp.tanh, "name": 1.5, "kernel": data((32, 32))}
    dropped = drop_connect(key(), params, RATE)
    assert dropped["activation"] is jnp.tanh
    assert dropped["name"] is params["name"]


def test_ends_need_no_key():
    params = tree()
    assert drop_connect(None, params, RATE, deterministic=True) is params
    assert drop_connect(None, params, 0) is params
    dropped = drop_connect(None, params, 1, where=kernels)
    assert_same_bits(dropped["a"]["kernel"], jnp.zeros((32, 40)))
    assert dropped["a"]["bias"] is params["a"]["bias"]


def test_gradient_reaches_weights_that_are_not_dropped_and_no_others():
    def loss(params):
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(drop_connect(key(), params, RATE)))

    gradient = jax.grad(loss)(DENSE)
    ones = jax.tree.map(jnp.ones_like, DENSE)
    own.assert_same_tree(gradient, drop_connect(key(), ones, RATE))


# Weights that become others instead of 0.


def lee(keep, weights, other, rate):
    """Mixout, M being the mask of what stays; its mean over masks is the weights."""
    m = keep.astype(np.float64)
    return (m * weights + (1 - m) * other - rate * other) / (1 - rate)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rate", [0.25, jnp.float32(0.25)], ids=["static", "traced"])
def test_others_are_mixed_in_as_in_mixout_by_the_same_masks(rate, dtype):
    params = {"a": [data((64, 40), dtype)], "b": data((96,), dtype), "n": jnp.arange(3)}
    other = {"a": [data((40, 64), dtype).T], "b": jnp.full(96, 0.3, dtype), "head": data((2, 2))}
    mixed = drop_connect(key(), params, rate, other=other)
    zeros = drop_connect(key(), params, rate)
    assert mixed["n"] is params["n"]
    for before, after, zero, pulled in zip(*map(jax.tree.leaves, (params, mixed, zeros, other))):
        if before.dtype != dtype:
            continue
        keep = np.asarray(zero) != 0
        assert after.dtype == dtype and 0.2 < 1 - keep.mean() < 0.3
        assert_same_bits(np.asarray(after)[~keep], np.asarray(pulled)[~keep])
        exact = lee(keep, *(np.asarray(leaf, np.float64) for leaf in (before, pulled)), 0.25)
        np.testing.assert_allclose(  # rounded once
            np.asarray(after, np.float64), exact, rtol=float(jnp.finfo(dtype).eps) / 1.9, atol=2e-6
        )


def test_of_others_are_their_ends_gradients_and_one_bit():
    params, other = tree(), jax.tree.map(jnp.ones_like, tree())
    poisoned = {**params, "b": [params["b"][0], jnp.full(64, jnp.nan)]}
    assert drop_connect(None, params, RATE, other=other, deterministic=True) is params
    last = drop_connect(None, params, 1, where=kernels, other=other)
    assert_same_bits(last["a"]["kernel"], other["a"]["kernel"])
    own.assert_same_tree(drop_connect(key(), params, jnp.float32(0), other=other), params)
    one = jax.tree.leaves(drop_connect(key(), poisoned, 0.5, other=other))[3]
    assert 16 < np.isnan(one).sum() < 48 and (np.asarray(one)[~np.isnan(one)] == 1).all()

    def mixed(kernel, other):
        pulled = {"kernel": other}
        return drop_connect(key(), {"kernel": kernel}, 0.5, other=pulled)["kernel"]

    kernel = data((64, 40))
    y, pull = jax.vjp(mixed, kernel, 2 * kernel)
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(pull)) <= kernel.size / 8 + 64
    keep = np.asarray(mixed(jnp.ones_like(kernel), jnp.zeros_like(kernel))) != 0
    by_kernel, by_other = pull(jnp.ones_like(y))
    np.testing.assert_array_equal(by_kernel, np.where(keep, 2.0, 0.0))
    np.testing.assert_array_equal(by_other, np.where(keep, -1.0, 1.0))
    # The variance of the result is that of a decision times the distance, squared.
    ones = jnp.ones((64, 40))
    out = mc.delta(lambda k, x: x @ drop_connect(k, [kernel], 0.25, other=[ones])[0], key(), ones.T)
    np.testing.assert_allclose(out.variance[0], ((kernel - 1) ** 2).sum(0) / 3, rtol=1e-4)


def test_others_may_be_of_another_kind_of_tree():
    """Flax freezes dicts that are fields, and its states have paths of their own."""
    linear = nnx.Linear(32, 40, rngs=nnx.Rngs(0))
    state, start = nnx.state(linear, nnx.Param), nnx.state(nnx.Linear(32, 40, rngs=nnx.Rngs(1)))
    a = drop_connect(key(), state, RATE, other=start)["kernel"][...]
    params, pulled = (nnx.to_pure_dict(s) for s in (state, start))
    b = drop_connect(key(), params, RATE, other=flax.core.freeze(pulled))["kernel"]
    assert_same_bits(a, b)
    assert 0.2 < np.mean(a == pulled["kernel"]) < 0.4


# The layers that wrap others.

# Biases of ones, so that dropping them shows.
DENSES = (
    nn.Dense(40, bias_init=nn.initializers.ones),
    lambda: nnx.Linear(32, 40, bias_init=nnx.initializers.ones, rngs=nnx.Rngs(0)),
    data((8, 32)),
)
CONVS = (
    nn.Conv(32, (3,), bias_init=nn.initializers.ones),
    lambda: nnx.Conv(16, 32, (3,), bias_init=nnx.initializers.ones, rngs=nnx.Rngs(0)),
    data((4, 10, 16)),
)
each_layer = pytest.mark.parametrize("layers", [DENSES, CONVS], ids=["dense", "conv"])
each_where = pytest.mark.parametrize("where", [None, kernels], ids=["every", "kernels"])


def of_linen(layers, **fields):
    plain, _, x = layers
    layer = jaxdrop.linen.DropConnect(plain, RATE, **fields)
    return layer, {"params": {"layer": plain.init(key(), x)["params"]}}, plain, x


@each_layer
@each_where
def test_linen_layer_runs_with_dropped_parameters(layers, where):
    layer, variables, plain, x = of_linen(layers, where=where, deterministic=False)

    def expected(one):
        params = variables["params"]["layer"]
        return plain.apply({"params": drop_connect(one, params, RATE, where=where)}, x)

    assert_same_bits(layer.apply(variables, x, rng=key(1)), expected(key(1)))
    drawn = Key().apply({}, rngs={"dropout": key(1)})
    assert_same_bits(layer.apply(variables, x, rngs={"dropout": key(1)}), expected(drawn))
    noisy = layer.clone(rng_collection="noise")
    drawn = Key().apply({}, rngs={"dropout": key(1)})
    y = noisy.apply(variables, x, rngs={"noise": key(1), "dropout": key(2)})
    assert_same_bits(y, expected(drawn))


@each_layer
def test_linen_layer_has_the_parameters_of_the_plain_one(layers):
    layer, variables, plain, x = of_linen(layers)
    rngs = {"params": key(3), "dropout": key(4)}
    made = layer.init(rngs, x, deterministic=False)
    shapes = jax.tree.map(jnp.shape, variables)
    assert jax.tree.map(jnp.shape, made) == shapes
    assert (made["params"]["layer"]["kernel"] != 0).all()
    assert_same_bits(
        layer.init_with_output(key(3), x, deterministic=False)[0],
        plain.apply({"params": made["params"]["layer"]}, x),
    )


@each_layer
def test_switched_off_a_layer_is_the_plain_one_and_needs_no_key(layers):
    layer, variables, plain, x = of_linen(layers)
    expected = plain.apply({"params": variables["params"]["layer"]}, x)
    assert_same_bits(layer.apply(variables, x, deterministic=True), expected)
    assert_same_bits(layer.clone(deterministic=True).apply(variables, x), expected)
    assert_same_bits(layer.apply(variables, x, deterministic=jnp.bool_(True), rng=key(1)), expected)

    plain = layers[1]()
    layer = jaxdrop.nnx.DropConnect(plain, RATE)
    assert_same_bits(layer(x, deterministic=True), plain(x))
    layer.eval()
    assert_same_bits(layer(x), plain(x))


@each_layer
@each_where
def test_nnx_layer_runs_with_dropped_parameters(layers, where):
    plain, x = layers[1](), layers[2]
    graph, state = nnx.split(plain)

    def expected(one):
        params = nnx.to_pure_dict(state)
        params = drop_connect(one, params, RATE, where=where)
        changed = nnx.split(layers[1]())[1]
        nnx.replace_by_pure_dict(changed, params)
        return nnx.merge(graph, changed)(x)

    layer = jaxdrop.nnx.DropConnect(
        plain, RATE, where=where, rng_collection="noise", rngs=nnx.Rngs(noise=1, dropout=2)
    )
    assert_same_bits(layer(x, rngs=key(1)), expected(key(1)))
    stream = nnx.Rngs(1).noise.fork()
    for _ in range(2):
        assert_same_bits(layer(x), expected(stream()))
    own.assert_same_tree(nnx.state(layer.layer), state)


@each_layer
def test_gradient_reaches_the_plain_parameters(layers):
    """Those that were not dropped, scaled as they were."""
    layer, variables, plain, x = of_linen(layers, deterministic=False, where=kernels)
    gradient = jax.grad(lambda v: layer.apply(v, x, rng=key(1)).sum())(variables)
    params = variables["params"]["layer"]
    straight = jax.grad(lambda p: plain.apply({"params": p}, x).sum())(params)
    scale = drop_connect(key(1), jax.tree.map(jnp.ones_like, params), RATE, where=kernels)
    for name, leaf in gradient["params"]["layer"].items():
        np.testing.assert_allclose(leaf, straight[name] * scale[name], rtol=1e-5, atol=1e-5)

    layer = jaxdrop.nnx.DropConnect(layers[1](), RATE)
    gradient = nnx.grad(lambda layer: layer(x, rngs=key(1)).sum())(layer)
    zeros = np.mean(np.asarray(gradient["layer"]["kernel"][...]) == 0)
    assert 0.2 < zeros < 0.4


class Normed(nnx.Module):
    def __init__(self):
        self.linear = nnx.Linear(32, 40, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(40, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.dropout(self.norm(self.linear(x)))


class LinenNormed(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(use_running_average=not train)(nn.Dense(40)(x))


def test_statistics_and_streams_of_the_wrapped_layer_are_updated():
    layer, x = jaxdrop.nnx.DropConnect(Normed(), RATE, rngs=nnx.Rngs(1)), data((8, 32))
    first, second = layer(x, rngs=key()), layer(x, rngs=key())
    assert (first != second).any()  # by the stream of the layer's own dropout
    norm = layer.layer.norm
    assert (norm.mean[...] != 0).all()
    assert layer.layer.dropout.rngs.count[...] == 2

    layer = jaxdrop.linen.DropConnect(LinenNormed(), RATE, deterministic=False)
    variables = layer.init({"params": key(), "dropout": key(1)}, x, train=False)
    _, changed = layer.apply(variables, x, train=True, rng=key(1), mutable=["batch_stats"])
    (statistics,) = changed["batch_stats"]["layer"].values()
    assert (statistics["mean"] != 0).all()


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_nnx_layer_works_in_transforms_of_jax_with_a_key(transform):
    """Statistics that do not change are not written, which those transforms would refuse."""

    def f(k, x):
        return layer(x, rngs=k)

    model = Normed()
    model.norm.use_running_average = model.dropout.deterministic = True
    layer, x = jaxdrop.nnx.DropConnect(model, RATE), data((8, 32))
    if transform in ("grad", "checkpoint"):  # whose table wants f linear; jitted, as JAX counts a
        # key that is split inside an eager checkpoint twice
        layer, x = jaxdrop.nnx.DropConnect(DENSES[1](), RATE), jnp.ones((8, 32))
        run = jax.jit(lambda keys, x: TRANSFORMS[transform](f, keys, x))
        results = run(leaf_keys(2), x)
        assert (results[0] != results[1]).any()
        return
    results = TRANSFORMS[transform](f, leaf_keys(2), x)
    for y, single in zip(results, leaf_keys(2)):
        np.testing.assert_allclose(y, layer(x, rngs=single), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("floor", [jaxdrop.linen, jaxdrop.nnx], ids=["linen", "nnx"])
def test_parameters_of_the_classes(floor):
    names = list(parameters(floor.DropConnect.__init__))
    assert names[:2] == ["layer", "rate"] and "where" in names


@each_framework
def test_adapters_turn_it_on_and_dropout_inside_it(framework):
    x = data((8, 32))
    if framework == "linen":
        inside = nn.Sequential([nn.Dense(40), nn.Dropout(0.5, deterministic=True)])
        model = jaxdrop.linen.DropConnect(inside, RATE, deterministic=True)
        fn = mc.from_linen(model, model.init(key(), x))
    else:
        inside = nnx.Sequential(DENSES[1](), nnx.Dropout(0.5))
        fn = mc.from_nnx(jaxdrop.nnx.DropConnect(inside, RATE, deterministic=True))
    y, other = fn(key(1), x), fn(key(2), x)
    assert_same_bits(fn(key(1), x), y)
    live = np.asarray((y != 0) & (other != 0))
    assert 0.1 < live.mean() < 0.4
    assert (np.asarray(y)[live] != np.asarray(other)[live]).all()
    outer, inner = mc.audit(fn, key(), x).sites
    assert (outer.kind, outer.rate, outer.live) == ("DropConnect", RATE, True)
    assert (inner.kind, inner.rate, inner.live) == ("Dropout", 0.5, True)
