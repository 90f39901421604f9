"""Decisions applied to the modules of an nnx model, by classes mixed into their own."""

import contextlib
import functools
from collections.abc import Callable, Generator
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdrop.mc import _decide, _linen, _marks, _nnx_streams, _sharing
from jaxdrop.mc._decide import Decision, Path, Plan, Role
from jaxdrop.mc._fingerprint import ByValue
from jaxdrop.mc._insert import Place
from jaxdrop.nnx import Dropout, attention_fn


def enliven(model: nnx.Module, plan: Plan, key: jax.Array) -> None:
    """Turns the modules of a model that is a copy into ones that do what the plan decides."""
    like = _nnx_streams.stacks(model)
    for path, node in list(nnx.iter_graph(model)):
        if not isinstance(node, nnx.Module):
            continue
        live: Any = node
        layer, stacked = type(node), like(path)
        mixin = _live_mixin(node)
        if mixin is not None:
            kind = Dropout if layer is nnx.Dropout else layer
            live.__class__ = _live_class(mixin, kind)
            live.site_prepare(plan, plan.path(path), key, stacked)
        place = plan.place(plan.path(path), layer) if callable(node) else None
        if place is not None:
            live.__class__ = _live_class(_LiveLayer, type(node))
            live.site_beside(plan, place, layer, key, stacked)


class Live(nnx.Module):
    """Mixed into the class of a module with dropout, whose call then does what is decided.

    The transforms of nnx take a module apart and put it together again. So what is decided lives
    in the attributes of its module. All names begin with "site", so that they are not the user's.
    """

    site_path: Path
    site_chosen: bool
    site_overridden: bool  # whether its rates are others than its own
    site_shared: tuple[int, ...]  # axes along which it shares its decisions, too

    @property
    def site_role(self) -> Role:
        return _role_of(self) or "drops"

    def site_prepare(self, plan: Plan, path: Path, key: jax.Array, like: Any) -> None:
        """Gives the module a stream of its own, and another rate if one is asked for.

        Args:
            plan: of the pass.
            path: of the module.
            key: of the pass.
            like: a variable that is stacked if the module is, or None.
        """
        vars(self).update(site_path=path, site_chosen=plan.is_chosen(path), site_overridden=False)
        vars(self).update(site_shared=plan.shared_axes(path))
        stream = _nnx_streams.of_site(key, path, getattr(self, "rngs", None), like)
        self.rngs = nnx.data(stream)
        for name in self.site_rates():
            own = getattr(self, name)
            rate = plan.decide(self.site_role, path, own).rate
            if rate is not own:
                vars(self)["site_overridden"] = True
                shape = _nnx_streams.shape_of(stream)  # once for each of the stacked layers
                is_static = isinstance(rate, float)
                setattr(self, name, rate if is_static else nnx.data(jnp.broadcast_to(rate, shape)))

    def site_rates(self) -> list[str]:
        """Names of the attributes that are rates."""
        return [name for name in _decide.RATES[self.site_role] if name in vars(self)]

    @contextlib.contextmanager
    def site_called(self) -> Generator[Any]:
        """Inside, rates that stand here once for each layer are one number; gives a stream."""
        names = self.site_rates() if self.site_overridden else []
        rates = {name: _nnx_streams.first(getattr(self, name)) for name in names}
        with _decide.holding(self, **rates), _nnx_streams.opened(self.rngs) as stream:
            yield stream

    def site_decision(self, rate: Any, flag: Any = None) -> Decision:
        """What the module does in a call, in which an override has been applied already."""
        return _decide.decide(self.site_role, self.site_chosen, rate, flag)

    def site_marked(self, x: Any, decision: Decision) -> Any:
        """``x``, with the module noted as a site."""
        return _marks.mark_site(x, self.site_path, type(self), decision.marked, decision.live)


class _LiveLayer(nnx.Module):
    """A layer with dropout inserted beside it, which then is a module inside it."""

    # To a linen model inside the nnx model, attributes of other names are variables.
    to_nnx__place: ByValue
    to_nnx__dropout: Any

    def site_beside(self, plan: Plan, place: Place, kind: type, key: jax.Array, like: Any) -> None:
        """Makes the dropout."""
        is_convolution = issubclass(kind, nnx.Conv | nnx.ConvTranspose)
        shared = place.shared(vars(self)["kernel_size"] if is_convolution else None)
        dropout: Any = Dropout(place.insert.rate, broadcast_dims=shared)
        dropout.__class__ = _live_class(_LiveDropout, Dropout)
        dropout.site_prepare(plan, place.path, key, like)
        self.to_nnx__dropout = nnx.data(dropout)
        vars(self).update(to_nnx__place=ByValue(place))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call: Any = super().__call__  # pyright: ignore
        place: Place = self.to_nnx__place.value

        def drop(x: Any) -> Any:
            place.come(x)
            return self.to_nnx__dropout(x)

        if place.insert.before:
            args, kwargs = place.replaced(call, args, kwargs, drop)
            return call(*args, **kwargs)
        return drop(call(*args, **kwargs))


class _LiveDropout(Live):
    rate: Any
    resolve: Callable[..., Any]

    def __call__(
        self, *args: Any, deterministic: Any = None, rngs: Any = None, **kwargs: Any
    ) -> Any:
        del rngs  # the key of the pass decides, not the model
        flag = self.resolve(deterministic) if self.site_role == "always on" else None
        with self.site_called() as stream:
            decision = self.site_decision(self.rate, flag)
            args, kwargs = self.site_marked((args, kwargs), decision)
            axes = self.site_shared if decision.live else ()
            shared = _sharing.attributes(self, self.site_path, axes, (args, kwargs))
            with _decide.holding(self, **shared):
                return super().__call__(*args, deterministic=decision.flag, rngs=stream, **kwargs)


class _LiveAttention(Live):
    dropout_rate: Any
    attention_fn: Any

    def __call__(
        self, *args: Any, deterministic: Any = None, rngs: Any = None, **kwargs: Any
    ) -> Any:
        del deterministic, rngs  # the key of the pass decides, not the model
        with self.site_called() as stream:
            decision = self.site_decision(self.dropout_rate)
            off = not decision.live
            attributes = {"dropout_rate": 0.0} if off else self.site_dropping(decision)
            with _decide.holding(self, **attributes):
                output = super().__call__(*args, deterministic=off, rngs=stream, **kwargs)
        return self.site_marked(output, decision)

    def site_dropping(self, decision: Decision) -> dict[str, Any]:
        """The attributes of a call that drops."""
        function = self.attention_fn
        function = attention_fn if function is nnx.dot_product_attention else function
        function = _sharing.attention(function, self.site_shared, self.site_path)
        if not self.site_overridden:
            return {"attention_fn": function}
        at_rate = _decide.at_rate(function, decision.rate)
        return {"attention_fn": at_rate, "dropout_rate": _decide.SOME_RATE}


class _LiveCell(Live):
    rates: tuple[Any, ...]

    def resolve(self, deterministic: Any) -> bool:
        return not self.site_chosen

    def initialize_carry(self, *args: Any, **kwargs: Any) -> Any:
        with self.site_called() as stream, _decide.holding(self, rngs=stream):
            carry = super().initialize_carry(*args, **kwargs)  # pyright: ignore
            decision = self.site_decision(_decide.common_rate(self.rates))
        return self.site_marked(carry, decision)

    def step(self, *args: Any) -> Any:
        with self.site_called():
            return super().step(*args)  # pyright: ignore


class _LiveBridge(Live):
    """A linen model inside the nnx model, which takes attributes of other names for variables."""

    to_nnx__rngs: Any

    def site_prepare(self, plan: Plan, path: Path, key: jax.Array, like: Any) -> None:
        streams = self.to_nnx__rngs
        had = next((stream for _, stream in streams.items()), None) if streams else None
        stream = _nnx_streams.of_site(key, path, had, like)
        self.to_nnx__stream = nnx.data(stream)
        shape = _nnx_streams.shape_of(stream)
        each = jax.tree.map(lambda rate: jnp.broadcast_to(rate, shape), plan.override.rate)
        self.to_nnx__rate = nnx.data(each)
        self.to_nnx__plan = ByValue(plan.at_rate(None)._replace(prefix=path))

    def __call__(self, *args: Any, rngs: Any = None, **kwargs: Any) -> Any:
        del rngs  # the key of the pass decides, not the model
        plan = self.to_nnx__plan.value.at_rate(_nnx_streams.first(self.to_nnx__rate))
        with _nnx_streams.opened(self.to_nnx__stream) as stream:
            key = stream()
            streams = nnx.Rngs(_linen.streams(key))
            with _linen.intercepted(plan, key):
                return super().__call__(*args, rngs=streams, **kwargs)  # pyright: ignore


class _LiveOther(Live):
    """A module that may drop by a function and streams of its own."""

    site_flags: ByValue  # what it is told
    site_inside: bool  # whether one of its methods is under way

    def site_prepare(self, plan: Plan, path: Path, key: jax.Array, like: Any) -> None:
        kind = type(self)
        flags = plan.flags(path, kind)
        vars(self).update(site_path=path, site_flags=ByValue(flags), site_inside=False)
        for name, value in _decide.own_flags(self, flags).items():
            setattr(self, name, value)
        noted = functools.partial(_marks.noted, path, kind)
        for name, had in _nnx_streams.held(self).items():
            setattr(self, name, _nnx_streams.rekeyed(had, key, (*path, name), noted))

    def site_told(self, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Calls a method with the flags that it takes set."""
        flags = self.site_flags.value
        own = _decide.own_flags(self, flags)
        args, kwargs = _decide.told(method, args, kwargs, flags, own)
        if self.site_inside:
            return method(*args, **kwargs)
        args, kwargs = _marks.handed(self.site_path, type(self), method, args, kwargs)
        before = _nnx_streams.counts(self)
        with _decide.holding(self, site_inside=True):
            output = method(*args, **kwargs)
        if all(a is b for a, b in zip(before, _nnx_streams.counts(self))):
            return output
        # It has asked a stream, maybe for a module inside it: the audit sees who has drawn.
        return _marks.mark_site(output, self.site_path, type(self), None, None)


def _role_of(node: nnx.Module) -> Role | None:
    return _decide.role_of(node, nnx.Dropout, nnx.MultiHeadAttention)


def _live_mixin(node: nnx.Module) -> type[Live] | None:
    """What is mixed into the class of a module, or None if it is left as it is."""
    role = _role_of(node)
    if role is not None:
        return {"cell": _LiveCell, "attention": _LiveAttention}.get(role, _LiveDropout)
    if isinstance(node, nnx.bridge.ToNNX):
        return _LiveBridge
    kind = type(node)
    told = _told_methods(kind) or _decide.own_flags(node, _decide.FLAGS)
    # A library's modules draw only in those above; its norms are told to evaluate.
    of_library = kind.__module__.split(".")[0] in ("flax", "jaxdrop")
    if told and (_decide.is_norm(kind) or not of_library):
        return _LiveOther
    if of_library:
        return None
    takes_keys = any(map(_marks.takes_keys, _methods(kind).values()))
    return _LiveOther if takes_keys or _nnx_streams.held(node) else None


def _told_methods(cls: type) -> dict[str, Callable[..., Any]]:
    """The methods of a class that take a flag, by name."""
    return {name: f for name, f in _methods(cls).items() if _decide.has_flags(f)}


def _methods(cls: type) -> dict[str, Callable[..., Any]]:
    """What a class adds to the methods of Flax's modules, by name."""
    of_flax = {name for base in nnx.Module.__mro__ for name in vars(base)} | {"set_view"}
    methods: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            plain = callable(value) and not isinstance(value, type | staticmethod | classmethod)
            named = name == "__call__" or not name.startswith("__")
            if plain and named and name not in of_flax:
                methods[name] = value
    return methods


@functools.cache
def _live_class(mixin: type[Live], cls: type) -> type:
    methods: dict[str, Any] = {"__module__": cls.__module__}
    if mixin is _LiveOther:
        public = {n: f for n, f in _methods(cls).items() if n == "__call__" or n[0] != "_"}
        methods |= {n: _telling(f) for n, f in (public | _told_methods(cls)).items()}
    return type(cls.__name__, (mixin, cls), methods)


def _telling(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def method(self: _LiveOther, *args: Any, **kwargs: Any) -> Any:
        return self.site_told(functools.partial(function, self), args, kwargs)

    return method
