"""The mask as a value, and its bits against a second implementation."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdrop import gaussian_dropout, masks
from jaxdrop.masks import _draw, _keys, _layout, _noise, _rate
from jaxdrop.masks._philox import philox4x32
from tests.support import reference
from tests.support.cases import assert_same_bits, data, key

# Every way to lay out words: one axis of 32s from the right or not, padded, flat, none at all.
SHAPES = [
    (),
    (1,),
    (31,),
    (33,),
    (96,),
    (0, 4),
    (4, 0),
    (3, 5, 7),
    (64, 40),
    (40, 64),
    (72, 72),
    (6, 5, 56),
    (2, 64, 3, 5),
    (8, 1, 1, 64),
    (2, 3, 32, 5),
]


def words_of(seed=0):
    return np.asarray(jax.random.key_data(key(seed)))


@pytest.mark.parametrize(
    ("key_words", "counter", "expected"),
    [
        ((0,) * 2, (0,) * 4, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 2,
            (0xFFFFFFFF,) * 4,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
@pytest.mark.parametrize("cipher", [philox4x32, reference.philox4x32], ids=["library", "reference"])
def test_philox_gives_the_known_answers_of_random123(cipher, key_words, counter, expected):
    """The vectors of ``kat_vectors`` for philox4x32 with 10 rounds."""
    block = cipher(jnp.uint32(key_words), jnp.uint32(counter))
    assert tuple(map(int, block)) == expected


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bits_are_those_of_the_reference(shape):
    """At a rate with 16 planes down to its last: a wrong plane, word or lane shows."""
    mask = masks.sample(key(3), 0.3, shape)
    keep = mask.unpack()
    assert keep.shape == mask.shape == shape
    assert keep.dtype == bool
    np.testing.assert_array_equal(keep, reference.keep(words_of(3), 0.3, shape))


@pytest.mark.parametrize("rate", [0.0, 2**-24, 1e-3, 0.1, 0.5, 1 - 1e-3, 1 - 2**-24, 1.0])
def test_bits_at_any_rate_are_those_of_the_reference(rate):
    """From 1 plane to 24, and none."""
    expected = reference.keep(words_of(5), rate, (128, 40))
    np.testing.assert_array_equal(masks.sample(key(5), rate, (128, 40)).unpack(), expected)
    traced = masks.sample(key(5), jnp.float32(rate), (128, 40))
    np.testing.assert_array_equal(traced.unpack(), expected)


def test_a_traced_rate_asks_for_every_plane_of_a_threshold():
    """Its last planes settle some eight decisions of these."""
    rate, shape = 31 * 2**-24, (2**12, 2**11)
    traced = masks.sample(key(5), jnp.float32(rate), shape).words
    np.testing.assert_array_equal(masks.sample(key(5), rate, shape).words, traced)
    assert int((~traced != 0).sum()) in range(1, 60)


@pytest.mark.parametrize("shape", [(64, 40), (72, 72), (6, 5, 56)], ids=str)
@pytest.mark.parametrize("varying", ["all axes", "first axis", "last axis"])
def test_bits_of_an_array_of_rates_are_those_of_the_reference(shape, varying):
    rate_shape = {
        "all axes": shape,
        "first axis": (shape[0], *(1,) * (len(shape) - 1)),
        "last axis": shape[-1:],
    }[varying]
    rates = np.random.default_rng(1).random(rate_shape, np.float32)
    rates.ravel()[:4] = 0, 1, 1e-4, 1 - 1e-4
    mask = masks.sample(key(4), jnp.asarray(rates), shape)
    assert mask.keep_prob.shape == rate_shape
    np.testing.assert_array_equal(mask.unpack(), reference.keep(words_of(4), rates, shape))


FORMS = ["cpu", "cuda", "tpu"]


@pytest.fixture
def written_for(monkeypatch):
    """Makes the library write what it writes for another backend."""

    def choose(backend):
        def chosen(*arguments, default=None, **branches):
            return branches.get(backend, default)(*arguments)

        monkeypatch.setattr(lax, "platform_dependent", chosen)

    return choose


@pytest.mark.parametrize("shape", [*SHAPES, (130, 100), (96, 8, 32)], ids=str)
def test_every_backend_draws_and_unpacks_the_same_bits(shape, written_for):
    layout = _layout.layout_of(shape)
    traced = [np.float32(0.3), *([np.linspace(0, 1, shape[-1], dtype=np.float32)] if shape else [])]
    expected = [reference.keep(words_of(2), rate, shape) for rate in (0.1, 0.5, *traced)]
    words_of_first = None
    for backend in FORMS:
        written_for(backend)

        @jax.jit
        def drawn(traced):
            rates = (0.1, 0.5, *traced)
            words = [_draw.keep_words(key(2), _rate.odds(rate), layout) for rate in rates]
            return words, [_layout.unpack(one, layout) for one in words]

        words, keeps = drawn(traced)
        for keep, wanted in zip(keeps, expected, strict=True):
            np.testing.assert_array_equal(keep, wanted, err_msg=backend)
        words_of_first = words if words_of_first is None else words_of_first
        jax.tree.map(assert_same_bits, words, words_of_first)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_backend_draws_the_same_noise(shape, written_for):
    for backend in FORMS:
        written_for(backend)
        run = jax.jit(lambda: (_noise.integers(key(4), shape), _noise.normal(key(4), shape)))
        integers, normal = run()
        np.testing.assert_array_equal(integers, reference.entry_integers(words_of(4), shape))
        wanted = reference.normal(words_of(4), shape)
        np.testing.assert_allclose(normal, wanted, atol=3e-6, rtol=3e-6, err_msg=backend)


def rates():
    """Thousands of rates: even, tiny, denormal, next to 0, next to 1, halfway between steps."""
    powers = np.float32(2.0) ** -np.arange(150, dtype=np.float32)
    halfway = (np.arange(1000) + 0.5) * 2.0**-16
    some = np.concatenate([np.random.default_rng(2).random(5000), powers, 1 - powers, halfway])
    some = np.append(some, [0, 1, 0.1, 0.9, 1 / 3, 1e-6, 1e-40, 1 - 2.0**-24]).astype(np.float32)
    beside = [np.nextafter(some, np.float32(0)), np.nextafter(some, np.float32(1))]
    return np.concatenate([some, *beside])


def test_thresholds_are_those_of_the_reference_in_numpy_and_jax():
    """The static path takes its threshold from NumPy, the traced one from XLA."""
    asked = rates()
    assert (asked[asked > 0] < np.finfo(np.float32).tiny).any()
    expected = np.array([reference.threshold(rate) for rate in asked], np.uint64)
    for limits, everything, _ in (_rate.odds(asked), jax.jit(_rate.odds)(asked)):
        whole = np.asarray(limits, np.uint64) + (np.asarray(everything, np.uint64) << np.uint64(32))
        np.testing.assert_array_equal(whole, expected)


def test_keep_probability_is_the_exact_one_in_numpy_and_jax():
    """Thresholds of at most 24 bits leave one that float32 holds."""
    asked = rates()
    exact = np.array([float(reference.keep_probability(rate)) for rate in asked])
    for keep in (_rate.odds(asked).keep_prob, jax.jit(_rate.odds)(asked).keep_prob):
        assert keep.dtype == np.float32
        np.testing.assert_array_equal(keep, exact)


@pytest.mark.parametrize("rate", [-0.5, 1.5, np.nan, np.inf])
def test_traced_rate_outside_the_range_shows_as_nan(rate):
    mask = jax.jit(lambda key, rate: masks.sample(key, rate, (8,)))(key(), rate)
    assert np.isnan(mask.keep_prob)


def test_passes_through_jit_scan_and_vmap():
    mask = masks.sample(key(), 0.3, (64, 40))
    x = data((5, 64, 40))
    expected = np.stack([mask.apply(row) for row in x])

    assert_same_bits(jax.jit(lambda mask, x: mask.apply(x))(mask, x[0]), expected[0])
    _, scanned = jax.lax.scan(lambda mask, row: (mask, mask.apply(row)), mask, x)
    assert_same_bits(scanned, expected)
    assert_same_bits(jax.vmap(mask.apply)(x), expected)

    many = jax.vmap(lambda key: masks.sample(key, 0.3, (64, 40)))(jax.random.split(key(1), 5))
    each = jax.vmap(lambda mask, row: mask.apply(row))(many, x)
    _, scanned = jax.lax.scan(lambda carry, pair: (carry, pair[0].apply(pair[1])), 0, (many, x))
    assert_same_bits(scanned, each)
    for i, single in enumerate(jax.random.split(key(1), 5)):
        assert_same_bits(each[i], masks.sample(single, 0.3, (64, 40)).apply(x[i]))


def test_apply_is_select_and_scale():
    mask = masks.sample(key(), 0.25, (64, 40))
    x = data((64, 40))
    np.testing.assert_allclose(mask.apply(x), np.where(mask.unpack(), x / 0.75, 0), rtol=2e-7)
    assert_same_bits(mask.apply(np.asarray(x)), mask.apply(x))


@pytest.mark.parametrize("mask_shape", [(64, 40), (64, 1), (5, 1, 40), (40,)], ids=str)
def test_apply_broadcasts(mask_shape):
    x = data((5, 64, 40))
    mask = masks.sample(key(), 0.3, mask_shape)
    expected = np.where(mask.unpack(), x / mask.keep_prob, 0)
    np.testing.assert_allclose(mask.apply(x), expected, rtol=3e-7)
    assert (expected == 0).any()


@pytest.mark.parametrize("rate", [0.3, np.linspace(0, 1, 40, dtype=np.float32)])
def test_is_restored_from_its_saved_leaves(tmp_path, rate):
    mask = masks.sample(key(), rate, (64, 40))
    leaves, structure = jax.tree.flatten(mask)
    np.savez(tmp_path / "mask.npz", *leaves)
    with np.load(tmp_path / "mask.npz") as file:
        restored = jax.tree.unflatten(structure, [jnp.asarray(file[name]) for name in file])
    assert restored.shape == mask.shape
    assert_same_bits(restored.apply(data((64, 40))), mask.apply(data((64, 40))))
    assert_same_bits(restored.unpack(), mask.unpack())


def test_is_small_and_frozen():
    mask = masks.sample(key(), 0.3, (64, 40))
    assert mask.words.dtype == jnp.uint32
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(mask)) == 64 * 40 // 8 + 4
    with pytest.raises(dataclasses.FrozenInstanceError, match="words"):
        mask.words = mask.words


def test_repr_names_shape_and_keep_probability():
    assert repr(masks.sample(key(), 0.25, (2, 3))) == "Mask(shape=(2, 3), keep_prob=0.75)"
    shown = []
    jax.jit(lambda key: shown.append(repr(masks.sample(key, 0.25, (2, 3)))))(key())
    assert shown == ["Mask(shape=(2, 3), keep_prob=traced)"]


def test_shape_may_be_any_sequence_of_integers():
    expected = masks.sample(key(), 0.5, (40,)).unpack()
    for shape in ([40], (np.int32(40),), np.array([40])):
        assert_same_bits(masks.sample(key(), 0.5, shape).unpack(), expected)


@pytest.mark.parametrize(
    "shape", [(3, 2**32), (9, 5, 2**31), (2**20, 3, 2**12), (2**33, 7)], ids=str
)
def test_words_are_numbered_in_row_major_order_in_64_bits(shape):
    positions = [np.uint32(size * 5 // 7 % 2**32) for size in shape]
    expected = 0
    for size, position in zip(shape, positions):
        expected = expected * size + int(position)
    low, high = _draw.word_numbers(shape, [jnp.asarray(position) for position in positions])
    assert int(high) * 2**32 + int(low) == expected


def test_names_give_the_keys_that_they_always_gave():
    """Eight bytes of SHA-256 over the names as JSON, folded in four by four."""
    names = ("encoder", 3, "dropout")
    digest = hashlib.sha256(b'["encoder", "3", "dropout"]').digest()
    expected = key()
    for number in np.frombuffer(digest[:8], "<u4"):
        expected = jax.random.fold_in(expected, int(number))
    found = _keys.fold_in_names(key(), names)
    assert (jax.random.key_data(found) == jax.random.key_data(expected)).all()


def test_a_mask_that_is_larger_than_the_array_is_refused():
    mask = masks.sample(key(), 0.5, (4, 1))
    with pytest.raises(ValueError, match=r"x: expected a shape that the mask's \(4, 1\)"):
        mask.apply(jnp.ones((1, 5)))


# Masks that are stacked.


def batch_of(shape, count=8, rate=0.5):
    return jax.vmap(lambda key: masks.sample(key, rate, shape))(jax.random.split(key(), count))


BATCHES = {
    "vmap": batch_of,
    "vmap, the probability once": lambda shape: dataclasses.replace(
        batch_of(shape), keep_prob=jnp.float32(0.5)
    ),
    "scan": lambda shape: lax.scan(
        lambda _, key: (None, masks.sample(key, 0.5, shape)), None, jax.random.split(key(), 8)
    )[1],
    "stack": lambda shape: jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *[masks.sample(key(i), 0.5, shape) for i in range(3)]
    ),
    "concatenate": lambda shape: jax.tree.map(
        lambda *leaves: jnp.concatenate([jnp.atleast_1d(leaf) for leaf in leaves]),
        *[masks.sample(key(i), 0.5, shape) for i in range(3)],
    ),
    "one": lambda shape: jax.tree.map(lambda leaf: leaf[None], masks.sample(key(), 0.5, shape)),
    "two axes": lambda shape: jax.tree.map(
        lambda leaf: leaf.reshape(2, 4, *leaf.shape[1:]), batch_of(shape)
    ),
    "rates": lambda shape: batch_of(shape, rate=jnp.full(shape[-1:], 0.5)),
}


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (8,), (64,), (40,), (3, 5), (64, 40)], ids=str)
@pytest.mark.parametrize("make", BATCHES.values(), ids=BATCHES)
def test_a_batch_of_masks_is_refused_outside_vmap(make, shape):
    batch, x = make(shape), jnp.ones((8, *shape))
    message = r"mask: expected words of shape .* got shapes .*; apply a batch of masks inside"
    for use in (batch.unpack, lambda: batch.apply(x), lambda: batch == batch):
        with pytest.raises(ValueError, match=message):
            use()
        with pytest.raises(ValueError, match=message):
            jax.jit(use)()
    assert f", words of shape {batch.words.shape})" in repr(batch)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (40,), (64, 40)], ids=str)
def test_a_batch_of_masks_is_applied_inside_vmap_or_one_by_one(shape):
    batch, x = batch_of(shape), data((8, *shape))
    keep = jax.vmap(lambda mask: mask.unpack())(batch)
    assert 0 < keep.mean() < 1
    each = jax.vmap(lambda mask, x: mask.apply(x))(batch, x)
    np.testing.assert_array_equal(each, np.where(keep, 2 * x, 0))
    for i, one in enumerate(jax.random.split(key(), 8)):
        taken = jax.tree.map(lambda leaf: leaf[i], batch)  # noqa: B023
        assert taken == masks.sample(one, 0.5, shape)
        assert_same_bits(taken.unpack(), keep[i])


@pytest.mark.parametrize("device", jax.devices()[:2], ids=str)
def test_a_mask_may_be_moved_and_mapped_over(device):
    mask, x = masks.sample(key(), 0.25, (3, 5)), data((3, 5))
    moved = jax.device_put(mask, device)
    assert moved == mask
    assert_same_bits(jax.tree.map(lambda leaf: leaf + 0, moved).apply(x), mask.apply(x))
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), mask)
    assert jax.eval_shape(lambda mask: mask.apply(x), shapes).shape == (3, 5)
    assert "keep_prob=ShapeDtypeStruct" in repr(shapes)


@pytest.mark.parametrize(
    ("change", "exception", "message"),
    [
        ({"shape": (100,)}, ValueError, r"words of shape \(4,\) .* got shapes \(2,\) and \(\)"),
        ({"shape": (8, 32)}, ValueError, r"words of shape \(8, 1\) .* got shapes \(2,\) and \(\)"),
        ({"words": jnp.zeros(2, jnp.float32)}, TypeError, "words in uint32 .* got float32"),
        ({"keep_prob": jnp.bfloat16(0.5)}, TypeError, "in float32, got uint32 and bfloat16; leave"),
    ],
)
def test_leaves_that_are_not_those_of_the_mask_are_refused(change, exception, message):
    """Of them some would be read beyond their end, or scale by a rounded probability."""
    mask = dataclasses.replace(masks.sample(key(), 0.5, (64,)), **change)
    for use in (mask.unpack, lambda: mask.apply(jnp.ones(mask.shape))):
        with pytest.raises(exception, match=message):
            use()


def test_masks_are_equal_if_the_same_entries_survive_with_the_same_probability():
    mask = masks.sample(key(), 0.5, (40,))
    assert mask == masks.sample(key(), 0.5, (40,))
    padded = dataclasses.replace(mask, words=mask.words ^ jnp.uint32([0, 0x80000000]))
    assert mask == padded  # the last bits stand for no entry
    others = [
        masks.sample(key(1), 0.5, (40,)),
        masks.sample(key(), 0.25, (40,)),
        masks.sample(key(), 0.5, (40, 1)),
        dataclasses.replace(mask, keep_prob=jnp.float32(0.75)),
        dataclasses.replace(mask, words=mask.words ^ jnp.uint32([1, 0])),
        "mask",
    ]
    for other in others:
        assert mask != other
    assert masks.sample(key(), 0.5, ()) == masks.sample(key(), jnp.float32(0.5), ())
    with pytest.raises(TypeError, match="==: expected masks whose bits are known, got traced"):
        jax.jit(lambda a, b: a == b)(mask, mask)
    with pytest.raises(TypeError, match="unhashable"):
        hash(mask)


@pytest.mark.parametrize("shape", [(40, 64), (3, 5, 7), (2, 33), (9, 5, 96)], ids=str)
def test_the_product_of_a_tpu_unpacks_like_the_index(shape):
    """Its matrix unit is not here, but the integers are the same on a CPU."""
    keep = jax.random.bernoulli(key(), 0.3, shape)
    layout = _layout.Layout(shape, len(shape) - 1, len(shape))
    words = _layout.pack(keep, layout)
    assert_same_bits(_layout._unpack_by_product(words, layout), keep)


# More than an int32 counts.


@pytest.mark.parametrize("shape", [(2**31 + 77,), (2**28, 13)], ids=str)
def test_a_run_of_more_than_2_to_the_31_entries_is_unpacked_from_its_words(shape):
    """Word i holds the bits of i; XLA computes the entries that are asked for and no others."""
    layout = _layout.layout_of(shape)
    assert layout.start == 0
    entries = np.r_[0:40, 2**31 - 5 : 2**31 + 40]

    @jax.jit
    def bits():
        keep = _layout.unpack(lax.iota(jnp.uint32, layout.words_shape[0]), layout)
        keep = keep.reshape(layout.size)
        return jnp.concatenate([keep[0:40], keep[2**31 - 5 : 2**31 + 40]])

    assert bits.lower().compile().memory_analysis().temp_size_in_bytes < 2**20
    np.testing.assert_array_equal(bits(), entries // 32 >> entries % 32 & 1)


def test_more_than_2_to_the_32_along_an_axis_are_refused():
    """Their numbers would begin anew, and so would the bits."""
    message = r"shape: expected at most 2\*\*32 words or numbers .* got \(8589934592,\); spread"
    for draw in (
        lambda x: _noise.normal(key(), x.shape),
        lambda x: gaussian_dropout(key(), x, 0.5),
    ):
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(draw, jax.ShapeDtypeStruct((2**33,), jnp.float32))
    with pytest.raises(ValueError, match=r"2\*\*32 words"):
        jax.eval_shape(lambda: masks.sample(key(), 0.5, (2**38,)))
    for shape in ((2**37,), (2**32, 2**20), (0, 2**40, 2**40), (2**40, 0)):
        assert jax.eval_shape(lambda s=shape: masks.sample(key(), 0.5, s)).shape == shape
