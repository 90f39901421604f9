"""Stochastic depth that computes a residual branch for some of the examples alone."""

from flax import nnx

from jaxdrop.functional import _subset_residual
from jaxdrop.nnx._wrap import Wrapper, either


class SubsetResidual(Wrapper):
    """Adds a residual branch that is computed for a random subset of the examples alone.

    Further arguments of a call are arrays with the same axis of examples, such as masks.

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

    References:
        Oquab et al., "DINOv2: learning robust visual features without supervision", 2023,
        section 5, efficient stochastic depth.
    """

    rate_decides_shapes = True

    def __init__(
        self,
        branch: nnx.Module,
        rate: float,
        *,
        batch_axis: int = 0,
        num_groups: int = 1,
        deterministic: bool | None = False,
        rng_collection: str = "dropout",
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ):
        super().__init__(rate, deterministic, rng_collection, rngs)
        self.branch = branch
        self.batch_axis = batch_axis
        self.num_groups = num_groups

    def drop(self, key, args, kwargs, deterministic):
        def call(branch, *arrays):
            return branch(*arrays, **kwargs)

        args, split = _subset_residual.plan(
            args, self.rate, self.batch_axis, self.num_groups, deterministic
        )
        return _subset_residual.add_branch(
            key, self.branch, args, split, deterministic, call=call, either=either
        )
