"""`predict` over a mesh: examples, samples or both divided among the devices."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding

from jaxdrop import mc
from tests.support import models
from tests.support.cases import assert_same_bits, key

pytestmark = pytest.mark.usefixtures("threefry")
SAMPLES = 20  # of 8 devices, with chunks of 10: one of 16 and a rest of 4
SUMMARIES = {
    "samples": mc.samples(),
    "all": mc.combine(
        moments=mc.moments(),
        classification=mc.classification(),
        binary=mc.classification(binary=True),
        regression=mc.regression(precision=2.0),
        quantiles=mc.quantiles((0.1, 0.5)),
    ),
}


@pytest.fixture
def threefry():
    """The only keys whose samples run side by side."""
    with jax.default_prng_impl("threefry2x32"):
        yield


def mesh(kind, shape=(4, 2), names=("sample", "data")):
    return jax.make_mesh(shape, names, axis_types=(getattr(AxisType, kind),) * len(names))


def predict(fn, x, name="samples", **kwargs):
    return mc.predict(fn, key(), x, num_samples=SAMPLES, summary=SUMMARIES[name], **kwargs)


@functools.cache
def dropout_alone():
    """Without products, so that samples are the same to the last bit."""
    return mc.from_nnx(nnx.Sequential(nnx.Dropout(0.5)))


@functools.cache
def expected_samples():
    return np.asarray(predict(dropout_alone(), models.inputs(batch=16)))


def assert_close(actual, expected):
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize(
    ("shape", "spec", "chunk_size"),
    [
        ((1, 1), jax.P("data"), 10),
        ((2, 1), jax.P(), 3),
        ((8, 1), jax.P("data"), 10),
        ((4, 2), jax.P("data"), 10),
        ((2, 4), jax.P(None, "data"), 3),
    ],
)
def test_samples_are_those_of_one_device(kind, shape, spec, chunk_size):
    """The masks bit for bit; the network has no product whose order could change."""
    with jax.set_mesh(mesh(kind, shape)):
        x = jax.device_put(models.inputs(batch=16), spec)
        samples = predict(dropout_alone(), x, chunk_size=chunk_size, sample_axis="sample")
    assert_same_bits(samples, expected_samples())


@pytest.mark.slow
@models.each_framework
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_summaries_of_a_network_agree(framework, kind):
    fn, _ = models.net(framework, head=True)
    x = models.inputs(batch=16)
    expected = predict(fn, x, "all")
    with jax.set_mesh(mesh(kind)):
        sharded = jax.device_put(x, jax.P("data"))
        assert_close(predict(fn, sharded, "all", sample_axis="sample"), expected)


@pytest.mark.parametrize("num_samples", [16, 24, 32])
def test_fewer_blocks_than_devices_have_means_too(num_samples):
    options = {"num_samples": num_samples, "summary": mc.moments(), "balanced": True}
    expected = mc.predict(dropout_alone(), key(), models.inputs(), **options)
    with jax.set_mesh(mesh("Explicit", (8,), ("sample",))):
        out = mc.predict(dropout_alone(), key(), models.inputs(), **options, sample_axis="sample")
    assert_close(out, expected)


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_mesh_comes_from_the_arguments_where_none_is_set(kind):
    place = NamedSharding(mesh(kind), jax.P("data"))
    x = jax.device_put(models.inputs(batch=16), place)
    assert_same_bits(predict(dropout_alone(), x, sample_axis="sample"), expected_samples())


def test_two_axes_divide_the_samples():
    with jax.set_mesh(mesh("Auto")):
        x = models.inputs(batch=16)
        samples = predict(dropout_alone(), x, sample_axis=("sample", "data"))
    assert_same_bits(samples, expected_samples())


def test_batches_take_the_axis_too():
    batches = [models.inputs(batch=size) for size in (8, 5)]
    options = {"num_samples": SAMPLES, "progress": False}
    fn = dropout_alone()
    expected = mc.predict_batches(fn, key(), batches, **options)
    with jax.set_mesh(mesh("Auto")):
        out = mc.predict_batches(fn, key(), batches, sample_axis="sample", **options)
    assert_close(out, expected)


@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_each_device_computes_its_part(kind):
    """Operations of a device fall with their number; nothing but the summary is communicated."""
    weights = jnp.ones((256, 256))

    def fn(key, x):
        return dropout_alone()(key, x) @ weights

    def compiled(**kwargs):
        def run(key, x):
            return mc.predict(fn, key, x, num_samples=32, chunk_size=32, **kwargs)

        return jax.jit(run).lower(key(), jnp.ones((64, 256))).compile()

    whole = compiled().cost_analysis()["flops"]
    with jax.set_mesh(mesh(kind, (8,), ("sample",))):
        part = compiled(sample_axis="sample")
    assert part.cost_analysis()["flops"] < 1.1 * whole / 8
    text = part.as_text()
    assert "all-gather" not in text
    assert "all-to-all" not in text


# Refusals.


@pytest.mark.parametrize(
    ("axis", "kind", "message"),
    [
        ("model", ValueError, r"which has \['sample', 'data'\], got 'model'; set a mesh"),
        (("data", "data"), ValueError, "expected different axes of the mesh"),
        (0, TypeError, "expected the name of a mesh axis or a tuple of names, got 0; write"),
        ((), TypeError, "expected the name of a mesh axis"),
    ],
)
def test_axis_is_one_of_the_mesh(axis, kind, message):
    with jax.set_mesh(mesh("Auto")), pytest.raises(kind, match=message):
        predict(dropout_alone(), models.inputs(), sample_axis=axis)


def test_axis_without_a_mesh_is_refused():
    with pytest.raises(ValueError, match=r"which has \[\], got 'data'; set a mesh"):
        predict(dropout_alone(), models.inputs(), sample_axis="data")


def test_keys_whose_samples_run_in_turn_cannot_be_divided():
    refused = pytest.raises(ValueError, match="expected a threefry2x32 key, got 'rbg'")
    with jax.set_mesh(mesh("Auto")), refused:
        key = jax.random.key(0, impl="rbg")
        mc.predict(dropout_alone(), key, models.inputs(), sample_axis="sample")


# Batches.


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("last", ["sharded", "on the host", "odd"])
@pytest.mark.parametrize("axis", [None, "sample"])
@pytest.mark.parametrize("is_set", [True, False])
def test_batches_keep_their_mesh(kind, last, axis, is_set):
    """Where the last is smaller, too: it is placed as the first."""
    x = models.inputs(batch=22)
    options = {"num_samples": SAMPLES, "summary": SUMMARIES["samples"], "progress": False}
    rest = x[16:21] if last == "odd" else x[16:20]
    expected = mc.predict_batches(dropout_alone(), key(), [x[:8], x[8:16], rest], **options)
    grid = mesh(kind)
    place = NamedSharding(grid, jax.P("data"))
    batches = [jax.device_put(x[:8], place), jax.device_put(x[8:16], place)]
    batches.append(jax.device_put(rest, place) if last == "sharded" else np.asarray(rest))
    with jax.set_mesh(grid) if is_set else contextlib.nullcontext():
        out = mc.predict_batches(dropout_alone(), key(), batches, sample_axis=axis, **options)
    assert_same_bits(out, expected)


@pytest.mark.parametrize("is_set", [True, False])
def test_a_function_may_ask_how_a_batch_is_divided(is_set):
    x, grid = models.inputs(batch=16), mesh("Explicit")
    options = {"num_samples": SAMPLES, "summary": SUMMARIES["samples"], "progress": False}

    def alike(key, x):
        return jax.sharding.reshard(dropout_alone()(key, x), jax.typeof(x).sharding)

    expected = mc.predict_batches(dropout_alone(), key(), [x[:8], x[8:]], **options)
    batches = [jax.device_put(part, NamedSharding(grid, jax.P("data"))) for part in (x[:8], x[8:])]
    with jax.set_mesh(grid) if is_set else contextlib.nullcontext():
        out = mc.predict_batches(alike, key(), batches, **options)
    assert_same_bits(out, expected)
