"""Which functions of an adapter are one program, which are not, and that they may be pickled."""

import pickle
from collections.abc import Callable, Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import mc
from jaxdrop.mc._jaxpr import forwarded
from tests.support.cases import assert_same_bits, data, key
from tests.support.models import each_framework

X = data((3, 4))


class Scaled(nn.Module):
    """Holds what is given in a field."""

    scale: object

    @nn.compact
    def __call__(self, x):
        x = nn.Dropout(0.5, deterministic=True)(x.astype(jnp.bfloat16))
        scale = self.scale["scale"] if isinstance(self.scale, Mapping) else self.scale
        return x * jnp.asarray(scale, None if np.ndim(scale) == 0 else jnp.bfloat16)


class NnxScaled(nnx.Module):
    def __init__(self, scale):
        self.scale, self.drop = scale, nnx.Dropout(0.5)

    def __call__(self, x):
        return self.drop(x.astype(jnp.bfloat16)) * jnp.asarray(self.scale)


def scaled(framework, scale):
    if framework == "linen":
        return mc.from_linen(Scaled(scale), {})
    return mc.from_nnx(NnxScaled(scale))


def counted(run):
    """``run`` under jit, and how often it has been traced."""
    count = [0]

    def traced(*args):
        count[0] += 1
        return run(*args)

    return jax.jit(traced), count


@pytest.mark.usefixtures("jitted")
@each_framework
def test_equal_models_made_anew_are_one_program(framework):
    program, count = counted(lambda fn: fn(key(), X))
    for _ in range(3):
        program(scaled(framework, 2))
    assert count == [1]


@pytest.mark.usefixtures("jitted")
@each_framework
def test_equal_but_not_the_same_numbers_are_other_programs(framework):
    """Python finds 1, 1.0 and True equal, and 0.0 and -0.0."""
    program, count = counted(lambda fn: fn(key(), X))
    numbers = (1, 1.0, True, 0.0, -0.0)
    with jax.numpy_dtype_promotion("standard"):
        for number in numbers:
            expected = scaled(framework, number)(key(), X)
            got = program(scaled(framework, number))
            assert got.dtype == expected.dtype
            assert_same_bits(got, expected)
    assert count == [len(numbers)]


MEANS = {
    "NumPy": lambda mean: np.asarray(mean, np.float32),
    "JAX": lambda mean: jnp.asarray(mean, jnp.float32),
    "dict": lambda mean: {"scale": np.asarray(mean, np.float32)},
}


@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize("kind", MEANS)
def test_arrays_may_be_fields_of_linen_modules(kind):
    program, count = counted(lambda fn: fn(key(), X))
    ones, threes = np.ones((1, 4)), np.full((1, 4), 3.0)
    for mean, number in ((ones, 1), (ones, 1), (threes, 2), (ones[:, :1], 3)):
        fn = scaled("linen", MEANS[kind](mean))
        assert_same_bits(program(fn), fn(key(), X))
        assert count == [number]
        out = mc.predict(fn, key(), X, num_samples=4, summary=mc.samples())
        kept = np.asarray(out) != 0
        wanted = np.where(
            kept, 2 * np.asarray(X.astype(jnp.bfloat16) * jnp.bfloat16(mean[0, 0])), 0
        )
        np.testing.assert_array_equal(out, wanted)


@pytest.mark.usefixtures("jitted")
def test_an_array_of_a_module_inside_an_nnx_model_may_be_a_field():
    fns = [
        mc.from_nnx(nnx.bridge.ToNNX(Scaled(np.full((1, 4), mean, np.float32)), rngs=nnx.Rngs(0)))
        for mean in (1, 1, 2)
    ]
    program, count = counted(lambda fn: fn(key(), X))
    for fn in fns:
        assert_same_bits(program(fn), fn(key(), X))
    assert count == [2]


# Pickling.


class Layers(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.attention = nnx.MultiHeadAttention(2, 4, dropout_rate=0.5, decode=False, rngs=rngs)
        self.norm, self.drop = nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.5)
        self.inner = nnx.bridge.ToNNX(Scaled(2), rngs=rngs).lazy_init(X)
        self.rngs = rngs.fork()

    def __call__(self, x, train=False):
        x = self.inner(self.drop(self.norm(self.attention(x[None])[0])))
        return x * jax.random.bernoulli(self.rngs(), 0.5, x.shape) if train else x


@pytest.mark.usefixtures("jitted")
@each_framework
@pytest.mark.parametrize("options", [{}, {"sites": "*rop*", "rate": 0.25, "shared_masks": False}])
def test_functions_of_models_that_pickle_pickle(framework, options):
    if framework == "linen":
        fn = mc.from_linen(Scaled(np.ones((1, 4), np.float32)), {}, **options)
    else:
        fn = mc.from_nnx(Layers(), **options)
    again = pickle.loads(pickle.dumps(fn))
    with jax.numpy_dtype_promotion("standard"):
        assert_same_bits(again(key(), X), fn(key(), X))
        program, count = counted(lambda fn: fn(key(), X))
        assert_same_bits(program(again), program(fn))
    assert count == [1]


# What a pass hands on as it is.


def _scanned(x, y):
    step = lambda carry, row: ((carry[0] + row, carry[1]), row)  # noqa: E731
    (total, kept), rows = jax.lax.scan(step, (x[0], y), x)
    return total, kept, rows


FORWARDED = {
    "call": (jax.jit(lambda x, y: (y, x + y)), [1, None]),
    "remat": (jax.checkpoint(lambda x, y: (x * y, x, y)), [None, 0, 1]),
    "scan": (_scanned, [None, 1, 0]),
    "swapped by a scan": (
        lambda x, y: jax.lax.scan(lambda c, _: ((c[1], c[0]), None), (x, y), length=3)[0],
        [None, None],
    ),
    "fori_loop": (
        lambda x, y: jax.lax.fori_loop(0, 3, lambda i, c: (c[0], c[1] * 2), (x, y)),
        [0, None],
    ),
    "while": (
        lambda x, y: jax.lax.while_loop(
            lambda c: c[1].sum() < x.sum(), lambda c: (c[0], c[1] + x), (x, y)
        ),
        [0, None],
    ),
    "branches that agree": (
        lambda x, y: jax.lax.cond(x.sum() > 0, lambda x, y: (x, y), lambda x, y: (x, 2 * y), x, y),
        [0, None],
    ),
    "branches that differ": (
        lambda x, y: jax.lax.cond(x.sum() > 0, lambda x, y: (x,), lambda x, y: (y,), x, y),
        [None],
    ),
    "nothing": (lambda x, y: (x * 1, jnp.negative(y), 3.0), [None, None, None]),
}


@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize("name", FORWARDED)
def test_what_is_handed_on_is_found(name):
    function, expected = FORWARDED[name]
    program = jax.make_jaxpr(function)(jnp.ones((3, 3)), jnp.ones((3, 3)))
    assert forwarded(program.jaxpr) == expected


class Averaging(nn.Module):
    """Under a transform that gives all variables back; moves an average if it may."""

    moves: bool

    @nn.compact
    def __call__(self, x):
        def body(module, x):
            dense = nn.Dense(4)(x)
            mean = module.variable("averages", "mean", jnp.zeros, 4)
            if module.moves and not module.is_initializing():
                mean.value = mean.value + 1.0
            return dense

        x = nn.remat(body)(self, x) + self.get_variable("averages", "mean")
        return nn.Dropout(0.5, deterministic=True)(x)


@pytest.mark.parametrize("moves", [True, False])
def test_only_what_a_pass_changes_is_said_to_change(moves):
    with jax.numpy_rank_promotion("allow"):
        variables = Averaging(False).init(key(), X)
        fn = mc.from_linen(Averaging(moves), variables)
        assert mc.audit(fn, key(), X).changes == (("averages",) if moves else ())


class Decoding(nn.Module):
    """Writes to a collection if it may, and sows."""

    @nn.compact
    def __call__(self, x):
        steps = self.variable("cache", "steps", jnp.zeros, ())
        if self.is_mutable_collection("cache") and not self.is_initializing():
            steps.value = steps.value + 1.0
        self.sow("intermediates", "entering", x)
        return nn.Dropout(0.5, deterministic=True)(x)


@pytest.mark.parametrize(
    ("options", "collections"),
    [
        ({"mutable": ["cache"]}, {"cache"}),
        ({"mutable": "cache"}, {"cache"}),
        ({"mutable": True}, {"cache", "intermediates"}),
        ({"mutable": ["intermediates"]}, {"intermediates"}),
        ({"capture_intermediates": True}, {"intermediates"}),
        ({"capture_intermediates": True, "mutable": ["cache"]}, {"cache", "intermediates"}),
    ],
)
def test_what_apply_gives_besides_the_output_comes_through(options, collections):
    model = Decoding()
    variables = {"cache": model.init(key(), X)["cache"]}
    fn = mc.from_linen(model, variables)
    report = mc.audit(fn, key(), X, **options)
    assert [site.live for site in report.sites] == [True] and not report.changes
    _, state = fn(key(), X, **options)
    assert set(state) == collections
    out = mc.predict(fn, key(), X, num_samples=4, **options)
    assert set(out.mean[1]) == collections
    assert (out.variance[0] > 0).any()
    if "cache" in collections:
        assert out.mean[1]["cache"]["steps"] == 1
    assert fn(key(), X).shape == X.shape  # and without, nothing is written


@pytest.mark.parametrize("decode", [True, False])
def test_a_cache_is_named_and_refused(decode):
    rngs = nnx.Rngs(0)
    model = nnx.MultiHeadAttention(2, 4, dropout_rate=0.5, decode=decode, rngs=rngs)
    model.init_cache((1, 3, 4))
    fn, x = mc.from_nnx(model), X[None, :1]
    assert mc.audit(fn, key(), x).changes == (("Cache",) if decode else ())
    if not decode:
        assert fn(key(), x).shape == x.shape
        return
    for call in (fn, jax.jit(fn), lambda key, x: mc.predict(fn, key, x)):
        with pytest.raises(
            ValueError, match=r"changes cache_index \(Cache\), cached_key \(Cache\)"
        ):
            call(key(), x)


def test_a_counter_of_an_nnx_model_inside_linen_is_named_and_refused():
    class Counting(nnx.Module):
        def __init__(self, rngs):
            self.calls, self.drop = nnx.BatchStat(jnp.zeros(())), nnx.Dropout(0.5, rngs=rngs)

        def __call__(self, x):
            self.calls[...] += 1.0
            return self.drop(x) * self.calls[...]

    model = nnx.bridge.ToLinen(Counting)
    variables = model.init({"params": key(), "dropout": key(1)}, X)
    fn = mc.from_linen(model, variables)
    with pytest.raises(ValueError, match=r"changes calls \(BatchStat\), which would be lost"):
        fn(key(), X)
    y, state = fn(key(), X, mutable=["batch_stats"])
    calls = variables["batch_stats"]["calls"]
    assert jax.tree.leaves(state)[0] == jax.tree.leaves(calls)[0] + 1
    assert set(np.unique(np.asarray(y) != 0)) == {False, True}


# Stacked layers.


class Stack(nnx.Module):
    """Layers that change nothing but by dropout, stacked along one axis or two."""

    def __init__(self, sizes, own):
        def make(rngs):
            return Plain(rngs, own)

        for size in sizes[::-1]:
            make = nnx.split_rngs(splits=size)(nnx.vmap(make, in_axes=0, out_axes=0))
        self.layers, self.depth = make(nnx.Rngs(0)), len(sizes)

    def __call__(self, x):
        run = lambda x, layer: layer(x)  # noqa: E731
        for _ in range(self.depth):
            run = nnx.scan(run, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return run(x, self.layers)


class Plain(nnx.Module):
    def __init__(self, rngs, own):
        self.scale = nnx.Param(jnp.ones(40, jnp.float32))
        self.drop = nnx.Dropout(0.5, rngs=rngs if own else None)

    def __call__(self, x):
        return self.drop(self.drop(x * self.scale[...][None]))


@pytest.mark.parametrize("own", [True, False], ids=["own", "none"])
@pytest.mark.parametrize("sizes", [(3,), (2, 2)])
@pytest.mark.parametrize("rate", [None, 0.1])
def test_stacked_layers_drop_each_for_itself(own, sizes, rate):
    """And twice each: with masks that were tied, more would survive."""
    fn, x = mc.from_nnx(Stack(sizes, own), rate=rate), jnp.ones((400, 40))
    kept = np.asarray(jax.jit(fn)(key(), x)) != 0
    times = 2 * int(np.prod(sizes))
    share = (1 - (rate or 0.5)) ** times
    deviation = np.sqrt(share * (1 - share) / x.size)
    assert abs(kept.mean() - share) < 5 * deviation
    assert (np.asarray(fn(key(1), x)) != 0).tobytes() != kept.tobytes()


class Annotated(nn.Module):
    """With an annotation that is not a field, and has no value."""

    function: ClassVar[Callable]
    rate: float = 0.5

    @nn.compact
    def __call__(self, x):
        return nn.Dropout(self.rate, deterministic=False)(x)


@pytest.mark.parametrize("module", [Annotated(), jaxdrop.linen.GaussianNoise(0.5)])
def test_what_is_only_annotated_in_a_class_is_not_asked_for(module):
    fn = mc.from_linen(module, {})
    assert (mc.predict(fn, key(), X, num_samples=5).variance > 0).any()
