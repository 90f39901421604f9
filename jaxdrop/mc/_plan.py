"""What one pass of a model is to do: which sites drop, at what rate, and who is told so."""

import fnmatch
import inspect
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdrop.functional._modules import Role
from jaxdrop.masks import _rate
from jaxdrop.mc._site import is_known_zero, unreached

# The names that a flag for dropout may have, in a call or among the fields of a module, and what
# each is where the module is to drop.
FLAGS = {
    "deterministic": False,
    "train": True,
    "training": True,
    "is_training": True,
    "is_train": True,
    "enable_dropout": True,
    "use_dropout": True,
}
# What a norm is told: to use its averages, and to leave what it keeps alone.
_EVALUATED = {
    **{name: not value for name, value in FLAGS.items()},
    "use_running_average": True,
    "update_stats": False,
}
_NORM = re.compile(r"Norm(?!al(?!i[sz]))")  # not of "normal"
_WRAPPED = re.compile(r"^(Pre|Post)|(Block|Attention|Residual|Encoder|Decoder|MLP|Mlp|Stage|Net)$")


# The fields or attributes that are rates to override, by the role that a class declares.
RATES: dict[Role | None, tuple[str, ...]] = {
    "drops": ("rate",),
    "always on": ("rate",),
    "drops shapes": (),
    "cell": ("rate", "input_rate", "state_rate", "output_rate"),
}


class Plan(NamedTuple):
    """What a pass is to do.

    Attributes:
        sites: the choice of sites: a pattern, a function of the path, or None for all.
        rate: in place of the rates of the sites, or None.
        off: whether ``rate`` is known to be 0: nothing drops, and nobody is told to.
        zero_rates: whether ``rate`` is also for sites whose own is known to be 0.
        hidden: paths of the chosen sites that stand under an ``if`` of a module around them, which
            is told to drop for their sake.
        prefix: path of the model, where it is a part of another one.
    """

    sites: Any
    rate: Any
    off: bool
    zero_rates: bool
    hidden: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()

    def inside(self, path):
        """The plan for a model that is the module at ``path`` of this one."""
        return self._replace(prefix=self.path(path))

    def path(self, path):
        """The path of a module as the audit prints it, in a tuple."""
        return (*self.prefix, *map(str, path))

    def is_chosen(self, path):
        """Whether the site at a path of `path` is one of those that drop."""
        return self._is_chosen("/".join(path))

    def is_told(self, path):
        """Whether the module at a path of `path` is told to drop: also for what is hidden in it."""
        joined = "/".join(path)
        start = joined and joined + "/"
        return self._is_chosen(joined) or any(other.startswith(start) for other in self.hidden)

    def rate_of(self, own):
        """The rate of a site whose own rate is known."""
        if is_known_zero(own) and not self.zero_rates:
            return own
        if self.off:
            return 0.0
        return own if self.rate is None else self.rate

    def flags(self, path, kind):
        """The flags that a module of a class is told, those of them that it has."""
        return _EVALUATED if is_norm(kind) else self._dropping(self.is_told(path))

    def unreached(self, path, kind):
        """A sentence about a module that has dropped by itself, if it should have been kept off."""
        off = not self.is_chosen(path)
        return unreached("/".join(path), kind.__name__, off, self.rate is not None)

    def _is_chosen(self, joined):
        if self.off:
            return False
        if self.sites is None:
            return True
        if isinstance(self.sites, str):
            return fnmatch.fnmatchcase(joined, self.sites)
        return bool(self.sites(joined))

    @staticmethod
    def _dropping(drops):
        return {name: value is drops for name, value in FLAGS.items()}


def role(module: Any, of_flax: type) -> Role | None:
    """The role that a class declares, or that of Flax's Dropout; None for what is not dropout."""
    return getattr(type(module), "mc_role", "drops" if isinstance(module, of_flax) else None)


def common_rate(rates):
    """The one rate of all that drop, 0 if none does; None if they differ or are not known."""
    found: set[float | None] = {0.0}
    for rate in rates:
        known = _rate.check_rate(rate)
        found.add(known if isinstance(known, float) else None)
    found -= {0.0}
    return 0.0 if not found else found.pop() if len(found) == 1 else None


def is_norm(kind):
    """Whether a class is a norm by its name, rather than a block that has one in it."""
    return bool(_NORM.search(kind.__name__)) and not _WRAPPED.search(kind.__name__)


def has_flags(call):
    """Whether a function has a parameter that a plan tells."""
    return bool(inspect.signature(call).parameters.keys() & _EVALUATED.keys())


def own_flags(module, flags):
    """The flags that a module has among its fields or attributes, by name, as they are to be."""
    return {name: flags[name] for name in flags if _is_flag(getattr(module, name, None))}


def told(call, args, kwargs, flags, own):
    """The arguments of a call with its flags set.

    Args:
        call: of a module.
        args: of the call.
        kwargs: likewise.
        flags: as they are to be.
        own: those that the module has itself; where the call gives None, they are left to say it,
            since a module that merges both refuses to be told twice.
    """
    signature = inspect.signature(call)
    bound = signature.bind_partial(*args, **kwargs)
    for name, value in flags.items():
        if name not in signature.parameters:
            continue
        given = bound.arguments.get(name, signature.parameters[name].default)
        if given is None and name in own:
            continue
        if given is None or given is inspect.Parameter.empty or _is_flag(given):
            bound.arguments[name] = value
    return bound.args, bound.kwargs


def _is_flag(value):
    if isinstance(value, bool | np.bool_):
        return True
    return isinstance(value, jax.Array | np.ndarray) and value.ndim == 0 and value.dtype == bool
