"""What the reference shows of a class: its constructor, its call and its example.

Griffe reads the source without running it. So it does not see the fields that Flax or a decorator
turns into a constructor, and knows ``Example:`` only as ``Examples:``.
"""

import dataclasses
import importlib
import inspect
import re

import griffe

# Flax adds them to every linen module.
_OF_FLAX = {"parent", "name"}


class Examples(griffe.Extension):
    """Renames the section before it is parsed."""

    def on_object(self, *, obj, **_):
        if obj.docstring:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = text


class Constructors(griffe.Extension):
    """Gives each layer the signature of its constructor, and of the call that it inherits."""

    def on_package(self, *, pkg, **_):
        for package in ("linen", "nnx"):
            module = importlib.import_module(f"jaxdrop.{package}")
            for name in module.__all__:
                cls = getattr(module, name)
                if inspect.isclass(cls):
                    _complete(pkg[f"{package}.{name}"].final_target, cls)


def _complete(shown, cls):
    shown.set_member("__init__", _function(cls.__init__))
    if "__call__" not in shown.members:
        call, text = _function(cls.__call__), inspect.getdoc(cls.__call__)
        # The top of the page explains the call that most layers share.
        if "that the class names" in text:
            text = text.splitlines()[0]
        quiet = {"warn_missing_types": False}
        call.docstring = griffe.Docstring(text, parent=call, parser="google", parser_options=quiet)
        shown.set_member("__call__", call)


def _function(function):
    signature = inspect.signature(function)
    kept = [p for name, p in signature.parameters.items() if name not in _OF_FLAX]
    parameters = griffe.Parameters(*map(_parameter, kept))
    returns = _type(signature.return_annotation)
    return griffe.Function(function.__name__, parameters=parameters, returns=returns)


def _parameter(parameter):
    return griffe.Parameter(
        parameter.name,
        annotation=_type(parameter.annotation),
        kind=getattr(griffe.ParameterKind, parameter.kind.name.lower()),
        default=None if parameter.default is parameter.empty else repr(parameter.default),
    )


def _type(annotation):
    if annotation in (inspect.Parameter.empty, None):
        return None
    if isinstance(annotation, dataclasses.InitVar):
        annotation = annotation.type
    # `Rngs` says as much to a reader as `flax.nnx.rnglib.Rngs`.
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"(\w+\.)+", "", text)
