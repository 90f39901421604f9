"""Where a model drops, before anything runs."""

import textwrap
import warnings
from typing import Any, NamedTuple

from flax import errors

from jaxdrop.mc import _draws, _trace
from jaxdrop.mc._site import (
    Site,
    auditing,
    read_choice,
    read_unreached,
    unreached,
    writing,
)

_COLUMNS = 80
_REMEDY = """
Add a layer that drops, such as flax.linen.Dropout, flax.nnx.Dropout or one of
jaxdrop.linen or jaxdrop.nnx; what is trained without one may get it afterwards.
A model that drops by a function and a key takes the key as an argument."""


class Audit(NamedTuple):
    """The dropout sites of a function; printed as a table.

    Attributes:
        sites: every `Site`, in the order of the program. A site inside a loop counts once.
        depends_on_key: whether any output depends on the key.
        bytes_a_pass: about what one more pass side by side adds to the memory of a program.
        changes: collections, in nnx kinds of variables, that the model would write in a pass:
            empty where all is well. What is written is lost in nnx and refused by linen, and may
            mean that a norm of the model's own does not evaluate.
        unreached: a sentence for each place whose dropout an adapter does not decide: with its
            name, and why. Empty where all is well.
    """

    sites: tuple[Site, ...]
    depends_on_key: bool
    bytes_a_pass: int
    changes: tuple[str, ...] = ()
    unreached: tuple[str, ...] = ()

    def __str__(self):
        if self.depends_on_key:
            verdict = "The output depends on the key."
        else:
            verdict = "The output does not depend on the key."
        if self.changes:
            verdict += f"\nA pass would change {', '.join(self.changes)}."
        for sentence in self.unreached:
            verdict += "\n" + textwrap.fill(f"Not reached: {sentence}.", _COLUMNS)
        if not self.sites:
            remedy = "" if self.depends_on_key else _REMEDY
            return f"no dropout site was found\n{verdict}{remedy}"
        rows = [("path", "kind", "rate", "shape", "")]
        for site in self.sites:
            rate = "-" if site.rate is None else f"{site.rate:.4g}"
            state = "live" if site.live else "dead"
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

    The call is traced with abstract values and nothing is computed. Works on whatever ends in a
    function of `from_linen` or `from_nnx`: a lambda, a partial, a jitted or mapped function.

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
    with auditing(True):
        try:
            jaxpr = _trace.trace(fn, key, args, kwargs)
        except errors.ModifyScopeVariableError:
            with writing(True):
                jaxpr = _trace.trace(fn, key, args, kwargs)
    inputs = [index == 0 for index in range(len(jaxpr.invars))]
    drawn, depends = _draws.draws(jaxpr)
    sites, sentences = _sites(jaxpr, drawn)
    return Audit(
        sites,
        depends,
        _trace.working_set(jaxpr, inputs),
        tuple(sorted(_trace.changes(jaxpr))),
        sentences,
    )


def warn(report):
    """Warns of what an adapter does not decide."""
    if report.unreached:
        warnings.warn(
            "not all dropout is decided by the key and by what the adapter was told: "
            + "; ".join(report.unreached),
            stacklevel=2,
        )


def _sites(jaxpr, drawn):
    """The sites of a program, and the sentences about what is not reached."""
    sites, own = _draws.sites(jaxpr, drawn)
    given = [site for site in sites if site.path in own]
    sentences = list(_notes(jaxpr, read_unreached))
    for choice in _notes(jaxpr, read_choice):
        seen = {site.path for site in sites}
        missing = [site for site in choice.sites if site.path not in seen]
        sites += [site._replace(live=False) for site in missing]
        sentences += [f"a pass does not come to {site.path}" for site in missing if site.live]
        off = {site.path for site in choice.sites if not site.live}
        said = [unreached(s.path, s.kind, s.path in off, choice.has_rate) for s in given]
        sentences += filter(None, said)
        if choice.unmatched is not None:
            paths = ", ".join(repr(site.path) for site in choice.sites)
            sentences.append(f"{choice.unmatched} matches none of the paths there are: {paths}")
    sentences += [
        f"{draw.place} draws by a key that is not that of the pass: the same in every pass"
        for draw in drawn
        if not draw.origin.key
    ]
    return tuple(sites), tuple(dict.fromkeys(sentences))


def _notes(jaxpr, read):
    """What the equations of a program, and of all programs inside it, are noted to say."""
    for equation in jaxpr.eqns:
        note = read(equation)
        if note is not None:
            yield note
        for inner in _trace.programs(equation.params):
            yield from _notes(inner, read)
