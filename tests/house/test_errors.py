"""Bad input is refused early: each message says what was expected, what came, what to do."""

from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import masks, mc

_X = jnp.ones((4, 6))
_KEYS = jax.random.split(jax.random.key(0), 3)
_LEGACY = jax.random.PRNGKey(0)
_HEADS = jnp.ones((2, 4, 6, 3))


def _key():
    return jax.random.key(0)


def _dropout(key=None, x=_X, rate=0.5, **options):
    return jaxdrop.dropout(_key() if key is None else key, x, rate, **options)


def _noise(stddev):
    return jaxdrop.gaussian_noise(_key(), _X, stddev)


def _tokens(rate=0.5, x=_X[None], **options):
    return jaxdrop.token_dropout(_key(), x, rate, **options)


def _attend(key=_LEGACY, rate=0.5, query=_HEADS, value=_HEADS, keys=_HEADS, **options):
    return jaxdrop.dot_product_attention(key, query, keys, value, rate, **options)


def _predict(**options):
    fn = lambda key, x: jaxdrop.dropout(key, x, 0.5)  # noqa: E731
    return mc.predict(fn, _key(), _X, **options)


class _Holder:
    """Has a linen module and its parameters, as the models of a library do."""

    module, params = nn.Dense(2), {"kernel": _X, "bias": _X[0]}


class _Named(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=True)(nn.Dense(4, name="head")(x))


# id: (call, exception, what the message holds: expected, received, remedy)
_BAD = {
    "rate below 0": (lambda: _dropout(rate=-0.1), ValueError, r"in \[0, 1\], got -0.1; a keep"),
    "rate above 1": (lambda: _dropout(rate=1.5), ValueError, r"in \[0, 1\], got 1.5; a keep"),
    "rate NaN": (lambda: _dropout(rate=float("nan")), ValueError, r"in \[0, 1\], got nan; a keep"),
    "rate NumPy NaN": (lambda: _dropout(rate=np.float32("nan")), ValueError, r"got nan"),
    "rate jax 1.5": (lambda: _dropout(rate=jnp.float32(1.5)), ValueError, r"\[0, 1\], got 1.5"),
    "rate array": (lambda: _dropout(rate=np.array([0.1] * 5 + [2.0])), ValueError, r"\[0, 1\]"),
    "rate bool": (lambda: _dropout(rate=True), TypeError, "real number in .* got True; write"),
    "rate NumPy bool": (lambda: _dropout(rate=np.True_), TypeError, "real number in .* got .*True"),
    "rate string": (lambda: _dropout(rate="0.5"), TypeError, "real number in .* got '0.5'; write"),
    "rate None": (lambda: _dropout(rate=None), TypeError, "real number in .* got None; write"),
    "rate too large for a float": (
        lambda: _dropout(rate=10**400),
        ValueError,
        r"in \[0, 1\], got inf; a keep",
    ),
    "rate list": (
        lambda: _dropout(rate=[0.1] * 6),
        TypeError,
        r"real number in .* got \[0.1, .*; write rate=jnp.array\(rate\)",
    ),
    "rate Decimal": (
        lambda: _dropout(rate=Decimal("0.5")),
        TypeError,
        r"real number in .* got Decimal\('0.5'\); write for example rate=0.1",
    ),
    "rate of a scalar": (
        lambda: _dropout(x=1.0, rate=jnp.full(3, 0.1)),
        ValueError,
        r"mask's \(\), got \(3,\); .*; the key comes first, then the array, then the rate",
    ),
    "rates out of shape and range": (
        lambda: _dropout(rate=jnp.full(5, 7.0)),
        ValueError,
        r"\(4, 6\), got \(5,\); e",
    ),
    "rate complex": (lambda: _dropout(rate=0.5j), TypeError, "real number in .* got 0.5j; write"),
    "rate shape": (lambda: _dropout(rate=jnp.full(5, 0.1)), ValueError, r"\(4, 6\), got \(5,\); e"),
    "rate of shared entries": (
        lambda: _dropout(rate=jnp.full(6, 0.1), broadcast_dims=(1,)),
        ValueError,
        r"mask's \(4, 1\), got \(6,\); elements that share",
    ),
    "x integer": (lambda: _dropout(x=jnp.arange(6)), TypeError, "floating .* got .*int32; cast"),
    "x bool": (lambda: _dropout(x=_X > 0), TypeError, "floating .* got dtype bool; cast it first"),
    "x None": (lambda: _dropout(x=None), TypeError, "x: expected an array, got NoneType; give"),
    "x pytree": (lambda: _dropout(x={"a": _X}), TypeError, "an array, got dict; .* jax.tree.map"),
    "x string": (lambda: _dropout(x="ones"), TypeError, "x: expected an array, got str; give"),
    "x ragged": (lambda: _dropout(x=[[1.0], [1.0, 2.0]]), TypeError, "an array, got list; give"),
    "x of powers of two": (
        lambda: _dropout(x=_X.astype(jnp.float8_e8m0fnu)),
        TypeError,
        "a dtype that holds 0, got dtype float8_e8m0fnu; cast",
    ),
    "key None": (
        lambda: jaxdrop.dropout(None, _X, 0.5),
        TypeError,
        r"one PRNG key, got None .*key\(",
    ),
    "key integer": (
        lambda: _dropout(key=42),
        TypeError,
        r"one PRNG key, got 42 .* write jax.random",
    ),
    "key array": (
        lambda: _dropout(key=jnp.ones(2)),
        TypeError,
        "one PRNG key, got .*float32.*write",
    ),
    "key seed of NumPy": (lambda: _dropout(key=np.int32(42)), TypeError, "got an array of .*int32"),
    "key string": (lambda: _dropout(key="dropout"), TypeError, "got 'dropout' of type str; write"),
    "key batch": (lambda: _dropout(key=_KEYS), ValueError, r"one PRNG key, got .*\(3,\); .*vmap"),
    "key legacy batch": (
        lambda: _dropout(key=jnp.stack([_LEGACY] * 2)),
        ValueError,
        r"one PRNG key, got a batch of shape \(2,\); .*vmap",
    ),
    "key in the place of x": (
        lambda: jaxdrop.dropout(_X, _key(), 0.5),
        TypeError,
        "x: expected a floating .*, got a PRNG key; the key comes first",
    ),
    "legacy key in the place of x": (
        lambda: jaxdrop.dropout(_key(), _LEGACY, 0.5),
        TypeError,
        "x: expected a floating .*, got a PRNG key; the key comes first",
    ),
    "legacy key in the place of the rate": (
        lambda: jaxdrop.dropout(_key(), _X, _LEGACY),
        TypeError,
        "rate: expected a real number .*, got a PRNG key; the key comes first",
    ),
    "legacy key in the place of a state": (
        lambda: jaxdrop.zoneout(_X, _LEGACY, _X, 0.5),
        TypeError,
        "h_old: expected what follows the key, got a PRNG key; the key comes first",
    ),
    "flag None": (
        lambda: _dropout(deterministic=None),
        TypeError,
        "True, False .* got None; write",
    ),
    "flag string": (
        lambda: _dropout(deterministic="no"),
        TypeError,
        "True, False .* got 'no'; write",
    ),
    "flag integer": (lambda: _dropout(deterministic=1), TypeError, "True, False .* got 1; write"),
    "flag array": (
        lambda: _dropout(deterministic=jnp.ones(4, bool)),
        TypeError,
        "boolean scalar, got",
    ),
    "axis missing": (
        lambda: _dropout(broadcast_dims=(2,)),
        ValueError,
        r"broadcast_dims: expected an axis in \[-2, 2\) .* got 2; name an axis",
    ),
    "axis twice": (
        lambda: _dropout(broadcast_dims=(0, -2)),
        ValueError,
        r"each axis once, got \(0, -2\) .*; remove",
    ),
    "axis string": (
        lambda: _dropout(broadcast_dims="ab"),
        TypeError,
        "axes as integers, got 'ab'; write",
    ),
    "axes bool": (
        lambda: _dropout(broadcast_dims=(False, True)),
        TypeError,
        r"axes as integers, got \(False, True\); write",
    ),
    "axes integer": (lambda: _dropout(broadcast_dims=1), TypeError, "as integers, got 1; write"),
    "rank too small": (
        lambda: jaxdrop.spatial_dropout(_key(), jnp.ones(4), 0.5),
        ValueError,
        r"each axis once, got \(0, -1\) .* rank 1",
    ),
    "channel axis missing": (
        lambda: jaxdrop.spatial_dropout(_key(), _X, 0.5, channel_axis=3),
        ValueError,
        r"channel_axis.*: expected an axis in \[-2, 2\) .* got 3",
    ),
    "time axis missing": (
        lambda: jaxdrop.variational_dropout(_key(), jnp.ones(4), 0.5),
        ValueError,
        r"time_axis: expected an axis in \[-1, 1\) .* got 1",
    ),
    "drop path mode": (
        lambda: jaxdrop.drop_path(_key(), _X, 0.5, mode="column", deterministic=True),
        ValueError,
        "mode: expected 'row' or 'batch', got 'column'; write",
    ),
    "drop path axis": (
        lambda: jaxdrop.drop_path(_key(), _X, 0.5, mode="batch", batch_axis=2),
        ValueError,
        r"batch_axis: expected an axis in \[-2, 2\) .* got 2; name",
    ),
    "drop path rate": (
        lambda: jaxdrop.drop_path_rates(2, 3),
        ValueError,
        r"\[0, 1\], got 2.0; a k",
    ),
    "drop path rates": (
        lambda: jaxdrop.drop_path_rates(np.full(3, 0.1), 3),
        ValueError,
        r"a scalar, the rate of the last block, got shape \(3,\); write",
    ),
    "no depth": (
        lambda: jaxdrop.drop_path_rates(0.1, 0),
        ValueError,
        "depth: expected at least 1, got 0; write",
    ),
    "depth bool": (lambda: jaxdrop.drop_path_rates(0.1, True), ValueError, "1, got True; write"),
    "depth float": (
        lambda: jaxdrop.drop_path_rates(0.1, 2.5),
        TypeError,
        "depth: expected an integer, got 2.5; write",
    ),
    "no axis in space": (
        lambda: jaxdrop.drop_block(_key(), _X, 0.5, deterministic=True),
        ValueError,
        r"1, 2 or 3 axes in space .* got 0 in shape \(4, 6\); name",
    ),
    "four axes in space": (
        lambda: jaxdrop.drop_block(_key(), jnp.ones((1,) * 6), 0.5),
        ValueError,
        r"1, 2 or 3 axes in space .* got 4 in shape .*; name",
    ),
    "block of two sizes": (
        lambda: jaxdrop.drop_block(_key(), jnp.ones((1, 5, 5, 5, 1)), 0.5, block_size=(3, 3)),
        ValueError,
        r"block_size: expected an integer or 3, .* got \(3, 3\); write .*\(7, 7, 7\)",
    ),
    "empty block": (
        lambda: jaxdrop.drop_block(_key(), jnp.ones((1, 5, 1)), 0.5, block_size=0),
        ValueError,
        "block_size: expected at least 1, got 0; write",
    ),
    "block bool": (
        lambda: jaxdrop.drop_block(_key(), jnp.ones((1, 5, 1)), 0.5, block_size=True),
        ValueError,
        "block_size: expected at least 1, got True; write",
    ),
    "block float": (
        lambda: jaxdrop.drop_block(_key(), jnp.ones((1, 5, 1)), 0.5, block_size=2.5),
        TypeError,
        "block_size: expected integers, got 2.5; write",
    ),
    "huge block": (
        lambda: jaxdrop.drop_block(_key(), jnp.ones((1, 5, 5, 1)), 0.5, block_size=200),
        ValueError,
        "at most 32768 elements, got 200; drop whole maps",
    ),
    "rate of one block": (
        lambda: jaxdrop.drop_block(_key(), jnp.ones((4, 5, 6)), jnp.full((5, 1), 0.1)),
        ValueError,
        r"rate: .* broadcasts to the mask's \(4, 1, 6\), got \(5, 1\); elements",
    ),
    "head axis missing": (
        lambda: jaxdrop.drop_head(_key(), _X, 0.5, head_axis=3),
        ValueError,
        r"\(batch_axis, head_axis\): expected an axis in \[-2, 2\) .* got 3; name",
    ),
    "heads are examples": (
        lambda: jaxdrop.drop_head(_key(), _X, 0.5),
        ValueError,
        r"each axis once, got \(0, -2\) .* rank 2; remove",
    ),
    "looked-up words": (
        lambda: jaxdrop.embedding_dropout(_key(), jnp.ones((2, 3, 4)), 0.5, deterministic=True),
        ValueError,
        r"embedding table of shape \(V, D\), got shape \(2, 3, 4\); drop from the table",
    ),
    "attention of rank 1": (
        lambda: jaxdrop.attention_dropout(_key(), jnp.ones(4), 0.5, deterministic=True),
        ValueError,
        r"of shape \(..., H, Q, K\), got shape \(4,\); .* use dropout",
    ),
    "maps in a vector": (
        lambda: jaxdrop.feature_alpha_dropout(_key(), jnp.ones(4), 0.5),
        ValueError,
        r"each axis once, got \(0, -1\) .* rank 1",
    ),
    "alpha of a rate above 1": (
        lambda: jaxdrop.alpha_dropout(_key(), _X, 1.5),
        ValueError,
        r"in \[0, 1\], got 1.5; a keep",
    ),
    "alpha of integers": (
        lambda: jaxdrop.alpha_dropout(_key(), jnp.arange(6), 0.5),
        TypeError,
        "floating .* got .*int32; cast",
    ),
    "gaussian rate above 1": (
        lambda: jaxdrop.gaussian_dropout(_key(), _X, 1.5),
        ValueError,
        r"in \[0, 1\], got 1.5; a keep",
    ),
    "gaussian rate shape": (
        lambda: jaxdrop.gaussian_dropout(_key(), _X, jnp.full(6, 0.1), broadcast_dims=(1,)),
        ValueError,
        r"noise's \(4, 1\), got \(6,\); elements that share",
    ),
    "gaussian without a key": (
        lambda: jaxdrop.gaussian_dropout(None, _X, 0.5),
        TypeError,
        r"one PRNG key, got None .*key\(",
    ),
    "gaussian flag": (
        lambda: jaxdrop.gaussian_dropout(_key(), _X, 0.5, deterministic=1),
        TypeError,
        "True, False .* got 1; write",
    ),
    "stddev negative": (lambda: _noise(-1.0), ValueError, r"in \[0, inf\), got -1.0; a variance"),
    "stddev NaN": (lambda: _noise(np.nan), ValueError, r"in \[0, inf\), got nan; a variance"),
    "stddev infinite": (lambda: _noise(np.inf), ValueError, r"in \[0, inf\), got inf; a variance"),
    "stddev array": (lambda: _noise(np.array([1.0] * 5 + [-1])), ValueError, r"\[0, inf\), got"),
    "stddev bool": (lambda: _noise(True), TypeError, r"real number in \[0, inf\).*got True; write"),
    "stddev shape": (
        lambda: _noise(jnp.ones(5)),
        ValueError,
        r"stddev: .* noise's \(4, 6\), got \(5,\); elements .* its stddev",
    ),
    "noise on complex": (
        lambda: jaxdrop.gaussian_noise(_key(), _X.astype(jnp.complex64), 0.5),
        TypeError,
        "a floating array, got dtype complex64; add noise to x.real",
    ),
    "flag of no noise": (
        lambda: jaxdrop.gaussian_noise(_key(), _X, 0.0, deterministic="no"),
        TypeError,
        "True, False .* got 'no'; write",
    ),
    "logit NaN": (
        lambda: jaxdrop.concrete_dropout(_key(), _X, np.nan),
        ValueError,
        r"rate_logit: .* in \(-inf, inf\), got nan; a rate p has",
    ),
    "logit bool": (
        lambda: jaxdrop.concrete_dropout(_key(), _X, True),
        TypeError,
        r"rate_logit: expected a real number .* got True; write",
    ),
    "logit shape": (
        lambda: jaxdrop.concrete_dropout(_key(), _X, jnp.zeros(5)),
        ValueError,
        r"rate_logit: .* noise's \(4, 6\), got \(5,\); elements .* its rate_logit",
    ),
    "temperature 0": (
        lambda: jaxdrop.concrete_dropout(_key(), _X, 0.0, temperature=0.0),
        ValueError,
        r"temperature, in \(0, inf\), got 0.0; the paper",
    ),
    "temperature array": (
        lambda: jaxdrop.concrete_dropout(_key(), _X, 0.0, temperature=jnp.ones(6)),
        ValueError,
        r"temperature: .* layer's \(\), got \(6,\)",
    ),
    "logits of a layer": (
        lambda: jaxdrop.concrete_regularizer(
            jnp.zeros(6), _X, num_features=6, weight_decay=1.0, entropy_weight=1.0
        ),
        ValueError,
        r"rate_logit: .* layer's \(\), got \(6,\)",
    ),
    "first rate 0": (
        lambda: jaxdrop.nnx.ConcreteDropout(0.0),
        ValueError,
        r"init_rate: expected a rate, in \(0, 1\), got 0.0; at 0 and at 1",
    ),
    "first rate above 1": (
        lambda: jaxdrop.nnx.ConcreteDropout(1.5),
        ValueError,
        r"init_rate: expected a rate, in \(0, 1\), got 1.5; at 0 and at 1",
    ),
    "attention over another batch": (
        lambda: jaxdrop.dot_product_attention(
            _key(), jnp.ones((2, 3, 1, 4)), *(2 * [jnp.ones((5, 3, 1, 4))]), 0.5
        ),
        ValueError,
        r"key: expected shape \(B, S, K, H\) .* got \(5, 3, 1, 4\) beside \(2, 3, 1, 4\)",
    ),
    "log_alpha infinite": (
        lambda: jaxdrop.variational_gaussian_dropout(_key(), _X, -np.inf),
        ValueError,
        r"log_alpha: .* in \(-inf, inf\), got -inf; a variance alpha",
    ),
    "log_alpha shape": (
        lambda: jaxdrop.variational_gaussian_dropout(_key(), _X, jnp.zeros(4)),
        ValueError,
        r"log_alpha: .* noise's \(4, 6\), got \(4,\); elements .* its log_alpha",
    ),
    "log_alpha string": (
        lambda: jaxdrop.variational_gaussian_kl("3"),
        TypeError,
        r"log_alpha: expected a real number .* got '3'; write",
    ),
    "log_alpha NaN": (
        lambda: jaxdrop.variational_gaussian_pruned(np.array([0.0, np.nan])),
        ValueError,
        r"log_alpha: .* in \(-inf, inf\), got \[ 0. nan\]; a variance alpha",
    ),
    "states of two shapes": (
        lambda: jaxdrop.zoneout(_key(), _X, _X[0], 0.5),
        ValueError,
        r"shape of h_old, \(4, 6\), got \(6,\); pass",
    ),
    "states of two dtypes": (
        lambda: jaxdrop.zoneout(_key(), _X, _X.astype(jnp.bfloat16), 0.5),
        TypeError,
        "dtype of h_old, float32, got bfloat16; cast",
    ),
    "state integer": (
        lambda: jaxdrop.zoneout(_key(), jnp.arange(6), _X, 0.5),
        TypeError,
        "h_old: expected a floating .* got dtype int32; cast",
    ),
    "rates of the mean": (
        lambda: jaxdrop.zoneout(None, _X, _X, jnp.full(5, 0.1), deterministic=True),
        ValueError,
        r"\(4, 6\), got \(5,\); elements",
    ),
    "no weight chosen": (
        lambda: jaxdrop.drop_connect(_key(), {"w": _X, "b": _X}, 0.5, where=lambda *_: False),
        ValueError,
        r"one leaf or more, got none of \[\('b',\), \('w',\)\]; compare",
    ),
    "no floating weight": (
        lambda: jaxdrop.drop_connect(_key(), [jnp.arange(3)], 0.5),
        ValueError,
        r"one leaf or more, got none of \[\(0,\)\]; compare",
    ),
    "integer weight chosen": (
        lambda: jaxdrop.drop_connect(
            _key(), {"w": _X, "n": jnp.arange(3), "f": 1.5}, 0.5, where=lambda *_: True
        ),
        TypeError,
        r"got \[\(\('f',\), 'float'\), \(\('n',\), dtype\('int32'\)\)\]; leave",
    ),
    "one end of edges": (
        lambda: jaxdrop.edge_dropout(_key(), _X, 0.5, senders=jnp.arange(4)),
        TypeError,
        "receivers: expected integers, one per edge, .* got None; give both",
    ),
    "ends of other edges": (
        lambda: jaxdrop.edge_dropout(
            None, _X, 0.5, senders=jnp.arange(4), receivers=jnp.arange(6), deterministic=True
        ),
        ValueError,
        r"receivers: expected one node per edge, shape \(4,\) for x of shape \(4, 6\), got \(6,\)",
    ),
    "ends floating": (
        lambda: jaxdrop.edge_dropout(_key(), _X, 0.5, senders=jnp.ones(4), receivers=jnp.ones(4)),
        TypeError,
        "senders: expected an integer array .* got dtype float32; give graph.senders",
    ),
    "an edge without an axis": (
        lambda: jaxdrop.edge_dropout(_key(), 1.0, 0.5),
        ValueError,
        r"x: expected an array of shape \(E, ...\), one row per edge, got a scalar; write",
    ),
    "rates of edges": (
        lambda: jaxdrop.edge_dropout(_key(), _X, jnp.full(4, 0.5)),
        ValueError,
        r"mask's \(4, 1\), got \(4,\); elements that share",
    ),
    "NEFTune mask of numbers": (
        lambda: jaxdrop.neftune_noise(_key(), _HEADS, 5.0, mask=jnp.ones((2, 4, 6))),
        TypeError,
        r"mask: expected booleans, True for a token, got dtype float32; write mask.astype\(bool\)",
    ),
    "NEFTune lengths": (
        lambda: jaxdrop.neftune_noise(_key(), _X[None], 5.0, mask=jnp.ones(4, bool)),
        ValueError,
        r"mask: expected one boolean for each token, shape \(1, 4\) .* got \(4,\); leave",
    ),
    "NEFTune of a vector": (
        lambda: jaxdrop.neftune_noise(_key(), _X[0], 5.0, deterministic=True),
        ValueError,
        r"embeddings of shape \(..., L, D\), got shape \(6,\); give a text",
    ),
    "NEFTune below 0": (
        lambda: jaxdrop.neftune_noise(_key(), _X, -5.0),
        ValueError,
        r"alpha: expected sizes, in \[0, inf\), got -5.0; noise has no sign",
    ),
    "NEFTune of complex numbers": (
        lambda: jaxdrop.neftune_noise(_key(), jax.lax.complex(_X, _X), 5.0),
        TypeError,
        "floating array of embeddings, got dtype complex64; add noise to x.real",
    ),
    "other of fewer weights": (
        lambda: jaxdrop.drop_connect(_key(), {"w": _X, "b": _X}, 0.5, other={"w": _X}),
        ValueError,
        r"other: expected an array for each chosen leaf .* none at \[\('b',\)\]; its paths are",
    ),
    "other of another shape": (
        lambda: jaxdrop.drop_connect(_key(), [_X], 0.5, other=[_X.T], deterministic=True),
        ValueError,
        r"other: expected the shape \(4, 6\) of params at \(0,\), got \(6, 4\); give",
    ),
    "other complex": (
        lambda: jaxdrop.drop_connect(_key(), [_X], 0.5, other=[jax.lax.complex(_X, _X)]),
        TypeError,
        r"other at \(0,\): expected real weights for x of dtype float32, got .*complex64; cast",
    ),
    "tokens floating": (
        lambda: jaxdrop.word_dropout(_key(), _X, 0.5, unknown_id=1),
        TypeError,
        "an integer array .* got dtype float32; drop words before",
    ),
    "tokens bool": (
        lambda: jaxdrop.word_dropout(_key(), _X > 0, 0.5, unknown_id=1),
        TypeError,
        "an integer array .* got dtype bool; drop words before",
    ),
    "unknown token bool": (
        lambda: jaxdrop.word_dropout(_key(), jnp.arange(6), 0.5, unknown_id=True),
        TypeError,
        "unknown_id: expected an integer, got True; write",
    ),
    "unknown token floating": (
        lambda: jaxdrop.word_dropout(_key(), jnp.arange(6), 0.5, unknown_id=1.0),
        TypeError,
        "unknown_id: expected an integer, got 1.0; write",
    ),
    "unknown token too large": (
        lambda: jaxdrop.word_dropout(_key(), jnp.arange(6, dtype=jnp.uint8), 0.5, unknown_id=256),
        ValueError,
        r"that uint8 holds, in \[0, 255\], got 256; choose",
    ),
    "unknown token negative": (
        lambda: jaxdrop.word_dropout(_key(), jnp.arange(6, dtype=jnp.uint8), 0.5, unknown_id=-1),
        ValueError,
        r"that uint8 holds, in \[0, 255\], got -1; choose",
    ),
    "share of tokens traced": (
        lambda: jax.jit(_tokens)(0.5),
        TypeError,
        "a Python number, since .* a shape, got .*; mark it static",
    ),
    "share of tokens array": (
        lambda: _tokens(jnp.float32(0.5)),
        TypeError,
        "a Python number, since .* a shape, got .*; mark it static",
    ),
    "share of tokens above 1": (lambda: _tokens(1.5), ValueError, r"in \[0, 1\], got 1.5; a keep"),
    "share of tokens bool": (lambda: _tokens(True), TypeError, "real number in .* got True; write"),
    "flag of tokens traced": (
        lambda: jax.jit(lambda flag: _tokens(deterministic=flag))(True),
        TypeError,
        "True or False, since .* a shape, got .*; mark it static",
    ),
    "tokens of rank 2": (lambda: _tokens(x=_X), ValueError, r"\(B, L, D\), got \(4, 6\); merge"),
    "no token left": (lambda: _tokens(1.0), ValueError, "leaves a token, got 1.0 for 4 .*; lower"),
    "prefix too long": (
        lambda: _tokens(num_prefix_tokens=7),
        ValueError,
        r"an integer in \[0, 4\], the tokens of x, got 7; count",
    ),
    "prefix bool": (
        lambda: _tokens(num_prefix_tokens=True),
        TypeError,
        "num_prefix_tokens: expected an integer, got True; write",
    ),
    "prefix floating": (
        lambda: _tokens(num_prefix_tokens=1.0),
        TypeError,
        "num_prefix_tokens: expected an integer, got 1.0; write",
    ),
    "logits complex": (
        lambda: jaxdrop.drop_key(_key(), _X.astype(complex), 0.5),
        TypeError,
        "floating logits, got dtype complex64; pass",
    ),
    "logits of rank 1": (
        lambda: jaxdrop.drop_key(_key(), _X[0], 0.5),
        ValueError,
        r"shape \(..., Q, K\), got \(6,\); for a single query",
    ),
    "attention without a key": (
        lambda: _attend(None),
        TypeError,
        r"dropout_key: expected one PRNG key, got None .* write",
    ),
    "attention with keys": (
        lambda: _attend(_KEYS),
        ValueError,
        r"dropout_key: expected one PRNG key, got a batch of shape \(3,\); map",
    ),
    "attention rate": (lambda: _attend(rate=-0.1), ValueError, r"\[0, 1\], got -0.1; a keep"),
    "attention rates": (
        lambda: _attend(rate=jnp.full(5, 0.1)),
        ValueError,
        r"\(2, 6, 4, 4\), got \(5,\); elements that share",
    ),
    "attention mode": (
        lambda: _attend(mode="rows"),
        ValueError,
        "mode: expected one of 'weights', 'keys', 'heads', got 'rows'; write",
    ),
    "block size 0": (lambda: _attend(block_size=0), ValueError, "at least 1, got 0; write"),
    "block size bool": (lambda: _attend(block_size=True), ValueError, "at least 1, got True; wr"),
    "block size float": (
        lambda: _attend(block_size=2.5),
        TypeError,
        "block_size: expected an integer or None, got 2.5; write",
    ),
    "axis of attention": (
        lambda: _attend(broadcast_dims=(4,)),
        ValueError,
        r"broadcast_dims: .* \[-4, 4\) .* got 4; name",
    ),
    "query integer": (
        lambda: _attend(query=jnp.ones((2, 4, 6, 3), int)),
        TypeError,
        "query: expected a floating .* got dtype int32; cast",
    ),
    "query complex": (
        lambda: _attend(query=_HEADS.astype(complex)),
        TypeError,
        "query: expected a floating array, got dtype complex64; pass",
    ),
    "query of rank 2": (
        lambda: _attend(query=_X),
        ValueError,
        r"\(B, T, N, H\) or \(T, N, H\), got \(4, 6\); merge",
    ),
    "heads that do not divide": (
        lambda: _attend(keys=_HEADS[:, :, :4]),
        ValueError,
        r"K divides N, got \(2, 4, 4, 3\) beside \(2, 4, 6, 3\); put",
    ),
    "keys of other features": (
        lambda: _attend(keys=_HEADS[..., :2]),
        ValueError,
        r"K divides N, got \(2, 4, 6, 2\) beside \(2, 4, 6, 3\); put",
    ),
    "keys of another dtype": (
        lambda: _attend(keys=_HEADS.astype(jnp.bfloat16)),
        TypeError,
        "key: expected the dtype of query, float32, got bfloat16; cast",
    ),
    "values of another shape": (
        lambda: _attend(value=_HEADS[:, :2]),
        ValueError,
        r"value: expected the shape of key, \(2, 4, 6, 3\), got \(2, 2, 6, 3\); project",
    ),
    "attention mask of numbers": (
        lambda: _attend(mask=jnp.ones((4, 4))),
        TypeError,
        "mask: expected booleans, .* got dtype float32; write",
    ),
    "attention mask of another shape": (
        lambda: _attend(mask=np.ones((3, 1, 4, 4), bool)),
        ValueError,
        r"mask: .* here \(2, 6, 4, 4\), got \(3, 1, 4, 4\); put",
    ),
    "bias integer": (
        lambda: _attend(bias=np.ones((4, 4), int)),
        TypeError,
        "bias: expected a floating .* got dtype int64; cast",
    ),
    "bias complex": (
        lambda: _attend(bias=np.ones((4, 4), np.complex64)),
        TypeError,
        "bias: expected a floating array, got dtype complex64; pass",
    ),
    "scale complex": (
        lambda: _attend(scale=1j),
        TypeError,
        r"scale: expected a real number .* got 1j; write",
    ),
    "scale NaN": (lambda: _attend(scale=np.nan), ValueError, "scale: .* got nan; None stands for"),
    "bias of another shape": (
        lambda: _attend(bias=jnp.ones((4, 5))),
        ValueError,
        r"bias: .* here \(2, 6, 4, 4\), got \(1, 1, 4, 5\); put",
    ),
    "lengths floating": (
        lambda: _attend(key_value_seq_lengths=jnp.ones(2)),
        ValueError,
        r"key_value_seq_lengths: expected int32 of shape \(2,\).* got float32 of .*; write",
    ),
    "lengths of one example": (
        lambda: _attend(query_seq_lengths=jnp.ones(1, jnp.int32)),
        ValueError,
        r"query_seq_lengths: .* of shape \(2,\), .* got int32 of shape \(1,\); write",
    ),
    "window a number with a fraction": (
        lambda: _attend(local_window_size=1.5),
        TypeError,
        r"local_window_size: .* got 1.5; write",
    ),
    "window floating": (
        lambda: _attend(local_window_size=(1.5, 2)),
        TypeError,
        r"local_window_size: .* got \(1.5, 2\); write",
    ),
    "labels floating": (
        lambda: jaxdrop.r_drop_loss(_X, _X, _X[:, 0]),
        TypeError,
        "labels: expected an integer array .* got dtype float32; for one-hot",
    ),
    "labels of the shape of the logits": (
        lambda: jaxdrop.r_drop_loss(_X, _X, _X.astype(int)),
        ValueError,
        r"without their last axis, \(4,\), got \(4, 6\); pass",
    ),
    "labels of no class": (
        lambda: jaxdrop.r_drop_loss(_X, _X, np.array([0, -1, 2, 3])),
        ValueError,
        r"classes in \[0, 6\), got values from -1 to 3; count .* leave out",
    ),
    "labels None": (
        lambda: jaxdrop.r_drop_loss(_X, _X, None),
        TypeError,
        "labels: expected an array, got NoneType; give",
    ),
    "one logit": (
        lambda: jaxdrop.r_drop_loss(_X[:, :1], _X[:, :1], jnp.zeros(4, int)),
        ValueError,
        r"of two classes or more, got shape \(4, 1\); a single logit z is the pair",
    ),
    "loss of no examples": (
        lambda: jaxdrop.r_drop_loss(_X[:0], _X[:0], jnp.zeros(0, int)),
        ValueError,
        r"one example or more, .* got shape \(0, 6\)",
    ),
    "weight complex": (
        lambda: jaxdrop.r_drop_loss(_X, _X, np.arange(4), weight=1j),
        TypeError,
        "weight: expected a real number .* got 1j; write",
    ),
    "weight of each example": (
        lambda: jaxdrop.r_drop_loss(_X, _X, np.arange(4), weight=jnp.ones(4)),
        ValueError,
        r"weight: .* the loss's \(\), got \(4,\)",
    ),
    "decay complex": (
        lambda: jaxdrop.concrete_regularizer(
            0.0, _X, num_features=6, weight_decay=1j, entropy_weight=1.0
        ),
        TypeError,
        "weight_decay: expected a real number .* got 1j; write",
    ),
    "threshold NaN": (
        lambda: jaxdrop.variational_gaussian_pruned(_X, np.nan),
        ValueError,
        "threshold: .* got nan; the paper",
    ),
    "no loss": (
        lambda: jaxdrop.multi_sample_loss(0.0, _key()),
        TypeError,
        "loss: expected a function of a key .* got float; write multi_sample_loss",
    ),
    "logits of two shapes": (
        lambda: jaxdrop.r_drop_loss(_X, _X[0], jnp.arange(4)),
        ValueError,
        r"shape of first_logits, .* got \(6,\) beside \(4, 6\); take",
    ),
    "logits of two dtypes": (
        lambda: jaxdrop.r_drop_loss(_X, _X.astype(jnp.bfloat16), jnp.arange(4)),
        TypeError,
        "dtype of first_logits, .* got bfloat16 beside float32; take",
    ),
    "logits integer": (
        lambda: jaxdrop.r_drop_loss(_X.astype(int), _X, jnp.arange(4)),
        TypeError,
        "first_logits: expected a floating .* got dtype int32; cast",
    ),
    "no samples of a loss": (
        lambda: jaxdrop.multi_sample_loss(lambda key: 0.0, _key(), num_samples=0),
        ValueError,
        "num_samples: expected at least 1, got 0; write",
    ),
    "samples of a loss floating": (
        lambda: jaxdrop.multi_sample_loss(lambda key: 0.0, _key(), num_samples=2.0),
        TypeError,
        "num_samples: expected an integer, got 2.0; write",
    ),
    "key of a loss": (
        lambda: jaxdrop.multi_sample_loss(lambda key: 0.0, 0),
        TypeError,
        "one PRNG key, got 0 .* write",
    ),
    "mask shape": (
        lambda: masks.sample(_key(), 0.5, (4, 5)).apply(_X),
        ValueError,
        r"mask's \(4, 5\) broadcasts to, got \(4, 6\); draw",
    ),
    "mask larger": (
        lambda: masks.sample(_key(), 0.5, (4, 6)).apply(_X[0]),
        ValueError,
        r"mask's \(4, 6\) broadcasts to, got \(6,\); draw",
    ),
    "mask on integers": (
        lambda: masks.sample(_key(), 0.5, (3,)).apply(jnp.arange(3)),
        TypeError,
        "floating .* got dtype int32; cast",
    ),
    "more entries than numbers": (
        lambda: masks.sample(_key(), 0.5, (2**38,)),
        ValueError,
        r"at most 2\*\*32 words .* got \(8589934592,\); spread",
    ),
    "mask of another shape than its words": (
        lambda: masks.Mask(jnp.zeros(1, jnp.uint32), jnp.float32(1), (40,)).unpack(),
        ValueError,
        r"words of shape \(2,\) .* got shapes \(1,\) and \(\); apply a batch .* jax.vmap",
    ),
    "shape negative": (lambda: masks.sample(_key(), 0.5, (-1,)), TypeError, r"got \(-1,\); write"),
    "shape float": (lambda: masks.sample(_key(), 0.5, (2.5,)), TypeError, r"got \(2.5,\); write"),
    "shape integer": (lambda: masks.sample(_key(), 0.5, 4), TypeError, "got 4; write"),
    "linen in nnx": (
        lambda: jaxdrop.nnx.replace_dropout(nn.Dense(2)),
        TypeError,
        "an nnx.Module, got Dense; for a linen model",
    ),
    "nnx in from_linen": (
        lambda: mc.from_linen(nnx.Dropout(0.5), {}),
        TypeError,
        "expected a flax.linen.Module, got .* write jaxdrop.mc.from_nnx",
    ),
    "linen in from_nnx": (
        lambda: mc.from_nnx(nn.Dropout(0.5)),
        TypeError,
        "expected a flax.nnx.Module, got .* write jaxdrop.mc.from_linen",
    ),
    "class of a linen model": (
        lambda: mc.from_linen(nn.Dropout, {}),
        TypeError,
        r"got the class Dropout; make one, as for init: from_linen\(Dropout\(...\), variables\)",
    ),
    "class of an nnx model": (
        lambda: mc.from_nnx(nnx.Dropout),
        TypeError,
        r"got the class Dropout; make one: from_nnx\(Dropout\(..., rngs=nnx.Rngs\(0\)\)\)",
    ),
    "bound linen model": (
        lambda: mc.from_linen(nn.Dropout(0.5).bind({}), {}),
        TypeError,
        r"an unbound module, got a Dropout that is bound .* from_linen\(\*model.unbind\(\)\)",
    ),
    "graph of an nnx model": (
        lambda: mc.from_nnx(nnx.graphdef(nnx.Dropout(0.5))),
        TypeError,
        r"got GraphDef, a part of one; .*from_nnx\(nnx.merge\(graphdef, state\)\)",
    ),
    "split nnx model": (
        lambda: mc.from_nnx(nnx.split(nnx.Dropout(0.5))),
        TypeError,
        r"got tuple, a part of one; .*nnx.merge",
    ),
    "state of an nnx model": (
        lambda: mc.from_nnx(nnx.state(nnx.Dropout(0.5))),
        TypeError,
        r"got State, a part of one; .*nnx.merge",
    ),
    "holder in from_linen": (
        lambda: mc.from_linen(_Holder(), {}),
        TypeError,
        r"got _Holder, which holds one; write from_linen\(model.module, .'params': model.params.\)",
    ),
    "holder in from_nnx": (
        lambda: mc.from_nnx(_Holder()),
        TypeError,
        r"got _Holder, which holds one; write from_linen\(model.module, .'params': model.params.\)",
    ),
    "params of a module": (
        lambda: mc.from_linen(nn.Dense(2), {"kernel": _X, "bias": _X[0]}),
        ValueError,
        r"collections such as 'params'.*got 'kernel', 'bias', .*from_linen\(model, .'params'",
    ),
    "params of modules": (
        lambda: mc.from_linen(nn.Dense(2), {"Dense_0": {"kernel": _X}}),
        ValueError,
        r"got 'Dense_0', as in variables\['params'\]; write from_linen\(model, .'params'",
    ),
    "params of named modules": (
        lambda: mc.from_linen(_Named(), {"head": {"kernel": _X.T}})(_key(), _X),
        ValueError,
        r"got 'head', as in variables\['params'\]; write from_linen",
    ),
    "variables None": (
        lambda: mc.from_linen(nn.Dense(2), None),
        TypeError,
        r"a dict of collections, .* got NoneType; write from_linen\(model, model.init\(key, x\)\)",
    ),
    "state of training": (
        lambda: mc.from_linen(nn.Dense(2), _Holder()),
        TypeError,
        r"got _Holder; .*from_linen\(model, .'params': it.params.\)",
    ),
    "no samples": (lambda: _predict(num_samples=0), ValueError, "at least 1, got 0; write"),
    "samples bool": (lambda: _predict(num_samples=True), ValueError, "at least 1, got True; write"),
    "samples float": (lambda: _predict(num_samples=2.5), TypeError, "an integer, got 2.5; write"),
    "empty chunks": (lambda: _predict(chunk_size=0), ValueError, "chunk_size: .* got 0; write"),
    "integer output": (
        lambda: mc.predict(lambda key: jax.random.randint(key, (), 0, 9), _key()),
        TypeError,
        "floating outputs, got dtype int32; cast",
    ),
    "several logits": (
        lambda: mc.predict(
            lambda key: (jax.random.normal(key, (3,)),) * 2, _key(), summary=mc.classification()
        ),
        ValueError,
        r"one array of shape \(..., C\), got .*; pick .* out\[0\]",
    ),
    "nothing random": (
        lambda: mc.predict(lambda key, x: 2 * x, _key(), _X),
        ValueError,
        "depends on the key, got .*; make it with",
    ),
}


@pytest.mark.parametrize("name", _BAD)
def test_refused_with_a_message_that_teaches(name):
    call, exception, message = _BAD[name]
    with pytest.raises(exception, match=message):
        call()


@pytest.mark.parametrize("name", sorted(_BAD.keys() - {"rate jax 1.5"}))  # jit traces that constant
def test_refused_under_jit_as_well(name):
    call, exception, message = _BAD[name]
    with pytest.raises(exception, match=message):
        jax.jit(call)()


def test_a_traced_rate_out_of_range_gives_nan():
    """It cannot be refused, so it must not pass for a result."""
    for rate in (-0.1, 1.5, float("nan")):
        y = jax.jit(lambda key, rate: jaxdrop.dropout(key, _X, rate))(_key(), rate)
        assert jnp.isnan(y).any(), rate


def test_a_traced_level_of_noise_out_of_range_gives_nan():
    for fn, levels in (
        (jaxdrop.alpha_dropout, (-0.1, 1.5, float("nan"))),
        (jaxdrop.gaussian_dropout, (-0.1, 1.5, float("nan"))),
        (jaxdrop.gaussian_noise, (-0.1, float("nan"))),
    ):
        for level in levels:
            y = jax.jit(lambda key, level, fn=fn: fn(key, _X, level))(_key(), level)
            assert jnp.isnan(y).any(), (fn, level)
