"""An nnx model with its dropout on, as a function; whoever imports this file loads ``flax.nnx``."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from jaxdrop.mc import _models, _options
from jaxdrop.mc._by_value import ByValue
from jaxdrop.mc._forwarded import forwarded
from jaxdrop.mc._nnx_live import enliven
from jaxdrop.mc._site import auditing, mark_changes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NnxFn(_options.ModelFn):
    """``fn(key, *args, **kwargs)`` of an nnx model with its dropout on; made by `from_nnx`."""

    state: Any
    rate: Any
    graph: ByValue = dataclasses.field(metadata={"static": True})
    sites: Any = dataclasses.field(metadata={"static": True})
    off: bool = dataclasses.field(metadata={"static": True})
    zero_rates: bool = dataclasses.field(metadata={"static": True})
    shared_masks: bool = dataclasses.field(metadata={"static": True})

    def _called(self, kwargs):
        del kwargs
        return nnx.merge(self.graph.value, self.state)

    def _run(self, key, plan, args, kwargs):
        def make():
            return nnx.merge(self.graph.value, self.state, copy=True)

        output, _, changed = _pass(make, plan, key, lambda model: model(*args, **kwargs))
        if auditing.value:
            return mark_changes(output, {kind.__name__ for kind in changed.values()})
        _refuse_changes(changed, plan.prefix)
        return output


def nnx_fn(model, sites, rate, zero_rates, shared_masks):
    """What `from_nnx` returns."""
    _models.check_nnx(model, nnx.Module)
    sites, (rate, off) = _options.check_sites(sites), _options.check_override(rate)
    copy = nnx.clone(model)
    copy.eval()
    graph, state = nnx.split(copy)
    options = {"sites": sites, "off": off, "zero_rates": bool(zero_rates)}
    return NnxFn(state, rate, ByValue(graph), shared_masks=bool(shared_masks), **options)


def run_inside(module, model, plan, key, method, args, kwargs):
    """A pass of an nnx model inside a linen one, whose ``ToLinen`` has made it for this call.

    Args:
        module: the ``ToLinen``, which stores what is then in the variables of the model.
        model: the nnx model.
        plan: of the pass.
        key: of the pass.
        method: of the model, a name or a function; None for its call.
        args: of the method.
        kwargs: likewise.
    """

    def make():
        copy = nnx.clone(model)
        copy.eval()
        return copy

    def call(copy):
        called = method if callable(method) else getattr(type(copy), method or "__call__")
        return called(copy, *args, **kwargs)

    output, after, changed = _pass(make, plan, key, call)
    lost = {path: kind for path, kind in changed.items() if not _is_kept(module, kind)}
    _refuse_changes(lost, plan.prefix)
    variables = _variables(model)
    for path in changed:
        variables[path].set_value(after[path].get_value())
    return output


def _is_kept(module, kind):
    name = nnx.variablelib.variable_name_from_type(kind, allow_register=True)
    return module.is_mutable_collection(name)


def _pass(make, plan, key, call):
    """A pass of a model: its output, its variables after it, and the kinds of the changed ones.

    Args:
        make: makes a copy of the model.
        plan: of the pass.
        key: of the pass.
        call: what is called with the copy.
    """

    def run(values):
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
    if changed:  # a loop, or a call of a program, hands on what it leaves alone as another array

        def again(values):
            after = run(dict(zip(changed, values)))[2]
            return [after[path].get_raw_value() for path in changed]

        with jax.disable_jit(False):  # disabled, JAX writes out every turn of a loop
            program = jax.make_jaxpr(again)([before[path] for path in changed])
        numbers = enumerate(forwarded(program.jaxpr))
        changed = [changed[number] for number, source in numbers if number != source]
    return output, after, {path: type(after[path]) for path in changed}


def _variables(model):
    """The variables that a pass has to leave as they are, by path.

    Not the counts of random streams, what is sown, and the weights that Flax's norms of weights
    normalise in place, which they do to the same effect in every pass.
    """
    own = nnx.state(model, nnx.Not(nnx.Any(nnx.RngState, nnx.Intermediate)))
    normalised = tuple(
        path
        for path, node in nnx.iter_graph(model)
        if isinstance(node, nnx.SpectralNorm | nnx.WeightNorm)
    )
    paths = {
        path
        for path, variable in nnx.to_flat_state(own)
        if not isinstance(variable, nnx.Param)
        or not any(path[: len(start)] == start for start in normalised)
    }
    return {
        path: node
        for path, node in nnx.iter_graph(model)
        if isinstance(node, nnx.Variable) and path in paths
    }


def _refuse_changes(changed, prefix):
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
