"""The cipher Philox-4x32 with 10 rounds, element-wise on uint32 arrays.

Written out here, because the bits of a generator of JAX may change with its version.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

_MULTIPLIERS = np.uint32(0xD2511F53), np.uint32(0xCD9E8D57)
_KEY_STEPS = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
_ROUNDS = 10

# How each backend multiplies cheapest: functions of x and a multiplier, that give the high and the
# low word of the product. Not by `lax.mulhi`: up to jax 0.12 no program that holds it compiles for
# more than one device.


def wide_product(x: Any, multiplier: Any) -> tuple[jax.Array, jax.Array]:
    """The high and the low word of a product of 64 bits."""
    with jax.enable_x64(True):
        known = isinstance(multiplier, np.generic)  # else it is the product of symbolic sizes
        wide = np.uint64(multiplier) if known else multiplier.astype(jnp.uint64)
        product = lax.convert_element_type(x, jnp.uint64) * wide
        high = lax.convert_element_type(product >> np.uint64(32), jnp.uint32)
        return high, lax.convert_element_type(product, jnp.uint32)


def _wide_and_narrow(x: Any, multiplier: np.uint32) -> tuple[jax.Array, jax.Array]:
    return wide_product(x, multiplier)[0], x * multiplier


def _halves(x: Any, multiplier: np.uint32) -> tuple[jax.Array, jax.Array]:
    half = np.uint32(0xFFFF)
    low, high = x & half, x >> np.uint32(16)
    below, above = multiplier & half, multiplier >> np.uint32(16)
    first = low * above + (low * below >> np.uint32(16))
    second = high * below + (first & half)
    return high * above + (first >> np.uint32(16)) + (second >> np.uint32(16)), x * multiplier


_PRODUCTS = {"cpu": _wide_and_narrow, "gpu": wide_product, "tpu": _halves}


@functools.partial(jax.jit, static_argnames="backend")  # traced once per shape
def philox4x32(key: Any, counter: Any, backend: str = "cpu") -> Any:
    """Four pseudo-random words for each counter.

    Args:
        key: two uint32 scalars.
        counter: four uint32 arrays that broadcast to each other.
        backend: ``"cpu"``, ``"gpu"`` or ``"tpu"``, on which it is cheap; the words are the same.

    Returns:
        Four uint32 arrays.

    References:
        Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011, section 4.3.
    """
    (key0, key1), words = key, tuple(counter)
    for number in range(_ROUNDS):
        if number:
            key0, key1 = key0 + _KEY_STEPS[0], key1 + _KEY_STEPS[1]
        words = _round((key0, key1), words, backend)
    return words


@functools.partial(jax.jit, static_argnames="backend")  # traced once per shape, not ten times
def _round(key: Any, words: Any, backend: str) -> Any:
    product = _PRODUCTS[backend]
    (key0, key1), (x0, x1, x2, x3) = key, words
    high0, low0 = product(x0, _MULTIPLIERS[0])
    high1, low1 = product(x2, _MULTIPLIERS[1])
    return high1 ^ x1 ^ key0, low1, high0 ^ x3 ^ key1, low0
