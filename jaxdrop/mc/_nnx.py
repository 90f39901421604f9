"""A pass of an nnx model, which has to leave its variables alone; this file loads ``flax.nnx``."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from jaxdrop.mc import _checks, _jaxpr, _marks, _model_fn
from jaxdrop.mc._decide import Plan
from jaxdrop.mc._fingerprint import ByValue
from jaxdrop.mc._nnx_modules import enliven

# Path of a variable of a model.
Path = tuple[Any, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NnxFn(_model_fn.ModelFn):
    """``fn(key, *args, **kwargs)`` of an nnx model with its dropout on; made by `from_nnx`."""

    state: Any
    rate: Any
    graph: ByValue = dataclasses.field(metadata={"static": True})
    plan: Plan = dataclasses.field(metadata={"static": True})
    shared_masks: bool = dataclasses.field(metadata={"static": True})
    mutable: Any = dataclasses.field(metadata={"static": True})  # a filter of nnx

    def with_state(self, state: Any) -> "NnxFn":
        if state is None:
            return self
        values, own = dict(nnx.to_flat_state(self.state)), _matching(self.state, self.mutable)
        given = dict(nnx.to_flat_state(state)) if isinstance(state, nnx.State) else None
        if given is None or given.keys() != own.keys():
            named = ", ".join("/".join(map(str, path)) for path in own)
            got = type(state).__name__ if given is None else f"one of {list(given)}"
            raise ValueError(
                f"state: expected an nnx.State of the variables that mutable= names, {named}, got "
                f"{got}; pass what the last pass has returned, or nnx.state(model, nnx.Cache)"
            )
        return dataclasses.replace(self, state=nnx.from_flat_state([*(values | given).items()]))

    def called(self, kwargs: dict[str, Any]) -> Callable[..., Any]:
        del kwargs
        return nnx.merge(self.graph.value, self.state)

    def run(self, key: jax.Array, plan: Plan, args: Any, kwargs: Any) -> Any:
        def make() -> nnx.Module:
            return nnx.merge(self.graph.value, self.state, copy=True)

        output, after, changed = _pass(make, plan, key, lambda model: model(*args, **kwargs))
        named = _matching(self.state, self.mutable)
        changed = {path: kind for path, kind in changed.items() if path not in named}
        if _marks.auditing.value:
            output = _marks.mark_changes(output, {kind.__name__ for kind in changed.values()})
        else:
            _refuse_changes(changed, plan.prefix)
        if not self.mutable:
            return output
        state = [
            (path, v.replace(after[path].get_raw_value()) if path in after else v)
            for path, v in named.items()
        ]
        return output, nnx.from_flat_state(state)


def nnx_fn(model: Any, shared_masks: bool, mutable: Any, *choices: Any) -> NnxFn:
    """What `from_nnx` returns; the choices are those of `planned`."""
    _checks.check_nnx(model, nnx.Module)
    checked, plan = _model_fn.planned(*choices)
    graph, state = nnx.split(_evaluating(model))
    mutable = tuple(mutable) if isinstance(mutable, list) else mutable or None
    if mutable and not _matching(state, mutable):
        raise ValueError(
            f"mutable: expected a filter that matches variables of the model, got {mutable!r}, "
            "which matches none; make them first, for example by init_cache of its attention"
        )
    _checks.check_not_by_example(mutable, shared_masks)
    return NnxFn(state, checked, ByValue(graph), plan, bool(shared_masks), mutable)


def _matching(state: Any, mutable: Any) -> dict[Path, Any]:
    """The variables of a state that a filter matches, by path."""
    matches = nnx.filterlib.to_predicate(mutable)
    return {path: v for path, v in nnx.to_flat_state(state) if matches(path, v)}


def _evaluating(model: nnx.Module) -> nnx.Module:
    """A copy of the model, put in evaluation mode."""
    copy = nnx.clone(model)
    copy.eval()
    return copy


def run_inside(
    module: Any, model: nnx.Module, plan: Plan, key: jax.Array, method: Any, args: Any, kwargs: Any
) -> Any:
    """A pass of an nnx model inside a linen one.

    Its ``ToLinen``, the ``module``, has made it for this call and stores what is then in its
    variables. The ``method`` is a name or a function; None is the call of the model.
    """

    def call(copy: Any) -> Any:
        called = method if callable(method) else getattr(type(copy), method or "__call__")
        return called(copy, *args, **kwargs)

    def is_lost(kind: type) -> bool:
        name = nnx.variablelib.variable_name_from_type(kind, allow_register=True)
        return not module.is_mutable_collection(name)

    output, after, changed = _pass(lambda: _evaluating(model), plan, key, call)
    lost = {path: kind for path, kind in changed.items() if is_lost(kind)}
    _refuse_changes(lost, plan.prefix)
    variables = _variables(model)
    for path in changed:
        variables[path].set_value(after[path].get_value())
    return output


def _pass(
    make: Callable[[], Any], plan: Plan, key: jax.Array, call: Callable[[Any], Any]
) -> tuple[Any, dict[Path, Any], dict[Path, type]]:
    """A pass of a model: its output, its variables after it, and the kinds of the changed ones.

    Args:
        make: makes a copy of the model.
        plan: of the pass.
        key: of the pass.
        call: what is called with the copy.
    """

    def run(values: Mapping[Path, Any]) -> tuple[Any, dict[Path, Any], dict[Path, Any]]:
        model = make()
        variables = _variables(model)
        for path, value in values.items():
            variables[path].set_raw_value(value)
        before = {path: variable.get_raw_value() for path, variable in variables.items()}
        enliven(model, plan, key)
        output = call(model)
        after = _variables(model)
        return output, before, {path: after[path] for path in before if path in after}

    output, before, after = run({})
    changed = [path for path, v in after.items() if v.get_raw_value() is not before[path]]

    def again(values: Mapping[int, Any]) -> dict[int, Any]:
        after = run({changed[number]: value for number, value in values.items()})[2]
        return {number: after[path].get_raw_value() for number, path in enumerate(changed)}

    same = _jaxpr.handed_on(again, {n: before[path] for n, path in enumerate(changed)})
    changed = [path for number, path in enumerate(changed) if number not in same]
    return output, after, {path: type(after[path]) for path in changed}


def _variables(model: nnx.Module) -> dict[Path, Any]:
    """The variables that a pass has to leave as they are, by path.

    Not the counts of random streams, what is sown, and the weights that Flax's norms of weights
    normalise in place, which they do to the same effect in every pass.
    """
    state = nnx.state(model, nnx.Not(nnx.Any(nnx.RngState, nnx.Intermediate)))
    nodes = list(nnx.iter_graph(model))
    normalised = tuple(
        path for path, node in nodes if isinstance(node, nnx.SpectralNorm | nnx.WeightNorm)
    )
    paths = {
        path
        for path, variable in nnx.to_flat_state(state)
        if not isinstance(variable, nnx.Param)
        or not any(path[: len(start)] == start for start in normalised)
    }
    return {path: node for path, node in nodes if isinstance(node, nnx.Variable) and path in paths}


def _refuse_changes(changed: Mapping[Path, type], prefix: Path) -> None:
    if not changed:
        return
    named = [
        f"{'/'.join(map(str, (*prefix, *p)))} ({kind.__name__})" for p, kind in changed.items()
    ]
    raise ValueError(
        "model: expected one that leaves its variables as they are when it is evaluated, got one "
        f"whose pass changes {', '.join(sorted(named))}, which would be lost; switch it off, as a "
        "cache by decode=False, or have it returned, as by from_nnx(model, mutable=nnx.Cache)"
    )
