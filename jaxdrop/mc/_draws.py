"""The draws of a traced program that no site stands for, and where in the user's code they are."""

import functools
import operator
import pathlib
import sysconfig
from typing import NamedTuple

import flax
import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

import jaxdrop
from jaxdrop.mc._forwarded import scan_sizes
from jaxdrop.mc._site import ARGUMENT, SITE

_LIBRARIES = tuple(str(pathlib.Path(m.__file__).parent) for m in (jax, flax, jaxdrop))
_PYTHON = sysconfig.get_paths()["stdlib"]
# What a value depends on: the key of the pass; by way of a site; by way of a key among arguments.
_KEY, _BY_SITE, _BY_ARGUMENT = 1, 2, 4


class Draw(NamedTuple):
    """Random bits of a program.

    Attributes:
        place: function, file and line that draw.
        shape: of the bits.
        depends: whether they depend on the key of the pass.
        by_site: whether they do so by way of a site.
        by_argument: or by way of a key that was given among the arguments.
    """

    place: str
    shape: tuple[int, ...]
    depends: bool
    by_site: bool
    by_argument: bool


def draws(jaxpr):
    """Every `Draw` of an open jaxpr whose first input is the key of the pass."""
    found = []
    inputs = [_KEY if number == 0 else 0 for number in range(len(jaxpr.invars))]
    _walk(jaxpr, inputs, "", found)
    return list(dict.fromkeys(found))


def _walk(jaxpr, inputs, place, found):
    """Labels of the outputs of a program; its draws are added to ``found``, if any."""
    labels = dict(zip(jaxpr.invars, inputs))
    for equation in jaxpr.eqns:
        entering = [0 if isinstance(v, Literal) else labels.get(v, 0) for v in equation.invars]
        together = functools.reduce(operator.or_, entering, 0)
        here = _place(equation) or place
        if _is_draw(equation):
            if found is not None and any(v.aval.size for v in equation.outvars):
                shape = equation.outvars[0].aval.shape
                flags = (bool(together & label) for label in (_KEY, _BY_SITE, _BY_ARGUMENT))
                found.append(Draw(here, shape, *flags))
            leaving = [together] * len(equation.outvars)
        else:
            leaving = _inside(equation, entering, together, here, found)
        labels.update(zip(equation.outvars, leaving))
    return [0 if isinstance(v, Literal) else labels.get(v, 0) for v in jaxpr.outvars]


def _inside(equation, entering, together, place, found):
    """Labels of the outputs of an equation, from those of the programs inside it if it has any."""
    name, params = equation.primitive.name, equation.params
    if name == "random_fold_in" and together & _KEY:
        scopes = str(equation.source_info.name_stack)
        together |= _BY_SITE * (SITE in scopes) | _BY_ARGUMENT * (ARGUMENT in scopes)
    if name == "scan":
        return _loop(params["jaxpr"].jaxpr, entering, scan_sizes(equation), place, found)
    if name == "while":
        body, entering = params["body_jaxpr"].jaxpr, entering[params["cond_nconsts"] :]
        return _loop(body, entering, (params["body_nconsts"], len(body.outvars)), place, found)
    if name == "cond":
        results = [_walk(b.jaxpr, entering[1:], place, found) for b in params["branches"]]
        return [functools.reduce(operator.or_, labels, entering[0]) for labels in zip(*results)]
    inner = list(programs(params))
    if len(inner) == 1 and len(inner[0].invars) == len(entering):
        return _walk(inner[0], entering, place, found)
    for program in inner:
        _walk(program, [together] * len(program.invars), place, found)
    return [together] * len(equation.outvars)


def _loop(body, entering, sizes, place, found):
    """Labels of the outputs of a loop, whose carry takes on labels until it takes on no more."""
    num_consts, num_carry = sizes
    carried = slice(num_consts, num_consts + num_carry)
    while True:
        carry = [a | b for a, b in zip(entering[carried], _walk(body, entering, place, None))]
        if carry == entering[carried]:
            return _walk(body, entering, place, found)
        entering = [*entering[:num_consts], *carry, *entering[carried.stop :]]


_PRIMITIVES = {"random_bits", "random_gamma", "rng_bit_generator", "rng_uniform", "threefry2x32"}
_OURS = "philox4x32"  # the one program that draws the bits of this package


def _is_draw(equation):
    name = equation.primitive.name
    return name in _PRIMITIVES or (name in ("jit", "pjit") and equation.params["name"] == _OURS)


def _place(equation):
    """The innermost function of the user's that an equation comes from."""
    traceback = equation.source_info.traceback
    for frame in () if traceback is None else traceback.frames:
        if not _is_library(frame.file_name):
            return f"{frame.function_name} ({pathlib.Path(frame.file_name).name}:{frame.line_num})"
    return ""


def _is_library(file):
    of_python = file.startswith(_PYTHON) and "site-packages" not in file
    return of_python or file.startswith(_LIBRARIES)


def programs(params):
    """The open programs among the parameters of an equation."""
    for value in params.values():
        for program in value if isinstance(value, tuple | list) else (value,):
            if isinstance(program, ClosedJaxpr):
                yield program.jaxpr
            elif isinstance(program, Jaxpr):
                yield program
