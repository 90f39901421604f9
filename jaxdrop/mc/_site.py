"""Dropout sites: how an adapter marks one, and keys that no two sites share."""

import json
import numbers
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxdrop.masks import _internal as masks

_MARK = "jaxdrop.site:"
_CHANGES = "jaxdrop.changes:"
_UNREACHED = "jaxdrop.unreached:"
_CHOICE = "jaxdrop.choice:"
# Scopes in which keys are made: of a site, and of those among the arguments of a module.
SITE = "jaxdrop.key_of_site"
_GIVEN = re.compile(r"jaxdrop\.key_given_to:([0-9a-f]*):(\w*)")

# Whether an audit is under way: what a model changes is then noted and not refused. Part of what
# jit finds a function by, since one that was compiled before has not noted anything.
auditing = jax.make_user_context(default_value=False)
# Whether a linen model may write to its collections, so that all that it writes can be noted.
writing = jax.make_user_context(default_value=False)


class Site(NamedTuple):
    """A place in a model where dropout sits.

    Attributes:
        path: names of the modules that lead to it, joined by slashes.
        kind: class of the module.
        rate: probability of dropping; None where it is an array, or where there is none.
        shape: shape of what is dropped from.
        live: whether a pass drops anything there.
    """

    path: str
    kind: str
    rate: float | None
    shape: tuple[int, ...]
    live: bool


class Choice(NamedTuple):
    """What an adapter was told about sites and rates.

    Attributes:
        sites: all that there are where all drop, live where they are chosen.
        unmatched: the choice in words, if no site matches it; else None.
        has_rate: whether there is a rate in place of those of the sites.
    """

    sites: list[Site]
    unmatched: str | None
    has_rate: bool


def unreached(path, kind, off, has_rate):
    """A sentence about a module that has dropped by itself, if it has not done what was asked.

    Args:
        path: of the module, in one string.
        kind: name of its class.
        off: whether it was to be kept off.
        has_rate: whether there is a rate in place of those of the sites.
    """
    name = f"{path or 'the model'} ({kind})"
    if off:
        return f"{name} drops by itself, though it is not chosen: no flag of its own keeps it off"
    if has_rate:
        return f"{name} drops by itself, at a rate of its own: rate= does not reach it"
    return None


def is_live(rate, deterministic):
    """Whether a site with this rate and flag drops anything; traced ones may."""
    return deterministic is not True and not is_known_zero(rate)


def is_known_zero(rate):
    """Whether a rate is 0, as is known while a program is traced."""
    return isinstance(rate, numbers.Real) and rate == 0


def mark(x, path, kind, rate, live):
    """``x``, with the site noted in the traced program, where the audit reads it.

    The note survives jit, its cache and every transform, and compiles to nothing. In a pytree, the
    first array carries it. Where ``live`` is None, it is a site if the module has drawn by a key
    that was noted as its own.
    """
    rate = float(rate) if isinstance(rate, numbers.Real) else None
    return _noted(x, _MARK, ("/".join(map(str, path)), kind.__name__, rate, live))


def mark_changes(x, collections):
    """``x``, with the names of the collections that a pass has written noted in the program."""
    return _noted(x, _CHANGES, sorted(collections)) if collections else x


def mark_unreached(x, text):
    """``x``, with a sentence noted about dropout that an adapter does not decide."""
    return _noted(x, _UNREACHED, text)


def mark_choice(x, choice):
    """``x``, with the `Choice` noted by which a pass was made."""
    return _noted(x, _CHOICE, choice)


def read_mark(equation):
    """The `Site` that an equation of a jaxpr notes, or None."""
    note = _read(equation, _MARK)
    if note is None:
        return None
    path, kind, rate, live = note
    return Site(path, kind, rate, equation.outvars[0].aval.shape, live)


def read_changes(equation):
    """The names of collections that an equation of a jaxpr notes."""
    return _read(equation, _CHANGES) or []


def read_unreached(equation):
    """The sentence that an equation of a jaxpr notes, or None."""
    return _read(equation, _UNREACHED)


def read_choice(equation):
    """The `Choice` that an equation of a jaxpr notes, or None."""
    note = _read(equation, _CHOICE)
    if note is None:
        return None
    sites, *rest = note
    sites = [Site(path, kind, r, tuple(shape), live) for path, kind, r, shape, live in sites]
    return Choice(sites, *rest)


def _noted(x, prefix, note):
    leaves, structure = jax.tree.flatten(x)
    for number, leaf in enumerate(leaves):
        if _carries_notes(leaf):
            leaves[number] = checkpoint_name(leaf, prefix + json.dumps(note))
            break
    return jax.tree.unflatten(structure, leaves)


def _carries_notes(leaf):
    array = isinstance(leaf, jax.Array | np.ndarray)
    return array and not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _read(equation, prefix):
    name = str(equation.params.get("name"))
    if equation.primitive.name != "name" or not name.startswith(prefix):
        return None
    return json.loads(name[len(prefix) :])


def given_to(path, kind):
    """A scope for the keys among the arguments of a module."""
    return jax.named_scope(f"jaxdrop.key_given_to:{'/'.join(path).encode().hex()}:{kind.__name__}")


def read_given(scopes):
    """Path and kind of the module of the innermost scope of `given_to`, or None."""
    found = _GIVEN.findall(scopes)
    return (bytes.fromhex(found[-1][0]).decode(), found[-1][1]) if found else None


def site_key(key, path):
    """A key for the site at ``path``: paths that differ in any name give different keys."""
    with jax.named_scope(SITE):
        return masks.fold_in_names(key, path)
