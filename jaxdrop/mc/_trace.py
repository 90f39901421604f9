"""Reading a traced program: its dropout sites, and what a pass of it takes."""

import math

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jaxdrop.mc._site import read_changes, read_mark


def sites(jaxpr):
    """Every marked `Site` of a program and of all programs inside it, in order."""
    for equation in jaxpr.eqns:
        site = read_mark(equation)
        if site is not None:
            yield site
        for inner in programs(equation.params):
            yield from sites(inner)


def changes(jaxpr):
    """Names of the collections that a program, or one inside it, is noted to write."""
    found = set()
    for equation in jaxpr.eqns:
        found.update(read_changes(equation))
        for inner in programs(equation.params):
            found |= changes(inner)
    return found


def working_set(jaxpr, inputs):
    """Bytes that the greediest equation among those behind the marked inputs reads and writes.

    Counted are the values that depend on the inputs: about what one more pass side by side adds
    to the memory of a program whose equations run one after the other.
    """
    tainted = {variable for variable, is_marked in zip(jaxpr.invars, inputs) if is_marked}
    most = 0
    for equation in jaxpr.eqns:
        entering = [not isinstance(v, Literal) and v in tainted for v in equation.invars]
        if not any(entering):
            continue
        tainted.update(equation.outvars)
        moved = [v for v, is_marked in zip(equation.invars, entering) if is_marked]
        most = max(most, sum(map(_bytes, [*moved, *equation.outvars])))
        for inner in programs(equation.params):
            same = len(inner.invars) == len(entering)
            most = max(most, working_set(inner, entering if same else [True] * len(inner.invars)))
    return most


def trace(fn, key, args, kwargs):
    """The open jaxpr of ``fn(key, *args, **kwargs)``, nothing run; its first input is the key.

    What it returns beside arrays is left out.
    """
    dynamic, static = split((fn, args, kwargs))

    def call(key, dynamic):
        fn, args, kwargs = join(dynamic, static)
        return split(fn(key, *args, **kwargs))[0]

    with jax.disable_jit(False):  # which would write loops out
        return jax.make_jaxpr(call)(key, dynamic).jaxpr


def split(tree):
    """A pytree as ``(arrays, the rest)``: the arrays to trace, the rest hashable."""
    leaves, structure = jax.tree.flatten(tree)
    arrays = [leaf if is_array(leaf) else None for leaf in leaves]
    rest = tuple(None if is_array(leaf) else leaf for leaf in leaves)
    return arrays, (structure, rest)


def join(arrays, static):
    """The pytree that `split` took apart."""
    structure, rest = static
    leaves = [b if a is None else a for a, b in zip(arrays, rest)]
    return jax.tree.unflatten(structure, leaves)


def _bytes(variable):
    shape = getattr(variable.aval, "shape", ())
    size = math.prod(n for n in shape if isinstance(n, int))  # a symbol counts as 1
    return size * getattr(getattr(variable.aval, "dtype", None), "itemsize", 4)


def is_array(leaf):
    """Whether a leaf is traced, rather than passed as it is."""
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def as_array(leaf):
    """A leaf that is an array of another library as one of NumPy; any other as it is."""
    if is_array(leaf) and hasattr(leaf, "__array__"):
        return leaf if isinstance(leaf, jax.Array | np.ndarray | np.generic) else np.asarray(leaf)
    return leaf


def programs(params):
    """The open programs among the parameters of an equation."""
    for value in params.values():
        for program in value if isinstance(value, tuple | list) else (value,):
            if isinstance(program, ClosedJaxpr):
                yield program.jaxpr
            elif isinstance(program, Jaxpr):
                yield program
