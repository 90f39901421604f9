"""What users pass, refused early if it cannot be meant: functions, summaries and models."""

import contextlib
import dataclasses
import difflib
import inspect
import re
import sys
from collections.abc import Collection, Generator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxdrop.mc import _pytrees
from jaxdrop.mc._summary import Summary

_FLAX_NAME = re.compile(r"^[A-Z]\w*_\d+$")  # a module that Flax has named, not a collection
_SUMMARIES = "classification", "moments", "quantiles", "regression", "samples"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Outputs:
    """What ``pick`` takes from the output of ``fn``, or all of it; refuses all but numbers."""

    fn: Any
    pick: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self.fn(*args, **kwargs)
        output = output if self.pick is None else self.pick(output)
        leaves = jax.tree_util.tree_leaves_with_path(output)
        if not leaves:
            raise TypeError(
                f"fn: expected arrays of numbers as outputs, got {output!r}; end it with a return "
                "of what is to be summarised"
            )
        for path, leaf in leaves:
            if not _pytrees.is_array(leaf) and not isinstance(leaf, bool | int | float | complex):
                got = f"{leaf!r} of type {type(leaf).__name__}"
            elif jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
                got = "a PRNG key"
            else:
                continue
            raise TypeError(
                f"fn: expected arrays of numbers as outputs, got {got}{_pytrees.at(path)}; "
                f"return only what is to be summarised, or pick it, as in {_pytrees.PICK}"
            )
        return output


def outputs(fn: Any, pick: Any) -> Outputs:
    """``fn`` with its outputs picked and checked."""
    check_fn(fn)
    if pick is not None and not callable(pick):
        raise TypeError(
            f"output: expected a function that picks from the output of fn, got {pick!r}; write "
            f"for example {_pytrees.PICK}"
        )
    return Outputs(fn, pick)


def check_fn(fn: Any) -> None:
    """Refuses a model instead of a function of a key, and what cannot be called."""
    nnx = sys.modules.get("flax.nnx")  # loaded, if the model is of it
    adapter = None
    if isinstance(fn, nn.Module):
        adapter = "from_linen(model, variables)"
    elif nnx is not None and isinstance(fn, nnx.Module) and not _takes_key(fn):
        adapter = "from_nnx(model)"
    if adapter:
        raise TypeError(
            f"fn: expected a function of a PRNG key and more arguments, got the model "
            f"{type(fn).__name__}; write jaxdrop.mc.{adapter}"
        )
    if not callable(fn):
        raise TypeError(
            f"fn: expected a function of a PRNG key and more arguments, got {fn!r} of type "
            f"{type(fn).__name__}; write for example lambda key, x: jaxdrop.dropout(key, x, 0.5)"
        )


def check_summary(summary: Any) -> Summary:
    """Refuses what is not a `Summary`."""
    if isinstance(summary, Summary):
        return summary
    name = getattr(summary, "__name__", summary)
    called = f"summary=mc.{name if callable(summary) or name in _SUMMARIES else 'moments'}()"
    remedy = f"call it: {called}" if callable(summary) else f"write {called}"
    raise TypeError(f"summary: expected a Summary, got {summary!r}; {remedy}")


@contextlib.contextmanager
def hints(kwargs: Mapping[str, Any], options: Sequence[str]) -> Generator[None]:
    """Inside, a keyword that ``fn`` does not take is told from an option that is misspelt."""
    try:
        yield
    except TypeError as error:
        for name in kwargs:
            if f"unexpected keyword argument '{name}'" in str(error):
                near = [option for option in options if name in option.split("_")]
                near += difflib.get_close_matches(name, options, 1)
                hint = f"did you mean {near[0]}?" if near else f"the options are {options}"
                raise TypeError(
                    f"{name}: expected a keyword argument of fn, got one that it does not take; "
                    f"{hint}"
                ) from error
        raise


def _takes_key(model: Any) -> bool:
    names = list(inspect.signature(type(model).__call__).parameters)[1:2]
    return any(word in name for name in names for word in ("key", "rng"))


def check_linen(model: Any) -> None:
    """Refuses what is not an unbound linen module."""
    if isinstance(model, nn.Module) and model.scope is not None:
        raise TypeError(
            f"model: expected an unbound module, got a {type(model).__name__} that is bound to "
            "its variables; write from_linen(*model.unbind())"
        )
    remedy = "make one, as for init: from_linen({}(...), variables)"
    other = "for an nnx model write jaxdrop.mc.from_nnx(model)"
    _check_module(model, nn.Module, "flax.linen.Module", remedy, other)


def check_nnx(model: Any, module: type) -> None:
    """Refuses what is not an nnx module, of the class ``module``."""
    parts = (model, *(model if isinstance(model, tuple) else ()))  # nnx.split gives a tuple
    names = {type(part).__name__ for part in parts}
    if not isinstance(model, module) and ("GraphDef" in names or type(model).__name__ == "State"):
        raise TypeError(
            f"model: expected a flax.nnx.Module, got {_named(model)}, a part of one; put it "
            "together: from_nnx(nnx.merge(graphdef, state))"
        )
    remedy = "make one: from_nnx({}(..., rngs=nnx.Rngs(0)))"
    other = "for a linen model write jaxdrop.mc.from_linen(model, variables)"
    _check_module(model, module, "flax.nnx.Module", remedy, other)


def _check_module(model: Any, module: type, name: str, remedy: str, other: str) -> None:
    """Refuses what is not a ``module``; ``remedy`` is for its class, ``other`` for all else."""
    if isinstance(model, module):
        return
    if isinstance(model, type) and issubclass(model, module):
        remedy = f"the class {model.__name__}; {remedy.format(model.__name__)}"
    elif hasattr(model, "module") and hasattr(model, "params"):  # as models of Hugging Face
        remedy = (
            f"{_named(model)}, which holds one; write "
            "from_linen(model.module, {'params': model.params})"
        )
    else:
        remedy = f"{_named(model)}; {other}"
    raise TypeError(f"model: expected a {name}, got {remedy}")


def check_variables(variables: Any) -> None:
    """Refuses what cannot be collections, as ``model.init`` returns them."""
    if not isinstance(variables, Mapping):
        remedy = "write from_linen(model, model.init(key, x))"
        if hasattr(variables, "params"):
            remedy = "for an object of its params write from_linen(model, {'params': it.params})"
        raise TypeError(
            "variables: expected a dict of collections, as model.init returns it, got "
            f"{_named(variables)}; {remedy}"
        )
    arrays = [name for name, value in variables.items() if hasattr(value, "shape")]
    of_modules = any(_FLAX_NAME.match(str(name)) for name in variables)
    if arrays or (of_modules and "params" not in variables):
        raise params_alone(variables)


def check_collections(mutable: Any) -> tuple[str, ...]:
    """The collections that a pass may write, as a tuple of their names."""
    names = (mutable,) if isinstance(mutable, str) else mutable
    if not isinstance(names, Collection) or not all(isinstance(name, str) for name in names):
        raise TypeError(
            "mutable: expected names of collections that a pass is meant to write, got "
            f"{mutable!r}; write for example mutable=('cache',)"
        )
    return tuple(names)


def check_not_by_example(mutable: Any, shared_masks: bool) -> None:
    """Refuses a state of a pass that runs once per example."""
    if mutable and shared_masks:
        raise ValueError(
            "shared_masks: expected False beside mutable=, because a state is of the whole batch, "
            "got True; share the axis of examples instead, as in broadcast_dims={'*': (0, -2)}"
        )


def check_state(state: Any, mutable: tuple[str, ...], variables: Mapping[str, Any]) -> None:
    """Refuses a state that is not one of the collections that a pass may write."""
    if not isinstance(state, Mapping) or not set(state) <= set(mutable):
        got = list(state) if isinstance(state, Mapping) else _named(state)
        raise ValueError(
            f"state: expected a dict of the collections that mutable= names, {list(mutable)}, got "
            f"{got}; pass what the last pass has returned, or {{'cache': variables['cache']}}"
        )
    # Flax's attention would make a cache of one position, and attend to that alone.
    if "cache" in mutable and "cache" not in variables and "cache" not in state:
        raise ValueError(
            "variables: expected the collection 'cache' that mutable= names, got "
            f"{list(variables)}; make it by model.init with as many tokens as will be decoded, or "
            "pass state={'cache': {}} if the pass itself makes it"
        )


def params_alone(variables: Mapping[str, Any]) -> ValueError:
    """The error for parameters in the place of collections."""
    names = ", ".join(map(repr, list(variables)[:3]))
    return ValueError(
        f"variables: expected collections such as 'params', as model.init returns them, got "
        f"{names}, as in variables['params']; write from_linen(model, {{'params': params}}), with "
        "the other collections if the model has any"
    )


def _named(value: Any) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
