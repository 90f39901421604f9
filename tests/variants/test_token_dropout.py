"""Token dropout: shapes, which subsets are drawn and how often, and the laws that apply."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from scipy import stats

import jaxdrop
from jaxdrop import mc, token_dropout
from tests.laws.test_laws_sharding import compiled, mesh_of, put
from tests.support import own, reference
from tests.support.cases import (
    FALSE_ALARM,
    OTHER_KEYS,
    assert_probability,
    assert_same_bits,
    data,
    key,
)
from tests.support.models import each_framework

RATE = 0.6
X = data((8, 11, 32))  # 1 + 4 of them are kept with a prefix of 1


def drop(key, x=X, rate=RATE, **arguments):
    return token_dropout(key, x, rate, **{"num_prefix_tokens": 1, **arguments})


def by_reference(key_words, shape, num_drawn, prefix, ordered):
    """Places of the tokens with the smallest integers, in NumPy."""
    batch, length = shape[0], shape[1] - prefix
    integers = reference.entry_integers(key_words, (batch, length))
    drawn = np.argsort(integers, axis=1, kind="stable")[:, :num_drawn]
    if ordered:
        drawn = np.sort(drawn, axis=1)
    first = np.broadcast_to(np.arange(prefix), (batch, prefix))
    return np.concatenate([first, prefix + drawn], axis=1).astype(np.int32)


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "shuffled"])
@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_places_are_those_of_the_reference_and_values_those_of_x(ordered, prefix):
    kept, indices = drop(key(), num_prefix_tokens=prefix, ordered=ordered)
    words = jax.random.key_data(key())
    num_drawn = round((11 - prefix) * (1 - RATE))
    assert_same_bits(indices, by_reference(words, X.shape, num_drawn, prefix, ordered))
    assert_same_bits(kept, np.take_along_axis(np.asarray(X), np.asarray(indices)[..., None], 1))


@pytest.mark.parametrize(
    ("length", "prefix", "rate", "expected"),
    [(197, 1, 0.5, 99), (196, 0, 0.75, 49), (10, 0, 0.99, None), (5, 5, 0.5, 5), (4, 2, 1, 2),
     (9, 0, 0.001, 9), (7, 1, np.float32(0.5), 4), (1, 0, 0.4, 1)],
)  # fmt: skip
def test_number_of_kept_tokens(length, prefix, rate, expected):
    x = data((2, length, 4))
    if expected is None:
        with pytest.raises(ValueError, match="leaves a token"):
            drop(key(), x, rate, num_prefix_tokens=prefix)
        return
    kept, indices = drop(key(), x, rate, num_prefix_tokens=prefix)
    assert kept.shape == (2, expected, 4)
    assert indices.shape == (2, expected)
    assert (jnp.sort(indices, axis=1)[:, 1:] > jnp.sort(indices, axis=1)[:, :-1]).all()


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "shuffled"])
def test_every_token_is_kept_equally_often(ordered):
    """Binomially over examples, which draw for themselves: 4 of 10 tokens, 2**16 examples."""
    _, indices = drop(key(), jnp.zeros((2**16, 11, 1)), ordered=ordered)
    drawn = np.asarray(indices)[:, 1:]
    assert (np.asarray(indices)[:, 0] == 0).all()
    for token in range(1, 11):
        assert_probability((drawn == token).sum(), 2**16, 0.4)
        if not ordered:  # and equally often in each place
            for place in range(4):
                assert_probability((drawn[:, place] == token).sum(), 2**16, 0.1)


@pytest.mark.parametrize("examples", ["of one call", "of as many keys"])
def test_every_subset_is_drawn_equally_often(examples):
    """Chi-square over the 210 subsets of 4 of 10 tokens, with the false alarm of all tests."""
    if examples == "of one call":
        _, indices = drop(key(), jnp.zeros((2**16, 10, 1)), num_prefix_tokens=0)
    else:
        one = jnp.zeros((1, 10, 1))
        keys = jax.random.split(key(1), 2**16)
        run = jax.jit(jax.vmap(lambda key: drop(key, one, num_prefix_tokens=0).indices[0]))
        indices = run(keys)
    codes, counts = np.unique((1 << np.asarray(indices)).sum(axis=1), return_counts=True)
    assert set(codes) == {sum(1 << i for i in c) for c in itertools.combinations(range(10), 4)}
    assert stats.chisquare(counts).pvalue > FALSE_ALARM


def test_examples_are_independent():
    """Two neighbours keep a token both with probability 0.4 squared."""
    _, indices = drop(key(), jnp.zeros((2**17, 11, 1)))
    kept = (np.asarray(indices) == 7).any(axis=1)
    assert_probability((kept[::2] & kept[1::2]).sum(), 2**16, 0.16)


def test_without_drawing_all_is_kept_or_the_prefix_and_no_key_is_needed():
    places = np.broadcast_to(np.arange(11, dtype=np.int32), (8, 11))
    for tokens in (drop(None, rate=0), drop(None, deterministic=True), drop(None, rate=0.0)):
        assert tokens.kept is X
        assert_same_bits(tokens.indices, places)
    kept, indices = drop(None, rate=1.0, num_prefix_tokens=3)
    assert_same_bits(kept, X[:, :3])
    assert_same_bits(indices, places[:, :3])


def test_gradient_goes_to_the_kept_tokens():
    """Also where a token that is left out holds NaN; forward mode agrees."""
    indices = np.asarray(drop(key()).indices)
    chosen = np.zeros((8, 11), bool)
    chosen[np.arange(8)[:, None], indices] = True
    x = jnp.where(chosen[..., None], X, jnp.nan)

    def kept(x):
        return drop(key(), x).kept

    y, pull = jax.vjp(kept, x)
    assert_same_bits(y, drop(key()).kept)
    gradient = pull(y)[0]
    assert_same_bits(gradient, jnp.where(chosen[..., None], x, 0.0))
    assert_same_bits(jax.jvp(kept, (x,), (X,))[1], y)
    residuals = sum(leaf.nbytes for leaf in jax.tree.leaves(pull))
    assert residuals <= indices.nbytes + 64


@pytest.mark.parametrize("impl", ["threefry2x32", *OTHER_KEYS])
def test_jit_and_vmap_are_the_loop(impl):
    def keys():
        return jax.random.split(jax.random.key(0, impl=impl), 3)

    xs = jnp.stack([X, X + 1, X + 2])
    mapped = jax.jit(jax.vmap(drop))(keys(), xs)
    for i, single in enumerate(keys()):
        own.assert_same_tree(jax.tree.map(lambda leaf: leaf[i], mapped), drop(single, xs[i]))  # noqa: B023


def test_a_reused_key_is_caught_and_other_keys_draw_others():
    one = key()
    drop(one)
    with pytest.raises(jax.errors.KeyReuseError, match="consumed"):
        drop(one)
    seen = {np.asarray(drop(key(seed)).indices).tobytes() for seed in range(8)}
    assert len(seen) == 8


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["auto", "explicit"])
@pytest.mark.parametrize("spec", [P("data"), P(("data", "model")), P("data", None, "model")])
@pytest.mark.parametrize("prefix", [0, 1])
def test_sharding_follows_the_examples_without_a_collective(kind, spec, prefix):
    def run(key, x):
        drawn = lambda x: tuple(drop(key, x, num_prefix_tokens=prefix))  # noqa: E731
        kept, pull, indices = jax.vjp(drawn, x, has_aux=True)
        return kept, pull(kept)[0], indices

    mesh = mesh_of((4, 2), kind)
    sharding = jax.NamedSharding(mesh, spec)
    x = put(X, sharding)
    results = compiled(run, key(), x)(key(), x)
    for result, expected in zip(results, run(key(), X)):
        assert_same_bits(result, expected)
    for result in results[:2]:
        assert result.sharding.is_equivalent_to(sharding, 3)
    assert results[2].sharding.is_equivalent_to(jax.NamedSharding(mesh, P(spec[0])), 2)
    own.assert_same_tree(drop(key(), x), drop(key()))
    own.assert_same_tree(drop(None, x, 0), drop(None, X, 0))


def test_classes_are_the_function():
    own.check_classes("token_dropout", (X,), num_prefix_tokens=2, ordered=False)


class Patches(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jaxdrop.linen.TokenDropout(RATE, 1, deterministic=True)(x)


@each_framework
def test_adapters_turn_it_on(framework):
    if framework == "linen":
        fn = mc.from_linen(Patches(), {})
    else:
        fn = mc.from_nnx(jaxdrop.nnx.TokenDropout(RATE, num_prefix_tokens=1))
    kept, indices = fn(key(1), X)
    assert kept.shape == (8, 5, 32)
    assert (indices != fn(key(2), X)[1]).any()
    (site,) = mc.audit(fn, key(), X).sites
    assert (site.kind, site.rate, site.shape, site.live) == ("TokenDropout", RATE, X.shape, True)
