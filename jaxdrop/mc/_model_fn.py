"""A model as a function of a key: `from_linen`, `from_nnx`, and what their functions share."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxdrop.masks import _rate
from jaxdrop.mc import _audit, _checks, _jaxpr, _marks, _pytrees
from jaxdrop.mc._decide import Override, Plan
from jaxdrop.mc._fingerprint import ByValue
from jaxdrop.mc._marks import Choice, Site

if TYPE_CHECKING:
    from flax import nnx

    from jaxdrop.mc._linen import LinenFn
    from jaxdrop.mc._nnx import NnxFn

Sites = str | Callable[[str], bool] | None


def from_linen(
    model: nn.Module,
    variables: Any,
    *,
    method: Any = None,
    sites: Sites = None,
    rate: ArrayLike | None = None,
    zero_rates: bool = False,
    shared_masks: bool = False,
) -> "LinenFn":
    """A function ``fn(key, *args, **kwargs)`` that runs the model with its dropout on.

    Every ``flax.linen.Dropout``, every dropout class of jaxdrop (in its recurrent cells with one
    sub-network a sequence) and the dropout inside Flax's attention drops, whatever the model's
    ``train`` or ``deterministic`` arguments say; nothing else changes. BatchNorm keeps its running
    averages, no collection is written, the model and its code stay as they are. The same key gives
    the same sub-network. Call it as the model is called for evaluation, for example with
    ``train=False``. Attention draws a mask for each example and head, unless it has an
    ``attention_fn`` of the user's own.

    A module that is no norm is told to drop by every flag that it has for this, in its calls or
    among its fields: ``deterministic`` is False; ``train``, ``training``, ``is_training``,
    ``is_train``, ``enable_dropout`` and ``use_dropout`` are True. So it also drops where it does so
    under an ``if``, or by a function and a key of its own (such a site keeps its rate). One
    with ``Norm`` in the name of its class is told to evaluate all the same. PRNG keys among the
    arguments are mixed with the key of the pass. A model of nnx inside is run likewise.

    The function is a pytree whose leaves are the variables, so it may be an argument of a jitted
    function, and new variables of the same shapes need no new compilation.

    Args:
        model: linen module, unbound.
        variables: its variables, as given to ``model.apply``.
        method: method of the model to run in place of ``__call__``.
        sites: which dropout sites drop: a pattern for their paths as `audit` prints them, such as
            ``"encoder/*"`` (``*`` matches slashes too), or a function of the path; None for all.
            The others stay off.
        rate: probability of dropping at every site in place of its own, in [0, 1]; may be traced.
            An array to the program: a sweep over rates compiles once. Noise that has no rate, and
            what is left out of the shapes (tokens, hidden units), keep theirs, and so does a rate
            that is known to be 0. With a rate that is known to be 0 itself, nothing drops.
        zero_rates: if true, ``rate`` is also for what the model has off by a rate of 0, in
            recurrent cells, too.
        shared_masks: if true, all examples of a call meet the same sub-network. Every array among
            the arguments then has examples on axis 0; the model runs for each of them on its own,
            where a `SubsetResidual`, which picks some examples of a batch, keeps the only one.

    Returns:
        A function of a PRNG key and the arguments of the model, which returns the model's output.

    Raises:
        TypeError: ``model`` is not an unbound linen module, ``variables`` not a dict, ``sites``
            neither pattern nor function, or ``rate`` not a number.
        ValueError: ``rate`` lies outside [0, 1] or is not a scalar; ``variables`` are not
            collections.

    Example:
        >>> model = nn.Sequential([nn.Dense(8), nn.Dropout(0.5, deterministic=True), nn.Dense(2)])
        >>> x = jnp.ones((3, 4))
        >>> fn = from_linen(model, model.init(jax.random.key(0), x))
        >>> bool((fn(jax.random.key(1), x) == fn(jax.random.key(2), x)).all())
        False

    References:
        Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in
        deep learning", 2016, section 4.
    """
    from jaxdrop.mc._linen import LinenFn  # it builds on this file

    _checks.check_linen(model)
    _checks.check_variables(variables)
    checked, rate = options(sites, rate, zero_rates, shared_masks)
    return LinenFn(variables, rate, ByValue(model), method, checked)


def from_nnx(
    model: "nnx.Module",
    *,
    sites: Sites = None,
    rate: ArrayLike | None = None,
    zero_rates: bool = False,
    shared_masks: bool = False,
) -> "NnxFn":
    from jaxdrop.mc import _nnx  # it loads flax.nnx

    return _nnx.nnx_fn(model, sites, rate, zero_rates, shared_masks)


class Options(NamedTuple):
    """What `from_linen` and `from_nnx` were asked for, but for the rate, which may be traced.

    Attributes:
        sites: the choice of sites: a pattern, a function of the path, or None for all.
        off: whether the rate is known to be 0.
        zero_rates: whether the rate is also for sites whose own is known to be 0.
        shared_masks: whether all examples of a call meet the same sub-network.
    """

    sites: Any
    off: bool
    zero_rates: bool
    shared_masks: bool


def options(
    sites: Any, rate: ArrayLike | None, zero_rates: bool, shared_masks: bool
) -> tuple[Options, jax.Array | None]:
    """The checked options, and the rate for all sites.

    The rate is an array, so that another value is the same program. It is None if there is none,
    or if it is known to be 0.
    """
    if not (sites is None or isinstance(sites, str) or callable(sites)):
        raise TypeError(
            f"sites: expected a pattern or a function of the path, got {sites!r}; write for "
            "example sites='encoder/*', or sites=lambda path: path.endswith('Dropout_0')"
        )
    array, off = None, False
    if rate is not None:
        checked = _rate.check_rate(rate)
        array = jnp.asarray(checked, jnp.float32)
        if array.ndim:
            raise ValueError(
                f"rate: expected a scalar, one for all sites, got shape {array.shape}; "
                "write for example rate=0.2"
            )
        off = not isinstance(checked, Tracer) and not np.any(np.asarray(checked))
    checked_options = Options(sites, off, bool(zero_rates), bool(shared_masks))
    return checked_options, None if off else array


class ModelFn:
    """A model as a function of a key: one pass, or one for each example of a call."""

    options: Options
    rate: Any

    def run(self, key: jax.Array, plan: Plan, args: Any, kwargs: Any) -> Any:
        """One pass by a plan."""
        raise NotImplementedError

    def called(self, kwargs: dict[str, Any]) -> Callable[..., Any]:
        """The function that a pass calls, for the names of its parameters."""
        raise NotImplementedError

    def __call__(self, key: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = _marks.mixed(key, self.called(kwargs), args, kwargs)
        run = functools.partial(self._pass, key)
        if self.options.shared_masks:
            return _pytrees.by_example(run, args, kwargs)
        return run(*args, **kwargs)

    def _pass(self, key: jax.Array, *args: Any, **kwargs: Any) -> Any:
        sites, off, zero_rates, _ = self.options
        plan = Plan(sites, Override(self.rate, off, zero_rates))
        everywhere = sites is None and not off
        if (everywhere and self.rate is None) or (off and not _marks.auditing.value):
            return self.run(key, plan, args, kwargs)
        # Passes that are only traced say which sites there are, and which of the chosen ones are
        # not reached because a module around them is told to evaluate.
        all_on = plan._replace(sites=None, override=plan.override._replace(off=False))
        known = [] if everywhere else self._sites(all_on, key, args, kwargs)
        known = [site._replace(live=site.live and plan.is_chosen((site.path,))) for site in known]
        chosen = {site.path for site in known if site.live}
        if chosen:
            seen = {site.path for site in self._sites(plan, key, args, kwargs)}
            plan = plan._replace(hidden=tuple(sorted(chosen - seen)))
        output = self.run(key, plan, args, kwargs)
        unmatched = None
        if known and not chosen and not off:
            is_pattern = isinstance(sites, str)
            unmatched = f"sites={sites!r}" if is_pattern else "the function given as sites="
        return _marks.mark_choice(output, Choice(known, unmatched, self.rate is not None))

    def _sites(self, plan: Plan, key: jax.Array, args: Any, kwargs: Any) -> list[Site]:
        """The sites of a pass by another plan, which is traced and not run."""
        with _marks.auditing(True), _marks.writing(True):
            program = jax.make_jaxpr(lambda key: self.run(key, plan, args, kwargs))(key)
        return _audit.sites_of(program.jaxpr, _jaxpr.draws(program.jaxpr)[0])[0]
