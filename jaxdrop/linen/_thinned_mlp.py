"""Dropout of hidden units that really leaves them out, so that a training step costs less."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdrop import functional
from jaxdrop.functional import _thinned_mlp
from jaxdrop.linen._base import Dropper


class ThinnedMLP(Dropper):
    """Dense layers of which a random share of the hidden units is computed, and the rest is not.

    The parameters are those of as many ``nn.Dense`` in one compact module: ``Dense_0`` and so on;
    where hidden layers are gated, each has two, the gate first.

    Attributes:
        hidden_features: units of the hidden layer, or of each of several.
        features: units of the last layer.
        rate: share of the hidden units to leave out, in [0, 1], a Python number.
        activation: function of the hidden units, entry by entry.
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

    References:
        Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
        2014, section 4.
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

    rate_decides_shapes = True

    def drop(self, key, inputs, deterministic):
        hidden = self.hidden_features
        hidden = (hidden,) if isinstance(hidden, int) else tuple(hidden)
        inputs = _thinned_mlp.cast(inputs, self.dtype)
        layers, number, width = [], 0, inputs.shape[-1]
        for own in (*hidden, self.features):
            count = 2 if self.gated and len(layers) < len(hidden) else 1
            dense = [self._dense(number + i)(width, own) for i in range(count)]
            layers.append(tuple(dense) if count > 1 else dense[0])
            number, width = number + count, own
        return functional.thinned_mlp(
            key,
            inputs,
            layers,
            self.rate,
            deterministic=True if self.is_initializing() else deterministic,
            activation=self.activation,
            num_groups=self.num_groups,
        )

    def _dense(self, number):
        return _Dense(
            self.use_bias,
            self.param_dtype,
            self.kernel_init,
            self.bias_init,
            name=f"Dense_{number}",
        )


class _Dense(nn.Module):
    """The parameters of an ``nn.Dense``, without its product."""

    use_bias: bool
    param_dtype: Any
    kernel_init: Callable[..., jax.Array]
    bias_init: Callable[..., jax.Array]

    @nn.compact
    def __call__(self, width, units):
        dense = {"kernel": self.param("kernel", self.kernel_init, (width, units), self.param_dtype)}
        if self.use_bias:
            dense["bias"] = self.param("bias", self.bias_init, (units,), self.param_dtype)
        return dense
