"""Any linen model as a stochastic function, without touching its code or its BatchNorm."""

import dataclasses
from typing import Any

import jax
from flax import errors
from flax import linen as nn
from flax.core import scope
from jax.typing import ArrayLike

from jaxdrop.mc import _linen_live, _models, _options
from jaxdrop.mc._by_value import ByValue
from jaxdrop.mc._forwarded import forwarded
from jaxdrop.mc._site import mark_changes, writing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LinenFn(_options.ModelFn):
    """``fn(key, *args, **kwargs)`` of a linen model with its dropout on; made by `from_linen`."""

    variables: Any
    rate: Any
    model: ByValue = dataclasses.field(metadata={"static": True})
    method: Any = dataclasses.field(metadata={"static": True})
    sites: Any = dataclasses.field(metadata={"static": True})
    off: bool = dataclasses.field(metadata={"static": True})
    zero_rates: bool = dataclasses.field(metadata={"static": True})
    shared_masks: bool = dataclasses.field(metadata={"static": True})

    def _called(self, kwargs):
        return _models.method_of(self.model.value, kwargs.get("method", self.method))

    def _run(self, key, plan, args, kwargs):
        rngs = _linen_live.streams(key, kwargs.get("rngs") or {})
        options = {"method": self.method, **kwargs, "rngs": rngs}
        try:
            if writing.value:
                return self._audited(plan, key, args, options)
            with _linen_live.intercepted(plan, key):
                return self.model.value.apply(self.variables, *args, **options)
        except (errors.ScopeParamNotFoundError, errors.ScopeCollectionNotFound) as error:
            _models.refuse_params(self.variables, error)
            raise

    def _audited(self, plan, key, args, options):
        """A pass that may write, and notes where it did; sown values are none of the model's."""
        given = options.pop("mutable", False)
        if options.get("capture_intermediates"):
            given = scope.union_filters(given, "intermediates")

        def run(variables):
            with _linen_live.intercepted(plan, key):
                return self.model.value.apply(variables, *args, mutable=True, **options)

        output, after = run(self.variables)
        written = {
            name
            for name, before in self.variables.items()
            if not scope.in_filter(given, name) and not _same(before, after.get(name, before))
        }
        if written:
            written -= _handed_on(lambda variables: run(variables)[1], self.variables, written)
        output = mark_changes(output, written)
        if given is False:
            return output
        return output, {name: x for name, x in after.items() if scope.in_filter(given, name)}


def from_linen(
    model: nn.Module,
    variables: Any,
    *,
    method: Any = None,
    sites: _options.Sites = None,
    rate: ArrayLike | None = None,
    zero_rates: bool = False,
    shared_masks: bool = False,
) -> LinenFn:
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
    _models.check_linen(model, nn.Module)
    _models.check_variables(variables)
    sites, (rate, off) = _options.check_sites(sites), _options.check_override(rate)
    options = {"sites": sites, "off": off, "zero_rates": bool(zero_rates)}
    return LinenFn(
        variables, rate, ByValue(model), method, shared_masks=bool(shared_masks), **options
    )


def _same(before, after):
    """Whether all leaves are the same; Flax hands on what was not written as it is."""
    before, after = jax.tree.leaves(before), jax.tree.leaves(after)
    return len(before) == len(after) and all(a is b for a, b in zip(before, after))


def _handed_on(run, variables, names):
    """Those of the collections that a pass gives back as they were, by way of a loop or a call."""
    some = {name: variables[name] for name in names}

    def after(some):
        end = run({**variables, **some})
        return {name: jax.tree.leaves(end[name]) for name in some}

    with jax.disable_jit(False):  # disabled, JAX writes out every turn of a loop
        program, shape = jax.make_jaxpr(after, return_shape=True)(some)
    inputs = {name: jax.tree.leaves(some[name]) for name in sorted(some)}
    found, place, same = iter(forwarded(program.jaxpr)), 0, set()
    for name in sorted(some):
        places = [next(found) for _ in shape[name]]
        if places == list(range(place, place + len(inputs[name]))):
            same.add(name)
        place += len(inputs[name])
    return same
