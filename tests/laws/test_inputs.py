"""What may come in as an array, over every function: NumPy, lists, no entry, complex numbers.

`tests.house.test_errors` has what is refused.
"""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

import jaxdrop
from jaxdrop import masks
from tests.support.cases import RATE, assert_same_bits, data, each_call, key, layers_for


def ways(call, few=False):
    """Known and traced rates and flags; a few of them if the others are asked elsewhere."""
    if few:
        yield RATE, False
        return
    rates = [0.0, RATE, 1.0]
    if call.name == "token_dropout":
        rates = rates[:2]
    yield from ((rate, flag) for rate in rates for flag in (False, True))
    if call.traced:
        yield jnp.float32(RATE), False
        yield jnp.float32(0), jnp.bool_(False)
        yield RATE, jnp.bool_(True)


# The result has the dtype that JAX gives the array.


@each_call
@pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
def test_a_numpy_array_counts_as_what_jax_makes_of_it(call, x64):
    """At every rate, known or traced: float64 is float32 unless x64 is on, at one of them."""
    x = np.asarray(data(call.shape), np.float64)
    with jax.enable_x64(x64):
        for rate, flag in ways(call, few=x64):
            y = call.fn(key(), x, rate, deterministic=flag)
            assert isinstance(y, jax.Array), (rate, flag)
            assert_same_bits(y, call.fn(key(), jnp.asarray(x), rate, deterministic=flag))
            assert y.dtype == (jnp.float64 if x64 else jnp.float32), (rate, flag)


def test_lists_and_numbers_count_as_what_jax_makes_of_them():
    x = np.asarray(data((2, 4, 8, 8)))
    for name in ("dropout", "drop_block", "alpha_dropout", "gaussian_dropout", "drop_key"):
        fn = getattr(jaxdrop, name)
        for rate in (0.0, RATE, 1.0):
            assert_same_bits(fn(key(), x.tolist(), rate), fn(key(), x, rate))
    attend = jaxdrop.dot_product_attention
    lists = [x.tolist()] * 3
    for rate in (0.0, RATE, 1.0):
        assert_same_bits(attend(key(), *lists, rate), attend(key(), x, x, x, rate))
    at_half = 4.0 if masks.sample(key(), 0.5, ()).unpack() else 0.0
    for one in (2.0, np.float64(2), np.array(2.0), jnp.float32(2)):
        for rate, expected in ((0.0, 2.0), (1.0, 0.0), (0.5, at_half)):
            assert_same_bits(jaxdrop.dropout(key(), one, rate), jnp.float32(expected))


def test_numpy_leaves_count_as_what_jax_makes_of_them():
    params = {"kernel": np.ones((4, 8)), "steps": np.arange(3)}
    for rate, flag in ((0.0, False), (RATE, False), (1.0, False), (RATE, True)):
        dropped = jaxdrop.drop_connect(key(), params, rate, deterministic=flag)
        assert dropped["kernel"].dtype == jnp.float32
        assert dropped["steps"] is params["steps"]
        y = jaxdrop.layer_drop(key(), lambda x: x, {"a": np.ones(2), "b": 1.0}, rate)
        assert [leaf.dtype for leaf in jax.tree.leaves(y)] == [jnp.float32] * 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float64", "int32"])
def test_learned_levels_may_be_of_any_dtype(dtype):
    """Under strict promotion too: in float32, or float64 where they are."""
    with jax.enable_x64(True):
        level = jnp.asarray(-1, dtype)
        wide = jnp.float64 if dtype == "float64" else jnp.float32
        options = {"num_features": 3, "weight_decay": 0.1, "entropy_weight": 0.2}
        penalty = jaxdrop.concrete_regularizer(level, np.ones(3), **options)
        rate = 1 / (1 + np.e)
        entropy = -rate * np.log(rate) - (1 - rate) * np.log1p(-rate)
        expected = 0.1 * 3 / (1 - rate) - 0.2 * 3 * entropy
        np.testing.assert_allclose(penalty, expected, rtol=1e-5)
        kl = jaxdrop.variational_gaussian_kl(level)
        assert penalty.dtype == kl.dtype == wide
        np.testing.assert_allclose(kl, jaxdrop.variational_gaussian_kl(jnp.float32(-1)), rtol=1e-6)
        assert jaxdrop.variational_gaussian_pruned(level, -2.0).share == 1


# No entry.


@each_call
def test_an_array_without_entries_gives_one_and_its_gradient(call):
    for axis in range(len(call.shape)):
        heads = call.name.startswith("attention_") and call.shape[axis] == 4
        behind_prefix = call.name == "token_dropout" and axis == 1
        if heads or behind_prefix:  # refused: as many heads as none, no token for the prefix
            continue
        shape = (*call.shape[:axis], 0, *call.shape[axis + 1 :])
        x = jnp.zeros(shape)
        for rate in (RATE, jnp.float32(RATE)) if call.traced else (RATE,):
            run = lambda x, rate=rate: call.fn(key(), x, rate).sum()  # noqa: E731
            y, gradient = jax.value_and_grad(run)(x)
            assert y == 0, (shape, rate)
            assert gradient.shape == shape


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("mode", ["weights", "keys", "heads"])
@pytest.mark.parametrize("sizes", [(0, 5, 7, 8), (2, 0, 7, 8), (2, 5, 0, 8), (2, 5, 7, 0)], ids=str)
def test_attention_of_nothing_is_zeros(sizes, mode, block_size):
    """Of no examples, no queries, no keys, no features: a sum over none."""
    batch, queries, keys, features = sizes
    query, kv = jnp.ones((batch, queries, 4, features)), jnp.ones((batch, keys, 2, features))
    options = {"mode": mode, "block_size": block_size, "is_causal": True}
    for rate, flag in (
        (RATE, False),
        (jnp.float32(RATE), False),
        (RATE, True),
        (RATE, jnp.bool_(True)),
    ):
        y = jaxdrop.dot_product_attention(key(), query, kv, kv, rate, deterministic=flag, **options)
        assert_same_bits(y, jnp.zeros_like(query))


@pytest.mark.parametrize("num_groups", [1, 2])
def test_groups_of_an_empty_batch(num_groups):
    x = jnp.zeros((0, 8))
    y = jaxdrop.thinned_mlp(key(), x, layers_for(x), 0.5, num_groups=num_groups)
    assert y.shape == (0, 8)
    y = jaxdrop.subset_residual(key(), lambda x: x, x, 0.5, num_groups=num_groups)
    assert y.shape == (0, 8)


# Complex numbers.


@each_call
def test_a_complex_array_keeps_both_parts_or_is_refused(call):
    real, imaginary = data(call.shape), data(call.shape)[..., ::-1]
    x = jax.lax.complex(real, imaginary)
    run = lambda x: np.asarray(call.fn(key(), x, RATE))  # noqa: E731
    if call.complex is None:
        with pytest.raises(TypeError, match=r"floating .* got dtype complex64"):
            run(x)
    elif call.complex == "parts":
        assert run(x).dtype == np.complex64
        # A function that adds a constant adds it to the real part alone.
        expected = run(real) + 1j * (run(imaginary) - run(np.zeros_like(real)))
        np.testing.assert_allclose(run(x), expected, rtol=2e-6, atol=2e-6)
    else:
        np.testing.assert_allclose(run(x).sum(-1), 1, rtol=1e-5)
        assert np.abs(run(x).imag).max() > 0.01


WEIGHTS = {"kernel": np.full((3, 5), 1 + 2j, np.complex64), "bias": np.full(5, 1j, np.complex64)}


def test_the_regularizer_of_complex_weights_is_that_of_their_absolute_values():
    options = {"num_features": 3, "weight_decay": 0.1, "entropy_weight": 0.0}
    of = lambda w: jaxdrop.concrete_regularizer(0.5, w, **options)  # noqa: E731
    np.testing.assert_allclose(of(WEIGHTS), of(jax.tree.map(jnp.abs, WEIGHTS)), rtol=1e-6)
    scaled = lambda s: of(jax.tree.map(lambda w: s.astype(w.dtype) * w, WEIGHTS))  # noqa: E731
    gradient = jax.grad(scaled)(jnp.float32(1))
    np.testing.assert_allclose(gradient, 2 * of(WEIGHTS), rtol=1e-6)
    assert np.isfinite(jax.grad(of)(jnp.zeros(3, jnp.complex64))).all()


def test_complexlayers_for_are_computed_in_complex_numbers():
    """The first two columns of a product with a kernel of 1j: 15j for five units at any rate."""
    x, last = jnp.ones((2, 3)), {"kernel": jnp.ones((5, 2))}
    layers = [{"kernel": np.full((3, 5), 1j, np.complex64)}, last]
    for rate in (0.0, 0.4):
        with pytest.raises(TypeError, match=r"layers\[0\] kernel: expected real weights for x of"):
            jaxdrop.thinned_mlp(key(), x, layers, rate, activation=lambda x: x)
        with pytest.raises(TypeError, match="activation: expected a real output for x of"):
            jaxdrop.thinned_mlp(key(), x, [{"kernel": jnp.ones((3, 5))}, last], rate,
                                activation=lambda x: jax.lax.complex(x, x))  # fmt: skip
        y = jaxdrop.thinned_mlp(key(), x.astype(complex), layers, rate, activation=lambda x: x)
        np.testing.assert_allclose(y, np.full((2, 2), 15j), rtol=1e-6)


def test_complex_inputs_of_a_real_layer_are_refused():
    x = jnp.ones((2, 3), jnp.complex64)
    message = (
        "inputs: expected real numbers for a layer that computes in float32, got dtype complex64"
    )
    layer = jaxdrop.linen.ThinnedMLP(8, 2, 0.5, dtype=jnp.float32, deterministic=False)
    with pytest.raises(TypeError, match=message):
        layer.init({"params": key(), "dropout": key(1)}, x)
    with pytest.raises(TypeError, match=message):
        jaxdrop.nnx.ThinnedMLP(3, 8, 2, 0.5, dtype=jnp.float32, rngs=nnx.Rngs(0))(x)


# A dtype without 0, and dtypes of four and eight bits.


@pytest.mark.parametrize("dtype", [jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float4_e2m1fn])
def test_narrow_dtypes_hold_what_is_dropped(dtype):
    x = jnp.ones((64, 40), jnp.float32).astype(dtype)
    keep = np.asarray(masks.sample(key(), 0.5, (64, 40)).unpack())
    y = jaxdrop.dropout(key(), x, 0.5)
    assert y.dtype == dtype
    np.testing.assert_array_equal(np.asarray(y, np.float32), np.where(keep, 2, 0))


SCALES = np.ones((8, 4), ml_dtypes.float8_e8m0fnu)


@pytest.mark.parametrize("rate", [0.0, 0.5, jnp.float32(0.5)])
@pytest.mark.parametrize("name", ["dropout", "alpha_dropout", "gaussian_dropout", "drop_path"])
def test_a_dtype_without_0_is_refused(name, rate):
    with pytest.raises(TypeError, match="a dtype that holds 0, got dtype float8_e8m0fnu; cast"):
        getattr(jaxdrop, name)(key(), SCALES, rate)


def test_scales_among_parameters_are_not_dropped():
    params = {"kernel": jnp.ones((64, 40), jnp.float8_e4m3fn), "scale": jnp.asarray(SCALES)}
    dropped = jaxdrop.drop_connect(key(), params, 0.5)
    assert dropped["scale"] is params["scale"]
    assert (np.asarray(dropped["kernel"], np.float32) == 0).any()
    with pytest.raises(TypeError, match=r"arrays that hold 0, got \[\(\('scale',\)"):
        jaxdrop.drop_connect(key(), params, 0.5, where=lambda path, leaf: True)


# Without jit, as one steps through a model.


@each_call
def test_without_jit_the_masks_are_the_same(call):
    """What is drawn has the same bits; what is computed from it may be rounded another way."""
    x = data(call.shape)
    for rate in (RATE, jnp.float32(RATE)) if call.traced else (RATE,):
        expected = call.fn(key(), x, rate)
        with jax.disable_jit():
            y = call.fn(key(), x, rate)
        assert y.dtype == expected.dtype
        np.testing.assert_allclose(y, expected, rtol=2e-6, atol=2e-6)
