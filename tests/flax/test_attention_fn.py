"""`attention_fn` in Flax's own modules: what they are given, in training and evaluation."""

import functools
import inspect
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import mc
from tests.support.cases import assert_probability, assert_same_bits, data, key

RATE = 0.3
FUNCTIONS = {"linen": jaxdrop.linen.attention_fn, "nnx": jaxdrop.nnx.attention_fn}
FLAX = {"linen": nn.dot_product_attention, "nnx": nnx.dot_product_attention}
each_floor = pytest.mark.parametrize("floor", FUNCTIONS)
OPTIONS = {
    "weights": {},
    "blocks": {"block_size": 3},
    "keys": {"mode": "keys"},
    "heads": {"mode": "heads", "block_size": 4},
    "shared": {"broadcast_dims": (0, 1)},
}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def linen_layer(options=None, **fields):
    if options is not None:
        fields["attention_fn"] = functools.partial(jaxdrop.linen.attention_fn, **options)
    return nn.MultiHeadDotProductAttention(2, dropout_rate=RATE, **fields)


def nnx_layer(options=None, **fields):
    if options is not None:
        fields["attention_fn"] = functools.partial(jaxdrop.nnx.attention_fn, **options)
    fields = {"dropout_rate": RATE, "decode": False, **fields}
    return nnx.MultiHeadAttention(2, 8, rngs=nnx.Rngs(0), **fields)


def seen_arguments(function, calls):
    """The function, whose calls are noted; its signature is what linen filters by."""

    @functools.wraps(function)
    def noted(*args, **kwargs):
        calls.append((args, kwargs, function(*args, **kwargs)))
        return calls[-1][2]

    return noted


@functools.cache
def variables():
    return linen_layer(deterministic=True).init(key(), data((2, 6, 8)))


# In the modules.


@each_option
def test_linen_module_gives_what_a_direct_call_gives(options):
    calls, x = [], data((2, 6, 8))
    mask = nn.make_causal_mask(jnp.ones((2, 6)))
    noted = seen_arguments(functools.partial(jaxdrop.linen.attention_fn, **options), calls)
    layer = nn.MultiHeadDotProductAttention(2, dropout_rate=RATE, attention_fn=noted)
    y = layer.apply(variables(), x, mask=mask, deterministic=False, dropout_rng=key(5))
    plain = layer.apply(variables(), x, mask=mask, deterministic=True)
    assert (y != plain).any()
    (args, kwargs, out), (_, _, off) = calls
    assert kwargs["dropout_rate"] == RATE
    expected = jaxdrop.dot_product_attention(key(5), *args, RATE, mask=mask.astype(bool), **options)
    assert_same_bits(out, expected)
    np.testing.assert_allclose(
        off, nn.dot_product_attention(*args, mask=mask), rtol=1e-4, atol=1e-6
    )


@each_option
def test_nnx_module_gives_what_a_direct_call_gives(options):
    calls, x = [], data((2, 6, 8))
    noted = seen_arguments(functools.partial(jaxdrop.nnx.attention_fn, **options), calls)
    layer = nnx_layer(attention_fn=noted)
    layer(x, deterministic=False, rngs=nnx.Rngs(3).dropout, is_causal=True)
    layer(x, deterministic=True, is_causal=True)
    (args, _, out), (_, _, off) = calls
    expected_key = nnx.Rngs(3).dropout()
    expected = jaxdrop.dot_product_attention(expected_key, *args, RATE, is_causal=True, **options)
    assert_same_bits(out, expected)
    np.testing.assert_allclose(
        off, nnx.dot_product_attention(*args, is_causal=True), rtol=1e-4, atol=1e-6
    )


def test_nnx_module_with_grouped_heads():
    if "num_kv_heads" not in inspect.signature(nnx.MultiHeadAttention).parameters:
        pytest.skip("this Flax has no grouped heads")
    x = data((2, 6, 8))
    ours, flax = (nnx_layer(options, num_kv_heads=1) for options in ({}, None))
    np.testing.assert_allclose(
        ours(x, deterministic=True), flax(x, deterministic=True), rtol=1e-4, atol=1e-6
    )
    assert jnp.isfinite(ours(x, deterministic=False)).all()


@each_floor
def test_switched_off_it_is_the_function_of_jax(floor):
    """The fused kernel, which Flax leaves at evaluation whenever the rate is not 0."""
    q, k, v = (data((2, 5, 3, 4)) for _ in range(3))
    with mock.patch.object(
        jax.nn, "dot_product_attention", wraps=jax.nn.dot_product_attention
    ) as called:
        FUNCTIONS[floor](q, k, v, dropout_rate=RATE, deterministic=True)
        FUNCTIONS[floor](q, k, v, dropout_rate=0.0)
    assert called.call_count == 2


@each_floor
@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (2, 1, 3)])
def test_any_number_of_axes_of_examples(floor, batch):
    arrays = [data((*batch, 6, 2, 4)) for _ in range(3)]
    bias, mask = data((*batch, 2, 6, 6)), np.tril(np.ones((*(1 for _ in batch), 1, 6, 6)))
    call = functools.partial(FUNCTIONS[floor], *arrays, bias, mask)
    expected = FLAX[floor](*arrays, bias, mask, deterministic=True)
    np.testing.assert_allclose(call(deterministic=True), expected, rtol=1e-4, atol=1e-6)
    y = call(dropout_rate=RATE, dropout_rng=key(), broadcast_dropout=True)
    examples = int(np.prod(batch))
    flat = [x.reshape(examples, *x.shape[-3:]) for x in arrays]
    own = {"bias": bias.reshape(examples, 2, 6, 6), "mask": mask.reshape(1, 1, 6, 6).astype(bool)}
    whole = jaxdrop.dot_product_attention(key(), *flat, RATE, **own)
    np.testing.assert_allclose(y, whole.reshape(y.shape), rtol=1e-5, atol=1e-6)
    alone = FUNCTIONS[floor](*arrays, dropout_rate=RATE, dropout_rng=key())
    whole = jaxdrop.dot_product_attention(key(), *flat, RATE)
    np.testing.assert_allclose(alone, whole.reshape(y.shape), rtol=1e-5, atol=1e-6)


@each_floor
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_it_computes_in_the_dtype_that_is_asked_for(floor, dtype):
    arrays = [data((2, 6, 2, 4)) for _ in range(3)]
    for flag in (True, False):
        own = {"dropout_rate": RATE, "deterministic": flag}
        y = FUNCTIONS[floor](*arrays, dtype=dtype, dropout_rng=key(), **own)
        assert y.dtype == dtype
        full = FUNCTIONS[floor](*arrays, dropout_rng=key(), **own)
        np.testing.assert_allclose(y.astype(jnp.float32), full, rtol=0.1, atol=0.05)


@each_floor
def test_masks_of_examples_and_heads_differ_unless_shared(floor):
    x = jnp.zeros((4, 64, 2, 64))
    values = jnp.broadcast_to(jnp.eye(64)[:, None], x.shape)
    own = {"dropout_rate": 0.5, "dropout_rng": key()}
    keep = np.asarray(FUNCTIONS[floor](x, x, values, **own)) != 0
    assert_probability((keep[1:] == keep[:-1]).sum(), keep[1:].size, 0.5)
    assert_probability((keep[:, :, 0] == keep[:, :, 1]).sum(), keep[:, :, 0].size, 0.5)
    own["dropout_rng"] = key()
    shared = np.asarray(FUNCTIONS[floor](x, x, values, broadcast_dims=(0, 1), **own)) != 0
    assert (shared == shared[:1, :, :1]).all()


@each_floor
def test_a_rate_of_1_gives_zeros(floor):
    x = data((2, 5, 3, 4))
    y, pull = jax.vjp(lambda x: FUNCTIONS[floor](x, x, x, dropout_rate=1.0, dropout_rng=key()), x)
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_array_equal(pull(y)[0], 0)


# Weights that are sown, products, precision.


def test_linen_weights_are_sown_before_dropout():
    x = data((2, 6, 8))
    sown = {}
    for name, options, flag in (("off", {}, True), ("on", {}, False), ("flax", None, True)):
        _, state = linen_layer(options).apply(
            variables(),
            x,
            deterministic=flag,
            sow_weights=True,
            dropout_rng=key(1),
            mutable=["intermediates"],
        )
        (sown[name],) = state["intermediates"]["attention_weights"]
    for name in ("off", "on"):
        np.testing.assert_allclose(sown[name], sown["flax"], rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_nnx_weights_are_sown_before_dropout():
    x = data((2, 6, 8))
    for flag in (True, False):
        layer = nnx_layer({})
        layer(x, deterministic=flag, sow_weights=True)
        (weights,) = nnx.pop(layer, nnx.Intermediate)["attention_weights"].get_value()
        assert weights.shape == (2, 2, 6, 6)
        np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)


def test_products_of_the_user_are_those_of_flax_or_refused():
    x, einsum = data((2, 5, 3, 4)), jnp.einsum
    products = {"qk_attn_weights_einsum": einsum, "attn_weights_value_einsum": einsum}
    y = jaxdrop.linen.attention_fn(x, x, x, dropout_rate=RATE, deterministic=True, **products)
    assert_same_bits(y, nn.dot_product_attention(x, x, x))
    with pytest.raises(ValueError, match=r"qk_attn_weights_einsum: expected None .* got .*; leave"):
        jaxdrop.linen.attention_fn(x, x, x, dropout_rate=RATE, dropout_rng=key(), **products)


@each_floor
def test_precision_reaches_the_products(floor):
    x = data((2, 5, 3, 4))

    def program(precision):
        def call(x):
            own = {"dropout_rate": RATE, "dropout_rng": key(), "precision": precision}
            return FUNCTIONS[floor](x, x, x, **own)

        return jax.jit(call).lower(x).as_text()

    for precision in ("highest", jax.lax.Precision.HIGHEST, (jax.lax.Precision.HIGHEST,) * 2):
        assert "HIGHEST" in program(precision)
    assert "HIGHEST" not in program(None)
    with pytest.raises(ValueError, match=r"precision: expected one .* got .*; write"):
        program((jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT))


@each_floor
def test_a_missing_key_and_bad_options_are_refused(floor):
    x = data((2, 5, 3, 4))
    call = functools.partial(FUNCTIONS[floor], x, x, x, dropout_rate=RATE)
    with pytest.raises(TypeError, match=r"dropout_rng: expected one PRNG key, got None .*; write"):
        call()
    with pytest.raises(ValueError, match="mode: expected one of"):
        call(dropout_rng=key(), mode="rows")
    with pytest.raises(ValueError, match=r"rate: .* got 1.5; a keep"):
        FUNCTIONS[floor](x, x, x, dropout_rate=1.5, dropout_rng=key())


@each_floor
def test_arguments_are_those_of_flax_and_options_of_ours(floor):
    own = inspect.signature(FUNCTIONS[floor]).parameters
    theirs = inspect.signature(FLAX[floor]).parameters
    assert list(own)[: len(theirs)] == list(theirs)
    assert set(own) - set(theirs) == {"block_size", "mode", "broadcast_dims"}
    for name, parameter in theirs.items():
        assert own[name].default == parameter.default


# Decoding.


def test_linen_decodes_with_a_cache():
    x = data((2, 5, 8))
    outputs = []
    for options in ({"block_size": 2}, None):
        layer = linen_layer(options, decode=True, deterministic=True)
        state = layer.init(key(), x)
        state = {**state, "params": variables()["params"]}
        for step in range(5):
            y, cache = layer.apply(state, x[:, step : step + 1], mutable=["cache"])
            state = {**state, **cache}
        outputs.append(y)
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-6)


def test_nnx_decodes_with_a_cache():
    x = data((2, 5, 8))
    outputs = []
    for options in ({"block_size": 2}, None):
        layer = nnx_layer(options, decode=True, deterministic=True)
        layer.init_cache((2, 5, 8))
        for step in range(5):
            y = layer(x[:, step : step + 1])
        outputs.append(y)
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-6)


# Replacing, and MC dropout.


def own_attention(query, key, value, dropout_rate=0.0, deterministic=True, **kwargs):
    """A user's own."""
    del key, kwargs
    return query * 0 + value.mean() + dropout_rate * (not deterministic)


def test_linen_replaces_the_attention_of_flax_and_no_other():
    x = data((2, 6, 8))

    def output(layer):
        return layer.apply(variables(), x, deterministic=False, dropout_rng=key(1))

    expected, before = output(linen_layer({})), output(linen_layer())
    assert (expected != before).any()
    with jaxdrop.linen.replace_dropout():
        flax = linen_layer()
        assert_same_bits(output(flax), expected)
        assert flax.attention_fn is nn.dot_product_attention
        assert_same_bits(output(nn.MultiHeadAttention(2, dropout_rate=RATE)), expected)
        kept = output(linen_layer(attention_fn=own_attention))
        quantized = output(
            linen_layer(
                qk_attn_weights_einsum_cls=lambda: jnp.einsum,
                attn_weights_value_einsum_cls=lambda: jnp.einsum,
            )
        )
    assert_same_bits(kept, output(linen_layer(attention_fn=own_attention)))
    assert_same_bits(quantized, before)
    assert_same_bits(output(linen_layer()), before)


def test_nnx_replaces_the_attention_of_flax_and_no_other():
    x = data((2, 6, 8))
    flax, own, none = (
        nnx_layer(),
        nnx_layer(attention_fn=own_attention),
        nnx_layer(dropout_rate=0.0),
    )
    replaced = jaxdrop.nnx.replace_dropout(nnx.List([flax, own, none]))
    assert_same_bits(replaced[0](x, deterministic=False), nnx_layer({})(x, deterministic=False))
    assert replaced[0].attention_fn is jaxdrop.nnx.attention_fn
    assert replaced[1].attention_fn is own_attention
    assert replaced[2].attention_fn is nnx.dot_product_attention
    assert flax.attention_fn is nnx.dot_product_attention


@each_floor
def test_mc_draws_a_mask_for_each_example_and_head(floor):
    """On queries that all look at one key, so that its weight is 1, or 0 where it is dropped."""
    x = jnp.ones((4, 2048, 8))

    class Looks(nnx.Module):
        def __init__(self):
            self.layer = nnx_layer(deterministic=True)

        def __call__(self, x):
            return self.layer(x, x[:, :1])

    class LinenLooks(nn.Module):
        @nn.compact
        def __call__(self, x):
            return linen_layer(deterministic=True, name="layer")(x, x[:, :1])

    if floor == "nnx":
        fn = mc.from_nnx(Looks())
    else:
        fn = mc.from_linen(LinenLooks(), {"params": {"layer": variables()["params"]}})
    y = np.asarray(jax.jit(fn)(key(1), x))
    # Four levels: none, one head or the other, both.
    assert len(np.unique(y[..., 0].round(5))) == 4
    kept = (y != 0).any(axis=-1)
    assert_probability(kept.sum(), kept.size, 1 - RATE**2)
    same = (1 - RATE**2) ** 2 + RATE**4
    assert_probability((kept[0] == kept[1]).sum(), kept[0].size, same)


@each_floor
def test_mc_keeps_the_attention_of_the_user(floor):
    x = data((2, 6, 8))
    if floor == "nnx":
        layer = nnx_layer(attention_fn=own_attention, deterministic=True)
        y, expected = mc.from_nnx(layer)(key(), x), layer(x, deterministic=False)
    else:
        layer = linen_layer(attention_fn=own_attention)
        y = mc.from_linen(layer, variables())(key(), x, deterministic=True)
        expected = layer.apply(variables(), x, deterministic=False, dropout_rng=key())
    assert_same_bits(y, expected)
