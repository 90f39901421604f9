"""Any linen model as a stochastic function, without touching its code or its BatchNorm."""

import contextlib
import dataclasses
import inspect
import numbers
from typing import Any

import jax
from flax import linen as nn
from jax.typing import ArrayLike

from jaxdrop.functional import _cells
from jaxdrop.linen._base import Dropper, adapted
from jaxdrop.linen._cell import CellWrapper
from jaxdrop.linen._elements import MCDropout, drop_entries
from jaxdrop.linen._replace import replaced_attention
from jaxdrop.mc import _options
from jaxdrop.mc._site import auditing, is_live, mark, mark_changes, site_key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LinenFn(_options.ModelFn):
    """``fn(key, *args, **kwargs)`` of a linen model with its dropout on; made by `from_linen`."""

    variables: Any
    rate: Any
    model: nn.Module = dataclasses.field(metadata={"static": True})
    method: Any = dataclasses.field(metadata={"static": True})
    sites: Any = dataclasses.field(metadata={"static": True})
    shared_masks: bool = dataclasses.field(metadata={"static": True})

    def _run(self, key, *args, **kwargs):
        # Both streams: where a lifted transform does not hand "dropout" down, or a module names a
        # collection of its own, Flax falls back to "params".
        rngs = {"params": jax.random.fold_in(key, 0), "dropout": jax.random.fold_in(key, 1)}
        token = adapted.set(True)
        try:
            with nn.intercept_methods(_Interceptor(self.sites, self.rate)):
                options = {"rngs": rngs, "method": self.method, **kwargs}
                if not auditing.get():
                    return self.model.apply(self.variables, *args, **options)
                return self._audited(*args, **options)
        finally:
            adapted.reset(token)

    def _audited(self, *args, **options):
        """A pass that may write, and notes where it did; sown values are none of the model's."""
        output, after = self.model.apply(self.variables, *args, mutable=True, **options)
        written = {
            name
            for name, before in self.variables.items()
            if _written(before, after.get(name, before))
        }
        return mark_changes(output, written)


def from_linen(
    model: nn.Module,
    variables: Any,
    *,
    method: Any = None,
    sites: _options.Sites = None,
    rate: ArrayLike | None = None,
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

    A module with an argument ``deterministic``, which parents hand down, is given False, so that it
    also drops where it does so by a function and a key of its own (such a site keeps its rate); one
    with ``Norm`` in the name of its class is told to evaluate all the same.

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
            what is left out of the shapes (tokens, hidden units), keep theirs; in a recurrent cell,
            rates of 0 stay 0.
        shared_masks: if true, all examples of a call meet the same sub-network. Every array among
            the arguments then has examples on axis 0; the model runs for each of them on its own,
            where a `SubsetResidual`, which picks some examples of a batch, keeps the only one.

    Returns:
        A function of a PRNG key and the arguments of the model, which returns the model's output.

    Raises:
        TypeError: ``model`` is no linen module, ``sites`` neither pattern nor function, or ``rate``
            no number.
        ValueError: ``rate`` lies outside [0, 1] or is no scalar.

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
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model: expected a flax.linen.Module, got {type(model).__name__}; "
            "for an nnx model write jaxdrop.mc.from_nnx(model)"
        )
    sites, rate = _options.check_sites(sites), _options.check_override(rate)
    return LinenFn(variables, rate, model, method, sites, bool(shared_masks))


class _Interceptor:
    """Decides what every module of a model does while a pass runs."""

    def __init__(self, sites, rate):
        self.sites, self.rate = sites, rate
        self.inside = []  # modules whose call is under way: a subclass calls its parent's

    def __call__(self, next_method, args, kwargs, context):
        module, name = context.module, context.method_name
        if isinstance(module, CellWrapper):
            return self.cell(next_method, module, name, args, kwargs)
        if name != "__call__":
            return next_method(*args, **kwargs)
        if isinstance(module, nn.Dropout | Dropper):
            return self.dropout(next_method, module, args, kwargs)
        if any(module is other for other in self.inside):
            return next_method(*args, **kwargs)
        self.inside.append(module)
        try:
            if isinstance(module, nn.MultiHeadDotProductAttention):
                return self.attention(next_method, module, args, kwargs)
            if "Norm" in type(module).__name__:  # though the flag of its parent be turned
                return _told(next_method, module, args, kwargs, _options.EVALUATED)
            return self.other(next_method, module, args, kwargs)
        finally:
            self.inside.pop()

    def dropout(self, next_method, module, args, kwargs):
        """A dropout module, which only an ``MCDropout`` of its own accord may switch off."""
        call = inspect.signature(next_method).bind(*args, **kwargs)
        call.apply_defaults()
        call.arguments.pop("rng", None)  # the key of the pass decides, not the model
        deterministic = call.arguments.pop("deterministic", None)
        flag = module.resolve(deterministic) if isinstance(module, MCDropout) else False
        flag = flag if _options.is_chosen(self.sites, module.path) else True
        with self.overridden(module, "rate"):
            rate = module.rate
            live = is_live(rate, flag)
            inputs = list(call.arguments.values())
            inputs = mark(inputs, module.path, type(module), rate, live)
            key = site_key(module.make_rng(module.rng_collection), module.path) if live else None
            if isinstance(module, Dropper):
                return module.drop(key, *inputs, deterministic=flag)
            return drop_entries(module, key, *inputs, deterministic=flag)

    def attention(self, next_method, module, args, kwargs):
        """An attention module of Flax with the dropout of its weights on."""
        call = inspect.signature(next_method).bind(*args, **kwargs)
        rate = module.dropout_rate if self.rate is None else self.rate
        live = _options.is_chosen(self.sites, module.path) and is_live(rate, False)
        if live:
            key = site_key(module.make_rng("dropout"), module.path)
            call.arguments.update(dropout_rng=key)
        call.arguments.update(deterministic=not live)
        with contextlib.ExitStack() as stack:
            enter = stack.enter_context
            enter(_field(module, "deterministic", None))  # Flax refuses to be told twice
            if self.rate is not None:
                enter(_field(module, "dropout_rate", _options.SOME_RATE))
            enter(replaced_attention(module))
            if self.rate is not None:
                changed = _options.at_rate(module.attention_fn, self.rate)
                enter(_field(module, "attention_fn", changed))
            output = next_method(*call.args, **call.kwargs)
        known_zero = isinstance(rate, numbers.Real) and not rate
        return output if known_zero else mark(output, module.path, type(module), rate, live)

    def cell(self, next_method, module, method_name, args, kwargs):
        """A method of a recurrent cell that drops, with masks from the key of the pass."""
        chosen = _options.is_chosen(self.sites, module.path)
        if method_name == "resolve":
            return not chosen
        with contextlib.ExitStack() as stack:
            for name in _cells.rate_names(module):
                stack.enter_context(self.overridden(module, name))
            result = next_method(*args, **kwargs)
            if method_name == "sequence_key" and module.scope is not None:
                return site_key(result, module.path)
            if method_name == "initialize_carry":
                rate = _cells.common_rate(module.rates)
                live = chosen and is_live(rate, False)
                return mark(result, module.path, type(module), rate, live)
            return result

    def other(self, next_method, module, args, kwargs):
        """Any other module: told to drop if it can be told, and a site if it draws a key itself."""
        chosen = _options.is_chosen(self.sites, module.path)
        before = _keys_drawn(module)
        output = _told(next_method, module, args, kwargs, {"deterministic": not chosen})
        drawn = _keys_drawn(module) != before
        return mark(output, module.path, type(module), None, True) if drawn else output

    def overridden(self, module, name):
        """Inside, a module has the rate that is asked for; one that decides a shape keeps its."""
        fixed = getattr(module, "rate_decides_shapes", False)
        if self.rate is None or fixed or not _has(module, name):
            return contextlib.nullcontext()
        return _field(module, name, self.rate)


@contextlib.contextmanager
def _field(module, name, value):
    """Inside, a field of a module has another value."""
    before = getattr(module, name)
    object.__setattr__(module, name, value)
    try:
        yield
    finally:
        object.__setattr__(module, name, before)


def _has(module, name):
    return name in {field.name for field in dataclasses.fields(module)}


def _told(next_method, module, args, kwargs, flags):
    """A call with flags set, those of them that the module has."""
    parameters = inspect.signature(next_method).parameters
    flags = {name: value for name, value in flags.items() if name in parameters}
    if not flags:
        return next_method(*args, **kwargs)
    call = inspect.signature(next_method).bind(*args, **kwargs)
    with contextlib.ExitStack() as stack:
        for name, value in flags.items():
            given = call.arguments.get(name, parameters[name].default)
            if given is None and getattr(module, name, None) is not None:
                stack.enter_context(_field(module, name, value))  # told twice, Flax refuses
            else:
                call.arguments[name] = value
        return next_method(*call.args, **call.kwargs)


def _written(before, after):
    """Whether any leaf is another one; Flax hands on what was not written as it is."""
    before, after = jax.tree.leaves(before), jax.tree.leaves(after)
    return len(before) != len(after) or any(a is not b for a, b in zip(before, after))


def _keys_drawn(module):
    """Number of keys that the module itself has taken from its streams."""
    counters = {} if module.scope is None else module.scope.rng_counters
    return {name: count for name, count in counters.items() if isinstance(count, int)}
