"""An nnx model with its dropout on, as a function; whoever imports this file loads ``flax.nnx``."""

import dataclasses
from typing import Any

import jax
from flax import nnx

from jaxdrop.mc import _options
from jaxdrop.mc._nnx_live import Live, enliven
from jaxdrop.mc._site import auditing, mark_changes
from jaxdrop.nnx._replace import replaced


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class NnxFn(_options.ModelFn):
    """``fn(key, *args, **kwargs)`` of an nnx model with its dropout on; made by `from_nnx`."""

    state: Any
    rate: Any
    graph: Any = dataclasses.field(metadata={"static": True})
    shared_masks: bool = dataclasses.field(metadata={"static": True})

    def _run(self, key, *args, **kwargs):
        model = nnx.merge(self.graph, self.state, copy=True)
        for _, node in nnx.iter_graph(model):
            if isinstance(node, Live):
                node.prepare(key, self.rate)
        if not auditing.value:
            return model(*args, **kwargs)
        before = _variables(model)
        output = model(*args, **kwargs)
        after = _variables(model)
        written = {kind for path, (kind, value) in before.items() if after[path][1] is not value}
        return mark_changes(output, written)


def nnx_fn(model, sites, rate, shared_masks):
    """What `from_nnx` returns."""
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"model: expected a flax.nnx.Module, got {type(model).__name__}; "
            "for a linen model write jaxdrop.mc.from_linen(model, variables)"
        )
    sites, rate = _options.check_sites(sites), _options.check_override(rate)
    copy = replaced(model, zero_rates=rate is not None)
    copy.eval()
    for path, node in nnx.iter_graph(copy):
        path = tuple(map(str, path))
        enliven(node, path, _options.is_chosen(sites, path))
    graph, state = nnx.split(copy)
    return NnxFn(state, rate, graph, bool(shared_masks))


def _variables(model):
    """Kind and value of every variable of a model, but for the counts of its random streams."""
    return {
        path: (type(variable).__name__, variable.get_raw_value())
        for path, variable in nnx.to_flat_state(nnx.state(model))
        if isinstance(variable, nnx.Variable) and not isinstance(variable, nnx.RngState)
    }
