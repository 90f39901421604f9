"""What the tests share of classes whose call is not that of Flax's Dropout.

For those in `tests.flax.test_modules.OWN_TESTS`, in place of the checks over its table.
"""

import jax
from flax import nnx

import jaxdrop
from tests.flax.test_modules import Key, class_name
from tests.support.cases import assert_same_bits, key

RATE = 0.3


def assert_same_tree(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    jax.tree.map(assert_same_bits, actual, expected)


def check_classes(name, inputs, **arguments):
    """Both classes give the bits of the function, and take their keys where they should.

    Args:
        name: of the function.
        inputs: what it works on, a tuple.
        arguments: further ones of the function and of both classes.
    """

    def function(key, deterministic=False):
        call = getattr(jaxdrop.functional, name)
        return call(key, *inputs, RATE, deterministic=deterministic, **arguments)

    def of_linen(**fields):
        return getattr(jaxdrop.linen, class_name(name))(RATE, **arguments, **fields)

    def of_nnx(**fields):
        return getattr(jaxdrop.nnx, class_name(name))(RATE, **arguments, **fields)

    expected = function(key())
    assert_same_tree(of_linen(deterministic=False).apply({}, *inputs, rng=key()), expected)
    assert_same_tree(of_linen().apply({}, *inputs, False, key()), expected)
    assert_same_tree(of_nnx(deterministic=True)(*inputs, deterministic=False, rngs=key()), expected)

    # The key comes from the named collection, and a new one for every call.
    expected = function(Key().apply({}, rngs={"dropout": key(1)}))
    layer = of_linen(deterministic=False, rng_collection="noise")
    rngs = {"noise": key(1), "dropout": key(2)}
    assert_same_tree(layer.apply({}, *inputs, rngs=rngs), expected)
    layer = of_nnx(rng_collection="noise", rngs=nnx.Rngs(noise=1, dropout=2))
    stream = nnx.Rngs(1).noise.fork()
    for _ in range(2):
        assert_same_tree(layer(*inputs), function(stream()))

    # Switched off, by each of the ways, no key is needed.
    expected = function(None, deterministic=True)
    assert_same_tree(of_linen(deterministic=True).apply({}, *inputs), expected)
    assert_same_tree(of_linen().apply({}, *inputs, deterministic=True), expected)
    assert_same_tree(of_nnx(deterministic=True)(*inputs), expected)
    layer = of_nnx()
    layer.eval()
    assert_same_tree(layer(*inputs), expected)
