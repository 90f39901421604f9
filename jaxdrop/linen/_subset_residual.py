"""Stochastic depth that computes a residual branch for some of the examples alone."""

from flax import linen as nn

from jaxdrop.functional import _subset_residual
from jaxdrop.linen._wrap import Wrapper, either


class SubsetResidual(Wrapper):
    """Adds a residual branch that is computed for a random subset of the examples alone.

    The parameters are those of the branch, under the name ``branch`` or, if it is made in a
    compact model, its own; initialising drops nothing.
    Further arguments of a call are arrays with the same axis of examples, such as masks.

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

    References:
        Oquab et al., "DINOv2: learning robust visual features without supervision", 2023,
        section 5, efficient stochastic depth.
    """

    branch: nn.Module
    rate: float
    batch_axis: int = 0
    num_groups: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    rate_decides_shapes = True

    def drop(self, key, args, kwargs, deterministic):
        def call(branch, *arrays):
            return branch(*arrays, **kwargs)

        args, split = _subset_residual.plan(
            args, self.rate, self.batch_axis, self.num_groups, deterministic
        )
        return _subset_residual.add_branch(
            key, self.branch, args, split, deterministic, call=call, either=either
        )
