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

    def called(self, kwargs: dict[str, Any]) -> Callable[..., Any]:
        del kwargs
        return nnx.merge(self.graph.value, self.state)

    def run(self, key: jax.Array, plan: Plan, args: Any, kwargs: Any) -> Any:
        def make() -> nnx.Module:
            return nnx.merge(self.graph.value, self.state, copy=True)

        output, _, changed = _pass(make, plan, key, lambda model: model(*args, **kwargs))
        if _marks.auditing.value:
            return _marks.mark_changes(output, {kind.__name__ for kind in changed.values()})
        _refuse_changes(changed, plan.prefix)
        return output


def nnx_fn(model: Any, shared_masks: bool, *choices: Any) -> NnxFn:
    """What `from_nnx` returns; the choices are those of `planned`."""
    _checks.check_nnx(model, nnx.Module)
    checked, plan = _model_fn.planned(*choices)
    graph, state = nnx.split(_evaluating(model))
    return NnxFn(state, checked, ByValue(graph), plan, bool(shared_masks))


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
        "cache by decode=False, or keep what changes outside the model and pass it as an argument"
    )
