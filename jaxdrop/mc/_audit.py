"""Where a model drops, before anything runs."""

from typing import Any, NamedTuple

from jaxdrop.mc import _trace
from jaxdrop.mc._site import Site, auditing

_COLUMNS = 80


class Audit(NamedTuple):
    """The dropout sites of a function; printed as a table.

    Attributes:
        sites: every `Site`, in the order of the program. A site inside a loop counts once.
        depends_on_key: whether any output depends on the key.
        bytes_a_pass: about what one more pass side by side adds to the memory of a program.
        changes: collections, in nnx kinds of variables, that the model would write in a pass:
            empty where all is well. What is written is lost in nnx and refused by linen, and may
            mean that a norm of the model's own does not evaluate.
    """

    sites: tuple[Site, ...]
    depends_on_key: bool
    bytes_a_pass: int
    changes: tuple[str, ...] = ()

    def __str__(self):
        if self.depends_on_key:
            verdict = "The output depends on the key."
        else:
            verdict = "The output does not depend on the key."
        if self.changes:
            verdict += f"\nA pass would change {', '.join(self.changes)}."
        if not self.sites:
            return f"no dropout site was found\n{verdict}"
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
        jaxpr = _trace.trace(fn, key, args, kwargs)
    inputs = [index == 0 for index in range(len(jaxpr.invars))]
    return Audit(
        tuple(_trace.sites(jaxpr)),
        any(_trace.depends(jaxpr, inputs)),
        _trace.working_set(jaxpr, inputs),
        tuple(sorted(_trace.changes(jaxpr))),
    )
