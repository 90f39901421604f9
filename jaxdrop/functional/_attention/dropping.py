"""What attention drops: weights, or keys before the softmax. Only here is the mode asked.

Heads are dropped from the output, so in that mode nothing happens here.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxdrop.masks import Mask
from jaxdrop.masks import _internal as masks


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Keep:
    """The decisions about all keys, or about those of a block, and what they do.

    Attributes:
        mask: the decisions, packed or as booleans; they broadcast to (B, N, T, s).
        keep_prob: probability to survive; None if nothing depends on it.
        mode: what the decisions are about.
    """

    mask: Any
    keep_prob: Any
    mode: str = dataclasses.field(metadata={"static": True})

    def survivors(self, like: jax.Array) -> jax.Array:
        """The decisions as booleans that broadcast to ``like``."""
        packed = isinstance(self.mask, Mask)
        return masks.keep_bools(self.mask, like) if packed else self.mask

    def scores(self, scores: jax.Array, spared: Any) -> jax.Array:
        """Logits (B, N, T, s): -inf where a key is dropped and the row is not `spared`."""
        if self.mode != "keys":
            return scores
        kept = jnp.where(self.survivors(scores) | spared, scores, np.float32(-np.inf))
        if self.keep_prob is None:
            return kept
        invalid = jnp.isnan(masks.align(self.keep_prob, scores))  # a rate outside [0, 1]
        return jnp.where(invalid, np.float32(np.nan), kept)

    def weights(self, weights: jax.Array) -> jax.Array:
        """Weights (B, N, T, s): 0 where dropped, else divided by the keep probability."""
        if self.mode != "weights":
            return weights
        return masks.scale_kept_bools(self.survivors(weights), self.keep_prob, weights)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dropping:
    """What a call drops, and all that it takes to decide.

    Attributes:
        key: PRNG key; in blocks what decisions come from.
        rate: of dropping, checked.
        mask_shape: (B, N, T, S), with 1 on the axes that share a decision.
        mode: what is dropped: "weights", "keys" or "heads".
    """

    key: Any
    rate: masks.Rate
    mask_shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    mode: str = dataclasses.field(metadata={"static": True})

    def whole(self, like: jax.Array) -> Keep:
        """The decisions about all keys, in packed words; sharded like logits (B, N, T, S)."""
        draw = masks.draw_or_tap if self.mode == "weights" else masks.draw
        mask = draw(self.key, self.rate, self.mask_shape, like=like)
        return self._keep(mask, mask.keep_prob)

    def in_blocks(self) -> Self:
        """The same for blocks, which may share words but not a key: each would use it up."""
        if self.mode == "heads":
            return dataclasses.replace(self, key=None)
        rate = self.rate.resolved()  # else every block would ask the flag again
        words = masks.decision_key(self.key, rate.known is not None)
        return dataclasses.replace(self, key=words, rate=lax.stop_gradient(rate))

    def block(self, start: jax.Array, size: int, like: jax.Array) -> Keep:
        """The decisions about keys [start, start + size); sharded like logits (B, N, T, size)."""
        if self.mode == "heads":
            return Keep(None, None, self.mode)
        shared = self.mask_shape[-1] == 1
        part = masks.Slice(self.mask_shape, 0 if shared else start, 1 if shared else size)
        return self._keep(*masks.draw_slice(self.key, self.rate, part, like=like))

    def spared(self, lost_rows: Callable[[], jax.Array]) -> jax.Array | None:
        """Rows (B, N, T, 1) that keep all keys, because none that they see would be left."""
        return lax.stop_gradient(lost_rows()) if self.mode == "keys" else None

    def _keep(self, mask: Any, keep_prob: Any) -> Keep:
        needless = self.mode == "keys" and self.rate.known is not None
        return Keep(mask, None if needless else keep_prob, self.mode)
