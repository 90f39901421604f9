"""A prediction is of now: what a function holds counts as it is, and nothing is kept alive."""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import mc
from tests.support import models
from tests.support.cases import assert_same_bits, compilations, key

X = jnp.ones((3, 4), jnp.float32)
GLOBAL = {"weight": jnp.float32(1)}


def mean(fn, *args, **options):
    return np.asarray(mc.predict(fn, key(), *args, num_samples=5, **options).mean)


class Holder:
    """What a user's function may hold, in every way that it may hold it."""

    def __init__(self):
        self.weight = jnp.float32(1)

    def __call__(self, key, x):
        return jaxdrop.dropout(key, x * self.weight, 0.5)

    def method(self, key, x):
        return self(key, x)


def _global(key, x):
    return jaxdrop.dropout(key, x * GLOBAL["weight"], 0.5)


def _module(act):
    return nn.Sequential([act, nn.Dropout(0.5, deterministic=True)])


def _ways(holder):
    box = lambda x: x * holder.weight  # noqa: E731
    return {
        "lambda": lambda key, x: holder(key, x),
        "object": holder,
        "method": holder.method,
        "partial": functools.partial(lambda holder, key, x: holder(key, x), holder),
        "Partial": jax.tree_util.Partial(lambda key, x: holder(key, x)),
        "jit inside": lambda key, x: jax.jit(lambda x: holder(key, x))(x),
        "global": _global,
        "linen field": mc.from_linen(_module(box), {}),
        "nnx field": mc.from_nnx(nnx.Sequential(box, nnx.Dropout(0.5))),
        "around an adapter": functools.partial(
            lambda fn, key, x: fn(key, x * holder.weight), mc.from_linen(_module(nn.relu), {})
        ),
    }


@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize("way", _ways(Holder()))
def test_values_are_those_of_the_call_and_nothing_is_compiled_again(way):
    holder = Holder()
    fn = _ways(holder)[way]
    found = []
    for weight in (1.0, 2.0, 3.0):
        holder.weight = GLOBAL["weight"] = jnp.float32(weight)
        count, value = compilations(lambda: mean(fn, X))
        found.append(value)
        assert weight == 1 or not count
    assert found[0].any()
    for number in (2, 3):
        np.testing.assert_allclose(found[number - 1], number * found[0], rtol=1e-5)


def test_a_function_of_an_adapter_is_not_traced_again():
    model, traced = models.counted_dropout(0.5)
    for last in (False, True):
        fn = mc.from_linen(model, {})
        traced.clear()
        mc.predict(fn, key(), X, num_samples=4)
        mc.predict(fn, key(), X, tolerance=0.5)
        mc.predict_batches(fn, key(), [X, X], num_samples=4, progress=False)
        mc.delta(fn, key(), X)
        assert bool(traced) != last


def test_a_net_that_was_trained_in_place_predicts_with_its_weights():
    net = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Dropout(0.5))
    fn = lambda key, x: net.layers[1](net.layers[0](x), rngs=nnx.Rngs(key))  # noqa: E731
    before = mean(fn, X)
    net.layers[0].kernel[...] = net.layers[0].kernel[...] * 100
    np.testing.assert_allclose(mean(fn, X), 100 * before, rtol=1e-5)


def test_an_array_of_numpy_that_was_changed_in_place_is_read_again():
    weights = np.ones((1, 4), np.float32)
    fn = lambda key, x: jaxdrop.dropout(key, x * weights, 0.5)  # noqa: E731
    before = mean(fn, X)
    weights[:] = 7
    assert_same_bits(mean(fn, X), 7 * before)


def test_sites_are_chosen_at_the_call():
    model = nn.Sequential([nn.Dropout(0.5, deterministic=True) for _ in range(2)])
    chosen = {"layers_0": True, "layers_1": False}
    fn = mc.from_linen(model, {}, sites=lambda path: chosen.get(path, False))
    first = mean(fn, X)
    chosen.update(layers_0=False, layers_1=True)
    expected = mean(mc.from_linen(model, {}, sites="layers_1"), X)
    assert (first != expected).any()
    assert_same_bits(mean(fn, X), expected)


def test_a_summary_of_a_user_is_that_of_the_call():
    scale = {"by": 1.0}
    summary = mc.Summary(
        lambda sample, num_samples: jnp.zeros_like(sample),
        lambda state, samples, start: state + samples.sum(0) * scale["by"],
        lambda state: state,
    )
    fn = lambda key, x: jaxdrop.dropout(key, x, 0.5)  # noqa: E731
    predict = functools.partial(mc.predict, fn, key(), X, num_samples=5, summary=summary)
    before = predict()
    assert compilations(predict)[0] == 0
    scale["by"] = 3.0
    assert_same_bits(predict(), 3 * before)


@pytest.mark.usefixtures("jitted")
def test_batches_see_the_values_of_their_call():
    holder = Holder()
    predict = functools.partial(
        mc.predict_batches, holder.method, key(), [X, X[:1]], num_samples=5, progress=False
    )
    before = predict().mean
    holder.weight = jnp.float32(4)
    count, after = compilations(predict)
    assert_same_bits(after.mean, 4 * before)
    assert count == 0


def test_a_callback_runs_as_it_is_now():
    factor = {"by": 1.0}

    def fn(key, x):
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        times = lambda x: np.asarray(x) * np.float32(factor["by"])  # noqa: E731
        return jax.pure_callback(
            times, shape, jaxdrop.dropout(key, x, 0.5), vmap_method="sequential"
        )

    before = mean(fn, X)
    factor["by"] = 5.0
    assert_same_bits(mean(fn, X), 5 * before)


# Arguments that are equal but not the same.


def _kind(thing):
    thing = thing[0] if isinstance(thing, tuple) else thing
    return {bool: 3.0, int: 1.0, float: 2.0}[type(thing)] * float(np.copysign(1, thing))


class Told(nn.Module):
    @nn.compact
    def __call__(self, x, thing):
        return nn.Dropout(0.5, deterministic=True)(x) * _kind(thing)


@pytest.mark.parametrize("kind", ["adapter", "own"])
@pytest.mark.parametrize("nested", [False, True])
def test_equal_arguments_of_other_kinds_have_programs_of_their_own(kind, nested):
    own = lambda key, x, thing: jaxdrop.dropout(key, x, 0.5) * _kind(thing)  # noqa: E731
    fn = mc.from_linen(Told(), {}) if kind == "adapter" else own
    wrap = (lambda thing: (thing, ("deep", {"down": thing}))) if nested else lambda thing: thing
    base = mean(fn, X, wrap(1))
    for thing, factor in ((1.0, 2), (True, 3), (0.0, 2), (-0.0, -2), (1, 1), (0.0, 2)):
        np.testing.assert_array_equal(mean(fn, X, wrap(thing)), np.float32(factor) * base)


def _filled(key, initializer):
    return jaxdrop.dropout(key, initializer(key, (40,)), 0.5)


def test_functions_that_a_library_makes_are_what_they_were_made_of():
    run = lambda value: mean(_filled, nn.initializers.constant(value))  # noqa: E731
    first = run(1.0)
    count, again = compilations(lambda: run(1.0))  # another function, made of the same
    assert count == 0
    assert_same_bits(again, first)
    assert_same_bits(run(3.0), 3 * first)


def test_nan_is_one_argument():
    fn = mc.from_linen(Told(), {})
    mean(fn, X, float("nan"))
    assert compilations(lambda: mean(fn, X, float("nan")))[0] == 0


def test_fields_that_are_equal_but_not_the_same():
    class Model(nn.Module):
        thing: object

        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.5, deterministic=True)(x) * _kind(self.thing)

    found = [mean(mc.from_linen(Model(thing), {}), X) for thing in (1, 1.0, True)]
    assert_same_bits(found[1], 2 * found[0])
    assert_same_bits(found[2], 3 * found[0])


def test_arguments_need_no_hash():
    fn = lambda key, x, names: jaxdrop.dropout(key, x, 0.5) * len(names)  # noqa: E731
    assert_same_bits(mean(fn, X, {"a", "b"}), 2 * mean(fn, X, {"a"}))


# What is kept.


@pytest.mark.parametrize("way", ["plain", "jit", "nnx", "linen", "batches", "output"])
def test_nothing_is_kept_alive(way):
    def held():
        net = nnx.Sequential(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), nnx.Dropout(0.5))
        model, scale = (
            nn.Sequential([nn.Dense(3), nn.Dropout(0.5, deterministic=True)]),
            X[:1, :3] + 1,
        )
        variables = model.init(key(), X)

        def plain(key, x):
            return net.layers[1](jax.nn.relu(net.layers[0](x)) * scale, rngs=nnx.Rngs(key))

        linen = mc.from_linen(model, variables)
        fn = {"jit": jax.jit(plain), "nnx": mc.from_nnx(net), "linen": linen}.get(way, plain)
        pick = (lambda out: out * scale) if way == "output" else None
        if way == "batches":
            mc.predict_batches(fn, key(), [X, X[:2]], num_samples=3, progress=False)
        else:
            mc.predict(fn, key(), X, num_samples=3, output=pick)
        kernel = net.layers[0].kernel.get_raw_value()
        things = (fn, net, model, scale, kernel, *jax.tree.leaves(variables))
        return [weakref.ref(thing) for thing in things]

    references = held()
    gc.collect()
    assert [reference() for reference in references] == [None] * len(references)


# Under an outer trace.


def total(weight, activation=lambda x: x):
    fn = lambda key, x: activation(jaxdrop.dropout(key, x * weight, 0.5))  # noqa: E731
    return mc.predict(fn, key(), X, num_samples=5).mean.sum()


def test_captured_values_may_be_traced():
    slope = float(total(jnp.float32(1)))
    assert slope > 0
    two = jnp.float32(2)
    for found in (jax.grad(total)(two), jax.jit(jax.grad(total))(two), jax.jacfwd(total)(two)):
        np.testing.assert_allclose(found, slope, rtol=1e-5)
    jitted = jax.jit(total)
    for weight in (2.0, 3.0):
        np.testing.assert_allclose(jitted(weight), weight * slope, rtol=1e-5)
    mapped = jax.vmap(total)(jnp.arange(3.0, dtype=jnp.float32))
    np.testing.assert_allclose(mapped, slope * np.arange(3.0), rtol=1e-5)


def test_rules_of_the_users_for_derivatives_hold():
    @jax.custom_jvp
    def odd(x):
        return x

    odd.defjvp(lambda primals, tangents: (primals[0], 10 * tangents[0]))
    total(jnp.float32(2), odd)  # without derivatives first
    slope = float(total(jnp.float32(1)))
    found = jax.grad(lambda weight: total(weight, odd))(jnp.float32(2))
    np.testing.assert_allclose(found, 10 * slope, rtol=1e-5)


# What jit has found before.


class Blocks(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=True)(nn.Dropout(0.5, deterministic=True)(x))


JITTED = nn.jit(Blocks)


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return JITTED()(x)


def test_a_compiled_part_of_a_model_hears_every_adapter():
    x = jnp.ones((400, 8), jnp.float32)
    Outer().apply({}, x, rngs={"dropout": key(), "params": key()})  # compiled without dropout
    for sites in ("*Dropout_0", "*Dropout_1", None):
        live = {site.path[-1] for site in _live(mc.from_linen(Outer(), {}, sites=sites), x)}
        assert live == ({sites[-1]} if sites else {"0", "1"})
    for rate in (0.1, 0.9):
        y = mc.from_linen(Outer(), {}, rate=rate)(key(), x)
        np.testing.assert_allclose((y == 0).mean(), 1 - (1 - rate) ** 2, atol=0.03)


def _live(fn, x):
    return [site for site in mc.audit(fn, key(), x).sites if site.live]


def test_a_function_that_was_called_before_is_audited_all_the_same():
    class Counting(nnx.Module):
        def __init__(self):
            self.seen = nnx.BatchStat(jnp.zeros(()))
            self.dropout = nnx.Dropout(0.5)

        def __call__(self, x):
            self.seen[...] = self.seen[...] + 1
            return self.dropout(x)

    fn = jax.jit(mc.from_nnx(Counting()).__call__)
    with pytest.raises(ValueError, match=r"seen \(BatchStat\)"):
        fn(key(), X)
    assert mc.audit(fn, key(), X).changes == ("BatchStat",)


def test_a_function_that_was_compiled_before_has_its_dropout_replaced():
    model = nn.Dropout(0.5, deterministic=False)
    fn = jax.jit(lambda key, x: model.apply({}, x, rngs={"dropout": key}))
    fn(key(), X)
    with jaxdrop.linen.replace_dropout():
        found, expected = fn(key(), X), model.apply({}, X, rngs={"dropout": key()})
    assert_same_bits(found, expected)
