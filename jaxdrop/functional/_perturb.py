"""What the functions of continuous noise do: draw, apply, and keep nothing but the key."""

import functools

import jax
import jax.numpy as jnp

from jaxdrop.masks import _keys, _mask, _rate


def perturb(key, x, levels, shape, *, deterministic, draw, apply):
    """``apply(noise, x, *levels)``, or ``x`` where ``deterministic`` is true.

    Kept for the backward pass of ``x`` is the key alone, from which the noise is drawn again.

    Args:
        key: PRNG key, which this call consumes.
        x: array that has been checked.
        levels: scalars, or arrays that broadcast to ``shape``, of how strong the noise is; they
            may be known or traced, one program serves all.
        shape: shape of the noise, which broadcasts to ``x``.
        deterministic: Python bool, or a traced one.
        draw: ``normal`` or ``uniform`` of `jaxdrop.masks._noise`.
        apply: function of the noise, ``x`` and the levels, all of the dtype to compute in.
    """
    off = _rate.check_flag(deterministic)
    if off is True:
        return x
    _keys.check_key(key)
    return _perturb(key, x, levels, off, shape=shape, draw=draw, apply=apply)


@functools.partial(jax.jit, static_argnames=("shape", "draw", "apply"))
def _perturb(key, x, levels, off, *, shape, draw, apply):
    def perturbed(key, x, levels):
        wide = _mask.wide_dtype(x)
        real = jnp.finfo(wide).dtype
        noise = draw(key, shape, like=x).astype(real)
        levels = [_mask.aligned(jnp.asarray(level, real), x) for level in levels]
        return apply(noise, x.astype(wide), *levels).astype(x.dtype)

    # Not every entry is worth its bytes: the noise is cheaper to draw again than to keep.
    y = jax.checkpoint(perturbed, prevent_cse=False)(key, x, levels)
    return y if off is None else jnp.where(off, x, y)
