"""The draws of a traced program: by which key, in which module, and where in the user's code."""

import functools
import pathlib
import sysconfig
from typing import NamedTuple

import flax
import jax
from jax.extend.core import Literal

import jaxdrop
from jaxdrop.mc import _trace
from jaxdrop.mc._forwarded import scan_sizes
from jaxdrop.mc._site import SITE, Site, read_given

_LIBRARIES = tuple(str(pathlib.Path(str(m.__file__)).parent) for m in (jax, flax, jaxdrop))
_PYTHON = sysconfig.get_paths()["stdlib"]
_PRIMITIVES = {"random_bits", "random_gamma", "rng_bit_generator", "rng_uniform", "threefry2x32"}
_OURS = "philox4x32"  # the one program that draws the bits of this package, of a key
_COUNTER = 4  # words beside the key's


class Origin(NamedTuple):
    """What a value comes from.

    Attributes:
        key: whether it depends on the key of the pass.
        site: whether it does so by way of the key of a site.
        given: the module that has got it as a key of its own, or as one among the arguments of its
            call: path and kind.
    """

    key: bool = False
    site: bool = False
    given: tuple[str, str] | None = None

    def __or__(self, other):
        return Origin(self.key or other.key, self.site or other.site, self.given or other.given)


class Draw(NamedTuple):
    """Random bits of a program: where they are drawn, their shape, and the origin of their key."""

    place: str
    shape: tuple[int, ...]
    origin: Origin


def draws(jaxpr):
    """Every `Draw` of an open jaxpr whose first input is the key of the pass.

    And whether any of its outputs depends on that key.
    """
    found = []
    inputs = [Origin(key=number == 0) for number in range(len(jaxpr.invars))]
    outputs = _walk(jaxpr, inputs, "", found)
    return found, any(origin.key for origin in outputs)


def sites(jaxpr, drawn):
    """Every `Site` of a program, and the paths of those that are no modules of dropout.

    Args:
        jaxpr: the program, open.
        drawn: its draws.
    """
    by_module: dict[tuple[str, str], Draw] = {}
    for draw in drawn:
        if draw.origin.given is not None and not draw.origin.site:
            by_module.setdefault(draw.origin.given, draw)
    paths = {path for path, _ in by_module}
    found = []
    for site in _trace.sites(jaxpr):
        if site.live is not None:
            found.append(site)
        elif site.path in paths:  # it may have drawn, and has
            found.append(site._replace(live=True))
    seen = {site.path for site in found}
    for (path, kind), draw in by_module.items():
        if path not in seen:
            found.append(Site(path, kind, None, draw.shape, True))
    return found, paths


def _walk(jaxpr, inputs, place, found):
    """Origins of the outputs of a program; its draws are added to ``found``."""
    origins = dict(zip(jaxpr.invars, inputs))

    def of(variable):
        return Origin() if isinstance(variable, Literal) else origins.get(variable, Origin())

    for equation in jaxpr.eqns:
        entering = [of(variable) for variable in equation.invars]
        here = _place(equation) or place
        if _is_draw(equation):
            shape = equation.outvars[0].aval.shape
            if 0 not in shape:
                found.append(Draw(here, shape, _together(entering)))
            leaving = [_together(entering)] * len(equation.outvars)
        else:
            leaving = _inside(equation, entering, here, found)
        origins.update(zip(equation.outvars, leaving))
    return [of(variable) for variable in jaxpr.outvars]


def _inside(equation, entering, place, found):
    """Origins of the outputs of an equation, from those of the programs inside it if it has any."""
    name, params = equation.primitive.name, equation.params
    if name in ("random_fold_in", "random_wrap"):
        return [_of_key(_together(entering), name, str(equation.source_info.name_stack))]
    if name == "scan":
        return _loop(params["jaxpr"].jaxpr, entering, scan_sizes(equation), place, found)
    if name == "while":
        return _while(params, entering, place, found)
    if name == "cond":
        results = [_walk(b.jaxpr, entering[1:], place, found) for b in params["branches"]]
        return [_together((entering[0], *origins)) for origins in zip(*results)]
    inner = list(_trace.programs(params))
    if len(inner) == 1 and len(inner[0].invars) == len(entering):
        return _walk(inner[0], entering, place, found)
    for program in inner:
        _walk(program, [_together(entering)] * len(program.invars), place, found)
    return [_together(entering)] * len(equation.outvars)


def _loop(body, entering, sizes, place, found):
    """Origins of the outputs of a loop, whose carry takes on origins until it takes on no more."""
    num_consts, num_carry = sizes
    carried = slice(num_consts, num_consts + num_carry)
    while True:
        inside = []
        leaving = _walk(body, entering, place, inside)
        carry = [a | b for a, b in zip(entering[carried], leaving)]
        if carry == entering[carried]:
            found += inside
            return leaving
        entering = [*entering[:num_consts], *carry, *entering[carried.stop :]]


def _while(params, entering, place, found):
    """Origins of the outputs of a while loop, whose length may depend on something, too."""
    body, consts = params["body_jaxpr"].jaxpr, entering[: params["cond_nconsts"]]
    entering = entering[len(consts) :]
    sizes = params["body_nconsts"], len(body.outvars)
    leaving = _loop(body, entering, sizes, place, found)
    again = _walk(params["cond_jaxpr"].jaxpr, [*consts, *leaving], place, found)
    return [_together((origin, *again)) for origin in leaving]


def _together(origins):
    return functools.reduce(Origin.__or__, origins, Origin())


def _of_key(origin, name, scopes):
    """The origin of a key that is made in scopes, which may be those of an adapter."""
    given = read_given(scopes)
    if name == "random_wrap" and given is not None:
        return origin._replace(given=given, site=False)
    return origin._replace(site=origin.site or (origin.key and SITE in scopes))


def _is_draw(equation):
    name = equation.primitive.name
    if name in _PRIMITIVES:
        return True
    # The scan of Flax traces what is known beforehand on its own: the counter without the key.
    ours = name in ("jit", "pjit") and equation.params["name"] == _OURS
    return ours and len(equation.invars) > _COUNTER


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
