"""The rules of a pass, the same for linen and nnx: who drops, at what rate, who is told what.

Here a decision is only made. `_linen` and `_nnx_modules` apply it to the modules.
"""

import contextlib
import fnmatch
import functools
import inspect
import numbers
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxdrop.functional import _internal as functional
from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _insert, _sharing
from jaxdrop.mc._insert import Called, Insertions, Place
from jaxdrop.mc._sharing import Sharing

# What a module is to a pass: what its class declares, or a module of Flax's that drops.
Role = functional.Role | Literal["attention"]
Path = tuple[str, ...]

# The fields or attributes that are rates, by role; a module has those of them that it needs.
RATES: dict[Role, tuple[str, ...]] = {
    "drops": ("rate",),
    "drops shapes": ("rate",),
    "always on": ("rate",),
    "cell": ("rate", "input_rate", "state_rate", "output_rate"),
    "attention": ("dropout_rate",),
}

# The names that a flag for dropout may have, in a call or among the fields of a module, and what
# each is if the module is to drop.
FLAGS = {
    "deterministic": False,
    "train": True,
    "training": True,
    "is_training": True,
    "is_train": True,
    "enable_dropout": True,
    "use_dropout": True,
}
# What a norm is told: to use its averages, and to leave its variables alone.
_EVALUATED = {
    **{name: not value for name, value in FLAGS.items()},
    "use_running_average": True,
    "update_stats": False,
}
_NORM = re.compile(r"Norm(?!al(?!i[sz]))")  # not of "normal"
_WRAPPED = re.compile(r"^(Pre|Post)|(Block|Attention|Residual|Encoder|Decoder|MLP|Mlp|Stage|Net)$")

# What Flax's attention is told if an override decides: it compares its rate with 0 in Python.
SOME_RATE = 0.5


class Decision(NamedTuple):
    """What a module of dropout does in a pass.

    Attributes:
        live: whether it drops anything; true if that is only known when the program runs.
        rate: probability of dropping, its own or another.
        flag: the ``deterministic`` that it is told.
        marked: the rate that the audit prints; None if it is not a known number.
    """

    live: bool
    rate: Any
    flag: Any
    marked: float | None


class Override(NamedTuple):
    """Another rate for sites.

    Attributes:
        rate: a scalar array, or None if the sites keep their rates. In a plan with groups, a tuple
            of one for each; there None is a rate that is known to be 0.
        off: whether the rate is known to be 0: nothing drops, and no module is told to.
        zero_rates: whether the rate is also for sites whose own is known to be 0.
    """

    rate: Any = None
    off: bool = False
    zero_rates: bool = False


OWN_RATES = Override()


def role_of(module: Any, dropout: type, attention: type) -> Role | None:
    """The role of a module, by its class or those of Flax; None if it is not one of dropout."""
    flax = "drops" if isinstance(module, dropout) else None
    flax = "attention" if isinstance(module, attention) else flax
    return getattr(type(module), "mc_role", flax)


def decide(
    role: Role,
    chosen: bool,
    rate: Any,
    flag: Any = None,
    override: Override = OWN_RATES,
    fixed: bool = False,
) -> Decision:
    """What a module does in a pass.

    Args:
        role: what the module is.
        chosen: whether its site is one of those that drop.
        rate: its own rate.
        flag: its own ``deterministic``, which only a module that is "always on" obeys: any other
            flag is the model's, and the pass decides instead.
        override: rate instead of its own.
        fixed: whether its rate is not a number that it holds, so that it cannot be another one.
    """
    if not chosen:
        flag = True
    elif role != "always on":
        flag = False
    # A rate of 0 is how a model switches a site off, so an override leaves it alone if not asked.
    off_by_itself = _is_known_zero(rate) and not override.zero_rates
    keeps = fixed or role == "drops shapes" or off_by_itself
    if not keeps and override.off:
        rate = 0.0
    elif not keeps and override.rate is not None:
        rate = override.rate
    live = flag is not True and not _is_known_zero(rate)
    return Decision(live, rate, flag, float(rate) if isinstance(rate, numbers.Real) else None)


def common_rate(rates: Iterable[Any]) -> float | None:
    """The one rate of all that drop, 0 if none does; None if they differ or are not known."""
    known = {masks.check_rate(rate).known for rate in rates} - {0.0}
    return 0.0 if not known else known.pop() if len(known) == 1 else None


def _is_known_zero(rate: Any) -> bool:
    """Whether a rate is 0, as is known while a program is traced."""
    return isinstance(rate, numbers.Real) and rate == 0


class Plan(NamedTuple):
    """What a pass is to do.

    Attributes:
        sites: the choice of sites: a pattern, a function of the path, or None for all.
        override: rate instead of those of the sites.
        hidden: paths of the chosen sites that stand under an ``if`` of a module around them, which
            is told to drop for their sake.
        prefix: path of the model, if it is a part of another one.
        groups: patterns of the sites that have a rate of the override each; empty if one is for
            all of them.
        insert: where dropout is inserted.
        called: notes where that was so in a pass; None outside of one.
        broadcast_dims: axes along which sites share their decisions, by patterns of their paths.
    """

    sites: Any = None
    override: Override = OWN_RATES
    hidden: tuple[str, ...] = ()
    prefix: Path = ()
    groups: tuple[str, ...] = ()
    insert: Insertions = ()
    called: Called | None = None
    broadcast_dims: Sharing = ()

    def at_rate(self, rate: Any) -> "Plan":
        """The plan with another rate instead of those of the sites, or None."""
        return self._replace(override=self.override._replace(rate=rate))

    def inside(self, path: Iterable[Any]) -> "Plan":
        """The plan for a model that is the module at ``path`` of this one."""
        return self._replace(prefix=self.path(path))

    def path(self, path: Iterable[Any]) -> Path:
        """The path of a module as the audit prints it, in a tuple."""
        return (*self.prefix, *map(str, path))

    def decide(
        self, role: Role, path: Path, rate: Any, flag: Any = None, fixed: bool = False
    ) -> Decision:
        """What the module at a path of `path` does, as the function `decide` says."""
        return decide(role, self.is_chosen(path), rate, flag, self.override_at(path), fixed)

    def override_at(self, path: Path) -> Override:
        """The override of the site at a path of `path`."""
        if not self.groups:
            return self.override
        for rate, pattern in zip(self.override.rate, self.groups):
            if fnmatch.fnmatchcase("/".join(path), pattern):
                return self.override._replace(rate=rate, off=rate is None)
        return self.override._replace(rate=None, off=False)

    def is_chosen(self, path: Path) -> bool:
        """Whether the site at a path of `path` is one of those that drop."""
        joined = "/".join(path)
        if self.override_at(path).off:
            return False
        if isinstance(self.sites, str):
            return fnmatch.fnmatchcase(joined, self.sites)
        return self.sites is None or bool(self.sites(joined))

    def shared_axes(self, path: Path) -> tuple[int, ...]:
        """The axes along which the site at a path of `path` shares its decisions, too."""
        return _sharing.axes_of(self.broadcast_dims, path)

    def flags(self, path: Path, kind: type) -> Mapping[str, bool]:
        """The flags that a module of a class is told, if it has them."""
        if is_norm(kind):
            return _EVALUATED
        start = "/".join((*path, "")) if path else ""
        drops = self.is_chosen(path) or any(site.startswith(start) for site in self.hidden)
        return {name: value is drops for name, value in FLAGS.items()}

    def unreached(self, path: Path, kind: type) -> str | None:
        """A sentence about a module that has dropped by itself, if it should have been kept off."""
        has_rate = self.override_at(path).rate is not None
        return unreached("/".join(path), kind.__name__, not self.is_chosen(path), has_rate)

    def place(self, path: Path, kind: type) -> Place | None:
        """Where dropout is inserted beside the layer at a path of `path`, or None."""
        if self.called is None or (path == self.prefix and self.prefix):
            return None  # a model inside another one is the layer that holds it
        self.called.paths.setdefault("/".join(path), kind.__name__)
        for number, (layers, insert) in enumerate(self.insert):
            if _names_layer(layers, path, kind):
                name = f"{path[-1] if path else ''}:{'before' if insert.before else 'after'}"
                layer = f"{'/'.join(path) or 'the model'} ({kind.__name__})"
                return Place((*path[:-1], name), layer, insert, number, self.called)
        return None


def _names_layer(layers: _insert.Layers, path: Path, kind: type) -> bool:
    """Whether a key of ``insert=`` names a layer."""
    if isinstance(layers, type):
        return issubclass(kind, layers)
    if not isinstance(layers, str):
        return bool(layers("/".join(path)))
    # Not what lies inside a layer that it names. The whole model is not meant by a star.
    parts = ["/".join(path[:length]) for length in range(1, len(path) + 1)]
    *outer, joined = parts or [""]
    if any(fnmatch.fnmatchcase(each, layers) for each in outer):
        return False
    return fnmatch.fnmatchcase(joined, layers) if path else not layers


def unreached(path: str, kind: str, off: bool, has_rate: bool) -> str | None:
    """A sentence about a module that has dropped by itself, if it has not done what was asked.

    Args:
        path: of the module, in one string.
        kind: name of its class.
        off: whether it was to be kept off.
        has_rate: whether there is a rate instead of those of the sites.
    """
    name = f"{path or 'the model'} ({kind})"
    if off:
        return f"{name} drops by itself, though it is not chosen: no flag of its own keeps it off"
    if has_rate:
        return f"{name} drops by itself, at a rate of its own: rate= does not reach it"
    return None


def is_norm(kind: type) -> bool:
    """Whether a class is a norm by its name, rather than a block that has one in it."""
    return bool(_NORM.search(kind.__name__)) and not _WRAPPED.search(kind.__name__)


def has_flags(call: Callable[..., Any]) -> bool:
    """Whether a function has a parameter that a plan sets."""
    return bool(inspect.signature(call).parameters.keys() & _EVALUATED.keys())


def own_flags(module: Any, flags: Mapping[str, bool]) -> dict[str, bool]:
    """The flags that a module has among its fields or attributes, by name, as they are to be."""
    return {name: flags[name] for name in flags if _is_flag(getattr(module, name, None))}


def told(
    call: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    flags: Mapping[str, bool],
    own: Mapping[str, bool],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call of a module with its ``flags`` set as they are to be.

    A flag that the call leaves None and that the module has as its ``own`` is left to the module,
    because one that merges both refuses to be told twice.
    """
    signature = inspect.signature(call)
    bound = signature.bind_partial(*args, **kwargs)
    for name, value in flags.items():
        if name not in signature.parameters:
            continue
        passed = bound.arguments.get(name, signature.parameters[name].default)
        if passed is None and name in own:
            continue
        # Something else under this name, such as a string, does not switch dropout.
        if passed is None or passed is inspect.Parameter.empty or _is_flag(passed):
            bound.arguments[name] = value
    return bound.args, bound.kwargs


@contextlib.contextmanager
def holding(module: Any, **values: Any) -> Generator[None]:
    """Inside, fields or attributes of a module have other values."""
    # In its dictionary, because a linen module is frozen and an nnx module looks at what it gets.
    before = {name: vars(module)[name] for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(before)


def _is_flag(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return True
    return isinstance(value, jax.Array | np.ndarray) and value.ndim == 0 and value.dtype == bool


def at_rate(attention_fn: Callable[..., Any], rate: Any) -> Callable[..., Any]:
    """Flax's attention function, or one like it, at another rate than it is told."""

    @functools.wraps(attention_fn)  # Flax passes only what the signature has
    def attention(*args: Any, **kwargs: Any) -> Any:
        if "dropout_rate" in kwargs:
            kwargs["dropout_rate"] = rate
        return attention_fn(*args, **kwargs)

    return attention
