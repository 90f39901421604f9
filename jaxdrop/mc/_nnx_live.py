"""Modules of an nnx model that drop, whatever they are told: classes mixed into their own."""

import functools
import inspect
import numbers
from typing import Any

import jax
from flax import nnx

from jaxdrop.functional import _cells
from jaxdrop.mc import _options
from jaxdrop.mc._site import is_live, mark, site_key
from jaxdrop.nnx._base import Dropper
from jaxdrop.nnx._cell import CellWrapper
from jaxdrop.nnx._elements import MCDropout


def enliven(node, path, chosen):
    """Turns a module of a copied model into one that drops if chosen, and not otherwise."""
    if not isinstance(node, nnx.Module):
        return
    mixin = _live_mixin(node)
    if mixin is not None:
        node.__class__ = _live_class(mixin, type(node))
        vars(node).update(site_path=path, site_chosen=chosen)


class Live(nnx.Module):
    """Mixed into the class of a module with dropout: its call drops, whatever it is told."""

    site_path: tuple[str, ...]
    site_chosen: bool

    def prepare(self, key, rate):
        """Gives the module a stream of its site's own, and the rate that is asked for, if any."""
        stream = _stream(key, self.site_path, getattr(self, "rngs", None))
        self.rngs = nnx.data(stream)
        if rate is not None:
            self.override(rate)

    def override(self, rate):
        """Puts another rate in place of the module's own; one that decides a shape stays."""
        fixed = getattr(self, "rate_decides_shapes", False)
        if "rate" in vars(self) and not fixed:
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


class _LiveOther(Live):
    """A module that may drop by a function and streams of its own."""

    def prepare(self, key, rate):
        del rate  # known to the module's code alone
        if "deterministic" in vars(self):
            self.deterministic = not self.site_chosen
        for name, had in _own_randomness(self).items():
            streams = had.items() if isinstance(had, nnx.Rngs) else [("", had)]
            new = {tag: _stream(key, (*self.site_path, name, tag), s) for tag, s in streams}
            setattr(self, name, nnx.Rngs(new) if isinstance(had, nnx.Rngs) else new[""])

    def __call__(self, *args, **kwargs):
        told = _told(super().__call__, args, kwargs, {"deterministic": not self.site_chosen})
        before = _counts(self)
        output = super().__call__(*told.args, **told.kwargs)
        drawn = any(a is not b for a, b in zip(before, _counts(self)))
        return mark(output, self.site_path, type(self), None, True) if drawn else output


class _LiveNorm(Live):
    """A norm that keeps averages, told to use them though the flag of its parent be turned."""

    def prepare(self, key, rate):
        pass  # nothing of it is drawn

    def __call__(self, *args, **kwargs):
        told = _told(super().__call__, args, kwargs, _options.EVALUATED)
        return super().__call__(*told.args, **told.kwargs)


def _told(call, args, kwargs, flags):
    """The arguments of a call with flags set, those of them that it takes."""
    signature = inspect.signature(call)
    bound = signature.bind(*args, **kwargs)
    bound.arguments.update({n: value for n, value in flags.items() if n in signature.parameters})
    return bound


def _stream(key, path, had):
    """A stream with the key of a site, stacked as the one that the module had there."""
    key = site_key(key, path)
    if isinstance(had, nnx.RngStream) and had.key.shape:  # layers stacked for a scan
        key = jax.random.split(key, had.key.shape)
    return nnx.RngStream(key, tag=getattr(had, "tag", "dropout"))


def _own_randomness(node):
    return {k: v for k, v in vars(node).items() if isinstance(v, nnx.Rngs | nnx.RngStream)}


def _counts(node):
    own = [nnx.state(randomness, nnx.RngCount) for randomness in _own_randomness(node).values()]
    return jax.tree.leaves(own)


def _live_mixin(node):
    if isinstance(node, CellWrapper):
        return _LiveCell
    if isinstance(node, nnx.Dropout | Dropper):
        return _LiveDropout
    if isinstance(node, nnx.MultiHeadAttention):
        return _LiveAttention
    call = inspect.signature(type(node).__call__).parameters if callable(node) else {}
    if "Norm" in type(node).__name__:
        return _LiveNorm if call.keys() & _options.EVALUATED.keys() else None
    if type(node).__module__.split(".")[0] in ("flax", "jaxdrop"):
        return None
    flagged = "deterministic" in call or "deterministic" in vars(node)
    return _LiveOther if call and (flagged or _own_randomness(node)) else None


@functools.cache
def _live_class(mixin, cls):
    return type(cls.__name__, (mixin, cls), {"__module__": cls.__module__})
