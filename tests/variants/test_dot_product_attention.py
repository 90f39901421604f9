"""`dot_product_attention`, dense and in blocks, against the equations in float64 by NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType

import jaxdrop
from jaxdrop import masks
from tests.laws.test_laws_sharding import COLLECTIVE, placement, put
from tests.support import reference
from tests.support.cases import assert_probability, assert_same_bits, data, key

RATE = 0.3
B, T, S, N, H = 2, 13, 20, 4, 8
_RANDOM = np.random.default_rng(1)
BIAS = jnp.asarray(_RANDOM.standard_normal((1, N, T, S)), jnp.float32)
ALLOWED = _RANDOM.random((B, 1, T, S)) > 0.3
ALLOWED[0, 0, 2] = False  # a query that may look at nothing
OPTIONS = {
    "plain": {},
    "grouped": {"heads": 2},
    "one key head": {"heads": 1, "scale": 0.2},
    "bias": {"bias": BIAS},
    "bias of queries": {"bias": BIAS[..., :1]},
    "mask": {"mask": ALLOWED},
    "causal": {"is_causal": True},
    "window": {"local_window_size": (3, 1)},
    "narrow window": {"local_window_size": 2, "is_causal": True},
    "lengths": {
        "query_seq_lengths": np.array([13, 6], np.int32),
        "key_value_seq_lengths": np.array([9, 20], np.int32),
    },
    "all": {
        "heads": 2,
        "bias": BIAS,
        "mask": ALLOWED,
        "is_causal": True,
        "local_window_size": (9, 0),
        "key_value_seq_lengths": np.array([9, 20], np.int32),
    },
}
each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
each_block = pytest.mark.parametrize("block_size", [None, 8], ids=["dense", "blocks"])
each_mode = pytest.mark.parametrize("mode", ["weights", "keys", "heads"])


def inputs(heads=N, dtype=jnp.float32, shape=(B, T, S, N, H)):
    b, t, s, n, h = shape
    shapes = (b, t, n, h), (b, s, heads, h), (b, s, heads, h)
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


def split(options):
    """``(query, key, value), arguments`` of a row above."""
    arguments = dict(options)
    return inputs(arguments.pop("heads", N)), arguments


def attend(q, k, v, rate=RATE, seed=0, **arguments):
    return jaxdrop.dot_product_attention(key(seed), q, k, v, rate, **arguments)


@functools.partial(jax.jit, static_argnames=("rate", "block_size", "mode", "is_causal", "window"))
def jitted(q, k, v, rate=RATE, window=None, **arguments):
    return attend(q, k, v, rate, local_window_size=window, **arguments)


def may_look(mask=None, is_causal=False, window=None, query_lengths=None, key_lengths=None):
    allowed = np.ones((B, N, T, S), bool)
    row, column = np.arange(T)[:, None], np.arange(S)
    if mask is not None:
        allowed &= mask
    if is_causal:
        allowed &= column <= row
    if window is not None:
        left, right = (window, window) if isinstance(window, int) else window
        allowed &= (row - left <= column) & (column <= row + right)
    if query_lengths is not None:
        allowed &= row < query_lengths[:, None, None, None]
    if key_lengths is not None:
        allowed &= column < key_lengths[:, None, None, None]
    return allowed


def by_numpy(q, k, v, keep, keep_prob, mode="weights", bias=None, scale=H**-0.5, **limits):
    """The equations in float64, weights then dropout, with the decisions given."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, N // x.shape[2], axis=2) for x in (k, v))
    allowed = may_look(**limits)
    scores = np.einsum("btnh,bsnh->bnts", q, k) * scale
    scores = np.where(allowed, scores + (0 if bias is None else np.asarray(bias)), -1e300)
    if mode == "keys":
        some = (keep & allowed).any(axis=-1, keepdims=True)
        scores = np.where(keep | ~some, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    if mode == "weights":
        weights = np.where(keep, weights / keep_prob, 0)
    out = np.einsum("bnts,bsnh->btnh", weights, v)
    if limits.get("query_lengths") is not None:
        out *= (np.arange(T) < limits["query_lengths"][:, None])[..., None, None]
    return out


def limits_of(arguments):
    """The arguments under the names of the reference."""
    names = {
        "local_window_size": "window",
        "query_seq_lengths": "query_lengths",
        "key_value_seq_lengths": "key_lengths",
    }
    return {names.get(name, name): value for name, value in arguments.items()}


def kept(rate=RATE, shape=(B, N, T, S), seed=0):
    return reference.keep(jax.random.key_data(key(seed)), rate, shape)


KEPT = kept()
KEEP_PROB = float(reference.keep_probability(RATE))


@each_option
@each_block
@pytest.mark.parametrize("mode", ["weights", "keys"])
def test_output_is_that_of_the_equations(options, block_size, mode):
    arrays, arguments = split(options)
    y = attend(*arrays, block_size=block_size, mode=mode, **arguments)
    expected = by_numpy(*arrays, kept(), KEEP_PROB, mode, **limits_of(arguments))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=3e-6)


@each_block
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_numbers_are_rounded_late(block_size, dtype):
    arrays = inputs(dtype=dtype)
    y = attend(*arrays, block_size=block_size)
    assert y.dtype == dtype
    expected = by_numpy(*(x.astype(jnp.float32) for x in arrays), kept(), KEEP_PROB)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(y.astype(jnp.float32), expected, rtol=4 * eps, atol=2 * eps)


def test_the_axis_of_examples_may_be_missing():
    q, k, v = inputs()
    for own in ({}, {"block_size": 8, "mode": "keys"}, {"mode": "heads"}):
        y = attend(q[0], k[0], v[0], **own)
        whole = attend(q[:1], k[:1], v[:1], **own)
        np.testing.assert_allclose(y, whole[0], rtol=1e-5, atol=1e-6)


# Switched off.


@each_option
@each_mode
def test_switched_off_it_is_a_call_of_jax(options, mode, monkeypatch):
    arrays, arguments = split(options)
    calls, original = [], jax.nn.dot_product_attention

    def seen(*args, **kwargs):
        calls.append(kwargs["implementation"])
        return original(*args, **kwargs)

    expected = original(*arrays, **arguments)
    monkeypatch.setattr(jax.nn, "dot_product_attention", seen)
    plain = {**arguments, "mode": mode, "implementation": "xla"}
    for rate, flag in ((0.0, False), (RATE, True), (0, True)):
        y = jaxdrop.dot_product_attention(None, *arrays, rate, deterministic=flag, **plain)
        assert_same_bits(y, expected)
    assert calls == ["xla"] * 3


@each_block
@each_mode
def test_traced_ends_are_those_of_jax_and_zeros(block_size, mode):
    arrays, arguments = split(OPTIONS["all"])

    @jax.jit
    def value_and_gradient(rate, deterministic):
        def fn(*arrays):
            own = {"block_size": block_size, "mode": mode, "deterministic": deterministic}
            return attend(*arrays, rate, **own, **arguments)

        y, pull = jax.vjp(fn, *arrays)
        return y, pull(jnp.ones_like(y))

    y, pull = jax.vjp(lambda *x: jax.nn.dot_product_attention(*x, **arguments), *arrays)
    expected = y, pull(jnp.ones_like(y))
    for rate, flag in ((0.0, False), (RATE, True), (1.0, True)):
        for a, b in zip(jax.tree.leaves(value_and_gradient(rate, flag)), jax.tree.leaves(expected)):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-6)
    for a, b in zip(jax.tree.leaves(value_and_gradient(1.0, False)), jax.tree.leaves(expected)):
        if mode == "keys":  # every row stays
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=3e-6)
        else:
            np.testing.assert_array_equal(a, 0)
    for leaf in jax.tree.leaves(value_and_gradient(1.5, False))[:1]:
        assert jnp.isnan(leaf).any()


@each_mode
def test_a_known_rate_of_1(mode):
    arrays = inputs()
    y, pull = jax.vjp(lambda *x: jaxdrop.dot_product_attention(None, *x, 1.0, mode=mode), *arrays)
    expected = jax.nn.dot_product_attention(*arrays) if mode == "keys" else jnp.zeros_like(y)
    assert_same_bits(y, expected)
    assert all(jnp.isfinite(g).all() for g in pull(y))


def test_nothing_random_is_in_the_program_when_it_is_off():
    arrays = inputs()

    def program(**arguments):
        with jax.debug_key_reuse(False):
            fn = lambda k, *x: jaxdrop.dot_product_attention(k, *x, RATE, **arguments)  # noqa: E731
            return str(jax.make_jaxpr(fn)(key(), *arrays))

    for block_size in (None, 8):
        assert "shift_right" not in program(deterministic=True, block_size=block_size)
        assert "random" not in program(deterministic=True, block_size=block_size)
        assert "shift_right" in program(block_size=block_size)


# Decisions.


def one_hot_values(s, shape):
    """Values that show each weight: with S features, the output is the row of weights."""
    b, t, n = shape
    values = jnp.broadcast_to(jnp.eye(s)[:, None], (b, s, n, s))
    return jnp.zeros((b, t, n, s)), jnp.zeros((b, s, n, s)), values


@pytest.mark.parametrize("block_size", [None, 1, 5, 8, 32, 64])
@pytest.mark.parametrize("queries", [32, 7])
def test_decisions_are_those_of_the_mask_for_every_block_size(block_size, queries):
    shape = (2, 3, queries, 33)
    arrays = one_hot_values(33, (2, queries, 3))
    y = np.moveaxis(np.asarray(attend(*arrays, block_size=block_size)), 2, 1)
    mask = masks.sample(key(), RATE, shape)
    np.testing.assert_array_equal(y != 0, mask.unpack())
    np.testing.assert_allclose(y[y != 0], 1 / 33 / mask.keep_prob, rtol=1e-5)


@each_block
@pytest.mark.parametrize("axes", [(0, 1), (-1,), (2, 3), (0,)])
def test_axes_may_share_a_decision(block_size, axes):
    arrays = one_hot_values(20, (2, 7, 3))
    y = np.moveaxis(np.asarray(attend(*arrays, block_size=block_size, broadcast_dims=axes)), 2, 1)
    axes = {axis % 4 for axis in axes}
    shape = tuple(1 if a in axes else size for a, size in enumerate((2, 3, 7, 20)))
    np.testing.assert_array_equal(y != 0, np.broadcast_to(kept(shape=shape), y.shape))


@each_block
@pytest.mark.parametrize("shape", [(20,), (3, 1, 1), (2, 3, 7, 20), (2, 1, 7, 1)])
def test_rates_may_be_an_array(block_size, shape):
    rates = np.resize(np.float32([0.1, 0.6]), shape)
    arrays = one_hot_values(20, (2, 7, 3))
    y = np.moveaxis(np.asarray(attend(*arrays, jnp.asarray(rates), block_size=block_size)), 2, 1)
    mask = masks.sample(key(), rates, (2, 3, 7, 20))
    np.testing.assert_array_equal(y != 0, mask.unpack())
    scale = np.broadcast_to(1 / 20 / np.asarray(mask.keep_prob), y.shape)
    np.testing.assert_allclose(y[y != 0], scale[y != 0], rtol=1e-5)


@each_block
def test_the_mean_over_keys_is_the_weight(block_size):
    """Exactly: each decision has the probability that the survivors are divided by."""
    shape = (2, 8, 64, 256)
    arrays = one_hot_values(256, (2, 64, 8))
    y = np.moveaxis(np.asarray(jitted(*arrays, block_size=block_size and 96)), 2, 1)
    survivors = y[y != 0]
    assert_probability(survivors.size, np.prod(shape), KEEP_PROB)
    # Closer than 1 - rate lies to the probability that the bits have, 4e-6.
    np.testing.assert_allclose(survivors, 1 / 256 / KEEP_PROB, rtol=1e-6)
    # The same in each row, on average: five standard errors of 1024 sums of 256 decisions each.
    bound = 5 * ((1 - KEEP_PROB) / KEEP_PROB / y.size) ** 0.5
    assert abs(y.sum(axis=-1).mean() - 1) < bound


@each_block
def test_examples_heads_queries_and_keys_are_independent(block_size):
    keep = np.asarray(attend(*one_hot_values(64, (4, 128, 8)), 0.5, block_size=block_size)) != 0
    pairs = {
        "examples": (keep[1:], keep[:-1]),
        "queries": (keep[:, 1:], keep[:, :-1]),
        "heads": (keep[:, :, 1:], keep[:, :, :-1]),
        "keys": (keep[..., 1:], keep[..., :-1]),
        "blocks": (keep[..., 8:], keep[..., :-8]),
    }
    for first, second in pairs.values():
        assert_probability((first == second).sum(), first.size, 0.5)


@each_block
def test_heads_are_dropped_whole_as_by_drop_head(block_size):
    arrays, arguments = split(OPTIONS["all"])
    whole = jax.nn.dot_product_attention(*arrays, **arguments)
    y = attend(*arrays, mode="heads", block_size=block_size, **arguments)
    np.testing.assert_allclose(y, jaxdrop.drop_head(key(), whole, RATE), rtol=1e-4, atol=3e-6)
    shared = attend(*arrays, mode="heads", block_size=block_size, broadcast_dims=(0,), **arguments)
    keep = kept(shape=(1, 1, N, 1))
    np.testing.assert_allclose(shared, np.where(keep, whole / KEEP_PROB, 0), rtol=1e-4, atol=3e-6)


def test_keys_are_dropped_as_by_drop_key():
    q, k, v = inputs()
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) * np.float32(H**-0.5)
    weights = jax.nn.softmax(jaxdrop.drop_key(key(), scores, 0.9))
    expected = jnp.einsum("bnts,bsnh->btnh", weights, v)
    for block_size in (None, 8):
        y = attend(q, k, v, 0.9, mode="keys", block_size=block_size)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=3e-6)


# Derivatives.


def plain(q, k, v, bias, mode="weights", options=None):
    """In jnp, with the decisions as a constant and nothing of ours."""
    k, v = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (k, v))
    allowed = may_look(**(options or {}))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) * np.float32(H**-0.5) + bias
    scores = jnp.where(allowed, scores, np.float32(-1e30))
    if mode == "keys":
        some = (KEPT & allowed).any(axis=-1, keepdims=True)
        scores = jnp.where(KEPT | ~some, scores, -jnp.inf)
    weights = jax.nn.softmax(scores)
    if mode == "weights":
        weights = jnp.where(KEPT, weights / np.float32(KEEP_PROB), 0)
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


def derivatives(fn, primals, tangents, cotangent):
    """Value, tangent, gradients and a Hessian-vector product."""

    def loss(*primals):
        return jnp.sum(jnp.tanh(fn(*primals)) * cotangent)

    value, tangent = jax.jvp(fn, primals, tangents)
    gradient = jax.grad(loss, tuple(range(len(primals))))
    gradients, product = jax.jvp(gradient, primals, tangents)
    return value, tangent, gradients, product


@pytest.mark.parametrize("mode", ["weights", "keys"])
@pytest.mark.parametrize("name", ["grouped", "all"])
@pytest.mark.parametrize("block_size", [None, 8, pytest.param(20, marks=pytest.mark.slow)])
def test_derivatives_are_those_of_the_equations(block_size, name, mode):
    (q, k, v), arguments = split(OPTIONS[name])
    arguments.pop("bias", None)
    primals = q, k, v, BIAS
    tangents = tuple(data(x.shape) for x in primals)
    cotangent = data(q.shape)

    def ours(q, k, v, bias):
        return attend(q, k, v, mode=mode, block_size=block_size, bias=bias, **arguments)

    def theirs(*primals):
        return plain(*primals, mode=mode, options=limits_of(arguments))

    with jax.debug_key_reuse(False):  # the same key again is the point
        got = jax.jit(lambda *p: derivatives(ours, p, tangents, cotangent))(*primals)
        expected = jax.jit(lambda *p: derivatives(theirs, p, tangents, cotangent))(*primals)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=5e-5)
        assert jnp.abs(b).max() > 0.1


@each_block
@pytest.mark.parametrize("promotion", ["standard", "strict"])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_gradients_of_narrow_numbers(block_size, promotion, dtype):
    arrays = inputs(dtype=dtype)

    def loss(q, k, v):
        return jnp.sum(attend(q, k, v, block_size=block_size).astype(jnp.float32))

    with jax.numpy_dtype_promotion(promotion):
        gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(*arrays)
    exact = jax.grad(loss, (0, 1, 2))(*(x.astype(jnp.float32) for x in arrays))
    for narrow, full in zip(gradients, exact):
        assert narrow.dtype == dtype
        eps = float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(narrow.astype(jnp.float32), full, rtol=8 * eps, atol=8 * eps)


@each_block
def test_a_derivative_by_one_argument_alone(block_size):
    q, k, v = inputs()
    everything = jax.grad(lambda *x: jnp.sum(attend(*x, block_size=block_size) ** 2), (0, 1, 2))
    for number, whole in enumerate(everything(q, k, v)):
        alone = jax.grad(lambda *x: jnp.sum(attend(*x, block_size=block_size) ** 2), number)
        np.testing.assert_allclose(alone(q, k, v), whole, rtol=1e-4, atol=1e-5)


@each_block
def test_a_tangent_of_one_argument_alone(block_size):
    """Linear in the tangent, so zeros for the others give the same."""
    arrays = inputs()
    attention = functools.partial(attend, block_size=block_size)
    for number, array in enumerate(arrays):
        one = lambda x, n=number: attention(*arrays[:n], x, *arrays[n + 1 :])  # noqa: E731
        _, alone = jax.jvp(one, (array,), (jnp.ones_like(array),))
        tangents = [jnp.full_like(x, i == number) for i, x in enumerate(arrays)]
        _, beside = jax.jvp(attention, tuple(arrays), tuple(tangents))
        np.testing.assert_allclose(alone, beside, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("keys", [9, 15, 16, 20])
def test_a_mask_of_the_user_in_blocks_that_hang_over(keys):
    q, k, v = inputs(shape=(2, 5, keys, N, H))
    mask = jax.random.bernoulli(key(1), 0.6, (2, 1, 5, keys)).at[..., 0].set(True)
    whole, blocks = (attend(q, k, v, mask=mask, block_size=size) for size in (None, 8))
    np.testing.assert_allclose(blocks, whole, rtol=1e-4, atol=1e-5)


@each_block
def test_the_scale_may_be_traced_and_learned(block_size):
    q, k, v = inputs()

    @jax.jit
    def value_and_gradient(scale):
        fn = lambda s: jnp.sum(attend(q, k, v, scale=s, block_size=block_size) ** 2)  # noqa: E731
        return jax.value_and_grad(fn)(scale)

    value, gradient = value_and_gradient(jnp.float32(0.3))
    more, less = (float(value_and_gradient(jnp.float32(0.3 + d))[0]) for d in (0.01, -0.01))
    np.testing.assert_allclose(gradient, (more - less) / 0.02, rtol=1e-2)
    expected = jnp.sum(attend(q, k, v, scale=0.3, block_size=block_size) ** 2)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


@each_block
@each_mode
def test_rows_that_may_look_at_nothing_stay_finite(block_size, mode):
    (q, k, v), nothing = inputs(), np.zeros((1, 1, 1, S), bool)
    fn = lambda *x: attend(*x, mask=nothing, block_size=block_size, mode=mode)  # noqa: E731
    y, pull = jax.vjp(fn, q, k, v)
    if mode == "keys":  # uniform over all keys, as in jax.nn
        expected = jnp.broadcast_to(v.mean(axis=1, keepdims=True), y.shape)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert all(jnp.isfinite(g).all() for g in (y, *pull(y)))
    np.testing.assert_array_equal(pull(y)[0], 0)


# Programs.


def kept_bytes(function, *arrays):
    kept = jax.eval_shape(lambda *x: jax.vjp(function, *x)[1], *arrays)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


def test_the_words_of_the_mask_are_all_that_dropout_keeps():
    arrays = inputs(shape=(2, 64, 96, 4, 8))
    whole = kept_bytes(jax.nn.dot_product_attention, *arrays)
    for rate in (RATE, jnp.float32(RATE)):
        own = kept_bytes(lambda *x: attend(*x, rate), *arrays)  # noqa: B023
        assert own <= whole + 2 * 4 * 64 * 96 / 8 + 128


def test_blocks_keep_nothing_of_queries_times_keys():
    q, k, v = inputs(shape=(2, 256, 256, 4, 8))
    own = kept_bytes(lambda *x: attend(*x, block_size=64), q, k, v)
    # Query, key, value, the cut keys and values, the output, two sums a row, starts.
    assert own <= 7 * q.nbytes + 2 * 4 * 2 * 4 * 256 + 256


def temporaries(fn, shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)

    def both(key, q, k, v, cotangent):
        y, pull = jax.vjp(lambda *x: fn(key, *x), q, k, v)
        return y, pull(cotangent)

    with jax.debug_key_reuse(False):
        program = jax.jit(both).lower(key(), x, x, x, x).compile()
    return program.memory_analysis().temp_size_in_bytes


def ours(key, q, k, v):
    return jaxdrop.dot_product_attention(key, q, k, v, 0.1, block_size=512)


def flax(key, q, k, v):
    return nn.dot_product_attention(q, k, v, dropout_rng=key, dropout_rate=0.1)


def test_temporaries_of_blocks_are_an_eighth_of_flax():
    shape = (1, 4096, 8, 64)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = temporaries(flax, shape)
    assert temporaries(ours, shape) <= theirs / 8


def test_32768_tokens_take_less_than_2_gib():
    assert temporaries(ours, (1, 32768, 1, 64)) < 2**31


def test_second_derivatives_in_blocks_stay_small():
    """Forward over reverse: below the size of one array of queries times keys."""
    x = jax.ShapeDtypeStruct((1, 4096, 1, 16), jnp.float32)

    def product(key, q, k, v):
        gradient = jax.grad(lambda q: jnp.sum(ours(key, q, k, v) ** 2))
        return jax.jvp(gradient, (q,), (q,))[1]

    with jax.debug_key_reuse(False):
        program = jax.jit(product).lower(key(), x, x, x).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4096 * 4096 * 4


@pytest.mark.slow
@each_block
@pytest.mark.parametrize("mode", ["weights", "keys"])
def test_transforms_give_what_single_calls_give(block_size, mode):
    q, k, v = inputs()
    call = functools.partial(jaxdrop.dot_product_attention, block_size=block_size, mode=mode)

    def total(key, q):
        return jnp.sum(call(key, q, k, v, RATE) ** 2)

    singles = [jax.grad(total, 1)(key(seed), q) for seed in range(3)]
    keys = jnp.stack([key(seed) for seed in range(3)])
    mapped = jax.vmap(jax.grad(total, 1), (0, None))(keys, q)
    keys = jnp.stack([key(seed) for seed in range(3)])
    scanned = jax.lax.scan(lambda _, one: (None, jax.grad(total, 1)(one, q)), None, keys)[1]
    remade = jax.jit(jax.grad(jax.checkpoint(total), 1))(key(0), q)
    for results in (mapped, scanned, remade[None]):
        for a, b in zip(results, singles):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@each_block
@pytest.mark.parametrize("mode", ["weights", "keys", pytest.param("heads", marks=pytest.mark.slow)])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda t: t.name)
def test_examples_and_heads_may_be_split(axis_type, block_size, mode):
    """Over devices, without a collective."""

    def value_and_gradient(key, q, k, v):
        call = functools.partial(jaxdrop.dot_product_attention, block_size=block_size, mode=mode)
        y, pull = jax.vjp(lambda *x: call(key, *x, RATE, is_causal=True), q, k, v)
        return y, pull(y)

    arrays = inputs(8, shape=(8, 32, 20, 8, 4))
    sharding = placement((8, 1, 8, 1), "both", axis_type)
    sharded = [put(x, sharding) for x in arrays]
    program = jax.jit(value_and_gradient).lower(key(), *sharded).compile()
    assert not COLLECTIVE.search(program.as_text())
    results = jax.tree.leaves(program(key(), *sharded))
    for result, one in zip(results, jax.tree.leaves(value_and_gradient(key(), *arrays))):
        assert result.sharding.is_equivalent_to(sharding, 4)
        np.testing.assert_allclose(result, one, rtol=1e-4, atol=1e-5)


@each_block
def test_it_runs_inside_shard_map(block_size):
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,), devices=jax.devices("cpu"))
    spec = jax.sharding.PartitionSpec("data")

    def one(index, q, k, v):
        own = jax.random.fold_in(key(), index[0])
        return jaxdrop.dot_product_attention(own, q, k, v, RATE, block_size=block_size)

    arrays = inputs(shape=(8, 6, 20, 4, 8))
    numbers = jnp.arange(8)
    fn = jax.jit(jax.shard_map(one, mesh=mesh, in_specs=(spec,) * 4, out_specs=spec))
    y = fn(numbers, *arrays)
    for i in (0, 5):
        own = jax.random.fold_in(key(), i)
        parts = (x[i : i + 1] for x in arrays)
        expected = jaxdrop.dot_product_attention(own, *parts, RATE, block_size=block_size)
        np.testing.assert_allclose(y[i : i + 1], expected, rtol=1e-4, atol=1e-5)


@each_block
@each_mode
@pytest.mark.parametrize("rate", [RATE, np.float32([[RATE]])], ids=["known", "array"])
def test_a_key_is_used_up(block_size, mode, rate):
    arrays, once = inputs(), key()
    call = functools.partial(jaxdrop.dot_product_attention, block_size=block_size, mode=mode)
    call(once, *arrays, rate)
    with pytest.raises(jax.errors.KeyReuseError):
        call(once, *arrays, rate)
