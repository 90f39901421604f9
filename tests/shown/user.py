"""A user's program, which a strict type checker has to accept. It is read, and it runs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import jaxdrop


class Model(nn.Module):
    rate: float = 0.5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = nn.relu(nn.Dense(8)(x))
        return nn.Dense(3)(jaxdrop.linen.Dropout(self.rate, deterministic=not train)(x))


def functions(key: jax.Array, x: jax.Array) -> jax.Array:
    keys = jax.random.split(key, 5)
    y: jax.Array = jaxdrop.dropout(keys[0], x, 0.1, broadcast_dims=(0,))
    y = jaxdrop.drop_path(keys[1], y, jnp.float32(0.1), mode="row")
    y = jaxdrop.dropout(keys[2], y, np.float32(0.1), deterministic=jax.random.bernoulli(keys[4]))
    mask: jaxdrop.masks.Mask = jaxdrop.masks.sample(keys[3], 0.5, y.shape)
    keep: jax.Array = mask.unpack()
    return jnp.where(keep, mask.apply(y), y)


def modules(key: jax.Array, x: jax.Array) -> jax.Array:
    layer = jaxdrop.nnx.Dropout(0.5, rngs=nnx.Rngs(0))
    return layer(x, rngs=key)


def uncertainty(
    key: jax.Array, x: jax.Array, labels: jax.Array, variables: dict[str, Any]
) -> tuple[jax.Array, tuple[str, ...]]:
    fn = jaxdrop.mc.from_linen(Model(), variables, sites=lambda path: "Dropout" in path)
    summary: jaxdrop.mc.Summary = jaxdrop.mc.classification()
    out: jaxdrop.mc.Classification = jaxdrop.mc.predict(
        fn, key, x, num_samples=4, summary=summary, chunk_size=2
    )
    audit: jaxdrop.mc.Audit = jaxdrop.mc.audit(fn, jax.random.key(2), x)
    score = jaxdrop.uncertainty.accuracy(out.probabilities, labels)
    return score, tuple(site.path for site in audit.sites)
