"""What the modules of a linen model do while a pass runs: an interceptor of their methods."""

import contextlib
import contextvars
import dataclasses
import inspect
import sys
import weakref
from typing import Any

import jax
from flax import linen as nn
from jax.core import Tracer

from jaxdrop.linen._base import adapted
from jaxdrop.linen._elements import drop_entries
from jaxdrop.linen._replace import replaced_attention
from jaxdrop.mc import _fingerprint, _given_keys, _options, _plan
from jaxdrop.mc._site import SITE, is_live, mark, mark_unreached, site_key

_active: contextvars.ContextVar[Any] = contextvars.ContextVar("active", default=None)


@contextlib.contextmanager
def intercepted(plan, key):
    """Inside, the linen modules that run do what the plan says.

    Where a pass is under way already, as in a linen model inside an nnx model inside a linen
    model, its interceptor goes on with this plan.
    """
    interceptor = _active.get()
    if interceptor is not None:
        outer, interceptor.plan = interceptor.plan, plan
        try:
            with adapted(_decisions(plan, key)):
                yield
        finally:
            interceptor.plan = outer
        return
    interceptor = _Interceptor(plan)
    token = _active.set(interceptor)
    try:
        with adapted(_decisions(plan, key)), nn.intercept_methods(interceptor):
            yield
    finally:
        _active.reset(token)


def _decisions(plan, key):
    """What a plan decides, equal only where it is the same: jit finds a function by it."""
    sites = _fingerprint.fingerprint(plan.sites)
    if isinstance(plan.rate, Tracer) or (sites is None and isinstance(key, Tracer)):
        return object()
    sites = weakref.ref(plan.sites) if sites is None else sites
    return plan._replace(sites=sites, rate=None if plan.rate is None else float(plan.rate))


def streams(key, given=()):
    """The streams of a pass of a linen model.

    Both, since where a lifted transform does not hand "dropout" down, or a module names a
    collection of its own, Flax falls back to "params".

    Args:
        key: of the pass.
        given: more streams, which may take the place of these, by name.
    """
    with jax.named_scope(SITE):
        own = {"params": jax.random.fold_in(key, 0), "dropout": jax.random.fold_in(key, 1)}
    return own | {name: site_key(stream, ("rngs", name)) for name, stream in dict(given).items()}


class _Interceptor:
    """Decides what every module of a model does while a pass runs."""

    def __init__(self, plan):
        self.plan = plan
        self.inside = []  # modules whose call is under way: a subclass calls its parent's

    def __call__(self, next_method, args, kwargs, context):
        module, name = context.module, context.method_name
        role = _plan.role(module, nn.Dropout)
        if role == "cell":
            return self.cell(next_method, module, name, args, kwargs)
        if role is not None:
            if name != "__call__":
                return next_method(*args, **kwargs)
            return self.dropout(next_method, module, args, kwargs)
        if module.scope is None:
            return next_method(*args, **kwargs)
        if any(module is other for other in self.inside):
            return self.told(next_method, module, args, kwargs)
        self.inside.append(module)
        try:
            if isinstance(module, nn.MultiHeadDotProductAttention) and name == "__call__":
                return self.attention(next_method, module, args, kwargs)
            if _is_bridge(module) and name == "__call__":
                return self.bridge(next_method, module, args, kwargs)
            return self.other(next_method, module, args, kwargs)
        finally:
            self.inside.pop()

    def dropout(self, next_method, module, args, kwargs):
        """A dropout module, which only an ``MCDropout`` of its own accord may switch off."""
        call = inspect.signature(next_method).bind(*args, **kwargs)
        call.apply_defaults()
        call.arguments.pop("rng", None)  # the key of the pass decides, not the model
        deterministic = call.arguments.pop("deterministic", None)
        path = self.plan.path(module.path)
        always_on = _plan.role(module, nn.Dropout) == "always on"
        flag = module.resolve(deterministic) if always_on else False
        flag = flag if self.plan.is_chosen(path) else True
        with self.overridden(module):
            rate = module.rate
            live = is_live(rate, flag)
            inputs = mark(list(call.arguments.values()), path, type(module), rate, live)
            key = site_key(module.make_rng(module.rng_collection), path) if live else None
            if isinstance(module, nn.Dropout):
                return drop_entries(module, key, *inputs, deterministic=flag)
            return module.drop(key, *inputs, deterministic=flag)

    def attention(self, next_method, module, args, kwargs):
        """An attention module of Flax with the dropout of its weights on."""
        call = inspect.signature(next_method).bind(*args, **kwargs)
        path, own = self.plan.path(module.path), module.dropout_rate
        rate = self.plan.rate_of(own)
        live = self.plan.is_chosen(path) and is_live(rate, False)
        call.arguments.update(deterministic=not live)
        with contextlib.ExitStack() as stack:
            enter = stack.enter_context
            enter(_fields(module, deterministic=None))  # Flax refuses to be told twice
            if live:
                key = site_key(module.make_rng("dropout"), path)
                call.arguments.update(dropout_rng=key)
                if rate is not own:
                    enter(_fields(module, dropout_rate=_options.SOME_RATE))
                enter(replaced_attention(module))
                if rate is not own:
                    changed = _options.at_rate(module.attention_fn, rate)
                    enter(_fields(module, attention_fn=changed))
            output = next_method(*call.args, **call.kwargs)
        return mark(output, path, type(module), rate, live)

    def cell(self, next_method, module, method_name, args, kwargs):
        """A method of a recurrent cell that drops, with masks from the key of the pass."""
        path = self.plan.path(module.path)
        chosen = self.plan.is_chosen(path)
        if method_name == "resolve":
            return not chosen
        with self.overridden(module):
            result = next_method(*args, **kwargs)
            if method_name == "sequence_key" and module.scope is not None:
                return site_key(result, path)
            if method_name == "initialize_carry":
                rate = _plan.common_rate(module.rates)
                return mark(result, path, type(module), rate, chosen and is_live(rate, False))
            return result

    def bridge(self, next_method, module, args, kwargs):
        """An nnx model inside a linen model."""
        from jaxdrop.mc import _nnx_fn

        path, method = self.plan.path(module.path), kwargs.pop("nnx_method", None)
        key = site_key(module.make_rng("dropout"), path)
        plan = self.plan.inside(module.path)

        def run(inner, *args, **kwargs):
            return _nnx_fn.run_inside(module, inner, plan, key, method, args, kwargs)

        return next_method(*args, nnx_method=run, **kwargs)

    def other(self, next_method, module, args, kwargs):
        """Any other module: told what it can be told, and a site if it draws a key itself."""
        path, before = self.plan.path(module.path), _keys_drawn(module)
        output = self.told(next_method, module, args, kwargs)
        if _keys_drawn(module) == before:
            return output
        output = mark(output, path, type(module), None, True)
        unreached = self.plan.unreached(path, type(module))
        return output if unreached is None else mark_unreached(output, unreached)

    def told(self, next_method, module, args, kwargs):
        """A call with the flags that the module has set, in the call and among its fields."""
        path, kind = self.plan.path(module.path), type(module)
        flags = self.plan.flags(path, kind)
        own = _plan.own_flags(module, {n: flags[n] for n in flags.keys() & _names(module)})
        args, kwargs = _plan.told(next_method, args, kwargs, flags, own)
        args, kwargs = _given_keys.handed(path, kind, next_method, args, kwargs)
        with _fields(module, **own):
            return next_method(*args, **kwargs)

    def overridden(self, module):
        """Inside, a module has the rate that is asked for; one that decides a shape keeps its."""
        names = _names(module).intersection(_plan.RATES[_plan.role(module, nn.Dropout)])
        return _fields(module, **{name: self.plan.rate_of(getattr(module, name)) for name in names})


@contextlib.contextmanager
def _fields(module, **values):
    """Inside, fields of a module have other values."""
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        object.__setattr__(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            object.__setattr__(module, name, value)


def _names(module):
    return {field.name for field in dataclasses.fields(module)}


def _is_bridge(module):
    """Whether it is an nnx model inside linen; if so, nnx is loaded."""
    bridge = sys.modules.get("flax.nnx.bridge")
    return bridge is not None and isinstance(module, bridge.ToLinen)


def _keys_drawn(module):
    """Number of keys that the module itself has taken from its streams."""
    counters = {} if module.scope is None else module.scope.rng_counters
    return {name: count for name, count in counters.items() if isinstance(count, int)}
