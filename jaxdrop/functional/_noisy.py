"""What the functions of continuous noise do: draw, apply, and keep nothing but the key."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdrop.functional._masked import Flag, Key, Shape
from jaxdrop.masks import _internal as masks


def apply_noise(
    key: Key,
    x: jax.Array,
    levels: tuple[Any, ...],
    shape: Shape,
    *,
    deterministic: Flag,
    draw: Callable[..., jax.Array] = masks.normal_or_tap,
    apply: Callable[..., jax.Array],
) -> jax.Array:
    """``apply(noise, x, *levels)``, or ``x`` where ``deterministic`` is true.

    The backward pass of ``x`` keeps the key alone, from which the noise is drawn again.

    Args:
        key: PRNG key, which this call consumes.
        x: array that has been checked.
        levels: scalars, or arrays that broadcast to ``shape``, of how strong the noise is; they
            may be known or traced, one program serves all.
        shape: shape of the noise, which broadcasts to ``x``.
        deterministic: Python bool, or a traced one.
        draw: ``masks.normal_or_tap``, ``masks.uniform_or_tap`` or ``masks.uniform``.
        apply: function of the noise, ``x`` and the levels, all of the dtype to compute in.
    """
    off = masks.check_flag(deterministic)
    if off is True:
        return x
    masks.check_key(key)
    return _noisy(key, x, levels, off, shape=shape, draw=draw, apply=apply)


@functools.partial(jax.jit, static_argnames=("shape", "draw", "apply"))
def _noisy(
    key: jax.Array,
    x: jax.Array,
    levels: tuple[Any, ...],
    off: jax.Array | None,
    *,
    shape: Shape,
    draw: Callable[..., jax.Array],
    apply: Callable[..., jax.Array],
) -> jax.Array:
    def noisy(key: jax.Array, x: jax.Array, levels: tuple[Any, ...]) -> jax.Array:
        wide = masks.wide_dtype(x)
        real = jnp.finfo(wide).dtype
        noise = draw(key, shape, like=x).astype(real)
        aligned = [masks.align(jnp.asarray(level, real), x) for level in levels]
        return apply(noise, x.astype(wide), *aligned).astype(x.dtype)

    # The noise is cheaper to draw again than to keep, at four bytes per element.
    y = jax.checkpoint(noisy, prevent_cse=False)(key, x, levels)
    return y if off is None else jnp.where(off, x, y)
