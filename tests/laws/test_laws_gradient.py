"""Law 5 over every variant: the gradient is the forward mask, and it is kept in 1 bit an entry."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrop.functional import dropout
from tests.support.cases import (
    RATE,
    assert_same_bits,
    data,
    derivatives,
    each_case,
    key,
)


@each_case
def test_reverse_and_forward_mode_are_the_forward_mask(case):
    x, weight = data(case.shape), data(case.shape[::-1]).T

    def function(x):
        return case.call(key(), x, RATE)

    y, tangent, gradient = derivatives(case)(key(), x, weight)
    assert_same_bits(y, function(x))
    linear = function(weight) - function(jnp.zeros_like(x))
    np.testing.assert_allclose(tangent, linear, rtol=0, atol=2**-21 if case.affine else 0)
    assert_same_bits(gradient, tangent)
    assert 0 < np.count_nonzero(gradient) < x.size


@each_case
def test_forward_over_reverse_and_hessian(case):
    """The loss is sum(y**4) / 12, its Hessian diagonal: y**2 times the slope squared."""

    def loss(x):
        return jnp.sum(case.call(key(), x, RATE) ** 4) / 12

    x, tangent = data(case.shape), data(case.shape[::-1]).T

    def along_two_directions(weights):
        return loss(weights[0] * x + weights[1] * tangent)

    @jax.jit
    def second_derivatives(x):
        product = jax.jvp(jax.grad(loss), (x,), (tangent,))[1]
        return product, jax.hessian(along_two_directions)(jnp.array([1.0, 0.0]))

    product, hessian = second_derivatives(x)
    x, tangent = np.asarray(x), np.asarray(tangent)
    origin, one = (np.asarray(case.call(key(), jnp.full(case.shape, v), RATE)) for v in (0.0, 1.0))
    curvature = np.square(case.call(key(), x, RATE)) * (one - origin) ** 2
    np.testing.assert_allclose(product, curvature * tangent, rtol=1e-5)
    expected = [[np.sum(curvature * u * v) for u in (x, tangent)] for v in (x, tangent)]
    scale = np.abs(expected).max()  # the mixed terms may cancel
    np.testing.assert_allclose(hessian, expected, rtol=1e-4, atol=1e-7 * scale)


@pytest.mark.parametrize("rate_shape", [(), (40,), (64, 1), (64, 40)], ids=str)
def test_traced_and_arrays_of_rates_have_the_same_gradient(rate_shape):
    rates = jnp.asarray(np.resize(np.float32([0.1, 0.5, 0.9]), rate_shape))
    x, weight = data((64, 40)), data((40, 64)).T
    y, pull = jax.vjp(lambda x: dropout(key(), x, rates), x)
    assert_same_bits(pull(weight)[0], dropout(key(), weight, rates))
    assert_same_bits(y, dropout(key(), x, rates))


# The memory law. What jax.vjp returns is a pytree whose leaves are what the backward pass keeps.


def kept_bytes(function, x):
    """Bytes kept, from shapes alone: nothing is compiled or run."""
    kept = jax.eval_shape(lambda x: jax.vjp(function, x)[1], x)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


def really_kept_bytes(function, x):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(jax.vjp(function, x)[1]))


def allowed_bytes(mask_shape):
    """One bit an entry, a quarter more where words need padding, and a few scalars."""
    size = math.prod(mask_shape)
    whole = any(axis % 32 == 0 for axis in mask_shape)
    assert whole or size >= 4096
    return size / 8 * (1 if whole else 1.25) + 64


def test_the_measures_see_what_is_kept():
    x = data((64, 40))
    for measure in (kept_bytes, really_kept_bytes):
        assert measure(jnp.sin, x) >= x.nbytes
        assert measure(lambda x: jnp.where(x > 0, x, 0.0), x) >= x.size


@each_case
def test_one_bit_an_entry_is_kept(case):
    x = data(case.shape)
    limit = allowed_bytes(case.mask_shape)
    assert limit < min(x.nbytes, x.size)
    functions = {
        "static": lambda x: case.call(key(), x, RATE),
        "traced": lambda x: case.call(key(), x, jnp.float32(RATE)),
        "jit": jax.jit(lambda x: case.call(key(), x, RATE)),
        "remat": jax.checkpoint(lambda x: case.call(key(), x, RATE)),
        "in a network": lambda x: case.call(key(), x * 2, RATE) * 3,
    }
    for name, function in functions.items():
        assert kept_bytes(function, x) <= limit, name


@each_case
def test_no_more_is_really_kept(case):
    x = data(case.shape)
    kept = really_kept_bytes(lambda x: case.call(key(), x, RATE), x)
    assert kept <= allowed_bytes(case.mask_shape)


@pytest.mark.parametrize("shape", [(64, 40), (72, 72), (16, 6, 56), (1031, 4), (5, 821)], ids=str)
def test_one_bit_an_entry_is_kept_for_any_shape(shape):
    x = data(shape, jnp.bfloat16)
    assert really_kept_bytes(lambda x: dropout(key(), x, RATE), x) <= allowed_bytes(shape)
    assert kept_bytes(lambda x: dropout(key(), x, 0.0), x) == 0


@each_case
def test_scan_stacks_words(case):
    def steps(x):
        keys = jax.random.split(key(), 5)
        return jax.lax.scan(lambda x, key: (case.call(key, x, RATE), None), x, keys)[0]

    x = data(case.shape)
    limit = 5 * allowed_bytes(case.mask_shape)
    assert kept_bytes(steps, x) <= limit
    assert kept_bytes(jax.jit(steps), x) <= limit


@each_case
def test_vmap_keeps_words_for_each_key(case):
    xs = data((5, *case.shape))
    limit = 5 * allowed_bytes(case.mask_shape)

    def mapped(xs):
        return jax.vmap(lambda key, x: case.call(key, x, RATE))(jax.random.split(key(), 5), xs)

    assert kept_bytes(mapped, xs) <= limit
    assert kept_bytes(jax.vmap(lambda x: case.call(key(), x, RATE)), xs) <= limit


@pytest.mark.parametrize("policy", ["nothing_saveable", "dots_saveable"])
def test_remat_of_a_layer_keeps_no_mask_beside_its_input(policy):
    """Whatever remat keeps of a layer without dropout, it keeps with it, and a key."""
    weight = data((40, 40))

    def layer(drop):
        policies = getattr(jax.checkpoint_policies, policy)
        return jax.checkpoint(lambda x: drop(jnp.tanh(x @ weight)), policy=policies)

    x = data((64, 40))
    without = kept_bytes(layer(lambda h: h), x)
    assert kept_bytes(layer(lambda h: dropout(key(), h, RATE)), x) <= without + 64
