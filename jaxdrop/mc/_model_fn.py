"""A model as a function of a key: `from_linen`, `from_nnx`, and what their functions share."""

import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.core import Tracer
from jax.typing import ArrayLike

from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _audit, _checks, _insert, _jaxpr, _marks, _pytrees, _sharing
from jaxdrop.mc._decide import Override, Plan
from jaxdrop.mc._fingerprint import ByValue
from jaxdrop.mc._insert import Called, Insert, Layers
from jaxdrop.mc._marks import Choice, Site

if TYPE_CHECKING:
    from flax import nnx

    from jaxdrop.mc._linen import LinenFn
    from jaxdrop.mc._nnx import NnxFn

Sites = str | Callable[[str], bool] | None
Rate = ArrayLike | Mapping[str, ArrayLike] | None


def from_linen(
    model: nn.Module,
    variables: Any,
    *,
    method: Any = None,
    sites: Sites = None,
    rate: Rate = None,
    zero_rates: bool = False,
    shared_masks: bool = False,
    insert: Mapping[Layers, float | Insert] | None = None,
    broadcast_dims: Mapping[str, int | Sequence[int]] | None = None,
    mutable: str | Collection[str] = (),
) -> "LinenFn":
    """A function ``fn(key, *args, **kwargs)`` that runs the model with its dropout on.

    Every ``flax.linen.Dropout``, every dropout class of jaxdrop (in its recurrent cells with one
    sub-network per sequence) and the dropout inside Flax's attention drops, regardless of the
    model's ``train`` or ``deterministic`` arguments; nothing else changes. BatchNorm keeps its
    running averages, no collection is written, the model and its code stay as they are. The same
    key gives the same sub-network. Call it as the model is called for evaluation, for example with
    ``train=False``. Attention draws a mask per example and head, unless the user has set its
    ``attention_fn``.

    A module that is not a norm is told to drop by every flag that it has for this, in its calls or
    among its fields: ``deterministic`` is False; ``train``, ``training``, ``is_training``,
    ``is_train``, ``enable_dropout`` and ``use_dropout`` are True. So it also drops if it does so
    under an ``if``, or by a function and a key of its own (such a site keeps its rate). A module
    with ``Norm`` in the name of its class is told to evaluate all the same. PRNG keys among the
    arguments are mixed with the key of the pass. An nnx model inside is run likewise.

    The function is a pytree whose leaves are the variables, so it may be an argument of a jitted
    function, and new variables of the same shapes need no new compilation.

    Args:
        model: linen module, unbound.
        variables: its variables, as given to ``model.apply``.
        method: method of the model to run instead of ``__call__``.
        sites: which dropout sites drop: a pattern for their paths as `audit` prints them, such as
            ``"encoder/*"`` (``*`` matches slashes too), or a function of the path; None for all.
            The others stay off.
        rate: probability of dropping at every site instead of its own, in [0, 1]; may be traced.
            The program takes it as an array, so a sweep over rates compiles once. Noise that has
            no rate, layers whose rate decides a shape (tokens, hidden units) and sites whose rate
            is known to be 0 keep theirs. If ``rate`` is known to be 0, nothing drops. Or a dict
            of rates by patterns, such as ``{"encoder/*": 0.1, "head*": 0.5}``: a site gets that of
            the pattern that matches its path, and sites that none matches keep theirs.
        zero_rates: if true, ``rate`` also applies to sites whose rate is known to be 0, in
            recurrent cells, too.
        shared_masks: if true, all examples of a call meet the same sub-network. Every array among
            the arguments then has examples on axis 0, and the model runs for each example as a
            batch of one, of which a `SubsetResidual` always keeps the only example.
        insert: dropout to put where the model has none: a dict from layers to rates, or to an
            `Insert` for more. A layer is named by a pattern for its path (``"*Dense_*"``; not what
            lies inside of a layer that it names), by its class, or by a function of its path; the
            first key that names it decides. Elements of its output drop, by a mask of its own in
            every call and every turn of a loop; a loop that hands one key to all of its turns, as
            ``nn.RNN`` of linen or ``nnx.scan`` with ``in_axes=None``, ties their masks. The paths
            of the sites, also for ``sites`` and ``rate``, are those of the layers with ``:after``.
        broadcast_dims: axes along which sites share their decisions beside their own axes, by
            patterns of their paths, the first match first: ``{"*": -2}`` draws one mask for all
            positions of ``(B, L, C)``, and one for all queries of the attention weights
            ``(B, H, Q, K)``. So one key is one sub-network for a sequence, in steps as in one
            pass, if the number of keys K is the same. Recurrent cells share along time anyway.
        mutable: collections that a pass is meant to write, such as ``("cache",)``. The function
            then returns ``(output, state)``, a dict of these collections, and takes one as the
            keyword argument ``state``; without it, it starts from ``variables``.

    Returns:
        A function of a PRNG key and the arguments of the model, which returns the model's output.
        ``fn.with_rate(rate)`` is the same function with another ``rate``: a number, which may be
        traced, a dict of rates by patterns, or None.

    Raises:
        TypeError: ``model`` is not an unbound linen module, ``variables`` is not a dict, ``sites``
            is neither a pattern nor a function, ``rate`` is not a number, ``insert`` not a dict of
            layers and rates, ``broadcast_dims`` not a dict from patterns to axes, or ``mutable``
            does not hold names. The function raises it if a layer of ``insert`` does not return an
            array of floating numbers.
        ValueError: ``rate`` lies outside [0, 1] or is not a scalar; ``variables`` are not
            collections; both ``shared_masks`` and ``mutable`` are set. The function raises it if a
            key of ``insert`` or a pattern of ``rate`` names nothing, or two patterns of ``rate``
            one site; if a pattern of ``broadcast_dims`` matches no site, or one that cannot share
            its decisions; if a state is not one of ``mutable``; or if a cache is missing.

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
    checked, plan = planned(sites, rate, zero_rates, insert, broadcast_dims)
    names = _checks.check_collections(mutable)
    _checks.check_not_by_example(names, shared_masks)
    return LinenFn(variables, checked, ByValue(model), method, plan, bool(shared_masks), names)


def from_nnx(
    model: "nnx.Module",
    *,
    sites: Sites = None,
    rate: Rate = None,
    zero_rates: bool = False,
    shared_masks: bool = False,
    insert: Mapping[Layers, float | Insert] | None = None,
    broadcast_dims: Mapping[str, int | Sequence[int]] | None = None,
    mutable: Any = None,
) -> "NnxFn":
    """A function ``fn(key, *args, **kwargs)`` that runs the model with its dropout on.

    It does for an nnx model what `from_linen` does for a linen one, whether or not ``eval()`` was
    called: the same layers drop, attributes and arguments of the same names are told to drop, and
    BatchNorm uses its running averages and leaves them alone. Dropout also drops by streams that a
    module holds itself. A linen model inside is run likewise.

    The function holds a snapshot of the model: the model itself is never changed, and training it
    further does not change the function. It mutates nothing that is seen from outside, so it runs
    inside every transform of JAX. It is a pytree whose leaves are the state of the model, so it
    may be an argument of a jitted function, and a new snapshot needs no new compilation.

    Args:
        model: any ``nnx.Module``.
        sites: as for `from_linen`.
        rate: as for `from_linen`.
        zero_rates: as for `from_linen`.
        shared_masks: as for `from_linen`.
        insert: as for `from_linen`; a path is made of attributes and numbers: ``"layers/0"``.
        broadcast_dims: as for `from_linen`.
        mutable: filter for the variables that a pass is meant to write, such as ``nnx.Cache``. The
            function then returns ``(output, state)``, the ``nnx.State`` of these variables, and
            takes one as the keyword argument ``state``; without it, it starts from the snapshot.

    Returns:
        A function of a PRNG key and the arguments of the model, which returns the model's output.
        ``fn.with_rate(rate)`` is the same function with another ``rate``: a number, which may be
        traced, a dict of rates by patterns, or None.

    Raises:
        TypeError: ``model`` is not an nnx.Module; else as for `from_linen`.
        ValueError: ``rate`` lies outside [0, 1] or is not a scalar; ``mutable`` matches no
            variable, or is set beside ``shared_masks``. The function raises it if a pass changes
            another variable of the model, which would be lost: a cache, a counter, or the
            statistics of a layer that is not a norm by its name; and as that of `from_linen`.

    Example:
        >>> rngs = nnx.Rngs(0)
        >>> model = nnx.Sequential(nnx.Linear(4, 8, rngs=rngs), nnx.Dropout(0.5, rngs=rngs))
        >>> fn = from_nnx(model)
        >>> x = jnp.ones((3, 4))
        >>> bool((fn(jax.random.key(1), x) == fn(jax.random.key(2), x)).all())
        False

    References:
        Gal & Ghahramani, "Dropout as a Bayesian approximation: representing model uncertainty in
        deep learning", 2016, section 4.
    """
    from jaxdrop.mc import _nnx  # it loads flax.nnx

    return _nnx.nnx_fn(
        model, shared_masks, mutable, sites, rate, zero_rates, insert, broadcast_dims
    )


def planned(
    sites: Any, rate: Any, zero_rates: bool, insert: Any, broadcast_dims: Any
) -> tuple[Any, Plan]:
    """The checked rate for all sites, and the plan of every pass without it.

    The rate is an array, so that another value is the same program. It is None if none was
    asked for, or if it is known to be 0. Of a dict of rates it is a tuple of those.
    """
    if not (sites is None or isinstance(sites, str) or callable(sites)):
        raise TypeError(
            f"sites: expected a pattern or a function of the path, got {sites!r}; write for "
            "example sites='encoder/*', or sites=lambda path: path.endswith('Dropout_0')"
        )
    override, sharing = Override(zero_rates=bool(zero_rates)), _sharing.check(broadcast_dims)
    plan = Plan(sites, override, insert=_insert.checked(insert), broadcast_dims=sharing)
    return with_rate(plan, rate)


def with_rate(plan: Plan, rate: Any) -> tuple[Any, Plan]:
    """The checked rate, and the plan with it instead of another one."""
    if isinstance(rate, Mapping):
        if not rate or not all(isinstance(pattern, str) for pattern in rate):
            raise TypeError(
                f"rate: expected patterns of sites as keys, at least one, got {list(rate)}; write "
                "for example rate={'encoder/*': 0.1, 'head*': 0.5}"
            )
        array, off = tuple(_rate(each)[0] for each in rate.values()), False
    else:
        array, off = (None, False) if rate is None else _rate(rate)
    groups = tuple(rate) if isinstance(rate, Mapping) else ()
    override = plan.override._replace(rate=None, off=off)
    return array, plan._replace(override=override, groups=groups)


def _rate(rate: Any) -> tuple[jax.Array | None, bool]:
    """A checked rate as an array, and whether it is known to be 0; then it is None."""
    checked = masks.check_rate(rate).value
    array = jnp.asarray(checked, jnp.float32)
    if array.ndim:
        raise ValueError(
            f"rate: expected a scalar, one for all sites, got shape {array.shape}; "
            "write for example rate=0.2"
        )
    off = not isinstance(checked, Tracer) and not np.any(np.asarray(checked))
    return None if off else array, off


class ModelFn:
    """A model as a function of a key: one pass, or one for each example of a call."""

    rate: Any
    plan: Plan  # but for the rate, which may be traced
    shared_masks: bool
    mutable: Any  # what a pass is meant to write: names of collections, or a filter of nnx

    def with_state(self, state: Any) -> "ModelFn":
        """The function whose passes start from a state, checked; or from its own if it is None."""
        raise NotImplementedError

    def with_rate(self, rate: Any) -> Self:
        """The function with another ``rate=``: a number, a dict of them, or None."""
        array, plan = with_rate(self.plan, rate)
        return dataclasses.replace(self, rate=array, plan=plan)  # pyright: ignore

    def run(self, key: jax.Array, plan: Plan, args: Any, kwargs: Any) -> Any:
        """One pass by a plan."""
        raise NotImplementedError

    def called(self, kwargs: dict[str, Any]) -> Callable[..., Any]:
        """The function that a pass calls, for the names of its parameters."""
        raise NotImplementedError

    def __call__(self, key: Any, *args: Any, **kwargs: Any) -> Any:
        fn = self.with_state(kwargs.pop("state", None)) if self.mutable else self
        args, kwargs = _marks.mixed(key, self.called(kwargs), args, kwargs)
        run = functools.partial(fn._pass, key)
        if self.shared_masks:
            return _pytrees.by_example(run, args, kwargs)
        return run(*args, **kwargs)

    def _pass(self, key: jax.Array, *args: Any, **kwargs: Any) -> Any:
        plan = self.plan.at_rate(self.rate)
        if not plan.insert:
            return self._planned(key, plan, args, kwargs)
        called = Called()
        output = self._planned(key, plan._replace(called=called), args, kwargs)
        called.check(plan.insert)
        return output

    def _planned(self, key: jax.Array, plan: Plan, args: Any, kwargs: Any) -> Any:
        sites, off = plan.sites, plan.override.off
        everywhere = sites is None and not off and not plan.groups
        # Passes that are only traced say which sites there are, and which of the chosen ones are
        # not reached because a module around them is told to evaluate.
        on = plan.override._replace(off=False, rate=None if plan.groups else plan.override.rate)
        all_on = plan._replace(sites=None, override=on, groups=(), broadcast_dims=())
        known: list[Site] = []
        shares = bool(plan.broadcast_dims) and not off
        unused = off and not _marks.auditing.value  # what a pass would say of its sites
        if shares or not (everywhere or unused):
            known, by_themselves = self._sites(all_on, key, args, kwargs)
            if shares:
                _sharing.check_reach(plan.broadcast_dims, known, by_themselves)
        if (everywhere and self.rate is None) or unused:
            return self.run(key, plan, args, kwargs)
        known = [] if everywhere else known
        _check_groups(plan.groups, known)
        known = [site._replace(live=site.live and plan.is_chosen((site.path,))) for site in known]
        chosen = {site.path for site in known if site.live}
        if chosen:
            seen = {site.path for site in self._sites(plan, key, args, kwargs)[0]}
            plan = plan._replace(hidden=tuple(sorted(chosen - seen)))
        output = self.run(key, plan, args, kwargs)
        unmatched = None
        if known and not chosen and not off:
            is_pattern = isinstance(sites, str)
            unmatched = f"sites={sites!r}" if is_pattern else "the function given as sites="
        rated = list(plan.groups) or ([] if self.rate is None else ["*"])
        return _marks.mark_choice(output, Choice(known, unmatched, rated))

    def _sites(
        self, plan: Plan, key: jax.Array, args: Any, kwargs: Any
    ) -> tuple[list[Site], set[str]]:
        """The sites of a pass by another plan, which is traced and not run; as `sites_of`."""
        # With jit, because JAX otherwise writes out every turn of a loop, each with its own sites.
        with _marks.auditing(True), _marks.writing(True), jax.disable_jit(False):
            program = jax.make_jaxpr(lambda key: self.run(key, plan, args, kwargs))(key)
        return _audit.sites_of(program.jaxpr, _jaxpr.draws(program.jaxpr)[0])


def _check_groups(groups: Sequence[str], sites: Sequence[Site]) -> None:
    """Refuses patterns of ``rate=`` that no site matches, and a site that two of them match."""
    seen: dict[str, str] = {}  # patterns by path
    for pattern in groups:
        matching = {site.path for site in sites if fnmatch.fnmatchcase(site.path, pattern)}
        if not matching:
            paths = ", ".join(repr(site.path) for site in sites) or "none"
            raise ValueError(
                f"rate: expected patterns of dropout sites, got {pattern!r}, which matches none of "
                f"those there are: {paths}; print jaxdrop.mc.audit for them"
            )
        # The first one must not decide, because jit sorts the keys of a dict.
        for path in sorted(matching & seen.keys()):
            raise ValueError(
                "rate: expected patterns that match different sites, got "
                f"{seen[path]!r} and {pattern!r}, which both match {path!r}; leave it to one"
            )
        seen |= dict.fromkeys(matching, pattern)
