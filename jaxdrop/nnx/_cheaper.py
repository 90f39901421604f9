"""Dropout that makes a training step cheaper: what is dropped is not computed."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdrop import functional
from jaxdrop.functional import _internal
from jaxdrop.nnx._base import Switchable, Wrapper, layer, traced_cond

__all__ = ["LayerDrop", "SubsetResidual", "ThinnedMLP"]


@layer
class LayerDrop(Wrapper):
    """Runs a whole block, its residual connection included, or skips it and returns its input.

    A block that is skipped is not computed, and changes nothing of its own. Further arguments of a
    call go to the block. See `jaxdrop.layer_drop` for the paper.

    Args:
        block: module whose output is like its first input.
        rate: probability of skipping, in [0, 1]; a scalar.
        rescale: if true, a block that runs is rescaled as in `layer_drop`; the paper does not.
        deterministic: if true, the block runs; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = LayerDrop(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), 0.5, rngs=nnx.Rngs(1))
        >>> x = jnp.ones((8, 4))
        >>> len({layer(x).tobytes() for _ in range(20)})  # the block's, and x
        2
    """

    block: nnx.Module = dataclasses.field(kw_only=False)
    rate: Any = dataclasses.field(kw_only=False)
    rescale: bool = False

    def drop(self, key: Any, args: Any, kwargs: Any, deterministic: Any) -> Any:
        x, *others = args

        def call(block: Any, x: Any) -> Any:
            return block(x, *others, **kwargs)

        return _internal.run_or_skip(
            key,
            self.block,
            x,
            self.rate,
            deterministic,
            self.rescale,
            call=call,
            traced=traced_cond,
        )


@layer
class SubsetResidual(Wrapper):
    """Adds a residual branch that is computed for a random subset of the examples alone.

    Further arguments of a call are arrays with the same axis of examples, such as masks. See
    `jaxdrop.subset_residual` for the paper.

    Args:
        branch: module from ``(K, ...)`` to ``(K, ...)`` that does not add its input.
        rate: share of the examples to leave out, in [0, 1], a Python number.
        batch_axis: axis of the inputs that counts examples.
        num_groups: number of equal parts of the batch that draw examples on their own.
        deterministic: if true, the branch runs for all examples; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = SubsetResidual(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), 0.5, rngs=nnx.Rngs(1))
        >>> x = jnp.ones((8, 4))
        >>> int((layer(x) == x).all(axis=1).sum())
        4
    """

    branch: nnx.Module = dataclasses.field(kw_only=False)
    rate: float = dataclasses.field(kw_only=False)
    batch_axis: int = 0
    num_groups: int = 1

    mc_role = "drops shapes"

    def drop(self, key: Any, args: Any, kwargs: Any, deterministic: Any) -> Any:
        def call(branch: Any, *arrays: Any) -> Any:
            return branch(*arrays, **kwargs)

        args, split = _internal.plan_subset(
            args, self.rate, self.batch_axis, self.num_groups, deterministic
        )
        return _internal.add_branch(
            key, self.branch, args, split, deterministic, call=call, traced=traced_cond
        )


_KERNEL_INIT, _BIAS_INIT = nnx.initializers.lecun_normal(), nnx.initializers.zeros_init()


class ThinnedMLP(Switchable):
    """Dense layers of which a random share of the hidden units is computed, and the rest is not.

    ``layers`` is a list of as many ``nnx.Linear``; where hidden layers are gated, each has two, the
    gate first. See `jaxdrop.thinned_mlp` for the paper.

    Args:
        in_features: features that come in.
        hidden_features: units of the hidden layer, or of each of several.
        features: units of the last layer.
        rate: share of the hidden units to leave out, in [0, 1], a Python number.
        activation: function of the hidden units, element by element.
        num_groups: number of equal parts of the batch, each with a sub-network of its own.
        gated: whether hidden units are ``activation(gate) * value``.
        use_bias: whether layers add a bias.
        dtype: of the computation; that of the inputs if None.
        param_dtype: of the parameters.
        kernel_init: initializer of the kernels.
        bias_init: initializer of the biases.
        deterministic: if true, all units are computed; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` for the parameters, and to fork the module's own stream from.

    Example:
        >>> layer = ThinnedMLP(4, 16, 2, 0.5, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((3, 4))).shape
        (3, 2)
    """

    mc_role = "drops shapes"

    def __init__(
        self,
        in_features: int,
        hidden_features: int | Sequence[int],
        features: int,
        rate: float,
        *,
        activation: Callable[[jax.Array], jax.Array] = jax.nn.gelu,
        num_groups: int = 1,
        gated: bool = False,
        use_bias: bool = True,
        dtype: Any = None,
        param_dtype: Any = jnp.float32,
        kernel_init: Callable[..., jax.Array] = _KERNEL_INIT,
        bias_init: Callable[..., jax.Array] = _BIAS_INIT,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(deterministic=deterministic, rng_collection=rng_collection, rngs=rngs)
        self.rate = rate
        self.activation = activation
        self.num_groups = num_groups
        self.gated = gated
        self.dtype = dtype
        hidden = (hidden_features,) if isinstance(hidden_features, int) else (*hidden_features,)
        widths = (in_features, *hidden, features)
        shapes = [shape for shape in itertools.pairwise(widths) for _ in range(2 if gated else 1)]
        shapes = shapes[:-1] if gated else shapes  # the last layer has no gate
        options: dict[str, Any] = {
            "param_dtype": param_dtype,
            "kernel_init": kernel_init,
            "bias_init": bias_init,
        }
        self.layers = nnx.List(
            [nnx.Linear(*s, use_bias=use_bias, rngs=rngs, **options) for s in shapes]
        )

    def drop(self, key: Any, inputs: Any, deterministic: Any) -> Any:
        dense = [_arrays(layer) for layer in self.layers]
        if self.gated:
            pairs = list(zip(dense[:-1:2], dense[1:-1:2]))
            dense = [*pairs, dense[-1]]
        inputs = _internal.cast_input(inputs, self.dtype)
        return _internal.forward(
            functional.thinned_mlp, self, key, inputs, dense, deterministic=deterministic
        )

    def __call__(self, inputs: Any, *, deterministic: bool | None = None, rngs: Any = None) -> Any:
        """Runs the layers, with a share of the hidden units.

        Args:
            inputs: floating or complex array of shape ``(..., D)``, with examples on axis 0 if
                there are groups.
            deterministic: overrides the attribute for this call.
            rngs: key, stream or ``nnx.Rngs`` to use instead of the module's own stream.

        Returns:
            Array of shape ``(..., F)`` with the dtype of ``inputs``, F the width of the last layer.
        """
        return self.call(deterministic, rngs, inputs)


def _arrays(linear: Any) -> dict[str, Any]:
    arrays = {"kernel": linear.kernel[...]}
    return arrays if linear.bias is None else {**arrays, "bias": linear.bias[...]}
