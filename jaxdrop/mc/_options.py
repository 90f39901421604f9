"""What the adapters may be told: which sites drop, at what rate, with one mask for all examples."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdrop.masks import _rate
from jaxdrop.mc import _given_keys, _trace
from jaxdrop.mc._plan import Plan
from jaxdrop.mc._site import auditing, mark_choice

Sites = str | Callable[[str], bool] | None


def check_sites(sites: Any) -> Any:
    """The choice as it is, refused if it is neither a pattern nor a predicate."""
    if sites is None or isinstance(sites, str) or callable(sites):
        return sites
    raise TypeError(
        f"sites: expected a pattern or a function of the path, got {sites!r}; write for example "
        "sites='encoder/*', or sites=lambda path: path.endswith('Dropout_0')"
    )


def check_override(rate):
    """One rate for all sites, and whether it is known to be 0.

    An array, so that another value is no other program; None where nothing is asked for, or where
    nothing drops.
    """
    if rate is None:
        return None, False
    checked = _rate.check_rate(rate)
    rate = jnp.asarray(checked, jnp.float32)
    if rate.ndim:
        raise ValueError(
            f"rate: expected a scalar, one for all sites, got shape {rate.shape}; "
            "write for example rate=0.2"
        )
    off = not isinstance(checked, Tracer) and not np.any(np.asarray(checked))
    return (None if off else rate), off


class ModelFn:
    """A model as a function of a key: one pass, `_run`, or one for each example of a call."""

    sites: Any
    rate: Any
    off: bool
    zero_rates: bool
    shared_masks: bool

    def __call__(self, key, *args, **kwargs):
        args, kwargs = _given_keys.mixed(key, self._called(kwargs), args, kwargs)
        run = functools.partial(self._pass, key)
        if self.shared_masks:
            return _by_example(run, args, kwargs)
        return run(*args, **kwargs)

    def _run(self, key, plan, args, kwargs):
        """One pass by a plan; what it is, each adapter says."""
        raise NotImplementedError

    def _called(self, kwargs):
        """What a pass calls, for the names of its parameters."""
        raise NotImplementedError

    def _pass(self, key, *args, **kwargs):
        plan = Plan(self.sites, self.rate, self.off, self.zero_rates)
        everywhere = self.sites is None and not self.off
        if (everywhere and self.rate is None) or (self.off and not auditing.get()):
            return self._run(key, plan, args, kwargs)
        known = [] if everywhere else self._known_sites(key, args, kwargs)
        output = self._run(key, plan._replace(known=tuple(s.path for s in known)), args, kwargs)
        chosen = [plan.is_chosen((site.path,)) for site in known]
        unmatched = None if self.off or not known or any(chosen) else _in_words(self.sites)
        known = [site._replace(live=site.live and c) for site, c in zip(known, chosen)]
        return mark_choice(output, known, unmatched)

    def _known_sites(self, key, args, kwargs):
        """All sites there are where all drop: also those under an ``if`` of the model's own."""
        everywhere: Any = dataclasses.replace(self, sites=None, off=False)  # pyright: ignore
        token = auditing.set(True)  # it may write
        try:
            program = jax.make_jaxpr(lambda key: everywhere._pass(key, *args, **kwargs))(key)
        finally:
            auditing.reset(token)
        return list(_trace.sites(program.jaxpr))


def _in_words(sites):
    return f"sites={sites!r}" if isinstance(sites, str) else "the function given as sites="


def _by_example(call, args, kwargs):
    """``call(*args, **kwargs)`` for each example on its own, all with what ``call`` closes over.

    What is drawn does not depend on the example, so it is drawn once, for all of them.
    """
    arrays, static = _trace.split((args, kwargs))
    sizes = {x.shape[0] for x in jax.tree.leaves(arrays) if x.ndim}
    if len(sizes) != 1:
        raise ValueError(
            "shared_masks: expected arrays whose first axis counts the same examples, got shapes "
            f"{[x.shape for x in jax.tree.leaves(arrays)]}; bind what has no examples in a lambda"
        )

    def one(rows):
        rows = jax.tree.map(lambda x, y: x[None] if y.ndim else x, rows, arrays)
        args, kwargs = _trace.join(rows, static)
        return jax.tree.map(lambda x: jnp.squeeze(x, 0), call(*args, **kwargs))

    return jax.vmap(one, in_axes=(_axes(arrays),))(arrays)


def _axes(arrays):
    return jax.tree.map(lambda x: 0 if x.ndim else None, arrays)


# What Flax's attention is told where an override decides: it compares its rate with 0 in Python.
SOME_RATE = 0.5


def at_rate(attention_fn, rate):
    """Flax's attention function, or one like it, at another rate than it is told."""

    @functools.wraps(attention_fn)  # Flax hands on what the signature has
    def attention(*args, **kwargs):
        if "dropout_rate" in kwargs:
            kwargs["dropout_rate"] = rate
        return attention_fn(*args, **kwargs)

    return attention
