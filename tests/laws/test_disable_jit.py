"""Without jit, as people step through a model: the same values, one operation at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxdrop
from jaxdrop import masks, mc
from tests.mc.test_mc_same_program import Stack
from tests.support import models
from tests.support.cases import assert_same_bits, data, each_case, key
from tests.support.models import each_framework


@each_case
def test_variants_are_the_same_bits(case):
    x = data(case.shape)
    expected = case.fn(key(), x, 0.3, **case.kwargs)
    with jax.disable_jit():
        found = case.fn(key(), x, 0.3, **case.kwargs)
        gradient = jax.grad(lambda x: case.fn(key(), x, 0.3, **case.kwargs).sum())(x)
    assert_same_bits(found, expected)
    assert np.isfinite(gradient).all()


def test_masks_are_the_same_bits():
    expected = masks.sample(key(), 0.3, (5, 40))
    with jax.disable_jit():
        found = masks.sample(key(), 0.3, (5, 40))
        assert_same_bits(found.unpack(), expected.unpack())
        assert_same_bits(found.apply(jnp.ones((5, 40))), expected.apply(jnp.ones((5, 40))))


@pytest.mark.parametrize("num_samples", [1, 3, 12])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_predict_runs_the_function_and_draws_the_same_samples(num_samples, impl):
    seen = []

    def fn(key, x):
        seen.append(x)
        return jaxdrop.dropout(key, x, 0.5)

    one, x = jax.random.key(3, impl=impl), data((3, 40))
    options = {"num_samples": num_samples, "summary": mc.samples()}
    expected = mc.predict(fn, one, x, **options)
    seen.clear()
    with jax.disable_jit():
        assert_same_bits(mc.predict(fn, one, x, **options), expected)
    assert any(each is x for each in seen)  # concrete, where one can look at it


@each_framework
def test_summaries_of_a_network_agree(framework):
    fn, _ = models.net(framework, head=True)
    x = models.inputs()
    summary = mc.combine(
        moments=mc.moments(),
        classes=mc.classification(),
        quantiles=mc.quantiles((0.1, 0.9)),
        samples=mc.samples(),
    )
    options = {"num_samples": 3, "chunk_size": 2, "summary": summary}
    expected = mc.predict(fn, key(), x, **options)
    with jax.disable_jit():
        found = mc.predict(fn, key(), x, **options)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), found, expected)


@pytest.mark.parametrize("keys", ["batch", "example", "call"])
def test_batches_are_the_same_bits(keys):
    fn = mc.from_nnx(nnx.Sequential(nnx.Dropout(0.5)))
    x = data((7, 12))

    def run():
        options = {"num_samples": 3, "chunk_size": 2, "summary": mc.samples(), "progress": False}
        return mc.predict_batches(fn, key(), [x[:4], x[4:]], keys=keys, **options)

    expected = run()
    with jax.disable_jit():
        assert_same_bits(run(), expected)


@each_framework
def test_the_audit_is_the_same(framework):
    fn, _ = models.net(framework, head=True)
    expected = str(mc.audit(fn, key(), models.inputs()))
    with jax.disable_jit():
        assert str(mc.audit(fn, key(), models.inputs())) == expected


def test_layers_that_a_scan_leaves_alone_are_not_refused():
    """Without jit a scan returns their parameters as new arrays, which is not a change."""
    fn, x = mc.from_nnx(Stack((3,), own=False)), data((4, 40))
    expected = fn(key(), x)
    with jax.disable_jit():
        assert_same_bits(fn(key(), x), expected)
