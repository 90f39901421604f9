"""What the adapters may be told: which sites drop, at what rate, with one mask for all examples."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdrop.masks import _rate
from jaxdrop.mc import _draws, _given_keys, _trace
from jaxdrop.mc._plan import Plan
from jaxdrop.mc._site import Choice, auditing, mark_choice, writing

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
        if (everywhere and self.rate is None) or (self.off and not auditing.value):
            return self._run(key, plan, args, kwargs)
        all_on = plan._replace(sites=None, off=False)
        known = [] if everywhere else self._sites(all_on, key, args, kwargs)
        known = [site._replace(live=site.live and plan.is_chosen((site.path,))) for site in known]
        chosen = {site.path for site in known if site.live}
        if chosen:
            seen = {site.path for site in self._sites(plan, key, args, kwargs)}
            plan = plan._replace(hidden=tuple(sorted(chosen - seen)))
        output = self._run(key, plan, args, kwargs)
        unmatched = None if chosen or not known or self.off else _in_words(self.sites)
        return mark_choice(output, Choice(known, unmatched, self.rate is not None))

    def _sites(self, plan, key, args, kwargs):
        """The sites of a pass by another plan, which is traced and not run."""
        # With jit, because JAX otherwise writes out every turn of a loop, each with its own sites.
        with auditing(True), writing(True), jax.disable_jit(False):
            program = jax.make_jaxpr(lambda key: self._run(key, plan, args, kwargs))(key)
        return _draws.sites(program.jaxpr, _draws.draws(program.jaxpr)[0])[0]


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
