"""Balanced masks: in a block of passes every decision drops in its share of them, exactly."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdrop
from jaxdrop.masks import _balanced
from jaxdrop.masks import _internal as masks
from jaxdrop.mc import _jaxpr
from tests.support.cases import CASES, assert_probability, assert_same_bits, decisions, key

WORDS = np.uint32(3), np.uint32(7)
# Elements of drop_block depend on several decisions, those of the others on one.
SINGLE = [case for case in CASES if "drop_block" not in case.name]


def block(fn, bits, words=WORDS):
    """What a function of a key gives in each pass of a block, as the engine runs it."""
    kind = masks.Kind(bits, together=True)
    run = lambda s: fn(masks.pass_key(words, s, kind))  # noqa: E731
    return jax.jit(jax.vmap(run, axis_name=masks.AXIS))(jnp.arange(2**bits, dtype=jnp.uint32))


def unpacked(rate, shape):
    return lambda key: jaxdrop.masks.sample(key, rate, shape).unpack()


def planes(numbers, count):
    return [np.asarray(numbers, np.uint32) >> i & 1 for i in range(count)]


def numbers(planes):
    return sum((np.asarray(plane) & 1).astype(int) << i for i, plane in enumerate(planes))


@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.name)
def test_every_decision_of_every_variant_drops_in_its_share_of_the_passes(case):
    x, rate = jnp.ones(case.shape, jnp.float32), 0.3
    y = block(lambda key: case.fn(key, x, rate, **case.kwargs), 3)
    dropped = sum(~np.asarray(decisions(case, np.asarray(one), rate)) for one in y)
    assert set(np.unique(dropped)) <= {2, 3}


@pytest.mark.parametrize("bits", [1, 4, 7])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999, 1e-3])
def test_the_share_is_exact_for_known_and_traced_rates(bits, rate):
    keep = block(unpacked(rate, (64, 48)), bits)
    dropped, share = np.asarray(~keep).sum(0), rate * 2**bits
    assert dropped.min() >= np.floor(share) and dropped.max() <= np.ceil(share)
    traced = block(unpacked(jnp.float32(rate), (64, 48)), bits)
    assert_same_bits(traced, keep)
    if share % 1:
        assert_probability(int((dropped > share).sum()), dropped.size, share % 1)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_rates_that_settle_everything(rate):
    keep = block(unpacked(jnp.float32(rate), (4, 32)), 3)
    assert (np.asarray(keep) == (rate == 0)).all()


def test_an_array_of_rates():
    rates = jnp.array([[0.1], [0.5]], jnp.float32)
    dropped = np.asarray(~block(unpacked(rates, (2, 640)), 4)).sum(0)
    assert set(np.unique(dropped[0])) == {1, 2} and set(np.unique(dropped[1])) == {8}


def ranks(slope, offset, bits):
    """Of each pass: shape (passes, elements)."""
    slope, offset = planes(slope, bits), planes(offset, bits)
    found = jax.jit(jax.vmap(lambda s: _balanced.ranks(slope, offset, s)))(
        jnp.arange(2**bits, dtype=jnp.uint32)
    )
    return numbers(found)


@pytest.mark.parametrize("bits", range(1, _balanced.MOST_BITS + 1))
def test_ranks_are_a_permutation_for_every_slope(bits):
    slope = np.arange(1, 2**bits)
    found = ranks(slope, slope ^ 1, bits)
    assert (np.sort(found, axis=0) == np.arange(2**bits)[:, None]).all()


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_two_passes_meet_every_pair_of_different_ranks_once(bits):
    size = 2**bits
    pairs = list(itertools.product(range(1, size), range(size)))
    found = ranks(*np.transpose(pairs), bits)
    one, other = found[1], found[-1]
    expected = {pair for pair in itertools.product(range(size), repeat=2) if pair[0] != pair[1]}
    assert set(zip(one.tolist(), other.tolist())) == expected and len(pairs) == len(expected)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_slopes_are_as_near_to_uniform_as_stated(bits):
    """All random bits there are: 0 does not occur, and 1 occurs once more often in 2**2m."""
    size = 2**bits
    first, second = np.divmod(np.arange(size * size), size)
    found = numbers(_balanced.slopes([*planes(first, bits), *planes(second, bits)]))
    counts = np.bincount(found, minlength=size)
    expected = np.full(size, size + 1)
    expected[0], expected[1] = 0, size + 2
    assert counts.tolist() == expected.tolist()


@pytest.mark.parametrize("step", [1, 31, 32])
def test_units_are_independent_of_each_other(step):
    """Neighbours, those of one word and those of the next: in each pass, and in pairs of passes."""
    dropped = ~np.asarray(block(unpacked(0.5, (256, 64)), 3))
    both = dropped[:, :-step] & dropped[:, step:]
    assert abs(both.mean() - 0.25) < 0.005
    assert_probability(int(both[0].sum()), both[0].size, 0.25)
    # Both drop in two passes with the square of 4/8 * 3/7.
    assert_probability(int((both[0] & both[5]).sum()), both[0].size, (3 / 14) ** 2)


def test_blocks_are_independent_of_each_other():
    one, other = (
        np.asarray(block(unpacked(0.5, (64, 64)), 3, (np.uint32(b), WORDS[1]))) for b in (0, 1)
    )
    assert_probability(int((one == other).sum()), one.size, 0.5)


@pytest.mark.parametrize("key_of", ["split", "fold_in", "vmap"])
def test_keys_made_of_a_key_are_balanced_too(key_of):
    def fn(key):
        if key_of == "fold_in":
            key = jax.random.fold_in(key, 5)
        else:
            keys = jax.random.split(key, 2)
            if key_of == "vmap":
                return jax.vmap(unpacked(0.3, (4, 32)))(keys)
            key = keys[1]
        return unpacked(0.3, (4, 32))(key)

    dropped = np.asarray(~block(fn, 3)).sum(0)
    assert set(np.unique(dropped)) <= {2, 3}
    if key_of == "vmap":
        assert (dropped[0] != dropped[1]).any()


@pytest.mark.parametrize("shape", [(3, 5), (4, 64, 8), (2, 3, 100), (7,), ()])
def test_passes_draw_the_same_side_by_side_and_alone(shape):
    together = block(unpacked(0.3, shape), 3)
    alone = functools.partial(masks.pass_key, WORDS, kind=masks.Kind(3, together=False))
    for s in (0, 5):
        assert_same_bits(together[s], unpacked(0.3, shape)(alone(np.uint32(s))))


def test_what_is_not_a_decision_is_drawn_anew_in_every_pass():
    x = jnp.ones(64, jnp.float32)
    for fn in (
        lambda key: jax.random.normal(key, (64,)),
        lambda key: jaxdrop.gaussian_dropout(key, x, 0.5),
    ):
        y = np.asarray(block(fn, 3))
        assert len(np.unique(y)) == y.size


def test_what_the_passes_share_is_computed_once():
    """The cipher runs for the words of one mask, not for those of eight."""

    def most(fn):
        run = lambda s: fn(masks.pass_key(WORDS, s, masks.Kind(3, together=True)))  # noqa: E731
        program = jax.make_jaxpr(jax.vmap(run, axis_name=masks.AXIS))(
            jnp.arange(8, dtype=jnp.uint32)
        )

        calls = [e for e in _jaxpr.equations(program.jaxpr) if e.params.get("name") == "philox4x32"]
        return max(v.aval.size for call in calls for v in call.outvars)

    assert most(unpacked(0.3, (64, 64))) == 64 * 64 // 32


def test_a_key_names_its_block():
    assert "together_8" in str(masks.pass_key(WORDS, 0, masks.Kind(3, together=True)).dtype)
    assert masks.kind_of(key()) is None
