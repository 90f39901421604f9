"""Arguments in another order are refused: the message says that the key comes first."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdrop
from jaxdrop import masks
from tests.support.cases import data, key

_X, _MAPS, _HEADS = data((8, 6)), data((2, 6, 6, 4)), data((2, 4, 6, 3))
_LAYERS = [{"kernel": np.ones((6, 8), np.float32)}, {"kernel": np.ones((8, 2), np.float32)}]
# What follows the key: arrays, then the rate.
_ARGUMENTS = {
    "dropout": (_X, 0.5),
    "mc_dropout": (_X, 0.5),
    "spatial_dropout": (_MAPS, 0.5),
    "variational_dropout": (_MAPS, 0.5),
    "drop_path": (_X, 0.5),
    "drop_block": (_MAPS, 0.5),
    "drop_head": (_HEADS, 0.5),
    "alpha_dropout": (_X, 0.5),
    "feature_alpha_dropout": (_MAPS, 0.5),
    "gaussian_dropout": (_X, 0.5),
    "gaussian_noise": (_X, 0.5),
    "neftune_noise": (_X, 0.5),
    "edge_dropout": (_X, 0.5),
    "embedding_dropout": (_X, 0.5),
    "attention_dropout": (_HEADS, 0.5),
    "drop_key": (_HEADS, 0.5),
    "token_dropout": (_MAPS[0], 0.5),
    "concrete_dropout": (_X, 0.5),
    "variational_gaussian_dropout": (_X, 0.5),
    "word_dropout": (jnp.arange(8), 0.5),
    "drop_connect": ({"kernel": _X}, 0.5),
    "zoneout": (_X, 2 * _X, 0.5),
    "layer_drop": (jnp.sin, _X, 0.5),
    "subset_residual": (jnp.sin, _X, 0.5),
    "thinned_mlp": (_X, _LAYERS, 0.5),
    "dot_product_attention": (_HEADS, _HEADS, _HEADS, 0.5),
}
_OPTIONS = {"word_dropout": {"unknown_id": 1}}


def orders(length):
    """The place of each argument, the key being 0, in every order but the right one."""
    return list(itertools.permutations(range(length)))[1:]


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey], ids=["typed", "legacy"])
@pytest.mark.parametrize("name", _ARGUMENTS)
def test_another_order_is_refused_with_the_right_one(name, make):
    fn, rest = getattr(jaxdrop, name), _ARGUMENTS[name]
    for order in orders(len(rest) + 1):
        arguments = (make(0), *rest)
        given = [arguments[i] for i in order]
        if order[0] == 0 and order[-1] == len(rest):  # arrays among themselves: theirs to know
            continue
        with pytest.raises((TypeError, ValueError)) as refused:
            fn(*given, **_OPTIONS.get(name, {}))
        message = str(refused.value)
        assert "expected" in message and "got" in message, message
        # Old keys are words like any others, where words may follow.
        words = make is jax.random.PRNGKey and name in ("word_dropout", "layer_drop")
        if order[0] != 0 and not words:
            assert "the key comes first" in message or "write jax.random.key(0)" in message, order


@pytest.mark.parametrize(
    "name", ["dropout", "gaussian_dropout", "alpha_dropout", "concrete_dropout"]
)
def test_a_rate_before_the_array_is_told_by_their_shapes(name):
    """Whatever the values of the array are, some of which may be rates."""
    for x in (_X, jnp.ones((3, 4)), np.full((3, 4), 0.5), jax.random.PRNGKey(0)):
        with pytest.raises((TypeError, ValueError), match="then the array, then the rate"):
            getattr(jaxdrop, name)(key(), 0.5, x)


def test_the_order_of_a_mask_is_key_rate_shape():
    right = key(), 0.5, (3, 4)
    for order in orders(3):
        with pytest.raises(TypeError, match=r"sample\(key, 0.5, \(8, 128\)\)|the key comes first"):
            masks.sample(*(right[i] for i in order))


def test_the_loss_comes_before_the_key():
    with pytest.raises(TypeError, match=r"of a key .* write multi_sample_loss\(loss, key"):
        jaxdrop.multi_sample_loss(key(), lambda key: 0.0)
