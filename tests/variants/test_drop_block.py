"""DropBlock: the asked rate at every position, and nothing dropped but blocks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrop import drop_block
from jaxdrop.masks._drop_block_seeds import seed_rate
from tests.laws.test_laws_sharding import each_mesh_type, operations, placement, put
from tests.support import reference
from tests.support.cases import assert_probability, assert_same_bits, data, key

RATE = 0.3

# The rate of seeds. Counts are those of blocks: 3, 7, 2 x 3, 7 x 7, 7 x 7 x 7 and larger ones.
COUNTS = (1, 2, 3, 6, 7, 49, 343, 512, 4096, 2**15)


def asked_rates():
    rates = np.geomspace(1e-6, 1, 3001)
    return np.concatenate([rates, 1 - rates, np.linspace(0, 1, 1001)]).astype(np.float32)


@pytest.mark.parametrize("count", COUNTS)
def test_static_and_traced_rates_of_seeds_are_the_same_bits(count):
    for ours, other in zip(
        seed_rate(asked_rates(), count), jax.jit(seed_rate, static_argnums=1)(asked_rates(), count)
    ):
        assert_same_bits(other, ours)


@pytest.mark.parametrize("count", COUNTS)
def test_rate_of_seeds_is_the_root(count):
    """The closed form in float64, to half a step; near 1 a step changes less than 2**-32."""
    rates = asked_rates()
    rates = rates[rates < 0.9]
    exact = -np.expm1(np.log1p(-rates.astype(np.float64)) / count)
    each, _ = seed_rate(rates, count)
    assert np.abs(each.astype(np.float64) - exact).max() <= 0.55 * 2**-24


@pytest.mark.parametrize("count", COUNTS)
def test_keep_probability_is_that_of_the_bits(count):
    each, kept = seed_rate(asked_rates(), count)
    exact = (1 - each.astype(np.float64)) ** count
    np.testing.assert_allclose(kept, exact, rtol=2**-23 + count * 2**-31, atol=2**-30)


@pytest.mark.parametrize("count", COUNTS)
def test_realised_rate_is_near_the_asked_one(count):
    """Half a step for each entry of a block: within 2**-16 for up to 512 of them.

    Within 1 % as well, where seeds have 50 steps or more: from rates of 1.5e-4 for 7 x 7 on.
    """
    asked = asked_rates()
    each, _ = seed_rate(asked, count)
    asked = asked.astype(np.float64)
    realised = -np.expm1(count * np.log1p(-each[each < 1].astype(np.float64)))
    asked = asked[each < 1]
    error = np.abs(realised - asked)
    assert error.max() <= max(1, count / 512) * 2**-16
    least = np.minimum(asked, 1 - asked)
    sure = (asked >= 50 * count * 2**-24) & (least >= 1e-5)
    assert sure.sum() > 1000
    assert (error[sure] <= 0.01 * least[sure]).all()


@pytest.mark.parametrize("count", [1, 7, 49])
def test_a_traced_rate_out_of_range_gives_nan(count):
    for rate in (-0.1, 1.5, float("nan")):
        assert np.isnan(seed_rate(jnp.float32(rate), count)).all()
    x = jnp.ones((4, 5, 3))
    y = jax.jit(lambda key, rate: drop_block(key, x, rate))(key(), 1.5)
    assert jnp.isnan(y).any()


def test_gradient_of_a_traced_rate_is_zero():
    for rate in (0.0, 0.5, 1.0):
        x = data((4, 5, 5, 3))
        assert jax.grad(lambda rate: drop_block(key(), x, rate).sum())(rate) == 0  # noqa: B023


# Positions.


def kept_of(shape, rate, block_size, seed=1):
    """Booleans (B, *space, C) of one call."""
    return np.asarray(drop_block(key(seed), jnp.ones(shape), rate, block_size=block_size)) > 0


@pytest.mark.parametrize(
    ("space", "block_size"),
    [
        ((12,), 2),
        ((12,), 7),
        ((3,), 7),
        ((9, 9), 2),
        ((9, 9), 3),
        ((9, 9), 7),
        ((8, 5), (3, 4)),
        ((4, 2), 7),
        ((5, 4, 6), 3),
        ((2, 3, 5), (1, 2, 7)),
    ],
    ids=str,
)
def test_every_position_is_dropped_at_the_same_rate(space, block_size):
    """At corners, edges and centre: 2**15 maps, so that 1 % off 0.3 is seen at each."""
    kept = kept_of((64, *space, 512), RATE, block_size)
    block = block_size if isinstance(block_size, tuple) else (block_size,) * len(space)
    expected = reference.keep_probability_of_blocks(RATE, block)
    survivors = kept.sum(axis=(0, -1))
    corner, centre = (0,) * len(space), tuple(size // 2 for size in space)
    for position in {corner, (*corner[:-1], centre[-1]), centre, *np.ndindex(*space)}:
        assert_probability(survivors[position], 2**15, expected)


def test_mean_over_keys_is_x():
    """2**15 maps of mean 1: six standard errors of an entry are 0.02."""
    y = drop_block(key(2), jnp.ones((64, 5, 5, 512)), RATE, block_size=3)
    np.testing.assert_allclose(y.mean(axis=(0, -1)), 1, atol=6 * math.sqrt(3 / 7 / 2**15))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_large_maps_of_narrow_dtypes(dtype):
    """Where a normaliser that counts entries overflows."""
    y = drop_block(key(), jnp.ones((1, 300, 300, 4), dtype), RATE)
    exact = 1 / float(reference.keep_probability_of_blocks(RATE, (7, 7)))
    assert {float(v) for v in np.unique(y)} == {0.0, float(dtype(exact))}


@pytest.mark.parametrize("axis", [0, -1], ids=["examples", "channels"])
def test_examples_and_channels_are_independent(axis):
    kept = kept_of((128, 9, 9, 512), 0.5, 7, seed=3)[:, ::8, ::8]
    even, odd = (np.take(kept, range(i, kept.shape[axis], 2), axis) for i in (0, 1))
    expected = reference.keep_probability_of_blocks(0.5, (7, 7)) ** 2
    assert_probability((even & odd).sum(), even.size, expected)


def test_neighbours_share_seeds():
    """Two entries side by side survive if none of the 7 * 8 seeds of either falls."""
    kept = kept_of((64, 9, 9, 512), 0.5, 7, seed=4)
    seed = 1 - reference.keep_probability_of_blocks(0.5, (7, 7)) ** (1 / 49)
    both = kept[:, 4, 4] & kept[:, 4, 5]
    assert_probability(both.sum(), both.size, (1 - seed) ** 56)


# Geometry.


def opened(dropped, block):
    """The union of all blocks, hanging over the edges or not, that lie within what is dropped."""
    rank = len(block)
    padding = [(size - 1, size - 1) for size in block]
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(dropped, padding, constant_values=True), block
    )
    union = np.zeros(dropped.shape, bool)
    for last in np.argwhere(windows.all(axis=tuple(range(rank, 2 * rank)))):
        union[tuple(slice(max(0, i - b + 1), i + 1) for i, b in zip(last, block))] = True
    return union


@pytest.mark.parametrize(
    ("space", "block"),
    [
        ((40,), (7,)),
        ((20, 20), (3, 3)),
        ((20, 20), (7, 7)),
        ((6, 30), (2, 9)),
        ((9, 9, 9), (3, 2, 4)),
    ],
    ids=str,
)
def test_what_is_dropped_is_a_union_of_full_blocks(space, block):
    kept = kept_of((4, *space, 8), 0.2, block, seed=5)
    seen = set()
    for example, channel in np.ndindex(4, 8):
        dropped = ~kept[example, ..., channel]
        np.testing.assert_array_equal(dropped, opened(dropped, block))
        seen.add(dropped.tobytes())
    assert len(seen) > 16


def test_a_block_alone_has_its_size():
    """At a small rate most maps have one block at most: counted entries tell its size."""
    kept = kept_of((512, 25, 25, 8), 0.002, (3, 5), seed=6)
    sizes = (~kept).sum(axis=(1, 2)).ravel()
    assert np.bincount(sizes).argmax() == 0
    assert np.bincount(sizes)[1:].argmax() + 1 == 15


def test_seeds_are_drawn_with_24_bits():
    """Blocks of one entry, at a rate halfway between two of 16 bits: they part 4 times in 2**19."""
    rate, x = (20000 + 0.5) / 2**16, jnp.ones((512, 16, 64))
    kept = np.asarray(drop_block(key(), x, rate, block_size=1)) > 0
    fine, coarse = (reference.keep(jax.random.key_data(key()), rate, x.shape, b) for b in (24, 16))
    assert (fine != coarse).any()
    np.testing.assert_array_equal(kept, fine)


def test_a_single_map_without_batch_axis():
    x = data((9, 9, 32))
    y = drop_block(key(), x, RATE, batch_axis=None)
    assert_same_bits(y, drop_block(key(), x[None], RATE)[0])


def test_rates_may_differ_by_channel_with_both_ends():
    x = data((8, 9, 9, 3))
    y = drop_block(key(), x, jnp.array([0.0, 0.3, 1.0]))
    assert_same_bits(y[..., 0], x[..., 0])
    np.testing.assert_array_equal(y[..., 2], 0)
    assert_same_bits(y[..., 1], drop_block(key(), x, jnp.float32(0.3))[..., 1])


# The blocks of another library, timm 1.0.31 by the name of its switch, from the same seeds.


@pytest.mark.parametrize("block_size", [2, 3, 7])
def test_blocks_in_the_interior_are_those_of_timm(block_size, monkeypatch):
    reason = "timm is not installed: its blocks are not compared with"
    timm_drop = pytest.importorskip("timm.layers.drop", reason=reason)
    torch = pytest.importorskip("torch", reason=reason)
    size = 24
    y = np.asarray(drop_block(key(7), jnp.ones((1, size, size, 4)), 0.2, block_size=block_size))
    grid = (1, size + block_size - 1, size + block_size - 1, 4)
    block = (1, block_size, block_size, 1)
    seeds = ~reference.keep(jax.random.key_data(key(7)), reference.seed_rate(0.2, block), grid, 24)
    # Ours stands for the last entry of its block, timm's for its centre.
    first = (block_size - 1) // 2
    centres = np.moveaxis(seeds[:, first : first + size, first : first + size], -1, 1)
    centres = torch.from_numpy(centres.astype(np.float32))
    monkeypatch.setattr(torch.Tensor, "bernoulli_", lambda self, rate: self.copy_(centres))
    theirs = timm_drop.drop_block_2d(
        torch.ones((1, 4, size, size)), block_size=block_size, couple_channels=False
    )
    inside = slice(block_size, -block_size)
    theirs = np.moveaxis(theirs.numpy(), 1, -1)[:, inside, inside]
    np.testing.assert_array_equal(theirs > 0, y[:, inside, inside] > 0)


# Meshes.


@each_mesh_type
def test_each_device_does_its_share_of_the_work(axis_type):
    x = jnp.ones((64, 14, 14, 256))

    def drop(key, x, rate):
        return drop_block(key, x, rate)

    whole = operations(drop, x, RATE)
    share = operations(drop, put(x, placement(x.shape, "both", axis_type)), RATE)
    assert share <= 1.1 / 8 * whole


@each_mesh_type
def test_maps_may_be_split_in_space(axis_type):
    """Blocks then reach over to other devices: right, if not without their help."""
    x = data((4, 16, 5, 3))
    sharding = placement(x.shape, "first", axis_type)
    y = jax.jit(lambda key, x: drop_block(key, x, RATE))(key(), put(x, sharding))
    assert y.sharding.is_equivalent_to(sharding, x.ndim)
    assert_same_bits(y, drop_block(key(), x, RATE))
