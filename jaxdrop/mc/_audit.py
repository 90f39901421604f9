"""Where a model drops, before anything runs: what its program notes, and what it draws."""

import fnmatch
import json
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
from flax import errors
from jax.extend.core import Jaxpr

from jaxdrop.mc import _decide, _jaxpr, _marks
from jaxdrop.mc._jaxpr import Draw
from jaxdrop.mc._marks import Choice, Site

_COLUMNS = 80
_REMEDY = """
Add a layer that drops, such as flax.linen.Dropout, flax.nnx.Dropout or one of
jaxdrop.linen or jaxdrop.nnx. A model that was trained without one gets dropout
from the adapter: from_linen(model, variables, insert={"*Dense_*": 0.1}).
A model that drops by a function and a key takes the key as an argument."""

_OTHERS = """
Sites are layers of a Flax model behind from_linen or from_nnx. What another
function drops is not listed, and its passes differ all the same."""


class Audit(NamedTuple):
    """The dropout sites of a function; printed as a table.

    Attributes:
        sites: every `Site`, in the order of the program. A site inside a loop counts once.
        depends_on_key: whether any output depends on the key.
        bytes_a_pass: about what one more pass side by side adds to the memory of a program.
        changes: collections, in nnx kinds of variables, that the model would write in a pass;
            empty if all is well. A write is lost in nnx and refused by linen, and may mean that a
            norm that the user wrote does not evaluate.
        unreached: a sentence for each place whose dropout an adapter does not decide, with its
            name and the reason; empty if all is well.
        independent: paths of the sites that are independent in every pass also if passes are
            balanced: continuous noise, layers whose rate decides a shape, a user's own draws.
    """

    sites: tuple[Site, ...]
    depends_on_key: bool
    bytes_a_pass: int
    changes: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()
    independent: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.depends_on_key:
            verdict = "The output depends on the key."
        else:
            verdict = "The output does not depend on the key."
        if self.changes:
            verdict += f"\nA pass would change {', '.join(self.changes)}."
        for sentence in self.unreached:
            verdict += "\n" + textwrap.fill(f"Not reached: {sentence}.", _COLUMNS)
        if not self.sites:
            remedy = _OTHERS if self.depends_on_key else _REMEDY
            return f"no dropout site was found\n{verdict}{remedy}"
        rows = [("path", "kind", "rate", "shape", "")]
        for site in self.sites:
            rate = "-" if site.rate is None else f"{site.rate:.4g}"
            state = "dead"
            if site.live:
                state = "live, independent" if site.path in self.independent else "live"
            rows.append((site.path, site.kind, rate, str(site.shape), state))
        widths = [max(map(len, column)) for column in zip(*rows)]
        # A path that leaves no room for what belongs beside it has a line of its own.
        room = max(12, _COLUMNS - 2 * 4 - sum(widths[1:]))
        widths[0] = max(len(path) for path, *_ in rows if len(path) <= room)
        lines = []
        for path, *row in rows:
            if len(path) > room:
                lines += [path[i : i + _COLUMNS] for i in range(0, len(path), _COLUMNS)]
                path = ""
            lines.append("  ".join(map(str.ljust, [path, *row], widths)).rstrip())
        live = sum(site.live for site in self.sites)
        return "\n".join([*lines, f"{live} of {len(self.sites)} sites are live. {verdict}"])


def audit(fn: Any, key: Any, *args: Any, **kwargs: Any) -> Audit:
    """Every dropout site that a call of ``fn`` would pass, live or dead.

    The call is traced with abstract values and nothing is computed. It works on any callable that
    ends in a function of `from_linen` or `from_nnx`: a lambda, a partial, a jitted function.

    Args:
        fn: function of a key and more arguments.
        key: PRNG key; not consumed.
        *args: arguments of ``fn`` after the key.
        **kwargs: keyword arguments of ``fn``.

    Returns:
        An `Audit`; print it for a table.

    Example:
        >>> model = nn.Sequential([nn.Dense(8), nn.Dropout(0.5, deterministic=True), nn.Dense(2)])
        >>> x = jnp.ones((3, 4))
        >>> fn = from_linen(model, model.init(jax.random.key(0), x))
        >>> print(audit(fn, jax.random.key(1), x))
        path      kind     rate  shape
        layers_1  Dropout  0.5   (3, 8)  live
        1 of 1 sites are live. The output depends on the key.
    """
    with _marks.auditing(True):
        try:
            jaxpr = _jaxpr.trace(fn, key, args, kwargs)
        except errors.ModifyScopeVariableError:
            # A linen model writes to its collections: another pass may, and notes to which.
            with _marks.writing(True):
                jaxpr = _jaxpr.trace(fn, key, args, kwargs)
    drawn, depends = _jaxpr.draws(jaxpr)
    sites, sentences = _sites(jaxpr, drawn)
    inputs = [number == 0 for number in range(len(jaxpr.invars))]
    size, changes = _jaxpr.working_set(jaxpr, inputs), tuple(sorted(_changes(jaxpr)))
    return Audit(sites, depends, size, changes, sentences, _independent(sites, drawn))


def audit_live(fn: Any, key: Any, args: Any, kwargs: Any) -> Audit:
    """The audit of a function that drops, refused if it does not.

    It warns of dropout that an adapter does not decide.
    """
    report = audit(fn, key, *args, **kwargs)
    if not report.depends_on_key:
        _refuse_empty((args, kwargs))
        raise ValueError(
            "fn: expected a function whose output depends on the key, got one that gives the same "
            "output in every pass; make it with jaxdrop.mc.from_linen or from_nnx, or give its "
            f"dropout a rate above 0. Its sites:\n{report}"
        )
    _warn(report)
    return report


def _refuse_empty(args: Any) -> None:
    for leaf in jax.tree.leaves(args):
        if 0 in getattr(leaf, "shape", ()):
            raise ValueError(
                f"args: expected at least one example, got an array of shape {leaf.shape}; leave "
                "empty batches out"
            )


def _warn(report: Audit) -> None:
    if report.unreached:
        warnings.warn(
            "not all dropout is decided by the key and by what the adapter was told: "
            + "; ".join(report.unreached),
            stacklevel=2,
        )


def _sites(jaxpr: Jaxpr, drawn: list[Draw]) -> tuple[tuple[Site, ...], tuple[str, ...]]:
    """The sites of a program, and the sentences about what is not reached."""
    sites, drawing = sites_of(jaxpr, drawn)
    by_themselves = [site for site in sites if site.path in drawing]
    sentences = _unreached(jaxpr)
    for choice in _choices(jaxpr):
        # A site that is not chosen may leave no note, because its module is not even called.
        seen = {site.path for site in sites}
        missing = [site for site in choice.sites if site.path not in seen]
        sites += [site._replace(live=False) for site in missing]
        sentences += [f"a pass does not come to {site.path}" for site in missing if site.live]
        off = {site.path for site in choice.sites if not site.live}
        for site in by_themselves:
            has_rate = any(fnmatch.fnmatchcase(site.path, pattern) for pattern in choice.rated)
            said = _decide.unreached(site.path, site.kind, site.path in off, has_rate)
            sentences += [] if said is None else [said]
        if choice.unmatched is not None:
            paths = ", ".join(repr(site.path) for site in choice.sites)
            sentences.append(f"{choice.unmatched} matches none of the paths there are: {paths}")
    sentences += [
        f"{draw.place} draws by a key that is not that of the pass: the same in every pass"
        for draw in drawn
        if not draw.origin.key
    ]
    return tuple(sites), tuple(dict.fromkeys(sentences))


def sites_of(jaxpr: Jaxpr, drawn: Sequence[Draw]) -> tuple[list[Site], set[str]]:
    """Every `Site` of a program with these draws, and the paths of those that draw by themselves.

    The latter are not modules of dropout: they draw by a key of their own or of their call.
    """
    by_module: dict[tuple[str, str], Draw] = {}
    for draw in drawn:
        if draw.origin.owner is not None and draw.origin.site is None:
            by_module.setdefault(draw.origin.owner, draw)
    paths = {path for path, _ in by_module}
    live = [
        site._replace(live=True) if site.live is None else site
        for site in _marked_sites(jaxpr)
        if site.live is not None or site.path in paths  # it may have drawn, and has
    ]
    seen = {site.path for site in live}
    for (path, kind), draw in by_module.items():
        if path not in seen:
            live.append(Site(path, kind, None, draw.shape, True))
    return live, paths


def _independent(sites: Sequence[Site], drawn: Sequence[Draw]) -> tuple[str, ...]:
    """Paths of the sites that draw something other than decisions."""
    origins = [draw.origin for draw in drawn if not draw.balanced]
    others = {origin.site or (origin.owner and origin.owner[0]) for origin in origins}
    return tuple(site.path for site in sites if site.path in others)


def _marked_sites(jaxpr: Jaxpr) -> Iterator[Site]:
    """Every noted `Site` of a program, in order; ``live`` may be None."""
    for (path, kind, rate, live), shape in _notes(jaxpr, _marks.SITE_NOTE):
        yield Site(path, kind, rate, shape, live)


def _changes(jaxpr: Jaxpr) -> set[str]:
    """Names of the collections that a program is noted to write."""
    return {name for names, _ in _notes(jaxpr, _marks.CHANGES_NOTE) for name in names}


def _unreached(jaxpr: Jaxpr) -> list[str]:
    """The sentences noted about dropout that no adapter decides."""
    return [sentence for sentence, _ in _notes(jaxpr, _marks.UNREACHED_NOTE)]


def _choices(jaxpr: Jaxpr) -> Iterator[Choice]:
    """Every noted `Choice`."""
    for (sites, *rest), _ in _notes(jaxpr, _marks.CHOICE_NOTE):
        yield Choice([Site(p, k, r, tuple(shape), live) for p, k, r, shape, live in sites], *rest)


def _notes(jaxpr: Jaxpr, prefix: str) -> Iterator[tuple[Any, tuple[int, ...]]]:
    """The contents of the notes of one kind, each with the shape of the array that carries it."""
    for equation in _jaxpr.equations(jaxpr):
        name = str(equation.params.get("name"))
        if equation.primitive.name == "name" and name.startswith(prefix):
            yield json.loads(name[len(prefix) :]), _jaxpr.shape_of(equation.outvars[0])
