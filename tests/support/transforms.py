"""The transforms of JAX, each as a way to get what a function gives for several keys."""

import jax
import jax.numpy as jnp


def _summed(f):
    return lambda x, key: f(key, x).sum()


# Called as ``(f, keys, x)`` with ``f(key, x)`` that multiplies x by something random: for x of
# ones, the gradient of the sum is that something too, so all of them give the same arrays.
TRANSFORMS = {
    "jit": lambda f, keys, x: jnp.stack([jax.jit(f)(k, x) for k in keys]),
    "vmap": lambda f, keys, x: jax.vmap(f, (0, None))(keys, x),
    "scan": lambda f, keys, x: jax.lax.scan(lambda _, k: (None, f(k, x)), None, keys)[1],
    "grad": lambda f, keys, x: jnp.stack([jax.grad(_summed(f))(x, k) for k in keys]),
    "checkpoint": lambda f, keys, x: jnp.stack(
        [jax.grad(jax.checkpoint(_summed(f)))(x, k) for k in keys]
    ),
}
