"""Floor 3 follows from floor 2: a function gives two classes their name, parameters and values."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType

import jaxdrop
from jaxdrop import functional
from tests.support.cases import assert_same_bits, data, key

RATE = 0.3
# The shape of x, whose first axis the eight devices split, and no argument at its default, so
# that one which a class forgets to hand on shows. A new function is one row.
ROWS = {
    "attention_dropout": ((8, 6, 40), {"broadcast_dims": (-2,), "renormalize": True}),
    "drop_block": ((8, 32, 5), {"block_size": (3, 2), "channel_axis": 1, "batch_axis": None}),
    "drop_head": ((8, 32, 5, 6), {"head_axis": 1, "batch_axis": None}),
    "drop_path": ((8, 6, 40), {"mode": "batch", "batch_axis": 1}),
    "drop_key": ((8, 2, 6, 40), {}),
    "dropout": ((8, 6, 40), {"broadcast_dims": (-2,)}),
    "embedding_dropout": ((64, 40), {}),
    "alpha_dropout": ((8, 6, 40), {}),
    "feature_alpha_dropout": ((8, 32, 5), {"channel_axis": 1, "batch_axis": None}),
    "gaussian_dropout": ((8, 6, 40), {"broadcast_dims": (-2,)}),
    "gaussian_noise": ((8, 6, 40), {"broadcast_dims": (-2,)}),
    "mc_dropout": ((8, 6, 40), {"broadcast_dims": (0,)}),
    "spatial_dropout": ((8, 32, 5), {"channel_axis": 1, "batch_axis": None}),
    "variational_dropout": ((8, 16, 40), {"time_axis": 0}),
}
# Functions that are no layers (schedules, losses, regularisers), or that Flax has layers for
# (attention: test_attention_fn.py), and so have no class.
NOT_LAYERS = {
    "concrete_regularizer",
    "dot_product_attention",
    "drop_path_rates",
    "fold_in_axes",
    "multi_sample_loss",
    "r_drop_loss",
    "variational_gaussian_kl",
    "variational_gaussian_pruned",
}
# Those whose class owns parameters: test_learned_modules.py, test_thinned_mlp.py.
HAS_PARAMETERS = {"concrete_dropout", "thinned_mlp", "variational_gaussian_dropout"}
# Those whose class is called another way: the same is checked in a file of their own.
OWN_TESTS = {
    "drop_connect",
    "edge_dropout",
    "layer_drop",
    "neftune_noise",
    "subset_residual",
    "token_dropout",
    "word_dropout",
    "zoneout",
}
# Classes without a function, since they wrap a cell: test_cells.py.
CELLS = {"VariationalCell", "WeightDropCell", "ZoneoutCell"}
# Those that are Flax's own, with dropout in it: test_lora.py.
OF_FLAX = {jaxdrop.linen: set(), jaxdrop.nnx: {"LoRA", "LoRALinear"}}
# What a function works on, where that is not called x, and what it takes in place of a rate.
INPUTS = {
    "drop_connect": ("params",),
    "edge_dropout": ("x", "senders", "receivers"),
    "layer_drop": ("block", "x"),
    "neftune_noise": ("x", "mask"),
    "subset_residual": ("branch", "x", "extra"),
    "zoneout": ("h_old", "h_new"),
}
LEVELS = {"gaussian_noise": "stddev", "neftune_noise": "alpha"}
# What a module does not hold: weights in it would be parameters, or constants of its program.
NOT_HELD = {"drop_connect": ("other",)}
FLAX = {jaxdrop.linen: nn.Dropout, jaxdrop.nnx: nnx.Dropout}

LAYERS = [name for name in functional.__all__ if name not in NOT_LAYERS]
each_layer = pytest.mark.parametrize("name", [n for n in LAYERS if n not in HAS_PARAMETERS])
each_name = pytest.mark.parametrize(
    "name", [n for n in LAYERS if n not in HAS_PARAMETERS | OWN_TESTS]
)
each_floor = pytest.mark.parametrize("floor", FLAX, ids=["linen", "nnx"])


def class_name(name):
    """Snake to camel; an abbreviation stays in capitals."""
    return "".join(
        {"mc": "MC", "mlp": "MLP"}.get(part, part.capitalize()) for part in name.split("_")
    )


def parameters(function, *without):
    found = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in found if p.name not in ("self", *without)}


def own_parameters(name):
    function = getattr(functional, name)
    given = INPUTS.get(name, ("x",)), LEVELS.get(name, "rate")
    without = NOT_HELD.get(name, ())
    return parameters(function, "key", *given[0], given[1], "deterministic", *without)


def case(name):
    """``(call of the function, linen class, nnx class, x)``, all with the arguments of the row."""
    shape, arguments = ROWS[name]

    def bind(target):
        return lambda *args, **kwargs: target(*args, **arguments, **kwargs)

    cls = class_name(name)
    targets = getattr(functional, name), getattr(jaxdrop.linen, cls), getattr(jaxdrop.nnx, cls)
    return *map(bind, targets), data(shape)


@each_floor
def test_classes_are_named_for_the_functions(floor):
    classes = {name for name in floor.__all__ if name[0].isupper()}
    assert classes == {class_name(name) for name in LAYERS} | CELLS | OF_FLAX[floor]
    for name in classes:
        assert getattr(floor, name).__name__ == name


@each_name
def test_row_leaves_no_argument_at_its_default(name):
    defaults = own_parameters(name)
    assert set(ROWS[name][1]) == set(defaults)
    assert all(ROWS[name][1][argument] != default for argument, default in defaults.items())


@each_floor
@each_layer
def test_parameters_of_a_class_are_those_of_its_function(floor, name):
    cls = getattr(floor, class_name(name))
    own = own_parameters(name)
    common = parameters(FLAX[floor].__init__, "broadcast_dims")
    if name == "mc_dropout":
        common["deterministic"] = False  # on, unless a flag of its own says otherwise
    (_, default), *rest = common.items()
    level = LEVELS.get(name, "rate"), default
    found = parameters(
        cls.__init__, "layer", "block", "branch"
    )  # what a class wraps in place of an input
    assert next(iter(found.items())) == level
    assert found == dict([level, *own.items(), *rest])
    if floor is jaxdrop.linen:  # whose fields are arguments by place, too
        assert list(found) == [level[0], *own, *dict(rest)]


@pytest.mark.parametrize("name", sorted(CELLS))
def test_cells_of_both_floors_have_the_same_parameters(name):
    linen, nnx = (
        parameters(getattr(floor, name).__init__, "parent", "name", "rngs") for floor in FLAX
    )
    assert list(linen) == list(nnx)
    linen["deterministic"], nnx["deterministic"] = None, None  # each floor as its Dropout
    assert linen == nnx


@each_floor
@pytest.mark.parametrize("name", [n for n in LAYERS if n not in OWN_TESTS])
def test_call_of_a_class_is_that_of_flax(floor, name):
    ours, flax = (
        [(p.name, p.kind, p.default) for p in inspect.signature(cls.__call__).parameters.values()]
        for cls in (getattr(floor, class_name(name)), FLAX[floor])
    )
    assert ours == flax


class Key(nn.Module):
    """The key that Flax gives to a module at the top."""

    @nn.compact
    def __call__(self):
        return self.make_rng("dropout")


@each_name
@pytest.mark.parametrize("rate", [RATE, jnp.float32(RATE)], ids=["static", "traced"])
def test_function_and_both_classes_give_the_same_bits(name, rate):
    """With the key in the call, and with one from Flax's streams."""
    function, of_linen, of_nnx, x = case(name)
    expected = function(key(), x, rate)
    layer = of_linen(rate, deterministic=False)
    assert_same_bits(layer.apply({}, x, rng=key()), expected)
    from_stream = layer.apply({}, x, rngs={"dropout": key(1)})
    assert_same_bits(from_stream, function(Key().apply({}, rngs={"dropout": key(1)}), x, rate))

    layer = of_nnx(nnx.data(rate) if isinstance(rate, jax.Array) else rate, rngs=nnx.Rngs(1))
    assert_same_bits(layer(x, rngs=key()), expected)
    stream = nnx.Rngs(1).dropout.fork()
    for _ in range(2):
        assert_same_bits(layer(x), function(stream(), x, rate))


@each_name
def test_switched_off_a_class_is_the_identity_and_needs_no_key(name):
    _, of_linen, of_nnx, x = case(name)
    assert of_linen(RATE, deterministic=True).apply({}, x) is x
    assert of_linen(RATE).apply({}, x, deterministic=True) is x
    assert of_nnx(RATE, deterministic=True)(x) is x
    assert of_nnx(RATE)(x, deterministic=True) is x


@each_name
def test_rates_0_and_1_need_no_key(name):
    _, of_linen, of_nnx, x = case(name)
    last = x if name == "drop_key" else jnp.zeros_like(x)
    for rate, expected in ((0, x), (1, last))[: 1 if name in LEVELS else 2]:
        assert_same_bits(of_linen(rate, deterministic=False).apply({}, x), expected)
        assert_same_bits(of_nnx(rate)(x), expected)


@each_name
def test_key_comes_from_the_named_collection(name):
    function, of_linen, of_nnx, x = case(name)
    layer = of_linen(RATE, deterministic=False, rng_collection="noise")
    y = layer.apply({}, x, rngs={"noise": key(1), "dropout": key(2)})
    assert_same_bits(y, function(Key().apply({}, rngs={"dropout": key(1)}), x, RATE))

    layer = of_nnx(RATE, rng_collection="noise", rngs=nnx.Rngs(noise=1, dropout=2))
    expected = function(nnx.Rngs(1).noise.fork()(), x, RATE)
    assert_same_bits(layer(x), expected)
    rngs = nnx.Rngs(noise=1, dropout=2)
    given = layer(x, rngs=rngs)
    assert_same_bits(given, function(nnx.Rngs(1).noise(), x, RATE))
    assert (rngs.noise.count[...], rngs.dropout.count[...]) == (1, 0)


@each_name
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
def test_sharded_arrays_drop_as_on_one_device(name, kind):
    """Flax's linen Dropout refuses an array that is sharded explicitly."""
    function, of_linen, of_nnx, x = case(name)
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(kind,))
    sharding = jax.NamedSharding(mesh, jax.P("devices"))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, sharding)
        results = (
            of_linen(RATE, deterministic=False).apply({}, sharded, rng=key()),
            of_nnx(RATE)(sharded, rngs=key()),
        )
    for y in results:
        assert y.sharding.is_equivalent_to(sharding, x.ndim)
        assert_same_bits(np.asarray(y), function(key(), x, RATE))
