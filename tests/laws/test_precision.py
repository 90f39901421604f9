"""Every dtype that JAX multiplies is kept, and decides nothing: float8 to float64, all variants.

`test_laws` asks it of bfloat16 and float32 with the fast tests.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrop import drop_connect, drop_key, token_dropout, zoneout
from tests.laws.test_properties import decisions_are_those_of_the_reference
from tests.support.cases import RATE, assert_same_bits, data, each_case, each_noise, key
from tests.support.properties import Call

NARROW = (jnp.float8_e4m3fn, jnp.float8_e5m2)
each_narrow = pytest.mark.parametrize("dtype", NARROW, ids=lambda dtype: dtype.__name__)


@pytest.mark.slow
@each_case
@pytest.mark.parametrize(
    "dtype", [*NARROW, jnp.float16, jnp.float64], ids=lambda dtype: dtype.__name__
)
def test_decisions_are_those_of_every_dtype(case, dtype):
    decisions_are_those_of_the_reference(Call(case, dtype, RATE, traced=False, seed=0))


@pytest.mark.slow
@each_noise
@each_narrow
def test_noise_is_that_of_float32_rounded_once(case, dtype):
    x = data(case.shape, dtype)
    wide = case.call(key(), x.astype(jnp.float32))
    assert_same_bits(case.call(key(), x), wide.astype(dtype))


@each_narrow
def test_what_is_chosen_and_not_scaled_keeps_its_bits(dtype):
    x = data((2, 8, 32), dtype)
    kept, indices = token_dropout(key(), x, 0.5)
    assert_same_bits(kept, jnp.take_along_axis(x, indices[..., None], 1))
    y, as_float32 = (zoneout(key(), -x, x, RATE) for x in (x, x.astype(jnp.float32)))
    assert_same_bits(y, as_float32.astype(dtype))
    assert drop_connect(key(), {"kernel": x}, RATE)["kernel"].dtype == dtype


def test_logits_need_a_dtype_with_infinities():
    x = data((4, 32), jnp.float8_e5m2)
    y = np.asarray(drop_key(key(), x, RATE).astype(jnp.float32))
    expected = np.isneginf(drop_key(key(), x.astype(jnp.float32), RATE))
    assert expected.any()
    np.testing.assert_array_equal(np.isneginf(y), expected)
    with pytest.raises(TypeError, match=r"holds -inf, got float8_e4m3fn; cast .*bfloat16"):
        drop_key(key(), x.astype(jnp.float8_e4m3fn), RATE)
