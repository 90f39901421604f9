"""Modules of an nnx model that drop, whatever they are told: classes mixed into their own."""

import functools
import numbers
from typing import Any

import jax
from flax import nnx

from jaxdrop.functional import _cells
from jaxdrop.mc import _options
from jaxdrop.mc._site import is_live, mark, site_key
from jaxdrop.nnx._base import Dropper
from jaxdrop.nnx._cell import CellWrapper
from jaxdrop.nnx._dropout import MCDropout
from jaxdrop.nnx._token_dropout import TokenDropout


def enliven(node, path, chosen):
    """Turns a module of a copied model into one that drops if chosen, and not otherwise."""
    mixin = _live_mixin(node)
    if mixin is not None:
        node.__class__ = _live_class(mixin, type(node))
        node.site_path, node.site_chosen = path, chosen


class Live(nnx.Module):
    """Mixed into the class of a module with dropout: its call drops, whatever it is told."""

    site_path: tuple[str, ...]
    site_chosen: bool

    def prepare(self, key, rate):
        """Gives the module a stream of its site's own, and the rate that is asked for, if any."""
        key = site_key(key, self.site_path)
        had = getattr(self, "rngs", None)
        if isinstance(had, nnx.RngStream) and had.key.shape:  # layers stacked for a scan
            key = jax.random.split(key, had.key.shape)
        self.rngs = nnx.data(nnx.RngStream(key, tag="dropout"))
        if rate is not None:
            self.override(rate)

    def override(self, rate):
        """Puts another rate in place of the module's own; one that decides a shape stays."""
        if "rate" in vars(self) and not isinstance(self, TokenDropout):
            self.rate = nnx.data(rate)


class _LiveDropout(Live):
    rate: Any

    def __call__(self, *args, deterministic=None, rngs=None, **kwargs):
        del rngs  # the key of the pass decides, not the model
        flag = self.resolve(deterministic) if isinstance(self, MCDropout) else False
        flag = flag if self.site_chosen else True
        live = is_live(self.rate, flag)
        args, kwargs = mark((args, kwargs), self.site_path, type(self), self.rate, live)
        return super().__call__(*args, deterministic=flag, rngs=self.rngs, **kwargs)


class _LiveAttention(Live):
    dropout_rate: Any

    def override(self, rate):
        self.dropout_rate = _options.SOME_RATE
        self.attention_fn = _options.at_rate(self.attention_fn, rate)

    def __call__(self, *args, deterministic=None, rngs=None, **kwargs):
        del deterministic, rngs  # the key of the pass decides, not the model
        live = self.site_chosen and is_live(self.dropout_rate, False)
        output = super().__call__(*args, deterministic=not live, rngs=self.rngs, **kwargs)
        if isinstance(self.dropout_rate, numbers.Real) and not self.dropout_rate:
            return output
        return mark(output, self.site_path, type(self), self.dropout_rate, live)


class _LiveCell(Live):
    rates: tuple

    def override(self, rate):
        for name in _cells.rate_names(self):
            setattr(self, name, nnx.data(rate))

    def resolve(self, deterministic):
        return not self.site_chosen

    def initialize_carry(self, *args, **kwargs):
        carry = super().initialize_carry(*args, **kwargs)  # pyright: ignore
        rate = _cells.common_rate(self.rates)
        live = self.site_chosen and is_live(rate, False)
        return mark(carry, self.site_path, type(self), rate, live)


def _live_mixin(node):
    if isinstance(node, CellWrapper):
        return _LiveCell
    if isinstance(node, nnx.Dropout | Dropper):
        return _LiveDropout
    if isinstance(node, nnx.MultiHeadAttention):
        return _LiveAttention
    return None


@functools.cache
def _live_class(mixin, cls):
    return type(cls.__name__, (mixin, cls), {"__module__": cls.__module__})
