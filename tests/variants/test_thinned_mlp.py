"""Thinned layers: which units, what mean, what cost, and how they stand beside Dense layers."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxdrop
from jaxdrop import mc, thinned_mlp
from tests.laws.test_laws_sharding import compiled, mesh_of, put
from tests.support.cases import assert_same_bits, data, key

each_framework = pytest.mark.parametrize("framework", ["linen", "nnx"])
identity = lambda x: x  # noqa: E731


def layers_of(*widths, gated=False, dtype=jnp.float32):
    """Layers of random weights, the hidden ones gated or not."""
    draw = np.random.default_rng(1)

    def dense(rows, columns):
        kernel, bias = draw.normal(size=(rows, columns)), draw.normal(size=columns)
        return {"kernel": jnp.asarray(kernel, dtype), "bias": jnp.asarray(bias, dtype)}

    pairs = list(itertools.pairwise(widths))
    hidden = [(dense(*p), dense(*p)) if gated else dense(*p) for p in pairs[:-1]]
    return [*hidden, dense(*pairs[-1])]


def by_hand(x, layers, activation, places=None):
    """The block in NumPy's order of things, with the hidden units at ``places`` alone."""
    for number, layer in enumerate(layers[:-1]):
        parts = layer if isinstance(layer, tuple) else (layer,)
        first, *second = [x @ part["kernel"] + part["bias"][None] for part in parts]
        x = activation(first) * second[0] if second else activation(first)
        if places is not None:
            kept = np.zeros(x.shape[-1], np.float32)
            kept[list(places[number])] = x.shape[-1] / len(places[number])
            x = x * kept[None]
    return x @ layers[-1]["kernel"] + layers[-1]["bias"][None]


def units_of(draw, width, rate, groups=1):
    """Which hidden units a call computes: those whose weights have a gradient."""
    layers = [{"kernel": jnp.ones((1, width))}, {"kernel": jnp.ones((width, 1))}]

    def call(layers, key):
        x = jnp.ones((groups, 1))
        return thinned_mlp(key, x, layers, rate, activation=identity, num_groups=groups)

    slope = jax.jacrev(call)(layers, draw)[1]["kernel"]
    return np.asarray(slope).reshape(groups, width) != 0


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("widths", [(5, 8, 3), (5, 8, 6, 3)], ids=["one", "two"])
def test_output_is_that_of_some_units(widths, gated):
    """One of the subsets of the right size, by trying them all; several keys, several subsets."""
    layers, x = layers_of(*widths, gated=gated), data((4, 5))
    subsets = [list(itertools.combinations(range(h), h // 2)) for h in widths[1:-1]]
    choices = list(itertools.product(*subsets))
    run = jax.jit(functools.partial(thinned_mlp, rate=0.5, activation=jax.nn.silu))
    found = set()
    for seed in range(3):
        y = np.asarray(run(key(seed), x, layers))
        errors = [np.abs(y - _masked(x, layers, choice)).max() for choice in choices]
        best = int(np.argmin(errors))
        assert errors[best] < 1e-4 < np.partition(errors, 1)[1]
        found.add(best)
    assert len(found) == 3


def _masked(x, layers, choice):
    layers = jax.tree.map(np.asarray, layers)
    silu = lambda x: x / (1 + np.exp(-x))  # noqa: E731
    return by_hand(np.asarray(x), layers, silu, choice)


@pytest.mark.parametrize(
    ("width", "rate", "kept"), [(8, 0.5, 4), (10, 0.25, 8), (40, 0.9, 4), (3, 0.9, 1)]
)
def test_exactly_the_share_is_computed_and_every_unit_as_often(width, rate, kept):
    drawn = np.asarray([units_of(key(seed), width, rate)[0] for seed in range(3)])
    assert (drawn.sum(axis=1) == kept).all()
    if width == 8:  # all 70 subsets come, each unit half of the time
        drawn = jax.vmap(lambda k: _kernel_slope(k, width, rate))(jax.random.split(key(2), 400))
        drawn = np.asarray(drawn) != 0
        assert np.abs(drawn.mean(axis=0) - 0.5).max() < 0.12
        assert len({row.tobytes() for row in drawn}) > 60


def _kernel_slope(draw, width, rate):
    first = {"kernel": jnp.ones((1, width))}

    def call(last):
        layers = [first, {"kernel": last}]
        return thinned_mlp(draw, jnp.ones((1, 1)), layers, rate, activation=identity)[0, 0]

    return jax.grad(call)(jnp.ones((width, 1)))[:, 0]


def test_groups_and_layers_draw_on_their_own():
    drawn = units_of(key(), 64, 0.5, groups=16)
    assert (drawn.sum(axis=1) == 32).all()
    assert len({row.tobytes() for row in drawn}) == 16
    layers = [{"kernel": jnp.ones(shape)} for shape in ((1, 64), (64, 64), (64, 1))]

    def call(layers):
        return thinned_mlp(key(), jnp.ones((1, 1)), layers, 0.5, activation=identity)[0, 0]

    slopes = jax.grad(call)(layers)
    first, second = (np.asarray(slopes[n]["kernel"]) != 0 for n in (1, 2))
    assert (first.any(axis=1) != second[:, 0]).any()
    assert first.any(axis=1).sum() == second.sum() == 32


@pytest.mark.parametrize("widths", [(3, 6, 2), (3, 4, 4, 2)], ids=["one", "two"])
def test_the_mean_over_all_subsets_is_the_full_block_and_so_are_the_gradients(widths):
    """Exactly: each subset that may be drawn counts once, and equally many keys give it."""
    layers, x, weight = layers_of(*widths), data((2, 3)), data((2, 2)).T

    def loss(layers, x, places):
        y = by_hand(x, layers, identity, places)
        return jnp.sum(weight * y), y

    slope = jax.grad(loss, argnums=(0, 1), has_aux=True)
    subsets = itertools.product(*[itertools.combinations(range(h), h // 2) for h in widths[1:-1]])
    every = [slope(layers, x, places) for places in subsets]
    full = slope(layers, x, None)
    mean = jax.tree.map(lambda *parts: np.mean(parts, axis=0), *every)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), mean, full)
    # And what is drawn is such a subset, with the gradients of it.
    ours = jax.grad(
        lambda layers, x: jnp.sum(weight * thinned_mlp(key(), x, layers, 0.5, activation=identity)),
        argnums=(0, 1),
    )(layers, x)
    gaps = [
        max(float(jnp.abs(a - b).max()) for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(g)))
        for g, _ in every
    ]
    assert min(gaps) < 1e-4


@pytest.mark.slow
def test_second_derivatives_vmap_and_jit_agree_with_the_subset():
    layers, x = layers_of(3, 6, 2), data((2, 3))

    def loss(x, key):
        return jnp.sum(thinned_mlp(key, x, layers, 0.5, activation=jnp.tanh) ** 2)

    hessian = jax.hessian(loss)(x, key())
    by_columns = jax.jit(jax.jacrev(jax.jacfwd(loss)))(x, key())
    np.testing.assert_allclose(hessian, by_columns, rtol=1e-4, atol=1e-4)
    tangent = jnp.ones_like(x)
    _, along = jax.jvp(jax.grad(lambda x: loss(x, key())), (x,), (tangent,))
    np.testing.assert_allclose(along, hessian.sum(axis=(2, 3)), rtol=1e-4, atol=1e-4)
    keys = jax.random.split(key(1), 3)
    looped = [loss(x, k) for k in list(keys)]
    np.testing.assert_allclose(
        jax.vmap(loss, (None, 0))(x, jax.random.clone(keys)), looped, rtol=1e-5
    )


# Ends and flags.


def test_deterministic_is_the_full_block_traced_or_not():
    layers, x = layers_of(5, 8, 3), data((4, 5))
    full = by_hand(x, layers, jax.nn.gelu)
    np.testing.assert_allclose(thinned_mlp(None, x, layers, 0.5, deterministic=True), full, 1e-5)
    np.testing.assert_allclose(thinned_mlp(None, x, layers, 0.0), full, 1e-5)
    run = jax.jit(lambda key, flag: thinned_mlp(key, x, layers, 0.5, deterministic=flag))
    np.testing.assert_allclose(run(key(), True), full, 1e-5)
    assert_same_bits(run(key(), False), thinned_mlp(key(), x, layers, 0.5))


def test_at_rate_1_the_last_bias_remains():
    layers = layers_of(5, 8, 3)
    y, pull = jax.vjp(lambda x: thinned_mlp(None, x, layers, 1.0), data((4, 5)))
    assert_same_bits(y, jnp.broadcast_to(layers[-1]["bias"], (4, 3)))
    assert_same_bits(pull(y)[0], jnp.zeros((4, 5)))


def test_what_is_left_out_goes_nowhere():
    """Weights of inf and NaN in all units that a key leaves out."""
    layers, x = layers_of(5, 8, 3), data((4, 5))
    kept = np.asarray(_kernel_slope(key(), 8, 0.5)) != 0
    assert kept.sum() == 4
    spoilt = jax.tree.map(jnp.array, layers)
    spoilt[0]["kernel"] = jnp.where(kept[None], layers[0]["kernel"], jnp.nan)
    spoilt[1]["kernel"] = jnp.where(kept[:, None], layers[1]["kernel"], jnp.inf)
    assert_same_bits(thinned_mlp(key(), x, spoilt, 0.5), thinned_mlp(key(), x, layers, 0.5))
    slopes = jax.grad(lambda layers: thinned_mlp(key(), x, layers, 0.5).sum())(spoilt)
    assert not np.asarray(slopes[0]["kernel"])[:, ~kept].any()
    assert not np.asarray(slopes[1]["kernel"])[~kept].any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtype_is_that_of_x_and_the_units_are_the_same(dtype):
    layers, x = layers_of(5, 8, 3), data((4, 5), dtype)
    y = thinned_mlp(key(), x, layers, 0.5)
    assert y.dtype == dtype
    exact = thinned_mlp(key(), x.astype(jnp.float32), layers, 0.5)
    np.testing.assert_allclose(y.astype(jnp.float32), exact, rtol=0.1, atol=0.15)


def test_the_key_is_used_up_and_legacy_ones_are_the_typed_ones():
    layers, x, one = layers_of(5, 8, 3), data((4, 5)), key()
    thinned_mlp(one, x, layers, 0.5)
    with pytest.raises(jax.errors.KeyReuseError):
        thinned_mlp(one, x, layers, 0.5)
    legacy = thinned_mlp(jax.random.PRNGKey(0), x, layers, 0.5)
    assert_same_bits(legacy, thinned_mlp(key(), x, layers, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(("groups", "shape"), [(1, (16, 5)), (8, (16, 5)), (8, (16, 2, 5))])
def test_on_a_mesh_examples_stay_where_they_are(axis_type, groups, shape):
    layers, x = layers_of(5, 64, 3), data(shape)
    mesh = mesh_of((8,), axis_type)
    sharding = jax.NamedSharding(mesh, P("data"))
    place = jax.NamedSharding(mesh, P())
    spread, sharded = jax.tree.map(lambda leaf: put(leaf, place), layers), put(x, sharding)
    call = functools.partial(thinned_mlp, rate=0.5, num_groups=groups)
    y = compiled(call, key(), sharded, spread)(key(), sharded, spread)
    assert y.sharding.is_equivalent_to(sharding, x.ndim)
    np.testing.assert_allclose(y, call(key(), x, layers), rtol=1e-5, atol=1e-5)
    slopes = jax.jit(jax.grad(lambda x, layers: (call(key(), x, layers) ** 2).sum(), (0, 1)))
    for got, wanted in zip(*map(jax.tree.leaves, (slopes(sharded, spread), slopes(x, layers)))):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


# What it costs.


def step(block):
    return jax.jit(jax.grad(lambda layers, x, key: block(key, x, layers).sum(), (0, 1)))


def test_operations_and_temporaries_of_a_step_fall():
    layers, x = layers_of(64, 256, 64), jnp.ones((128, 64))

    def with_dropout(key, x, layers):
        hidden = jax.nn.gelu(x @ layers[0]["kernel"] + layers[0]["bias"][None])
        hidden = nn.Dropout(0.5, deterministic=False).apply({}, hidden, rngs={"dropout": key})
        return hidden @ layers[1]["kernel"] + layers[1]["bias"][None]

    thin = functools.partial(thinned_mlp, rate=0.5)
    full = functools.partial(thinned_mlp, rate=0.5, deterministic=True)
    programs = [step(f).lower(layers, x, key()).compile() for f in (thin, full, with_dropout)]
    operations = [program.cost_analysis()["flops"] for program in programs]
    assert operations[0] <= 0.52 * operations[1]
    temporaries = [program.memory_analysis().temp_size_in_bytes for program in programs]
    assert temporaries[0] <= 0.6 * temporaries[2]
    deep = layers_of(64, 256, 256, 64)
    thin, full = (step(f).lower(deep, x, key()).compile() for f in (thin, full))
    assert thin.cost_analysis()["flops"] <= 0.36 * full.cost_analysis()["flops"]  # quadratic inside


def test_the_gradient_is_fetched_and_not_scattered():
    """A scatter is a loop on the CPU, and would cost what the smaller products save."""

    def loss(layers, x, key):
        return thinned_mlp(key, x, layers, 0.5).sum()

    layers, x = layers_of(5, 8, 6, 3), data((4, 5))
    backward = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(layers, x, key()))
    assert "scatter-add" not in backward


# Classes.


def modules(framework, gated=False, **options):
    """``(module, its variables, layers of its parameters, call with a key)``."""
    x = data((4, 5))
    if framework == "linen":
        module = jaxdrop.linen.ThinnedMLP((8, 6), 3, 0.5, gated=gated, **options)
        params = module.init(key(1), x, deterministic=True)["params"]
        dense = [params[f"Dense_{n}"] for n in range(len(params))]
        call = lambda key, flag=False: module.apply({"params": params}, x, flag, key)  # noqa: E731
    else:
        module = jaxdrop.nnx.ThinnedMLP(5, (8, 6), 3, 0.5, gated=gated, rngs=nnx.Rngs(0), **options)
        dense = [{"kernel": n.kernel[...], "bias": n.bias[...]} for n in module.layers]
        call = lambda key, flag=False: module(x, deterministic=flag, rngs=key)  # noqa: E731
    if gated:
        dense = [(dense[0], dense[1]), (dense[2], dense[3]), dense[4]]
    return x, dense, call


@each_framework
@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
def test_classes_are_the_function(framework, gated):
    options = {"activation": jax.nn.silu, "num_groups": 2}
    x, layers, call = modules(framework, gated, **options)
    assert_same_bits(call(key(7)), thinned_mlp(key(7), x, layers, 0.5, **options))
    np.testing.assert_allclose(call(None, True), by_hand(x, layers, jax.nn.silu), 1e-4, 1e-5)


def test_any_batch_will_do_where_nothing_is_drawn():
    """The last batch of an evaluation, and the one example that parameters are made with."""
    x, layers = data((5, 5)), layers_of(5, 8, 3)
    y = thinned_mlp(None, x, layers, 0.5, num_groups=4, deterministic=True)
    assert_same_bits(y, thinned_mlp(None, x, layers, 0.5, deterministic=True))
    module = jaxdrop.linen.ThinnedMLP(8, 3, 0.5, num_groups=4)
    variables = module.init(key(), x[:1], deterministic=False)
    assert module.apply(variables, x, deterministic=True).shape == (5, 3)
    module = jaxdrop.nnx.ThinnedMLP(5, 8, 3, 0.5, num_groups=4, rngs=nnx.Rngs(0))
    assert module(x, deterministic=True).shape == (5, 3)


def test_parameters_move_to_dense_layers_and_back():
    class Plain(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.gelu(nn.Dense(8)(x))
            return nn.Dense(3)(x)

    x = data((4, 5))
    thinned, plain = jaxdrop.linen.ThinnedMLP(8, 3, 0.5, deterministic=True), Plain()
    variables = plain.init(key(), x)
    assert jax.tree.structure(variables) == jax.tree.structure(thinned.init(key(), x))
    np.testing.assert_allclose(thinned.apply(variables, x), plain.apply(variables, x), rtol=1e-5)


def test_classes_without_bias_and_with_dtypes():
    x = data((4, 5))
    options = {"use_bias": False, "dtype": jnp.bfloat16}
    linen = jaxdrop.linen.ThinnedMLP(8, 3, 0.5, deterministic=True, **options)
    variables = linen.init(key(), x)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables["params"]["Dense_0"]) == {
        "kernel": ((5, 8), jnp.float32)
    }
    assert linen.apply(variables, x).dtype == jnp.bfloat16
    layer = jaxdrop.nnx.ThinnedMLP(5, 8, 3, 0.5, rngs=nnx.Rngs(0), **options)
    assert layer(x).dtype == jnp.bfloat16
    layer.eval()
    assert_same_bits(layer(x), layer(x))


@pytest.mark.slow
@each_framework
def test_monte_carlo_passes_thin_and_their_operations_fall(framework):
    if framework == "linen":
        module = jaxdrop.linen.ThinnedMLP((64, 64), 3, 0.5, deterministic=True)
        x = data((16, 5))
        make = functools.partial(mc.from_linen, module, module.init(key(), x))
    else:
        module = jaxdrop.nnx.ThinnedMLP(5, (64, 64), 3, 0.5, rngs=nnx.Rngs(0))
        x = data((16, 5))
        make = functools.partial(mc.from_nnx, module)
    fn = make()
    (site,) = mc.audit(fn, key(), x).sites
    assert (site.kind, site.rate, site.live) == ("ThinnedMLP", 0.5, True)
    out = mc.predict(fn, key(), x, num_samples=20)
    assert (out.variance > 0).all()
    # Its rate decides shapes, so it keeps it; switched off, it is the full block.
    assert_same_bits(make(rate=0.9)(key(), x), fn(key(), x))
    still = make(sites="nowhere")
    assert_same_bits(still(key(1), x), still(key(2), x))
    thin, full = (
        jax.jit(f).lower(key(), x).compile().cost_analysis()["flops"] for f in (fn, still)
    )
    assert thin < 0.45 * full


# Errors.

FIRST = layers_of(5, 8)[0]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"rate": jnp.float32(0.5)}, TypeError, "rate: .*number of hidden units .* is a shape"),
        ({"rate": 1.5}, ValueError, r"rate: .*\[0, 1\], got 1.5"),
        ({"layers": layers_of(5, 3)}, TypeError, "layers: expected two or more, got list of 1"),
        ({"layers": {"Dense_0": {}}}, TypeError, r"two or more, got dict with \['Dense_0'\]"),
        ({"layers": [3, 4]}, TypeError, r"layers\[0\]: expected a mapping with .kernel.*got int"),
        ({"layers": layers_of(4, 8, 3)}, ValueError, r"\(5, units\), since 5 .*got \(4, 8\)"),
        ({"layers": [FIRST, *layers_of(7, 3)]}, ValueError, r"layers\[1\]: .*\(8, units\)"),
        (
            {"layers": [{**FIRST, "bias": jnp.ones(7)}, *layers_of(8, 3)]},
            ValueError,
            r"layers\[0\]: expected a bias of shape \(8,\).*got \(7,\)",
        ),
        (
            {"layers": [(FIRST, *layers_of(5, 6)), *layers_of(8, 3)]},
            ValueError,
            r"layers\[0\]: expected a gate and a value of one shape",
        ),
        ({"layers": [FIRST, (FIRST, FIRST)]}, TypeError, r"layers\[1\]: expected one layer"),
        ({"num_groups": 3}, ValueError, r"num_groups: .*got 3 for x of shape \(4, 5\)"),
        (
            {"num_groups": 5, "x": data((5,))},
            ValueError,
            r"num_groups: .*got 5 for x of shape \(5,\)",
        ),
        ({"num_groups": 0}, ValueError, "num_groups: expected at least 1"),
        ({"x": jnp.ones((4, 5), int)}, TypeError, "x: expected"),
        ({"key": 3}, TypeError, "key: expected one PRNG key"),
        ({"deterministic": 1}, TypeError, "deterministic: expected"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(change, kind, message):
    given = {"key": key(), "x": data((4, 5)), "layers": layers_of(5, 8, 3), "rate": 0.5, **change}
    with pytest.raises(kind, match=message):
        thinned_mlp(**given)


def test_a_traced_rate_is_refused_under_jit():
    with pytest.raises(TypeError, match=r"is a shape.*mark it static.*`dropout`"):
        jax.jit(lambda rate: thinned_mlp(key(), data((4, 5)), layers_of(5, 8, 3), rate))(0.5)
