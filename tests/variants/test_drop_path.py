"""Stochastic depth: its two equations, the mode that decides once, and the schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdrop
from jaxdrop import drop_path, drop_path_rates
from tests.support import reference
from tests.support.cases import assert_probability, assert_same_bits, data, key

RATE = 0.3


def test_a_block_is_the_identity_or_identity_and_branch():
    """Eq. 2 without the ReLU, H = b f(H) + H with b in {0, 1}, and the scale of eq. 5 in front."""
    hidden, branch = data((16, 5)), data((5, 16)).T
    y = hidden + drop_path(key(), branch, RATE)
    survives = reference.keep(jax.random.key_data(key()), RATE, (16, 1))
    scale = 1 / float(reference.keep_probability(RATE))
    assert 0 < survives.sum() < 16
    for i, b in enumerate(survives.ravel()):
        expected = b * scale * np.asarray(branch[i]) + np.asarray(hidden[i])
        np.testing.assert_allclose(y[i], expected, rtol=1e-6)


@pytest.mark.parametrize("rate", [RATE, jnp.float32(RATE)], ids=["static", "traced"])
@pytest.mark.parametrize("batch_axis", [0, 2])
def test_batch_mode_decides_once_for_all(rate, batch_axis):
    x = data((4, 3, 6))
    kept = []
    for seed in range(40):
        y = drop_path(key(seed), x, rate, mode="batch", batch_axis=batch_axis)
        survives = reference.keep(jax.random.key_data(key(seed)), RATE, (1, 1, 1)).item()
        scaled = np.asarray(x, np.float64) / float(reference.keep_probability(RATE))
        np.testing.assert_allclose(y, scaled if survives else np.zeros(x.shape), rtol=1e-6)
        kept.append(survives)
    assert 0 < sum(kept) < 40


def test_realised_rate_of_batches():
    keys = jax.random.split(key(1), 2**16)
    y = jax.vmap(lambda key: drop_path(key, jnp.ones((2, 3)), 0.1, mode="batch"))(keys)
    dropped = int((y[:, 0, 0] == 0).sum())
    assert_probability(dropped, 2**16, 1 - reference.keep_probability(0.1))


def test_gradient_of_a_batch_is_its_mask():
    x = data((4, 3))
    seen = set()
    for seed in range(20):
        y, pull = jax.vjp(lambda x: drop_path(key(seed), x, 0.5, mode="batch"), x)  # noqa: B023
        assert_same_bits(pull(x)[0], y)
        seen.add(bool((y == 0).all()))
    assert seen == {True, False}


def test_both_classes_hand_on_the_axis_of_a_row():
    """The table of modules cannot see it: in its row all examples share one decision."""
    x = data((3, 64))
    expected = drop_path(key(), x, RATE, batch_axis=1)
    layer = jaxdrop.linen.DropPath(RATE, batch_axis=1, deterministic=False)
    assert_same_bits(layer.apply({}, x, rng=key()), expected)
    assert_same_bits(jaxdrop.nnx.DropPath(RATE, batch_axis=1)(x, rngs=key()), expected)


# The schedule: survival p_l = 1 - l / L (1 - p_L), eq. 4.


@pytest.mark.parametrize("depth", [1, 2, 12, 54])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0, 1, np.float32(0.3), np.asarray(0.2)])
def test_rates_rise_linearly_to_the_asked_one(rate, depth):
    rates = drop_path_rates(rate, depth)
    last = 1 - float(rate)
    survival = [1 - number / depth * (1 - last) for number in range(1, depth + 1)]
    np.testing.assert_allclose(1 - np.array(rates), survival, rtol=1e-12, atol=1e-15)
    assert isinstance(rates, tuple)
    assert {type(r) for r in rates} == {float}
    assert rates[-1] == float(rate)


def test_a_traced_rate_gives_an_array_to_scan_over():
    rates = jax.jit(lambda rate: drop_path_rates(rate, 12))(0.3)
    assert rates.shape == (12,)
    assert rates.dtype == jnp.float32
    np.testing.assert_allclose(rates, drop_path_rates(0.3, 12), rtol=2**-22)
    assert rates[-1] == np.float32(0.3)
    for narrow in (jnp.bfloat16(0.25), jnp.float16(0.25), jnp.int32(1)):
        assert drop_path_rates(narrow, 3).dtype == jnp.float32
        assert drop_path_rates(narrow, 3)[-1] == np.float32(narrow)

    x = data((64, 5))

    def block(x, key_and_rate):
        return x + drop_path(key_and_rate[0], x, key_and_rate[1]), None

    scanned, _ = jax.lax.scan(block, x, (jax.random.split(key(), 12), rates))
    for single, rate in zip(jax.random.split(key(), 12), rates):
        x = x + drop_path(single, x, rate)
    np.testing.assert_allclose(scanned, x, rtol=1e-5)
