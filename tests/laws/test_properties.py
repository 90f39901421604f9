"""Laws over calls that nobody wrote: Hypothesis draws variant, shape, axes, dtype and rate.

Few of them with the fast tests, many with the slow ones, and ten thousand by hand:
``pytest tests/laws/test_properties.py -m slow --hypothesis-profile=thorough``.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxdrop import drop_key, token_dropout, word_dropout
from tests.support.cases import assert_same_bits, kept_entries
from tests.support.properties import calls, calls_on_shapes, noises
from tests.variants.test_drop_key import li
from tests.variants.test_token_dropout import by_reference

_MANY = 10 * settings.default.max_examples


def decisions_are_those_of_the_reference(call):
    """In every dtype, so that they are equal in all."""
    with call.x64():
        y = call.case.call(call.key(), call.x(), call.asked(call.rate))
    assert y.dtype == call.dtype
    assert y.shape == call.case.shape
    np.testing.assert_array_equal(kept_entries(call.case, y, call.rate), call.keep())


def rate_0_is_x_and_rate_1_is_zeros_with_their_gradients(call):
    with call.x64():
        x = call.x()
        y, gradient = call.value_and_gradient(x, call.asked(0))
        assert_same_bits(y, x)
        assert_same_bits(gradient, x)
        y, gradient = call.value_and_gradient(x, call.asked(1))
    np.testing.assert_array_equal(np.asarray(y, np.float64), 0)
    np.testing.assert_array_equal(np.asarray(gradient, np.float64), 0)


def dropped_poison_is_gone_and_so_is_its_gradient(call):
    keep = call.keep()
    with call.x64():
        x = jnp.where(keep, call.x(), jnp.asarray(math.nan, call.dtype))
        y, gradient = map(np.asarray, call.value_and_gradient(x, call.asked(call.rate)))
    assert not kept_entries(call.case, y, call.rate)[~keep].any()
    np.testing.assert_array_equal(gradient[~keep].astype(np.float64), 0)


_LAWS = pytest.mark.parametrize(
    "law",
    [
        decisions_are_those_of_the_reference,
        rate_0_is_x_and_rate_1_is_zeros_with_their_gradients,
        dropped_poison_is_gone_and_so_is_its_gradient,
    ],
    ids=lambda law: law.__name__,
)


@_LAWS
@given(call=calls())
def test_calls(law, call):
    law(call)


@pytest.mark.slow
@_LAWS
@settings(max_examples=_MANY)
@given(call=calls())
def test_many_calls(law, call):
    law(call)


@given(call=calls_on_shapes(word_dropout))
def test_tokens_that_the_reference_drops_are_unknown(call):
    tokens = np.arange(10, 10 + call.x().size, dtype=np.int32).reshape(call.case.shape)
    y = word_dropout(call.key(), tokens, call.asked(call.rate), unknown_id=3)
    assert_same_bits(y, np.where(call.keep(), tokens, np.int32(3)))


@given(call=calls_on_shapes(drop_key, least=2))
def test_logits_that_the_reference_drops_are_infinite(call):
    x = call.x()
    y = drop_key(call.key(), x, call.asked(call.rate))
    assert_same_bits(y, li(call.keep(), np.asarray(x)))


@given(call=calls_on_shapes(token_dropout, 3, 3), prefix=st.integers(0, 2), ordered=st.booleans())
def test_tokens_that_stay_are_those_of_the_reference(call, prefix, ordered):
    x = call.x()
    prefix = min(prefix, x.shape[1] - 1)
    kept, indices = token_dropout(call.key(), x, 0.4, num_prefix_tokens=prefix, ordered=ordered)
    words = jax.random.key_data(call.key())
    expected = by_reference(words, x.shape, indices.shape[1] - prefix, prefix, ordered)
    assert_same_bits(indices, expected)
    assert_same_bits(kept, np.take_along_axis(np.asarray(x), expected[..., None], 1))


@given(drawn=noises())
def test_noise_is_that_of_the_reference(drawn):
    case, seed = drawn
    x = jnp.ones(case.shape, jnp.float32)
    y = case.call(jax.random.key(seed), x)
    noise = case.noise(jax.random.key_data(jax.random.key(seed)), case.noise_shape)
    exact = case.equation(np.ones(case.shape), noise, case.level)
    np.testing.assert_allclose(y, exact, rtol=1e-4, atol=2e-5)
