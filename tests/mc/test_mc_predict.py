"""`predict`: which samples it draws, and what it makes of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdrop import mc
from tests.support import models
from tests.support.cases import assert_same_bits, key
from tests.support.models import each_framework

SAMPLES = 20  # two chunks of 10; of 7, two and a rest


def draw(fn, *args, seed=0, **kwargs):
    return np.asarray(
        mc.predict(fn, key(seed), *args, num_samples=SAMPLES, summary=mc.samples(), **kwargs)
    )


def noise(key, x):
    return x + jax.random.normal(key, x.shape)


@functools.cache
def dropout_alone():
    """Without products, so that samples are the same to the last bit."""
    return mc.from_nnx(nnx.Sequential(nnx.Dropout(0.5)))


# Which samples.


@pytest.mark.usefixtures("jitted")
@pytest.mark.parametrize("constraints", [(), ("b>=1", "b<=64")], ids=["open", "bounded"])
@pytest.mark.parametrize("shared_masks", [False, True])
def test_a_batch_whose_size_is_not_known_gets_the_samples_of_one_that_is(shared_masks, constraints):
    model = nnx.Sequential(nnx.Linear(4, 8, rngs=nnx.Rngs(0)), nnx.Dropout(0.5))
    fn = mc.from_nnx(model, shared_masks=shared_masks)
    predict = jax.jit(lambda key, x: mc.predict(fn, key, x, num_samples=SAMPLES))
    shape = jax.export.symbolic_shape("b, 4", constraints=constraints)
    exported = jax.export.export(predict)(
        jax.eval_shape(key), jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    for batch in (1, 33):
        x = jnp.ones((batch, 4), jnp.float32)
        for found, expected in zip(
            *map(jax.tree.leaves, (exported.call(key(), x), predict(key(), x)))
        ):
            np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.usefixtures("jitted")
@each_framework
def test_sample_i_is_the_function_of_the_folded_key(framework):
    """For every chunk size: masks bit for bit, outputs to the rounding of the products."""
    fn, _ = models.net(framework, head=True)
    x = models.inputs()
    once = jax.jit(fn)
    expected = np.stack([once(jax.random.fold_in(key(), i), x) for i in range(SAMPLES)])
    assert len({sample.tobytes() for sample in expected}) == SAMPLES
    for chunk_size in (1, 7, 10) if framework == "linen" else (7,):
        samples = draw(fn, x, chunk_size=chunk_size)
        np.testing.assert_array_equal(samples == 0, expected == 0)
        # A product of one row and of several is rounded by other kernels on some processors.
        np.testing.assert_allclose(samples, expected, rtol=1e-6, atol=3e-6)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_other_keys_give_the_same_samples_in_every_chunk(impl):
    """Their vmap would draw for the whole chunk from its first key."""
    fn = dropout_alone()
    once, one, x = jax.jit(fn), jax.random.key(0, impl=impl), models.inputs()
    expected = np.stack([once(jax.random.fold_in(one, i), x) for i in range(SAMPLES)])
    for chunk_size in (1, 7):
        samples = mc.predict(
            fn, one, x, num_samples=SAMPLES, chunk_size=chunk_size, summary=mc.samples()
        )
        assert_same_bits(samples, expected)


def test_legacy_key_is_the_typed_one():
    fn = dropout_alone()
    x = models.inputs()
    expected = draw(fn, x, seed=3)
    for legacy in (jax.random.PRNGKey(3), np.asarray(jax.random.PRNGKey(3))):
        samples = mc.predict(fn, legacy, x, num_samples=SAMPLES, summary=mc.samples())
        assert_same_bits(samples, expected)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("Auto", "moments"), *(("Explicit", n) for n in ("samples", "moments", "classification"))],
)
def test_samples_do_not_depend_on_the_mesh(kind, name):
    summary = getattr(mc, name)()
    fn = dropout_alone()
    x = models.inputs(batch=64)
    expected = mc.predict(fn, key(), x, num_samples=SAMPLES, summary=summary)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(getattr(jax.sharding.AxisType, kind),))
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, jax.NamedSharding(mesh, jax.P("data")))
        actual = mc.predict(fn, key(), sharded, num_samples=SAMPLES, summary=summary)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        np.testing.assert_array_equal(np.asarray(a) == 0, np.asarray(b) == 0)
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_same_key_same_samples_in_other_transforms():
    fn, x = dropout_alone(), models.inputs()
    expected = draw(fn, x)
    assert_same_bits(draw(fn, x), expected)
    assert (draw(fn, x, seed=1) != expected).any()
    jitted = jax.jit(functools.partial(mc.predict, num_samples=SAMPLES, summary=mc.samples()))
    mapped = jax.vmap(lambda one: mc.predict(fn, one, x, num_samples=SAMPLES, summary=mc.samples()))
    for samples in (jitted(fn, key(), x), mapped(key()[None])[0]):
        assert_same_bits(samples, expected)


def test_gradient_of_the_mean_is_the_mean_of_the_gradients():
    """Dropout alone is linear, so the gradient is the mean of the masks themselves."""
    fn = dropout_alone()
    x = jnp.ones((8, 40))
    options = {"num_samples": SAMPLES, "balanced": False}
    gradient = jax.grad(lambda x: mc.predict(fn, key(), x, **options).mean.sum())(x)
    np.testing.assert_allclose(gradient, draw(fn, x).mean(0), rtol=1e-6)


# What is passed on, and how often it is traced.


def test_arguments_reach_the_function_as_they_are():
    def fn(key, x, none, flag, *, names, scale):
        assert (none, flag, names[0]) == (None, False, "a")
        return noise(key, x) * scale * names[1]

    arguments = {"names": ["a", jnp.float32(2)], "scale": 3.0}
    out = mc.predict(fn, key(), jnp.zeros(1000), None, False, num_samples=4, **arguments)
    plain = mc.predict(noise, key(), jnp.zeros(1000), num_samples=4)
    np.testing.assert_allclose(out.mean, 6 * plain.mean, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("jitted")
@each_framework
def test_nothing_is_traced_twice(framework):
    """Not for the same shapes, new variables, another key or a summary made anew."""
    traces = []

    def counted(next_net):
        class Counted(next_net):
            def __call__(self, *args, **kwargs):
                traces.append(1)
                return super().__call__(*args, **kwargs)

        return Counted

    if framework == "linen":
        model = counted(models.LinenNet)(head=True)
        variables = models.linen_variables(model)
        fns = [
            mc.from_linen(model, jax.tree.map(lambda leaf, i=i: leaf + i, variables))
            for i in range(2)
        ]
    else:
        cls = counted(models.NnxNet)
        fns = [mc.from_nnx(cls(nnx.Rngs(seed), head=True)) for seed in range(2)]
    results, counts = [], []
    for fn in fns:
        for seed in range(2):
            for summary in (mc.moments(), mc.classification()):
                out = mc.predict(
                    fn, key(seed), models.inputs(), num_samples=SAMPLES, summary=summary
                )
                results.append(np.asarray(out[0]).tobytes())
                counts.append(len(traces))
    assert counts[0] > 0
    assert counts[1] > counts[0]
    assert set(counts[1:]) == {counts[1]}
    assert len(set(results)) == len(results)


# Refusals.


@pytest.mark.parametrize("name", ["num_samples", "chunk_size"])
@pytest.mark.parametrize(
    ("value", "kind", "message"),
    [
        (0, ValueError, "expected at least 1, got 0"),
        (-1, ValueError, "expected at least 1, got -1"),
        (True, ValueError, "expected at least 1, got True"),
        (np.False_, (TypeError, ValueError), "expected .*, got .*False"),
        (2.5, TypeError, r"expected an integer, got 2\.5"),
        ("3", TypeError, "expected an integer, got '3'"),
    ],
)
def test_counts_are_integers_of_at_least_1(name, value, kind, message):
    with pytest.raises(kind, match=f"{name}: {message}.*write for example {name}=10"):
        mc.predict(noise, key(), jnp.zeros(3), **{name: value})


@pytest.mark.parametrize("count", [np.int64(3), np.uint8(3), np.asarray(3)])
def test_counts_of_numpy_are_counts(count):
    arguments = {"num_samples": count, "chunk_size": count, "summary": mc.samples()}
    assert mc.predict(noise, key(), jnp.zeros(5), **arguments).shape == (3, 5)


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (lambda: 0, TypeError),
        (lambda: None, TypeError),
        (lambda: jax.random.PRNGKey(0)[None], ValueError),
    ],
)
def test_key_is_one_key(bad, kind):
    with pytest.raises(kind, match="key: expected one PRNG key"):
        mc.predict(noise, bad(), jnp.zeros(3))


@each_framework
def test_function_that_samples_nothing_is_refused_with_its_audit(framework):
    fn, _ = models.net(framework, rate=0.0)
    with pytest.raises(ValueError, match="expected a function whose output depends") as caught:
        mc.predict(fn, key(), models.inputs())
    text = str(caught.value)
    assert str(mc.audit(fn, key(), models.inputs())) in text
    assert "dead" in text
    assert "jaxdrop.mc.from_linen or from_nnx" in text


def test_noise_that_does_not_reach_the_output_is_none():
    """Inside a compiled function too, where the key is used but its result dropped."""

    @jax.jit
    def fn(key, x):
        noise = jax.random.normal(key, x.shape)
        return jnp.where(x > 0, x, 0.0), noise

    with pytest.raises(ValueError, match="no dropout site was found"):
        mc.predict(lambda key, x: fn(key, x)[0], key(), jnp.zeros(3))
    assert mc.predict(fn, key(), jnp.zeros(3)).variance[1].all()
