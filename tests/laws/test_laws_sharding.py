"""Law 8 over every variant, on eight host devices: values, sharding and work follow x.

Auto and Explicit meshes, with one axis of x split or two, of sizes that divide by 32 and sizes that
do not, so that whole words fall to one device or are cut between two.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdrop import functional, masks
from tests.support.cases import OTHER_KEYS, assert_same_bits, data, each_case, key

RATE = 0.3
COLLECTIVE = re.compile(
    r"all-gather|all-reduce|all-to-all|collective-permute|collective-broadcast|reduce-scatter"
)
each_mesh_type = pytest.mark.parametrize(
    "axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda axis_type: axis_type.name
)

# Each way to split on one of the two kinds of mesh; on the other one with `slow`.
each_placement = pytest.mark.parametrize(
    ("split", "axis_type"),
    [
        ("first", AxisType.Explicit),
        ("last", AxisType.Explicit),
        ("both", AxisType.Auto),
        pytest.param("first", AxisType.Auto, marks=pytest.mark.slow),
        pytest.param("last", AxisType.Auto, marks=pytest.mark.slow),
        pytest.param("both", AxisType.Explicit, marks=pytest.mark.slow),
    ],
)


def mesh_of(sizes, axis_type):
    devices = jax.devices("cpu")
    assert len(devices) == 8
    names = ("data", "model")[: len(sizes)]
    return jax.make_mesh(sizes, names, (axis_type,) * len(sizes), devices=devices)


def placement(shape, split, axis_type):
    """Sharding of an array with its first axis that divides by 8 split, its last, or both."""
    axes = [axis for axis, size in enumerate(shape) if size % 8 == 0]
    spec = [None] * len(shape)
    if split == "both":
        spec[axes[-1]] = "model"
        spec[axes[0]] = ("data", "model") if len(axes) == 1 else "data"
    else:
        spec[axes[0] if split == "first" else axes[-1]] = "data"
    return NamedSharding(mesh_of((4, 2) if split == "both" else (8,), axis_type), P(*spec))


def put(x, sharding):
    # NumPy slices at once, where JAX would compile a program that does.
    return jax.device_put(np.asarray(x), sharding)


def compiled(function, *args):
    program = jax.jit(function).lower(*args).compile()
    assert not COLLECTIVE.search(program.as_text())
    return program


def test_the_measure_sees_a_collective():
    x = put(jnp.ones((8, 4)), placement((8, 4), "first", AxisType.Auto))
    text = jax.jit(lambda x: x - x.mean()).lower(x).compile().as_text()
    assert COLLECTIVE.search(text)


@each_case
@each_placement
def test_values_and_gradients_are_those_of_one_device(case, split, axis_type):
    def value_and_gradient(key, x):
        y, pull = jax.vjp(lambda x: case.call(key, x, RATE), x)
        return y, pull(x)[0]

    x = data(case.shape)
    sharding = placement(case.shape, split, axis_type)
    sharded = put(x, sharding)
    results = compiled(value_and_gradient, key(), sharded)(key(), sharded)
    for result, expected in zip(results, value_and_gradient(key(), x)):
        assert result.sharding.is_equivalent_to(sharding, x.ndim)
        assert_same_bits(result, expected)


@each_case
def test_eager_calls_with_arrays_of_rates_follow_x(case):
    """On an Explicit mesh, where JAX refuses what it cannot infer, with rates from outside it."""
    x = data(case.shape)
    sharding = placement(case.shape, "both", AxisType.Explicit)
    rates = jnp.asarray(case.rates())
    y = case.call(key(), put(x, sharding), rates)
    assert y.sharding.is_equivalent_to(sharding, x.ndim)
    assert_same_bits(y, case.call(key(), x, rates))


@pytest.mark.parametrize(
    ("rate_shape", "spec"),
    [
        ((), P()),
        ((64,), P(None)),
        ((64,), P("model")),
        ((256, 1), P("data", None)),
        ((256, 64), P(None, None)),
        ((256, 64), P("data", "model")),
    ],
)
@each_mesh_type
def test_keys_and_rates_may_lie_on_the_mesh(rate_shape, spec, axis_type):
    def value_and_gradient(key, x, rate):
        y, pull = jax.vjp(lambda x: functional.dropout(key, x, rate), x)
        return y, pull(x)[0]

    x, rates = data((256, 64)), np.resize(np.float32([0.1, RATE]), rate_shape)
    expected = functional.dropout(key(), x, jnp.asarray(rates))
    sharding = placement(x.shape, "both", axis_type)
    rate_sharding = NamedSharding(sharding.mesh, spec)
    replicated = jax.device_put(key(), NamedSharding(sharding.mesh, P()))
    args = replicated, put(x, sharding), put(rates, rate_sharding)
    for result in compiled(value_and_gradient, *args)(*args):
        assert result.sharding.is_equivalent_to(sharding, 2)
        assert_same_bits(result, expected)


@pytest.mark.parametrize("shape", [(64, 40), (72, 72)], ids=str)
@each_mesh_type
def test_rates_that_are_cut_within_a_word_meet_again(shape, axis_type):
    """32 rates decide one word, so here devices do have to tell each other theirs."""
    x, rates = data(shape), jnp.asarray(np.resize(np.float32([0.1, RATE]), shape))
    expected = functional.dropout(key(), x, rates)
    sharding = placement(shape, "both", axis_type)
    x, rates = put(x, sharding), put(rates, sharding)
    y = functional.dropout(key(), x, rates)
    assert y.sharding.is_equivalent_to(sharding, 2)
    assert_same_bits(y, expected)


@pytest.mark.parametrize("impl", OTHER_KEYS)
@each_mesh_type
def test_other_implementations_of_keys_follow_x(impl, axis_type):
    x, one = data((256, 64)), jax.random.key(0, impl=impl)
    sharding = placement(x.shape, "both", axis_type)
    sharded = put(x, sharding)
    program = compiled(lambda key, x: functional.dropout(key, x, RATE), one, sharded)
    y = program(one, sharded)
    assert y.sharding.is_equivalent_to(sharding, 2)
    assert_same_bits(y, functional.dropout(jax.random.key(0, impl=impl), x, RATE))


@each_mesh_type
def test_a_mask_is_applied_to_a_sharded_array(axis_type):
    x = data((64, 40))
    mask = masks.sample(key(), RATE, x.shape)
    sharded = put(x, placement(x.shape, "both", axis_type))
    y = compiled(lambda mask, x: mask.apply(x), mask, sharded)(mask, sharded)
    assert y.sharding.is_equivalent_to(sharded.sharding, 2)
    assert_same_bits(y, mask.apply(x))


def operations(fn, x, rate):
    program = compiled(lambda key, x: fn(key, x, rate), key(), x)
    return program.cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("fn", "shape", "spec", "rate"),
    [
        (functional.dropout, (256, 512), P("data"), RATE),
        (functional.dropout, (256, 512), P(None, "data"), RATE),
        (functional.dropout, (256, 512), P("data", "model"), jnp.float32(RATE)),
        (functional.dropout, (16, 64, 128), P("data", None, "model"), RATE),
        (functional.dropout, (16, 12, 56), P("data"), RATE),
        (functional.variational_dropout, (64, 5, 512), P("data", None, "model"), RATE),
    ],
)
@pytest.mark.parametrize(
    "axis_type", [AxisType.Explicit, pytest.param(AxisType.Auto, marks=pytest.mark.slow)]
)
def test_each_device_does_its_share_of_the_work(fn, shape, spec, rate, axis_type):
    """By the operations that the compiler counts, to 10 %: drawing is most of them."""
    x = jnp.ones(shape)
    mesh = mesh_of((4, 2) if "model" in spec else (8,), axis_type)
    whole = operations(fn, x, rate)
    share = operations(fn, put(x, NamedSharding(mesh, spec)), rate)
    assert share <= 1.1 / 8 * whole


@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("rate", [RATE, jnp.float32(RATE)], ids=["static", "traced"])
def test_shard_map_with_a_key_for_each_device(check_vma, rate):
    """Inside shard_map the key decides: one folded with the device gives each its own mask."""
    x = data((64, 40))
    mesh = mesh_of((8,), AxisType.Auto)

    def local(key, x):
        own = jax.random.fold_in(key, jax.lax.axis_index("data"))
        y, pull = jax.vjp(lambda x: functional.dropout(own, x, rate), x)
        return y, pull(x)[0]

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"), check_vma=check_vma
    )
    parts = x.reshape(8, 8, 40)
    own = [functional.dropout(jax.random.fold_in(key(), i), parts[i], rate) for i in range(8)]
    assert len({(np.asarray(y) == 0).tobytes() for y in own}) == 8
    for result in compiled(mapped, key(), x)(key(), x):
        assert_same_bits(result, np.concatenate(own))
