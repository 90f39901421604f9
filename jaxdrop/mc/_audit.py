"""Where a model drops, before anything runs: the sites and the random draws of a program."""

import functools
import pathlib
import sysconfig
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax
import jax
from flax import errors
from jax.extend.core import Jaxpr, JaxprEqn

import jaxdrop
from jaxdrop.mc import _decide, _jaxpr, _marks
from jaxdrop.mc._marks import Site

_COLUMNS = 80
_REMEDY = """
Add a layer that drops, such as flax.linen.Dropout, flax.nnx.Dropout or one of
jaxdrop.linen or jaxdrop.nnx; what is trained without one may get it afterwards.
A model that drops by a function and a key takes the key as an argument."""

_LIBRARIES = tuple(str(pathlib.Path(str(m.__file__)).parent) for m in (jax, flax, jaxdrop))
_PYTHON = sysconfig.get_paths()["stdlib"]
_PRIMITIVES = {"random_bits", "random_gamma", "rng_bit_generator", "rng_uniform", "threefry2x32"}
_PHILOX = "philox4x32"  # the one program by which this package draws bits
_COUNTER = 4  # words of its input beside those of the key


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
    with _marks.auditing(True):
        try:
            jaxpr = _jaxpr.trace(fn, key, args, kwargs)
        except errors.ModifyScopeVariableError:
            # A linen model writes to its collections: another pass may, and notes to which.
            with _marks.writing(True):
                jaxpr = _jaxpr.trace(fn, key, args, kwargs)
    drawn, depends = draws(jaxpr)
    sites, sentences = _sites(jaxpr, drawn)
    inputs = [number == 0 for number in range(len(jaxpr.invars))]
    size, changes = _jaxpr.working_set(jaxpr, inputs), tuple(sorted(_marks.changes(jaxpr)))
    return Audit(sites, depends, size, changes, sentences)


def warn(report: Audit) -> None:
    """Warns of dropout that an adapter does not decide."""
    if report.unreached:
        warnings.warn(
            "not all dropout is decided by the key and by what the adapter was told: "
            + "; ".join(report.unreached),
            stacklevel=2,
        )


class Origin(NamedTuple):
    """What a value comes from.

    Attributes:
        key: whether it depends on the key of the pass.
        site: whether it does so by way of the key of a site.
        given: path and kind of the module that has got it as a key of its own, or as one among the
            arguments of its call.
    """

    key: bool = False
    site: bool = False
    given: tuple[str, str] | None = None

    def __or__(self, other: "Origin") -> "Origin":
        return Origin(self.key or other.key, self.site or other.site, self.given or other.given)


class Draw(NamedTuple):
    """Random bits of a program: where they are drawn, their shape, and the origin of their key."""

    place: str
    shape: tuple[int, ...]
    origin: Origin


def _sites(jaxpr: Jaxpr, drawn: list[Draw]) -> tuple[tuple[Site, ...], tuple[str, ...]]:
    """The sites of a program, and the sentences about what is not reached."""
    sites, drawing = sites_of(jaxpr, drawn)
    by_themselves = [site for site in sites if site.path in drawing]
    sentences = _marks.unreached(jaxpr)
    for choice in _marks.choices(jaxpr):
        # A site that is not chosen may leave no note, because its module is not even called.
        seen = {site.path for site in sites}
        missing = [site for site in choice.sites if site.path not in seen]
        sites += [site._replace(live=False) for site in missing]
        sentences += [f"a pass does not come to {site.path}" for site in missing if site.live]
        off = {site.path for site in choice.sites if not site.live}
        for site in by_themselves:
            said = _decide.unreached(site.path, site.kind, site.path in off, choice.has_rate)
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


def draws(jaxpr: Jaxpr) -> tuple[list[Draw], bool]:
    """Every `Draw` of a program whose first input is the key of the pass.

    And whether any of its outputs depends on that key.
    """
    flow = _Origins()
    outputs = flow.outputs(jaxpr, [Origin(key=n == 0) for n in range(len(jaxpr.invars))])
    return flow.found, any(origin.key for origin in outputs)


def sites_of(jaxpr: Jaxpr, drawn: Sequence[Draw]) -> tuple[list[Site], set[str]]:
    """Every `Site` of a program with these draws, and the paths of those that draw by themselves.

    The latter are not modules of dropout: they draw by a key of their own or of their call.
    """
    by_module: dict[tuple[str, str], Draw] = {}
    for draw in drawn:
        if draw.origin.given is not None and not draw.origin.site:
            by_module.setdefault(draw.origin.given, draw)
    paths = {path for path, _ in by_module}
    live = [
        site._replace(live=True) if site.live is None else site
        for site in _marks.sites(jaxpr)
        if site.live is not None or site.path in paths  # it may have drawn, and has
    ]
    seen = {site.path for site in live}
    for (path, kind), draw in by_module.items():
        if path not in seen:
            live.append(Site(path, kind, None, draw.shape, True))
    return live, paths


class _Origins(_jaxpr.Flow[Origin]):
    """The `Origin` of each value; every `Draw` is found on the way."""

    nothing = Origin()

    def plain(self, equation: JaxprEqn, entering: list[Origin]) -> list[Origin] | None:
        name, origin = equation.primitive.name, self.mixed(entering)
        if _is_draw(equation):
            shape = equation.outvars[0].aval.shape
            if 0 not in shape:
                self.found.append(Draw(self._place(), shape, origin))
            return [origin] * len(equation.outvars)
        if name not in ("random_fold_in", "random_wrap"):
            return None
        # A key is made here, maybe in a scope of an adapter.
        scopes = str(equation.source_info.name_stack)
        given = _marks.read_given(scopes)
        if name == "random_wrap" and given is not None:
            return [origin._replace(given=given, site=False)]
        return [origin._replace(site=origin.site or (origin.key and _marks.SITE in scopes))]

    def mixed(self, values: Sequence[Origin]) -> Origin:
        return functools.reduce(Origin.__or__, values, Origin())

    def one_of(self, values: Sequence[Origin], deciding: Sequence[Origin] = ()) -> Origin:
        return self.mixed((*values, *deciding))

    def _place(self) -> str:
        """The innermost function of the user's that the equation comes from."""
        return next(filter(None, map(_place, reversed(self.around))), "")


def _is_draw(equation: JaxprEqn) -> bool:
    name = equation.primitive.name
    if name in _PRIMITIVES:
        return True
    # Flax's scan traces what is known beforehand on its own: the counter without the key.
    ours = name in ("jit", "pjit") and equation.params["name"] == _PHILOX
    return ours and len(equation.invars) > _COUNTER


def _place(equation: JaxprEqn) -> str:
    traceback = equation.source_info.traceback
    frames: Any = () if traceback is None else traceback.frames
    for frame in frames:
        if not _is_library(frame.file_name):
            return f"{frame.function_name} ({pathlib.Path(frame.file_name).name}:{frame.line_num})"
    return ""


def _is_library(file: str) -> bool:
    of_python = file.startswith(_PYTHON) and "site-packages" not in file
    return of_python or file.startswith(_LIBRARIES)
