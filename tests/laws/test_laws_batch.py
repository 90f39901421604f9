"""What an example gets does not depend on how many stand beside it, known or not."""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxdrop import functional, masks
from tests.laws.test_laws_sharding import COLLECTIVE, compiled, placement, put
from tests.support.cases import CASES, NOISE_CASES, assert_same_bits, data, key

# Every size is compiled on its own: on both sides of a word always, the others with `slow`.
FEW, MORE = (1, 32, 33), (7, 8, 31, 64)
LARGEST = 257
each_batches = pytest.mark.parametrize(
    "batches", [FEW, pytest.param(MORE, marks=pytest.mark.slow)], ids=["few", "more"]
)


class Variant:
    """A function of a key and an array whose axis ``axis`` counts examples."""

    def __init__(self, call, shape, axis=0, dtype=jnp.float32):
        self.call, self.shape, self.axis, self.dtype = call, shape, axis, dtype

    def x(self, batch):
        shape = (*self.shape[: self.axis], batch, *self.shape[self.axis + 1 :])
        if self.dtype == jnp.int32:
            return jnp.arange(np.prod(shape), dtype=jnp.int32).reshape(shape) + 1
        whole = data((*self.shape[: self.axis], LARGEST, *self.shape[self.axis + 1 :]), self.dtype)
        return jnp.asarray(*first(whole, batch, self.axis))


def _attention(key, x, **arguments):
    return functional.dot_product_attention(key, x, x, x, 0.3, **arguments)


def _called(case, key, x):
    return case.call(key, x, 0.3)


_TIME_MAJOR = {"variational_time_major": 1, "drop_path_batch_last": 1, "mc_dropout_padded": 1}
# Nothing in these stands for an example.
_WITHOUT_EXAMPLES = {"attention_broadcast", "drop_connect"}
_ADAPTED = {"zoneout": lambda k, x: functional.zoneout(k, 2 * x, x, 0.3)}
VARIANTS = {
    **{
        case.name: Variant(
            _ADAPTED.get(case.name) or functools.partial(_called, case),
            case.shape,
            _TIME_MAJOR.get(case.name, 0),
        )
        for case in CASES
        if case.name not in _WITHOUT_EXAMPLES
    },
    **{
        case.name: Variant(case.call, case.shape)
        for case in NOISE_CASES
        if case.noise_shape[0] == case.shape[0]
    },
    "tokens": Variant(lambda k, x: functional.token_dropout(k, x, 0.5), (4, 12, 3)),
    "words": Variant(
        lambda k, x: functional.word_dropout(k, x, 0.3, unknown_id=0), (4, 32), dtype=jnp.int32
    ),
    "drop_key": Variant(lambda k, x: functional.drop_key(k, x, 0.3), (4, 2, 3, 32)),
    "attention_dense": Variant(_attention, (2, 32, 2, 4)),
    "attention_blocks": Variant(functools.partial(_attention, block_size=5), (2, 9, 2, 4)),
    "ten_classes": Variant(lambda k, x: functional.dropout(k, x, 0.3), (4, 10)),
    "thirty_two": Variant(lambda k, x: functional.dropout(k, x, 0.3), (4, 32)),
    "vector": Variant(lambda k, x: functional.dropout(k, x, 0.3), (4,)),
    "time_major_of_32": Variant(
        lambda k, x: functional.variational_dropout(k, x, 0.3, time_axis=0), (5, 32, 3), 1
    ),
    "rates_a_channel": Variant(
        lambda k, x: functional.dropout(k, x, jnp.linspace(0, 1, 40)), (4, 40)
    ),
    "traced_rate": Variant(
        lambda k, x: functional.dropout(k, x, jnp.float32(0.3) + 0 * x.ravel()[0]), (4, 40)
    ),
}
each_variant = pytest.mark.parametrize("name", VARIANTS)


def first(results, batch, axis):
    """By NumPy, which compiles no program for each size."""
    leaves = map(np.asarray, jax.tree.leaves(results))
    return [y[(slice(None),) * axis + (slice(batch),)] for y in leaves]


@each_variant
@each_batches
def test_the_mask_of_an_example_does_not_depend_on_the_size_of_the_batch(name, batches):
    variant = VARIANTS[name]
    call = jax.jit(variant.call)
    whole = call(key(), variant.x(LARGEST))
    exact = not name.startswith("attention_")  # else the order of sums differs
    for batch in batches:
        found = jax.tree.leaves(call(key(), variant.x(batch)))
        for one, expected in zip(found, first(whole, batch, variant.axis), strict=True):
            if exact or one.ndim < 4:
                assert_same_bits(one, expected)
            else:
                np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rest", [(), (10,), (64,), (100,), (3, 5), (32, 7), (7, 7, 48)], ids=str)
@each_batches
def test_a_mask_is_the_beginning_of_that_of_a_larger_batch(rest, batches):
    whole = np.asarray(masks.sample(key(3), 0.4, (LARGEST, *rest)).unpack())
    for batch in batches:
        part = masks.sample(key(3), 0.4, (batch, *rest)).unpack()
        np.testing.assert_array_equal(part, whole[:batch])


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit], ids=lambda a: a.name)
@pytest.mark.parametrize("rest", [(10,), (128,), (5, 32, 8), (6, 6, 64)], ids=str)
@pytest.mark.parametrize(
    "rows", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (3, 16)), 4]
)
def test_a_batch_over_devices_draws_the_same_and_each_device_its_part(rows, rest, axis_type):
    def call(key, x):
        return functional.dropout(key, x, 0.3)

    def operations(x):
        with jax.debug_key_reuse(False):
            program = jax.jit(call).lower(key(), x).compile()
        assert not COLLECTIVE.search(program.as_text())
        return program.cost_analysis()["flops"]

    x = data((8 * rows, *rest))
    sharded = put(x, placement(x.shape, "first", axis_type))
    assert_same_bits(compiled(call, key(), sharded)(key(), sharded), call(key(), x))
    if rest != (10,):  # of which a word is shared by rows: a device draws the words that it needs
        alone = jnp.asarray(np.asarray(x)[:rows])
        assert operations(sharded) <= 1.02 * operations(alone) + 64


@pytest.mark.parametrize("name", [name for name, v in VARIANTS.items() if v.axis == 0])
@pytest.mark.parametrize(
    ("legacy", "batches", "platforms"),
    [
        pytest.param(False, (1, 33), ("cpu",), id="typed"),
        pytest.param(True, (1, 5, 32, 33), ("cpu",), id="legacy", marks=pytest.mark.slow),
        pytest.param(False, (5, 32), ("cpu", "cuda", "tpu"), id="more", marks=pytest.mark.slow),
    ],
)
def test_a_batch_whose_size_is_not_known_gets_the_masks_of_one_that_is(
    name, legacy, batches, platforms
):
    variant = VARIANTS[name]
    sizes = ", ".join(map(str, variant.shape[1:]))
    shape = jax.export.symbolic_shape(f"b, {sizes}" if sizes else "b")
    fresh = jax.random.PRNGKey if legacy else jax.random.key
    call = jax.jit(variant.call)
    exported = jax.export.export(call, platforms=platforms)(
        jax.eval_shape(fresh, 0), jax.ShapeDtypeStruct(shape, variant.dtype)
    )
    whole = call(key(), variant.x(LARGEST))
    for batch in batches:
        found = jax.tree.leaves(exported.call(fresh(0), variant.x(batch)))
        for one, expected in zip(found, first(whole, batch, 0), strict=True):
            np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rest", [(), (10,), (64,), (32, 7)], ids=str)
def test_words_of_a_batch_whose_size_is_not_known_are_those_of_one_that_is(rest):
    def words(one, x):
        mask = masks.sample(one, 0.3, x.shape)
        return mask.words, mask.unpack()

    shape = jax.export.symbolic_shape(", ".join(map(str, ("b", *rest))))
    exported = jax.export.export(jax.jit(words))(
        jax.eval_shape(key), jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    for batch in (1, 33):
        x = jnp.ones((batch, *rest))
        for found, expected in zip(exported.call(key(), x), words(key(), x)):
            assert_same_bits(found, expected)


def test_rates_may_have_the_axes_that_the_mask_leaves_out():
    x, rates = data((5, 12, 8)), jnp.linspace(0, 1, 12 * 8).reshape(12, 8)
    y = functional.variational_dropout(key(), x, rates[None], time_axis=0)
    for step in range(5):
        assert_same_bits(y[step], functional.dropout(key(), x[step], rates))
