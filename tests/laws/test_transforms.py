"""Every variant in every transform of JAX: the values and gradients of the plain call.

`test_laws_gradient` has forward mode and Hessians, `test_laws_sharding` the meshes.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

import jaxdrop
from tests.support import cases
from tests.support.cases import RATE, data, key

COUNT = 3


@pytest.fixture(autouse=True)
def keys_are_used_again():
    """On purpose: every transform gets the same ones."""
    with jax.debug_key_reuse(False):
        yield


class Row(NamedTuple):
    """A function as ``f(key, x)``.

    Attributes:
        name: the id of its tests.
        f: of a key and an array.
        shape: of x.
        exact: whether compiled code gives the same bits: no sum or product has to be rounded.
    """

    name: str
    f: Callable
    shape: tuple[int, ...]
    exact: bool = True

    @property
    def x(self):
        return data(self.shape)

    def keys(self, impl=None):
        return jax.random.split(jax.random.key(7, impl=impl), COUNT)

    def loop(self, impl=None):
        """What the plain call gives for each key."""
        return np.stack([self.f(k, self.x) for k in list(self.keys(impl))])


def _at_level(call, key, x):
    return call.fn(key, x, call.level)


CALLS = tuple(
    Row(call.name, functools.partial(_at_level, call), call.shape, call.exact)
    for call in cases.CALLS
    if call.independent
)
each_call = pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)


def assert_equal(call, found, expected, name=""):
    tolerance = 0 if call.exact else 2e-6
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance, err_msg=name)


def policies():
    known = jax.checkpoint_policies
    return {
        "nothing_saveable": known.nothing_saveable,
        "dots_saveable": known.dots_saveable,
        "save_only_these_names": known.save_only_these_names("some"),
    }


def _while_loop(f, keys, x):
    """A loop whose length is known at run time alone."""
    like = jax.eval_shape(f, keys[0], x)
    start = jnp.zeros((COUNT, *like.shape), like.dtype)
    step = lambda state: (state[0] + 1, state[1].at[state[0]].set(f(keys[state[0]], x)))  # noqa: E731
    return lax.while_loop(lambda state: state[0] < COUNT, step, (jnp.int32(0), start))[1]


def _cond(f, keys, x):
    def either(flag, key):
        return lax.cond(flag, lambda: f(key, x), lambda: jnp.zeros_like(f(key, x)))

    return jnp.stack([either(x.ravel()[0] != jnp.inf, k) for k in keys])


# Each as ``(f, keys, x)``, which gives f(key, x) for every key.
VALUES = {
    "jit": lambda f, keys, x: jnp.stack([f(k, x) for k in keys]),
    "vmap": lambda f, keys, x: jax.vmap(f, (0, None))(keys, x),
    "vmap over both": lambda f, keys, x: jax.vmap(f)(keys, jnp.stack([x] * COUNT)),
    "vmap over the last axis of x": lambda f, keys, x: jax.vmap(f, (0, -1))(
        keys, jnp.stack([x] * COUNT, -1)
    ),
    "scan": lambda f, keys, x: lax.scan(lambda _, k: (None, f(k, x)), None, keys)[1],
    "while_loop": _while_loop,
    "cond": _cond,
    "map": lambda f, keys, x: lax.map(lambda k: f(k, x), keys, batch_size=2),
    "sequential vmap": lambda f, keys, x: jax.vmap(
        jax.custom_batching.sequential_vmap(f), (0, None)
    )(keys, x),
    "remat": lambda f, keys, x: jnp.stack([jax.checkpoint(f)(k, x) for k in keys]),
}


def transformed_values(f, keys, x):
    return {name: run(f, keys, x) for name, run in VALUES.items()}


@each_call
def test_values_are_those_of_the_plain_call(call):
    """All transforms in one program, which is compiled once."""
    expected = call.loop()

    @jax.jit
    def transformed(keys, x):
        found = transformed_values(call.f, keys, x)
        found["vmap over x"] = jax.vmap(call.f, (None, 0))(keys[0], jnp.stack([x] * COUNT))
        return found

    for name, found in transformed(call.keys(), call.x).items():
        same = expected if name != "vmap over x" else np.stack([expected[0]] * COUNT)
        assert_equal(call, found, same, name)
    assert len({row.tobytes() for row in expected}) == COUNT


def _summed_by_scan(loss):
    """The sum over a key, as a scan takes it."""
    return lambda x, k: lax.scan(lambda total, k: (total + loss(x, k), None), 0.0, k[None])[0]


@each_call
def test_gradients_are_those_of_the_plain_call(call):
    weight = data(jax.eval_shape(call.f, key(), call.x).shape)

    def loss(f):
        return lambda x, key: jnp.sum(weight * f(key, x))

    plain = jax.grad(loss(call.f))
    expected = np.stack([plain(call.x, k) for k in list(call.keys())])

    @jax.jit
    def transformed(keys, x):
        gradient = jax.grad(loss(call.f))
        found = {
            "vmap": jax.vmap(gradient, (None, 0))(x, keys),
            "scan": lax.scan(lambda _, k: (None, gradient(x, k)), None, keys)[1],
            "through a scan": jax.vmap(jax.grad(_summed_by_scan(loss(call.f))), (None, 0))(x, keys),
        }
        for name, policy in policies().items():
            inner = jax.checkpoint(call.f, policy=policy)
            found[name] = jnp.stack([jax.grad(loss(inner))(x, k) for k in keys])
        return found

    for name, found in transformed(call.keys(), call.x).items():
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-6 * scale, err_msg=name)
        assert_equal(call, np.asarray(found) != 0, expected != 0, name)


# Programs that are taken apart, sent away or watched.


@each_call
def test_export_and_ahead_of_time_programs(call):
    expected = call.f(key(), call.x)
    lowered = jax.jit(call.f).lower(key(), jax.ShapeDtypeStruct(call.x.shape, call.x.dtype))
    assert_equal(call, lowered.compile()(key(), call.x), expected, "compiled")
    # Typed keys do not travel, their words do.
    exported = jax.export.export(
        jax.jit(lambda words, x: call.f(jax.random.wrap_key_data(words), x))
    )
    words = jax.random.key_data(key())
    sent = exported(words, call.x).serialize(vjp_order=1)
    received = jax.export.deserialize(sent)
    assert_equal(call, received.call(words, call.x), expected, "exported")
    slope = jax.grad(lambda x: received.call(words, x).sum())(call.x)
    plain = jax.grad(lambda x: call.f(key(), x).sum())(call.x)
    np.testing.assert_allclose(slope, plain, rtol=1e-5, atol=1e-6)


@each_call
def test_shapes_and_programs_are_had_without_running(call):
    shape = jax.eval_shape(call.f, key(), call.x)
    closed = jax.make_jaxpr(call.f)(key(), call.x)
    assert (shape.shape, shape.dtype) == (closed.out_avals[0].shape, closed.out_avals[0].dtype)
    with jax.checking_leaks():
        jax.jit(jax.grad(lambda x, k: call.f(k, x).sum())).trace(call.x, key())


@each_call
def test_donation_x64_and_debug_nans(call):
    expected = np.asarray(call.f(key(), call.x))
    donated = jax.jit(call.f, donate_argnums=1)
    if expected.shape == call.x.shape:  # or there is nothing to give its buffer to
        assert_equal(call, donated(key(), jnp.array(call.x)), expected, "donated")
    with jax.debug_nans(True):
        assert_equal(call, jax.jit(call.f)(key(), call.x), expected, "debug_nans")
        jax.grad(lambda x: call.f(key(), x).sum())(call.x)
    with jax.enable_x64(True):
        wide = np.asarray(jax.jit(call.f)(key(), jnp.asarray(np.asarray(call.x))))
        assert wide.dtype == expected.dtype
        assert_equal(call, wide, expected, "x64")


@pytest.mark.slow
@each_call
def test_keys_of_every_kind(call):
    """Legacy ones are the typed ones; another implementation's differ for every key."""
    assert_equal(call, call.f(jax.random.PRNGKey(5), call.x), call.f(key(5), call.x))
    for impl in ("rbg", "threefry4x32"):
        loop = call.loop(impl)
        mapped = jax.vmap(call.f, (0, None))(call.keys(impl), call.x)
        assert_equal(call, mapped, loop, impl)
        assert len({row.tobytes() for row in loop}) == COUNT


@pytest.mark.skipif(not hasattr(jax, "pmap"), reason="this JAX has no pmap")
@each_call
def test_pmap(call):
    found = jax.pmap(call.f, in_axes=(0, None))(call.keys(), call.x)
    assert_equal(call, found, call.loop())


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = jaxdrop.linen.Dropout(RATE, deterministic=False)(x)
        return jaxdrop.linen.DropPath(RATE, deterministic=False)(x)


def _scanned(split):
    class Carry(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return Block()(x), None

    return nn.scan(
        Carry,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": split},
        length=COUNT,
    )


@pytest.mark.parametrize("transform", ["scan", "vmap", "remat", "jit"])
def test_linen_transforms(transform):
    """Masks are new for each part whose keys are split, the plain module's where nothing is."""
    x, rngs = jnp.ones((64, 32)), {"dropout": key(3)}
    if transform == "scan":
        y = np.asarray(_scanned(True)().apply({}, x, None, rngs=rngs)[0])
        same = np.asarray(_scanned(False)().apply({}, x, None, rngs={"dropout": key(3)})[0])
        survivors = [(a != 0).mean() for a in (y, same)]
        assert survivors[0] < survivors[1]  # three masks leave less than one three times
    elif transform == "vmap":
        mapped = nn.vmap(Block, in_axes=0, out_axes=0, split_rngs={"dropout": True})
        y = np.asarray(mapped().apply({}, jnp.stack([x] * COUNT), rngs=rngs))
        assert len({part.tobytes() for part in y}) == COUNT
    elif transform == "remat":
        y = np.asarray(nn.remat(Block)(name="block").apply({}, x, rngs=rngs))
        np.testing.assert_array_equal(y, Block(name="block").apply({}, x, rngs=rngs))
    else:  # Flax gives what is inside keys of its own, the same ones each time
        run = lambda seed: nn.jit(Block)().apply({}, x, rngs={"dropout": key(seed)})  # noqa: E731
        y = np.asarray(run(3))
        np.testing.assert_array_equal(y, run(3))
        assert (y != run(4)).any()
    assert 0 < (y == 0).mean() < 1


def test_nnx_modules_in_transforms_of_jax_with_a_key_in_the_call():
    layers = {
        "Dropout": jaxdrop.nnx.Dropout(RATE, deterministic=False),
        "DropPath": jaxdrop.nnx.DropPath(RATE, deterministic=False),
        "GaussianDropout": jaxdrop.nnx.GaussianDropout(RATE, deterministic=False),
    }
    for name, layer in layers.items():
        call = Row(name, lambda k, x, layer=layer: layer(x, rngs=k), (64, 32), False)
        expected = call.loop()

        @jax.jit
        def transformed(keys, x, call=call):
            return transformed_values(call.f, keys, x)

        for label, found in transformed(call.keys(), call.x).items():
            assert_equal(call, found, expected, f"{name} {label}")
        gradient = jax.jit(jax.grad(lambda x, call=call: call.f(key(), x).sum()))(call.x)
        assert np.isfinite(gradient).all()
