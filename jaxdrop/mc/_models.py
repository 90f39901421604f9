"""What the adapters take for a model, and what they say to all else."""

import functools
import re
from collections.abc import Mapping

_OF_FLAX_NAMES = re.compile(r"^[A-Z]\w*_\d+$")  # as Flax names modules, and nobody a collection


def check_linen(model, module):
    """Raises unless ``model`` is an unbound linen module, of the class ``module``."""
    if isinstance(model, module):
        if model.scope is not None:
            raise TypeError(
                f"model: expected an unbound module, got a {type(model).__name__} that is bound to "
                "its variables; write from_linen(*model.unbind())"
            )
        return
    expected = "model: expected a flax.linen.Module, got"
    if isinstance(model, type) and issubclass(model, module):
        raise TypeError(
            f"{expected} the class {model.__name__}; make one, as for init: "
            f"from_linen({model.__name__}(...), variables)"
        )
    _refuse_holder(model, expected)
    raise TypeError(
        f"{expected} {_named(model)}; for an nnx model write jaxdrop.mc.from_nnx(model)"
    )


def check_nnx(model, module):
    """Raises unless ``model`` is an nnx module, of the class ``module``."""
    if isinstance(model, module):
        return
    expected = "model: expected a flax.nnx.Module, got"
    if isinstance(model, type) and issubclass(model, module):
        raise TypeError(
            f"{expected} the class {model.__name__}; make one: "
            f"from_nnx({model.__name__}(..., rngs=nnx.Rngs(0)))"
        )
    if type(model).__name__ in ("GraphDef", "State") or _is_split(model):
        raise TypeError(
            f"{expected} {_named(model)}, a part of one; put it together: "
            "from_nnx(nnx.merge(graphdef, state))"
        )
    _refuse_holder(model, expected)
    raise TypeError(
        f"{expected} {_named(model)}; for a linen model write "
        "jaxdrop.mc.from_linen(model, variables)"
    )


def check_variables(variables):
    """Raises if ``variables`` cannot be collections, as ``model.init`` gives them."""
    if not isinstance(variables, Mapping):
        held = " of its params write from_linen(model, {'params': it.params})"
        hint = f"; for an object{held}" if hasattr(variables, "params") else ""
        raise TypeError(
            "variables: expected a dict of collections, as model.init returns it, got "
            f"{_named(variables)}{hint or '; write from_linen(model, model.init(key, x))'}"
        )
    arrays = [name for name, value in variables.items() if hasattr(value, "shape")]
    of_modules = any(_OF_FLAX_NAMES.match(str(name)) for name in variables)
    if arrays or (of_modules and "params" not in variables):
        _refuse(variables)


def refuse_params(variables, error):
    """Raises another error in place of Flax's about a missing parameter, if it can say more."""
    if "params" not in variables and variables:
        _refuse(variables, error)


def method_of(model, method):
    """The bound method of a linen model that is meant."""
    if method is None or isinstance(method, str):
        return getattr(type(model), method or "__call__", model).__get__(model)
    return functools.partial(method, model)


def _refuse(variables, error=None):
    names = ", ".join(map(repr, list(variables)[:3]))
    raise ValueError(
        f"variables: expected collections such as 'params', as model.init returns them, got "
        f"{names}, as in variables['params']; write from_linen(model, {{'params': params}}), with "
        "the other collections if the model has any"
    ) from error


def _refuse_holder(model, expected):
    """Raises for an object that has a linen module and its parameters, as of Hugging Face."""
    if hasattr(model, "module") and hasattr(model, "params"):
        raise TypeError(
            f"{expected} {_named(model)}, which holds one; write "
            "from_linen(model.module, {'params': model.params})"
        )


def _is_split(model):
    return isinstance(model, tuple) and any(type(x).__name__ == "GraphDef" for x in model)


def _named(value):
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
