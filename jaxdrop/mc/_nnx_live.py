"""Modules of an nnx model that drop, whatever they are told: classes mixed into their own."""

import contextlib
import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxdrop.mc import _given_keys, _linen_live, _nnx_streams, _options, _plan
from jaxdrop.mc._by_value import ByValue
from jaxdrop.mc._site import is_known_zero, is_live, mark
from jaxdrop.nnx._attention import attention_fn
from jaxdrop.nnx._elements import Dropout


def enliven(model, plan, key):
    """Turns the modules of a model that is a copy into ones that do what the plan says."""
    like = _nnx_streams.stacks(model)
    for path, node in list(nnx.iter_graph(model)):
        mixin = _live_mixin(node) if isinstance(node, nnx.Module) else None
        if mixin is not None:
            kind = Dropout if type(node) is nnx.Dropout else type(node)
            node.__class__ = _live_class(mixin, kind)
            node.prepare(plan, plan.path(path), key, like(path))  # pyright: ignore


class Live(nnx.Module):
    """Mixed into the class of a module with dropout: its call drops, whatever it is told."""

    site_path: tuple[str, ...]
    site_chosen: bool
    site_overridden: bool  # whether its rates are others than its own

    def prepare(self, plan, path, key, like):
        """Gives the module what it is to do, a stream of its own, and the rate, if one is asked.

        Args:
            plan: of the pass.
            path: of the module.
            key: of the pass.
            like: a variable that is stacked if the module is; None where none is.
        """
        vars(self).update(site_path=path, site_chosen=plan.is_chosen(path), site_overridden=False)
        stream = _nnx_streams.of_site(key, path, getattr(self, "rngs", None), like)
        self.rngs = nnx.data(stream)
        for name in self.rate_names():
            own = getattr(self, name)
            rate = plan.rate_of(own)
            if rate is not own:
                self.override(name, rate, _nnx_streams.shape_of(stream))

    def rate_names(self):
        """Names of the attributes that are rates; none where one decides a shape."""
        rates = _plan.RATES.get(_plan.role(self, nnx.Dropout), ())
        return [name for name in rates if name in vars(self)]

    def override(self, name, rate, shape):
        """Puts another rate in place of one: an array, once for each of the stacked layers."""
        vars(self)["site_overridden"] = True
        known = is_known_zero(rate)
        setattr(self, name, rate if known else nnx.data(jnp.broadcast_to(rate, shape)))

    @contextlib.contextmanager
    def called(self):
        """Inside, rates that stand here once for each layer are one number; gives a stream."""
        names = self.rate_names() if self.site_overridden else []
        rates = {name: _nnx_streams.first(getattr(self, name)) for name in names}
        with _attributes(self, **rates), _nnx_streams.opened(self.rngs) as stream:
            yield stream


class _LiveDropout(Live):
    rate: Any

    def __call__(self, *args, deterministic=None, rngs=None, **kwargs):
        del rngs  # the key of the pass decides, not the model
        always_on = _plan.role(self, nnx.Dropout) == "always on"
        flag = self.resolve(deterministic) if always_on else False  # pyright: ignore
        flag = flag if self.site_chosen else True
        with self.called() as stream:
            live = is_live(self.rate, flag)
            args, kwargs = mark((args, kwargs), self.site_path, type(self), self.rate, live)
            return super().__call__(*args, deterministic=flag, rngs=stream, **kwargs)


class _LiveAttention(Live):
    dropout_rate: Any
    attention_fn: Any

    def rate_names(self):
        return ["dropout_rate"]

    def __call__(self, *args, deterministic=None, rngs=None, **kwargs):
        del deterministic, rngs  # the key of the pass decides, not the model
        with self.called() as stream:
            rate = self.dropout_rate
            live = self.site_chosen and is_live(rate, False)
            with _attributes(self, **(self.dropping(rate) if live else {"dropout_rate": 0.0})):
                output = super().__call__(*args, deterministic=not live, rngs=stream, **kwargs)
        return mark(output, self.site_path, type(self), rate, live)

    def dropping(self, rate):
        """The attributes of a call that drops."""
        function = self.attention_fn
        function = attention_fn if function is nnx.dot_product_attention else function
        if not self.site_overridden:
            return {"attention_fn": function}
        at_rate = _options.at_rate(function, rate)
        return {"attention_fn": at_rate, "dropout_rate": _options.SOME_RATE}


class _LiveCell(Live):
    rates: tuple

    def resolve(self, deterministic):
        return not self.site_chosen

    def initialize_carry(self, *args, **kwargs):
        with self.called() as stream, _attributes(self, rngs=stream):
            carry = super().initialize_carry(*args, **kwargs)  # pyright: ignore
            rate = _plan.common_rate(self.rates)
        live = self.site_chosen and is_live(rate, False)
        return mark(carry, self.site_path, type(self), rate, live)

    def step(self, *args):
        with self.called():
            return super().step(*args)  # pyright: ignore


class _LiveBridge(Live):
    """A linen model inside the nnx model, which takes attributes of other names for variables."""

    to_nnx__rngs: Any

    def prepare(self, plan, path, key, like):
        streams = self.to_nnx__rngs
        had = next((stream for _, stream in streams.items()), None) if streams else None
        stream = _nnx_streams.of_site(key, path, had, like)
        self.to_nnx__stream = nnx.data(stream)
        rate = (
            None
            if plan.rate is None
            else jnp.broadcast_to(plan.rate, _nnx_streams.shape_of(stream))
        )
        self.to_nnx__rate = nnx.data(rate)
        self.to_nnx__plan = ByValue(plan._replace(rate=None, prefix=path))

    def __call__(self, *args, rngs=None, **kwargs):
        del rngs  # the key of the pass decides, not the model
        plan = self.to_nnx__plan.value._replace(rate=_nnx_streams.first(self.to_nnx__rate))
        with _nnx_streams.opened(self.to_nnx__stream) as stream:
            key = stream()
            streams = nnx.Rngs(_linen_live.streams(key))
            with _linen_live.intercepted(plan, key):
                return super().__call__(*args, rngs=streams, **kwargs)  # pyright: ignore


class _LiveOther(Live):
    """A module that may drop by a function and streams of its own."""

    site_flags: ByValue  # what it is told
    site_inside: bool  # whether one of its methods is under way

    def prepare(self, plan, path, key, like):
        kind = type(self)
        flags = plan.flags(path, kind)
        vars(self).update(
            site_path=path,
            site_flags=ByValue(flags),
            site_inside=False,
        )
        for name, value in _plan.own_flags(self, flags).items():
            setattr(self, name, value)
        for name, had in _nnx_streams.held(self).items():
            noted = functools.partial(_given_keys.noted, path, kind)
            setattr(self, name, _nnx_streams.rekeyed(had, key, (*path, name), noted))

    def told(self, method, args, kwargs):
        """Calls a method with the flags that it takes set."""
        flags = self.site_flags.value
        own = _plan.own_flags(self, flags)
        args, kwargs = _plan.told(method, args, kwargs, flags, own)
        if self.site_inside:
            return method(*args, **kwargs)
        path, kind = self.site_path, type(self)
        args, kwargs = _given_keys.handed(path, kind, method, args, kwargs)
        before = _nnx_streams.counts(self)
        with _attributes(self, site_inside=True):
            output = method(*args, **kwargs)
        if all(a is b for a, b in zip(before, _nnx_streams.counts(self))):
            return output
        return mark(output, path, kind, None, None)


@contextlib.contextmanager
def _attributes(module, **values):
    """Inside, attributes of a module are others."""
    before = {name: vars(module)[name] for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(before)


def _live_mixin(node):
    role = _plan.role(node, nnx.Dropout)
    if role is not None:
        return _LiveCell if role == "cell" else _LiveDropout
    if isinstance(node, nnx.MultiHeadAttention):
        return _LiveAttention
    if isinstance(node, nnx.bridge.ToNNX):
        return _LiveBridge
    told = _told_methods(type(node)) or _plan.own_flags(node, _plan.FLAGS)
    of_library = type(node).__module__.split(".")[0] in ("flax", "jaxdrop")
    if told and (_plan.is_norm(type(node)) or not of_library):
        return _LiveOther
    if of_library:
        return None
    takes_keys = any(map(_given_keys.takes_keys, _methods(type(node)).values()))
    return _LiveOther if takes_keys or _nnx_streams.held(node) else None


def _told_methods(cls):
    """The methods of a class that take a flag, by name."""
    return {name: f for name, f in _methods(cls).items() if _plan.has_flags(f)}


def _methods(cls):
    """What a class adds to those of Flax's, and can be called with an instance, by name."""
    of_flax = {name for base in nnx.Module.__mro__ for name in vars(base)} | {"set_view"}
    found = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            plain = callable(value) and not isinstance(value, type | staticmethod | classmethod)
            named = name == "__call__" or not name.startswith("__")
            if plain and named and name not in of_flax:
                found[name] = value
    return found


@functools.cache
def _live_class(mixin, cls):
    methods: dict[str, Any] = {"__module__": cls.__module__}
    if mixin is _LiveOther:
        public = {n: f for n, f in _methods(cls).items() if n == "__call__" or n[0] != "_"}
        methods |= {n: _telling(f) for n, f in (public | _told_methods(cls)).items()}
    return type(cls.__name__, (mixin, cls), methods)


def _telling(function):
    @functools.wraps(function)
    def method(self, *args, **kwargs):
        return self.told(functools.partial(function, self), args, kwargs)

    return method
