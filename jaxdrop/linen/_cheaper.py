"""Dropout that makes a training step cheaper: what is dropped is not computed."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdrop import functional
from jaxdrop.functional import _internal
from jaxdrop.linen._base import Dropper, Wrapper

__all__ = ["LayerDrop", "SubsetResidual", "ThinnedMLP"]


class LayerDrop(Wrapper):
    """Runs a whole block, its residual connection included, or skips it and returns its input.

    The parameters are those of the block, under the name ``block`` or, if it is made in a compact
    model, its own; initialising skips nothing. A block that is skipped is not computed. One whose
    call makes new variables, such as sown ones, cannot be skipped in a compiled program. Further
    arguments of a call go to the block. See `jaxdrop.layer_drop` for the paper.

    Attributes:
        block: module whose output is like its first input.
        rate: probability of skipping, in [0, 1]; a scalar.
        rescale: if true, a block that runs is rescaled as in `layer_drop`; the paper does not.
        deterministic: if true, the block runs; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = LayerDrop(nn.Dense(4), 0.5, deterministic=False)
        >>> x = jnp.ones((8, 4))
        >>> variables = layer.init(jax.random.key(0), x)
        >>> layer.apply(variables, x, rngs={"dropout": jax.random.key(1)}).shape
        (8, 4)
    """

    block: nn.Module
    rate: Any
    rescale: bool = False
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    def drop(self, key: Any, args: Any, kwargs: Any, deterministic: Any) -> Any:
        x, *others = args

        def call(block: Any, x: Any) -> Any:
            return block(x, *others, **kwargs)

        return _internal.run_or_skip(
            key, self.block, x, self.rate, deterministic, self.rescale, call=call, traced=nn.cond
        )


class SubsetResidual(Wrapper):
    """Adds a residual branch that is computed for a random subset of the examples alone.

    The parameters are those of the branch, under the name ``branch`` or, if it is made in a compact
    model, its own; initialising drops nothing. Further arguments of a call are arrays with the same
    axis of examples, such as masks. See `jaxdrop.subset_residual` for the paper.

    Attributes:
        branch: module from ``(K, ...)`` to ``(K, ...)`` that does not add its input.
        rate: share of the examples to leave out, in [0, 1], a Python number.
        batch_axis: axis of the inputs that counts examples.
        num_groups: number of equal parts of the batch that draw examples on their own.
        deterministic: if true, the branch runs for all examples; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = SubsetResidual(nn.Dense(4), 0.5, deterministic=False)
        >>> x = jnp.ones((8, 4))
        >>> variables = layer.init(jax.random.key(0), x)
        >>> y = layer.apply(variables, x, rngs={"dropout": jax.random.key(1)})
        >>> int((y == x).all(axis=1).sum())
        4
    """

    branch: nn.Module
    rate: float
    batch_axis: int = 0
    num_groups: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    mc_role = "drops shapes"

    def drop(self, key: Any, args: Any, kwargs: Any, deterministic: Any) -> Any:
        def call(branch: Any, *arrays: Any) -> Any:
            return branch(*arrays, **kwargs)

        args, split = _internal.plan_subset(
            args, self.rate, self.batch_axis, self.num_groups, deterministic
        )
        return _internal.add_branch(
            key, self.branch, args, split, deterministic, call=call, traced=nn.cond
        )


class ThinnedMLP(Dropper):
    """Dense layers of which a random share of the hidden units is computed, and the rest is not.

    The parameters are those of as many ``nn.Dense`` in one compact module: ``Dense_0`` and so on;
    where hidden layers are gated, each has two, the gate first. See `jaxdrop.thinned_mlp` for the
    paper.

    Attributes:
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
        deterministic: if true, all units are computed; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = ThinnedMLP(16, 2, 0.5, deterministic=False)
        >>> variables = layer.init(jax.random.key(0), jnp.ones((3, 4)))
        >>> jax.tree.map(jnp.shape, variables["params"]["Dense_0"])
        {'bias': (16,), 'kernel': (4, 16)}
        >>> layer.apply(variables, jnp.ones((3, 4)), rngs={"dropout": jax.random.key(1)}).shape
        (3, 2)
    """

    hidden_features: int | Sequence[int]
    features: int
    rate: float
    activation: Callable[[jax.Array], jax.Array] = jax.nn.gelu
    num_groups: int = 1
    gated: bool = False
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: Callable[..., jax.Array] = nn.initializers.lecun_normal()
    bias_init: Callable[..., jax.Array] = nn.initializers.zeros_init()
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    mc_role = "drops shapes"

    def drop(self, key: Any, inputs: Any, deterministic: Any) -> Any:
        hidden = self.hidden_features
        hidden = (hidden,) if isinstance(hidden, int) else tuple(hidden)
        inputs = _internal.cast_input(inputs, self.dtype)
        layers, number, width = [], 0, inputs.shape[-1]
        for units in (*hidden, self.features):
            count = 2 if self.gated and len(layers) < len(hidden) else 1
            dense = [self._dense(number + i)(width, units) for i in range(count)]
            layers.append(tuple(dense) if count > 1 else dense[0])
            number, width = number + count, units
        flag = True if self.is_initializing() else deterministic
        return _internal.forward(
            functional.thinned_mlp, self, key, inputs, layers, deterministic=flag
        )

    def _dense(self, number: int) -> "_Dense":
        return _Dense(
            self.use_bias,
            self.param_dtype,
            self.kernel_init,
            self.bias_init,
            name=f"Dense_{number}",
        )

    @nn.compact
    def __call__(self, inputs: Any, deterministic: bool | None = None, rng: Any = None) -> Any:
        """Runs the layers, with a share of the hidden units.

        Args:
            inputs: floating or complex array of shape ``(..., D)``, with examples on axis 0 if
                there are groups.
            deterministic: as the field, for this call.
            rng: key to use instead of one from ``rng_collection``.

        Returns:
            Array of shape ``(..., F)`` with the dtype of ``inputs``, F the width of the last layer.
        """
        return self.call(deterministic, rng, inputs)


class _Dense(nn.Module):
    """The parameters of an ``nn.Dense``, without its product."""

    use_bias: bool
    param_dtype: Any
    kernel_init: Callable[..., jax.Array]
    bias_init: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, width: int, units: int) -> dict[str, jax.Array]:
        dense = {"kernel": self.param("kernel", self.kernel_init, (width, units), self.param_dtype)}
        if self.use_bias:
            dense["bias"] = self.param("bias", self.bias_init, (units,), self.param_dtype)
        return dense
