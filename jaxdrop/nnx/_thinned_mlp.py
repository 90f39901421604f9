"""Dropout of hidden units that really leaves them out, so that a training step costs less."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdrop import functional
from jaxdrop.functional import _thinned_mlp
from jaxdrop.nnx._base import Switchable

_KERNEL_INIT, _BIAS_INIT = nnx.initializers.lecun_normal(), nnx.initializers.zeros_init()


class ThinnedMLP(Switchable):
    """Dense layers of which a random share of the hidden units is computed, and the rest is not.

    ``layers`` is a list of as many ``nnx.Linear``; where hidden layers are gated, each has two, the
    gate first.

    Args:
        in_features: features that come in.
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
        deterministic: if true, all units are computed; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` for the parameters, and to fork the module's own stream from.

    Example:
        >>> layer = ThinnedMLP(4, 16, 2, 0.5, rngs=nnx.Rngs(0))
        >>> layer(jnp.ones((3, 4))).shape
        (3, 2)

    References:
        Srivastava et al., "Dropout: a simple way to prevent neural networks from overfitting",
        2014, section 4.
    """

    rate_decides_shapes = True

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
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)
        self.activation = activation
        self.num_groups = num_groups
        self.gated = gated
        self.dtype = dtype
        hidden = (hidden_features,) if isinstance(hidden_features, int) else (*hidden_features,)
        widths = (in_features, *hidden, features)
        shapes = [shape for shape in itertools.pairwise(widths) for _ in range(2 if gated else 1)]
        shapes = shapes[:-1] if gated else shapes  # the last layer has no gate
        options = {"param_dtype": param_dtype, "kernel_init": kernel_init, "bias_init": bias_init}
        self.layers = nnx.List(
            [nnx.Linear(*s, use_bias=use_bias, rngs=rngs, **options) for s in shapes]
        )

    def drop(self, key, inputs, deterministic):
        dense = [_arrays(layer) for layer in self.layers]
        if self.gated:
            pairs = list(zip(dense[:-1:2], dense[1:-1:2]))
            dense = [*pairs, dense[-1]]
        return functional.thinned_mlp(
            key,
            _thinned_mlp.cast(inputs, self.dtype),
            dense,
            self.rate,
            deterministic=deterministic,
            activation=self.activation,
            num_groups=self.num_groups,
        )


def _arrays(linear):
    arrays = {"kernel": linear.kernel[...]}
    return arrays if linear.bias is None else {**arrays, "bias": linear.bias[...]}
