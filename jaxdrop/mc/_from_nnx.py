"""Any nnx model as a stochastic function, without touching the model or its BatchNorm."""

import dataclasses
import functools
from typing import Any

import jax
from flax import nnx

from jaxdrop.functional import _cells
from jaxdrop.mc._site import is_live, mark, site_key
from jaxdrop.nnx._base import Dropper
from jaxdrop.nnx._cell import CellWrapper
from jaxdrop.nnx._dropout import MCDropout
from jaxdrop.nnx._replace import replace_dropout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NnxFn:
    """``fn(key, *args, **kwargs)`` of an nnx model with its dropout on; made by `from_nnx`."""

    state: Any
    graph: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, key, *args, **kwargs):
        model = nnx.merge(self.graph, self.state, copy=True)
        for _, node in nnx.iter_graph(model):
            if isinstance(node, _Live):
                node.seed(key)
        return model(*args, **kwargs)


def from_nnx(model: nnx.Module) -> NnxFn:
    """A function ``fn(key, *args, **kwargs)`` that runs the model with its dropout on.

    Every ``flax.nnx.Dropout``, every dropout class of jaxdrop (in its recurrent cells with one
    sub-network a sequence) and the dropout inside Flax's attention drops, whether or not ``eval()``
    was called and whatever the model passes down; nothing else changes. BatchNorm uses its running
    averages and leaves them alone. The function holds a snapshot of the model: the model itself is
    never changed, and training it further does not change the function. The same key gives the same
    sub-network. Attention draws a mask for each example and head, unless it has an
    ``attention_fn`` of the user's own.

    The function mutates nothing that is seen from outside, so it runs inside every transform of
    JAX. It is a pytree whose leaves are the state of the model, so it may be an argument of a
    jitted function, and a new snapshot needs no new compilation.

    Args:
        model: any ``nnx.Module``.

    Returns:
        A function of a PRNG key and the arguments of the model, which returns the model's output.

    Raises:
        TypeError: ``model`` is no ``nnx.Module``.

    Example:
        >>> rngs = nnx.Rngs(0)
        >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs))
        >>> fn = from_nnx(model)
        >>> x = jnp.ones((3, 4))
        >>> bool((fn(jax.random.key(1), x) == fn(jax.random.key(2), x)).all())
        False

    References:
        Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in
        deep learning", 2016, section 4.
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"model: expected a flax.nnx.Module, got {type(model).__name__}; "
            "for a linen model write jaxdrop.mc.from_linen(model, variables)"
        )
    copy = replace_dropout(model)
    copy.eval()
    for path, node in nnx.iter_graph(copy):
        mixin = _live_mixin(node)
        if mixin is not None:
            node.__class__ = _live_class(mixin, type(node))
            node.site_path = tuple(map(str, path))
    graph, state = nnx.split(copy)
    return NnxFn(state, graph)


class _Live(nnx.Module):
    """Mixed into the class of a module with dropout: its call drops, whatever it is told."""

    site_path: tuple[str, ...]

    def seed(self, key):
        """Gives the module a stream of its site's own, of the shape of the one that it had."""
        key = site_key(key, self.site_path)
        had = getattr(self, "rngs", None)
        if isinstance(had, nnx.RngStream) and had.key.shape:  # layers stacked for a scan
            key = jax.random.split(key, had.key.shape)
        self.rngs = nnx.data(nnx.RngStream(key, tag="dropout"))


class _LiveDropout(_Live):
    rate: Any

    def __call__(self, *args, deterministic=None, rngs=None, **kwargs):
        del rngs  # the key of the pass decides, not the model
        flag = self.resolve(deterministic) if isinstance(self, MCDropout) else False
        live = is_live(self.rate, flag)
        args, kwargs = mark((args, kwargs), self.site_path, type(self), self.rate, live)
        return super().__call__(*args, deterministic=flag, rngs=self.rngs, **kwargs)


class _LiveAttention(_Live):
    dropout_rate: Any

    def __call__(self, *args, deterministic=None, rngs=None, **kwargs):
        del deterministic, rngs  # the key of the pass decides, not the model
        output = super().__call__(*args, deterministic=False, rngs=self.rngs, **kwargs)
        return mark(output, self.site_path, type(self), self.dropout_rate, True)


class _LiveCell(_Live):
    rates: tuple

    def resolve(self, deterministic):
        return False

    def initialize_carry(self, *args, **kwargs):
        carry = super().initialize_carry(*args, **kwargs)  # pyright: ignore
        rate = _cells.common_rate(self.rates)
        return mark(carry, self.site_path, type(self), rate, is_live(rate, False))


def _live_mixin(node):
    if isinstance(node, CellWrapper):
        return _LiveCell
    if isinstance(node, nnx.Dropout | Dropper):
        return _LiveDropout
    if isinstance(node, nnx.MultiHeadAttention) and is_live(node.dropout_rate, False):
        return _LiveAttention
    return None


@functools.cache
def _live_class(mixin, cls):
    return type(cls.__name__, (mixin, cls), {"__module__": cls.__module__})
