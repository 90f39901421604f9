"""Decisions that share nothing but a rate are independent: a mask may not repeat itself anywhere.

For two sets of N entries that do not overlap, the number of places where both survive is binomial
with probability keep_prob squared exactly. Each test is an exact binomial one on fixed keys with a
false-alarm rate of 1e-6; with 2**17 pairs it sees a correlation of 0.014.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import binomtest

import jaxdrop
from jaxdrop import masks

_FALSE_ALARM = 1e-6
# One plane, and rates whose thresholds need many, with long runs of equal bits in them.
_RATES = (0.5, 0.1, 0.9, 1 / 3, 0.01)
_SHAPE = (512, 512)


def _keep(key, rate, shape=_SHAPE):
    mask = masks.sample(key, rate, shape)
    return np.asarray(mask.unpack()), float(mask.keep_prob)


def _assert_independent(a, b, keep_prob):
    both = int(np.sum(a & b))
    p = binomtest(both, a.size, keep_prob**2).pvalue
    assert p > _FALSE_ALARM, (both / a.size, keep_prob**2)


# Ways to cut one mask of 512 x 512 into two halves, entry against entry.
_CUTS = {
    "neighbours in a word": lambda m: (m[0::2], m[1::2]),
    "lanes 16 apart": lambda m: tuple(np.split(m.reshape(16, 2, 16, 512), 2, axis=1)),
    "neighbouring words of a row": lambda m: (m[:, 0::2], m[:, 1::2]),
    "neighbouring rows of words": lambda m: tuple(np.split(m.reshape(8, 2, 32, 512), 2, axis=1)),
    "halves": lambda m: (m[:256], m[256:]),
    "halves of the columns": lambda m: (m[:, :256], m[:, 256:]),
    "an entry and its mirror": lambda m: (m[:256], m[:255:-1, ::-1]),
    "an entry and its transpose": lambda m: (
        m[np.triu_indices(512, 1)],
        m.T[np.triu_indices(512, 1)],
    ),
}


@pytest.mark.parametrize("rate", _RATES)
@pytest.mark.parametrize("cut", _CUTS)
def test_within_a_mask(cut, rate):
    keep, keep_prob = _keep(jax.random.key(11), rate)
    _assert_independent(*_CUTS[cut](keep), keep_prob)


@pytest.mark.parametrize("rate", _RATES)
@pytest.mark.parametrize("distance", [1, 2, 31, 32, 33, 511, 512, 513])
def test_at_a_distance_along_the_flattened_mask(distance, rate):
    keep, keep_prob = _keep(jax.random.key(12), rate, (2**18 + 7,))  # packed flat, padded
    blocks = keep[: keep.size // (2 * distance) * 2 * distance].reshape(-1, 2, distance)
    _assert_independent(blocks[:, 0], blocks[:, 1], keep_prob)


_KEY_PAIRS = {
    "split": lambda: jax.random.split(jax.random.key(3)),
    "successive fold_in": lambda: [jax.random.fold_in(jax.random.key(3), i) for i in (0, 1)],
    "a key and its child": lambda: (jax.random.key(3), jax.random.split(jax.random.key(3))[0]),
    "a key and its fold_in": lambda: (jax.random.key(3), jax.random.fold_in(jax.random.key(3), 0)),
    "successive seeds": lambda: (jax.random.key(3), jax.random.key(4)),
    "seeds with one bit apart": lambda: (jax.random.key(0), jax.random.key(1 << 31)),
    "swapped words of a legacy key": lambda: jnp.array([[3, 5], [5, 3]], jnp.uint32),
    "first words": lambda: jnp.array([[3, 5], [4, 5]], jnp.uint32),
    "second words": lambda: jnp.array([[3, 5], [3, 4]], jnp.uint32),
}


@pytest.mark.parametrize("rate", _RATES)
@pytest.mark.parametrize("pair", _KEY_PAIRS)
def test_between_keys(pair, rate):
    with jax.debug_key_reuse(False):  # a key beside its own child is a misuse, to be survived
        first, second = _KEY_PAIRS[pair]()
        (a, keep_prob), (b, _) = _keep(first, rate), _keep(second, rate)
    _assert_independent(a, b, keep_prob)


def test_between_rates():
    """Masks of one key at two rates are nested, not independent: a sweep moves smoothly."""
    key = jax.random.key(5)
    low, _ = _keep(key, 0.1)
    high, _ = _keep(jax.random.clone(key), 0.3)
    assert (low | ~high).all()


@pytest.mark.parametrize("rate", _RATES)
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((8, 64, 32, 64), 0), ((8, 64, 32, 64), 1), ((64, 12, 49, 49), 1), ((64, 12, 49, 49), 0)],
)
def test_between_examples_and_heads(shape, axis, rate):
    keep, keep_prob = _keep(jax.random.key(13), rate, shape)
    even, odd = (np.take(keep, range(start, shape[axis], 2), axis) for start in (0, 1))
    _assert_independent(even, odd, keep_prob)


@pytest.mark.parametrize("rate", [0.5, 0.1])
def test_groups_of_structured_masks(rate):
    x = jnp.ones((512, 2, 2, 512))
    y = np.asarray(jaxdrop.spatial_dropout(jax.random.key(14), x, rate))[:, 0, 0] > 0
    keep_prob = float(masks.sample(jax.random.key(0), rate, ()).keep_prob)
    _assert_independent(y[0::2], y[1::2], keep_prob)
    _assert_independent(y[:, 0::2], y[:, 1::2], keep_prob)


def test_words_do_not_repeat():
    """2**20 words at rate 0.5: 128 pairs are equal by chance, 10 standard deviations are 113."""
    words = np.asarray(masks.sample(jax.random.key(15), 0.5, (2**12, 2**13)).words).ravel()
    repeats = words.size - np.unique(words).size
    assert 15 < repeats < 241


@pytest.mark.slow
@pytest.mark.parametrize("rate", _RATES)
@pytest.mark.parametrize("lag", [1, 2, 3, 16, 31, 32, 64, 1000])
def test_lags_in_many_bits(lag, rate):
    """2**24 pairs: a correlation of 0.0013 is seen."""
    keep, keep_prob = _keep(jax.random.key(16), rate, (2**25,))
    blocks = keep[: keep.size // (2 * lag) * 2 * lag].reshape(-1, 2, lag)
    _assert_independent(blocks[:, 0], blocks[:, 1], keep_prob)
