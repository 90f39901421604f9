"""LoRA with dropout in its low-rank path."""

from typing import Any, Literal

import jax
from flax import nnx

from jaxdrop.functional import _internal
from jaxdrop.nnx._base import Dropper, Settable, Switchable, find_key, resolve

__all__ = ["LoRA", "LoRALinear"]


class LoRA(Settable, nnx.LoRA):
    """``flax.nnx.LoRA`` with dropout in the low-rank path, which the base module does not see.

    A subclass of Flax's: parameters, their names and their first values are the same, and so is the
    output at a rate of 0. With ``drop="input"`` elements of what enters the low-rank path are
    dropped, as in the paper. With ``"rank"`` whole ranks are, and with ``"module"`` the whole
    low-rank path, each decided once per example, which axis 0 of the inputs counts if they have
    rank 2 or more. What is left is rescaled, so the mean over keys is the output without dropout.
    The backward pass keeps one bit per decision, and no second copy of the inputs.

    Args:
        in_features: features that come in.
        lora_rank: rank of the update of the weights.
        out_features: features that come out.
        rate: probability of dropping, in [0, 1].
        drop: ``"input"``, ``"rank"`` or ``"module"``.
        deterministic: if true, nothing is dropped; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` for the parameters, and to fork the module's own stream from if the rate
            is above 0.
        **kwargs: further arguments of ``flax.nnx.LoRA``, such as ``base_module``.

    Raises:
        ValueError: ``drop`` is unknown.

    Example:
        >>> base = nnx.Linear(8, 4, rngs=nnx.Rngs(0))
        >>> layer = LoRA(8, 2, 4, rate=0.1, base_module=base, rngs=nnx.Rngs(1))
        >>> layer(jnp.ones((3, 8))).shape
        (3, 4)

    References:
        Hu et al., "LoRA: low-rank adaptation of large language models", 2022. The parts are those
        of ``lora_dropout``, ``rank_dropout`` and ``module_dropout`` in PEFT, where the last is
        decided once per call and not rescaled.
    """

    mc_role = "drops"
    rate: float
    drop: Literal["input", "rank", "module"]
    deterministic: bool | None
    rng_collection: str

    def __init__(
        self,
        in_features: int,
        lora_rank: int,
        out_features: int,
        *,
        rate: float = 0.0,
        drop: Literal["input", "rank", "module"] = "input",
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, lora_rank, out_features, rngs=rngs, **kwargs)
        _add_dropout(self, rate, drop, deterministic, rng_collection, rngs)

    set_view = Switchable.set_view

    def __call__(
        self, x: jax.Array, *, deterministic: bool | None = None, rngs: Any = None, **kwargs: Any
    ) -> jax.Array:
        """Adds the low-rank path to the output of the base module, if there is one.

        Args:
            x: array of shape ``(..., in_features)``.
            deterministic: overrides the attribute for this call; the base module does not get it.
            rngs: key, stream or ``nnx.Rngs`` to use instead of the module's own stream.
            **kwargs: arguments of the base module.

        Returns:
            Array of shape ``(..., out_features)``.
        """
        flag = resolve(self, deterministic)
        key = find_key(self, flag, rngs)
        x, a, b = self.promote_dtype((x, self.lora_a[...], self.lora_b[...]), dtype=self.dtype)
        out = _internal.low_rank(key, x, a, b, self.rate, deterministic=flag, drop=self.drop)
        if self.base_module is None:
            return out
        if not callable(self.base_module):
            raise ValueError("`self.base_module` must be callable.")
        return out + self.base_module(x, **kwargs)


class LoRALinear(nnx.LoRALinear):
    """``flax.nnx.LoRALinear`` with dropout in the low-rank path alone, which is a `LoRA`.

    A subclass of Flax's: parameters, their names and their first values are the same, and so is the
    output at a rate of 0. See `LoRA` for what is dropped.

    Args:
        in_features: features that come in.
        out_features: features that come out.
        lora_rank: rank of the update of the weights.
        rate: probability of dropping, in [0, 1].
        drop: ``"input"``, ``"rank"`` or ``"module"``.
        deterministic: if true, nothing is dropped; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` for the parameters, and to fork a stream from if the rate is above 0.
        **kwargs: further arguments of ``flax.nnx.LoRALinear``, such as ``use_bias``.

    Raises:
        ValueError: ``drop`` is unknown.

    Example:
        >>> layer = LoRALinear(8, 4, lora_rank=2, rate=0.1, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((3, 8))).shape
        (3, 4)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        lora_rank: int,
        rate: float = 0.0,
        drop: Literal["input", "rank", "module"] = "input",
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, out_features, lora_rank=lora_rank, rngs=rngs, **kwargs)
        # Flax makes the low-rank path, so that its arguments are Flax's; here it becomes ours.
        self.lora.__class__ = LoRA
        _add_dropout(self.lora, rate, drop, deterministic, rng_collection, rngs)

    def __call__(
        self,
        x: jax.Array,
        out_sharding: Any = None,
        *,
        deterministic: bool | None = None,
        rngs: Any = None,
    ) -> jax.Array:
        """The linear layer and its low-rank path.

        Args:
            x: array of shape ``(..., in_features)``.
            out_sharding: as for ``flax.nnx.Linear``.
            deterministic: overrides the attribute of ``lora`` for this call.
            rngs: key, stream or ``nnx.Rngs`` to use instead of the stream of ``lora``.

        Returns:
            Array of shape ``(..., out_features)``.
        """
        y = nnx.Linear.__call__(self, x, out_sharding=out_sharding)
        return y + self.lora(x, deterministic=deterministic, rngs=rngs)


def _add_dropout(
    lora: Any, rate: Any, drop: Any, deterministic: Any, rng_collection: str, rngs: nnx.Rngs
) -> None:
    """Gives a low-rank path the attributes of dropout; without it no stream is forked."""
    lora.rate = rate
    lora.drop = _internal.check_dropped(drop)
    lora.deterministic = deterministic
    lora.rng_collection = rng_collection
    Dropper.fork(lora, None if isinstance(rate, int | float) and rate == 0 else rngs)
