"""A pass of a linen model: its function, and an interceptor that applies decisions to modules."""

import contextlib
import contextvars
import dataclasses
import functools
import inspect
import sys
import weakref
from collections.abc import Callable, Generator, Mapping
from typing import Any

import jax
from flax import errors
from flax import linen as nn
from flax.core import scope
from jax.core import Tracer

from jaxdrop import functional
from jaxdrop.linen import _internal as linen
from jaxdrop.mc import _checks, _decide, _fingerprint, _jaxpr, _marks, _sharing
from jaxdrop.mc._decide import Path, Plan, Role
from jaxdrop.mc._fingerprint import ByValue
from jaxdrop.mc._insert import Place
from jaxdrop.mc._model_fn import ModelFn

_active: contextvars.ContextVar[Any] = contextvars.ContextVar("active", default=None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LinenFn(ModelFn):
    """``fn(key, *args, **kwargs)`` of a linen model with its dropout on; made by `from_linen`."""

    variables: Any
    rate: Any
    model: ByValue = dataclasses.field(metadata={"static": True})
    method: Any = dataclasses.field(metadata={"static": True})
    plan: Plan = dataclasses.field(metadata={"static": True})
    shared_masks: bool = dataclasses.field(metadata={"static": True})
    mutable: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    def with_state(self, state: Any) -> "LinenFn":
        state = {} if state is None else state
        _checks.check_state(state, self.mutable, self.variables)
        return dataclasses.replace(self, variables={**self.variables, **state})

    def called(self, kwargs: dict[str, Any]) -> Callable[..., Any]:
        model, method = self.model.value, kwargs.get("method", self.method)
        if method is None or isinstance(method, str):
            return getattr(type(model), method or "__call__", model).__get__(model)
        return functools.partial(method, model)

    def run(self, key: jax.Array, plan: Plan, args: Any, kwargs: Any) -> Any:
        rngs = streams(key, kwargs.get("rngs") or {})
        options = {"method": self.method, **kwargs, "rngs": rngs}
        if self.mutable:
            options.setdefault("mutable", list(self.mutable))
        try:
            if _marks.writing.value:
                return self._writing(plan, key, args, options)
            with intercepted(plan, key):
                return self.model.value.apply(self.variables, *args, **options)
        except (errors.ScopeParamNotFoundError, errors.ScopeCollectionNotFound) as error:
            if "params" in self.variables or not self.variables:
                raise
            raise _checks.params_alone(self.variables) from error

    def _writing(self, plan: Plan, key: jax.Array, args: Any, options: dict[str, Any]) -> Any:
        """A pass that may write, and notes where it did; sown values do not count."""
        mutable = options.pop("mutable", False)
        if options.get("capture_intermediates"):
            mutable = scope.union_filters(mutable, "intermediates")

        def run(variables: Any) -> Any:
            with intercepted(plan, key):
                return self.model.value.apply(variables, *args, mutable=True, **options)

        output, after = run(self.variables)
        written = {
            name
            for name, before in self.variables.items()
            if not scope.in_filter(mutable, name) and not _same(before, after.get(name, before))
        }
        some = {name: self.variables[name] for name in written}
        written -= _jaxpr.handed_on(lambda some: run({**self.variables, **some})[1], some)
        output = _marks.mark_changes(output, written)
        if mutable is False:
            return output
        return output, {name: x for name, x in after.items() if scope.in_filter(mutable, name)}


def _same(before: Any, after: Any) -> bool:
    """Whether all leaves are the same objects, as Flax returns what was not written."""
    before, after = jax.tree.leaves(before), jax.tree.leaves(after)
    return len(before) == len(after) and all(a is b for a, b in zip(before, after))


def streams(key: jax.Array, more: Mapping[str, jax.Array] | None = None) -> dict[str, jax.Array]:
    """The streams of a pass of a linen model, and more that may take the place of these.

    Flax falls back to "params" if a lifted transform does not pass "dropout" on, or if a module
    names a collection of its own.
    """
    with jax.named_scope(_marks.SITE):
        both = {"params": jax.random.fold_in(key, 0), "dropout": jax.random.fold_in(key, 1)}
    named = dict(more or {}).items()
    return both | {name: _marks.site_key(stream, ("rngs", name)) for name, stream in named}


@contextlib.contextmanager
def intercepted(plan: Plan, key: jax.Array) -> Generator[None]:
    """Inside, the linen modules that run do what the plan decides."""
    interceptor, decisions = _active.get(), _decisions(plan, key)
    if interceptor is not None:
        # A linen model inside an nnx model inside a linen model: a second interceptor would be
        # called around the first, so the first goes on with this plan.
        outer, interceptor.plan = interceptor.plan, plan
        try:
            with linen.adapted(decisions):
                yield
        finally:
            interceptor.plan = outer
        return
    interceptor = _Interceptor(plan)
    token = _active.set(interceptor)
    try:
        with linen.adapted(decisions), nn.intercept_methods(interceptor):
            yield
    finally:
        _active.reset(token)


def _decisions(plan: Plan, key: jax.Array) -> Any:
    """What a plan decides, equal only if it is the same: jit finds a function by it."""
    rate, sites = plan.override.rate, _fingerprint.fingerprint(plan.sites)
    is_traced = any(isinstance(each, Tracer) for each in jax.tree.leaves(rate))
    # What was compiled before does not say again where dropout was inserted.
    if is_traced or plan.called or (sites is None and isinstance(key, Tracer)):
        return object()
    override = plan.override._replace(rate=jax.tree.map(float, rate))
    return plan._replace(
        sites=weakref.ref(plan.sites) if sites is None else sites, override=override
    )


class _Interceptor:
    """Applies the decisions of a plan to every module of a model while a pass runs."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.beside: list[Path] = []  # layers that are being called, with dropout inserted
        self.inside: list[Any] = []  # modules that are being called: a subclass calls its parent's

    def __call__(self, next_method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module, name = context.module, context.method_name
        if module.scope is None:  # unbound, it is not at a place of the model
            return next_method(*args, **kwargs)
        path, is_call = self.plan.path(module.path), name == "__call__"
        # A lifted transform calls a copy of the module, a subclass its parent: all at one path.
        place = None
        if is_call and path not in self.beside:
            place = self.plan.place(path, type(module))
        if place is None:
            return self.run(next_method, module, path, name, args, kwargs)
        if place.insert.before:
            drop = lambda x: self.inserted(module, place, x)  # noqa: E731
            args, kwargs = place.replaced(next_method, args, kwargs, drop)
        self.beside.append(path)
        try:
            output = self.run(next_method, module, path, name, args, kwargs)
        finally:
            self.beside.pop()
        return output if place.insert.before else self.inserted(module, place, output)

    def inserted(self, module: Any, place: Place, x: Any) -> Any:
        """``x`` with dropout that the model itself does not have."""
        place.come(x)
        decision = self.plan.decide("drops", place.path, place.insert.rate)
        x = _marks.mark_site(x, place.path, nn.Dropout, decision.marked, decision.live)
        if not decision.live:
            return x
        try:
            key = _marks.site_key(module.make_rng("dropout"), place.path)
        except errors.InvalidRngError as error:
            raise ValueError(
                f"insert: expected a layer that gets keys, got {place.layer} inside a transform "
                "of Flax that passes none on; name the layer around it"
            ) from error
        is_convolution = isinstance(module, nn.Conv | nn.ConvLocal | nn.ConvTranspose)
        own = place.shared(module.kernel_size if is_convolution else None)
        shared = _sharing.joined(own, self.plan.shared_axes(place.path), x.ndim, place.path)
        return functional.dropout(key, x, decision.rate, broadcast_dims=shared)

    def run(
        self, next_method: Any, module: Any, path: Path, name: str, args: Any, kwargs: Any
    ) -> Any:
        """A method of a module, with the decision of the plan applied to it."""
        is_call = name == "__call__"
        role = _decide.role_of(module, nn.Dropout, nn.MultiHeadDotProductAttention)
        if role == "cell":
            return self.cell(next_method, module, path, name, args, kwargs)
        if role not in (None, "attention"):
            if not is_call:
                return next_method(*args, **kwargs)
            return self.dropout(next_method, module, role, path, args, kwargs)
        if any(module is other for other in self.inside):
            return self.told(next_method, module, path, args, kwargs)
        self.inside.append(module)
        try:
            if role == "attention" and is_call:
                return self.attention(next_method, module, path, args, kwargs)
            if _is_bridge(module) and is_call:
                return self.bridge(next_method, module, path, args, kwargs)
            return self.other(next_method, module, path, args, kwargs)
        finally:
            self.inside.pop()

    def dropout(
        self, next_method: Any, module: Any, role: Role, path: Path, args: Any, kwargs: Any
    ) -> Any:
        """A dropout module, whose function is called with the key of its site."""
        call = inspect.signature(next_method).bind(*args, **kwargs)
        call.apply_defaults()
        call.arguments.pop("rng", None)  # the key of the pass decides, not the model
        deterministic = call.arguments.pop("deterministic", None)
        has_rate = "rate" in _names(module)
        flag = module.resolve(deterministic) if role == "always on" else None
        decision = self.plan.decide(role, path, module.rate, flag, fixed=not has_rate)
        inputs = list(call.arguments.values())
        inputs = _marks.mark_site(inputs, path, type(module), decision.marked, decision.live)
        held: dict[str, Any] = {"rate": decision.rate} if has_rate else {}
        if decision.live:
            held |= _sharing.attributes(module, path, self.plan.shared_axes(path), inputs)
        with _decide.holding(module, **held):
            key = None
            if decision.live:
                key = _marks.site_key(module.make_rng(module.rng_collection), path)
            if isinstance(module, nn.Dropout):
                return linen.drop_entries(module, key, *inputs, deterministic=decision.flag)
            return module.drop(key, *inputs, deterministic=decision.flag)

    def attention(self, next_method: Any, module: Any, path: Path, args: Any, kwargs: Any) -> Any:
        """An attention module of Flax, whose weights drop."""
        call = inspect.signature(next_method).bind(*args, **kwargs)
        decision = self.plan.decide("attention", path, module.dropout_rate)
        is_overridden = decision.rate is not module.dropout_rate
        call.arguments.update(deterministic=not decision.live)
        with contextlib.ExitStack() as stack:
            enter = stack.enter_context
            enter(_decide.holding(module, deterministic=None))  # Flax refuses to be told twice
            if decision.live:
                key = _marks.site_key(module.make_rng("dropout"), path)
                call.arguments.update(dropout_rng=key)
                if is_overridden:
                    enter(_decide.holding(module, dropout_rate=_decide.SOME_RATE))
                # It looks at the rate to see whether the module drops at all.
                enter(linen.replaced_attention(module))
                axes = self.plan.shared_axes(path)
                changed = _sharing.attention(module.attention_fn, axes, path)
                if is_overridden:
                    changed = _decide.at_rate(changed, decision.rate)
                enter(_decide.holding(module, attention_fn=changed))
            output = next_method(*call.args, **call.kwargs)
        return _marks.mark_site(output, path, type(module), decision.marked, decision.live)

    def cell(
        self, next_method: Any, module: Any, path: Path, name: str, args: Any, kwargs: Any
    ) -> Any:
        """A method of a recurrent cell that drops, with masks from the key of the pass."""
        if name == "resolve":
            return not self.plan.is_chosen(path)
        own = {n: getattr(module, n) for n in _names(module).intersection(_decide.RATES["cell"])}
        rates = {n: self.plan.decide("cell", path, rate).rate for n, rate in own.items()}
        with _decide.holding(module, **rates):
            result = next_method(*args, **kwargs)
            if name == "sequence_key":
                return _marks.site_key(result, path)
            if name != "initialize_carry":
                return result
            rate = _decide.common_rate(module.rates)
        decision = _decide.decide("cell", self.plan.is_chosen(path), rate)
        return _marks.mark_site(result, path, type(module), decision.marked, decision.live)

    def bridge(self, next_method: Any, module: Any, path: Path, args: Any, kwargs: Any) -> Any:
        """An nnx model inside a linen model."""
        from jaxdrop.mc import _nnx  # flax.nnx is loaded already

        method, plan = kwargs.pop("nnx_method", None), self.plan.inside(module.path)
        key = _marks.site_key(module.make_rng("dropout"), path)

        def run(inner: Any, *args: Any, **kwargs: Any) -> Any:
            return _nnx.run_inside(module, inner, plan, key, method, args, kwargs)

        return next_method(*args, nnx_method=run, **kwargs)

    def other(self, next_method: Any, module: Any, path: Path, args: Any, kwargs: Any) -> Any:
        """Any other module: told what it can be told, and a site if it draws a key itself."""
        before = _keys_drawn(module)
        output = self.told(next_method, module, path, args, kwargs)
        if _keys_drawn(module) == before:
            return output
        _sharing.refuse_alone(self.plan.broadcast_dims, path)
        output = _marks.mark_site(output, path, type(module), None, True)
        unreached = self.plan.unreached(path, type(module))
        return output if unreached is None else _marks.mark_unreached(output, unreached)

    def told(self, next_method: Any, module: Any, path: Path, args: Any, kwargs: Any) -> Any:
        """A call with the flags that the module has set, in the call and among its fields."""
        flags = self.plan.flags(path, type(module))
        own = _decide.own_flags(module, {n: flags[n] for n in flags.keys() & _names(module)})
        args, kwargs = _decide.told(next_method, args, kwargs, flags, own)
        args, kwargs = _marks.handed(path, type(module), next_method, args, kwargs)
        with _decide.holding(module, **own):
            return next_method(*args, **kwargs)


def _names(module: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(module)}


def _is_bridge(module: Any) -> bool:
    """Whether it is an nnx model inside linen; if so, nnx is loaded."""
    bridge = sys.modules.get("flax.nnx.bridge")
    return bridge is not None and isinstance(module, bridge.ToLinen)


def _keys_drawn(module: Any) -> dict[str, int]:
    """How many keys the module itself has taken from each of its streams."""
    counters = module.scope.rng_counters
    return {name: count for name, count in counters.items() if isinstance(count, int)}
