"""Dropout of words: a dropped word is gone at each place where it stands."""

import jax
import numpy as np

from jaxdrop import embedding_dropout
from tests.support import reference
from tests.support.cases import data, key

RATE = 0.3


def test_all_occurrences_of_a_word_share_its_decision():
    """The embedding matrix with rows set to zero, and the look-up as one-hot times the matrix."""
    table = data((50, 6))
    words = np.random.default_rng(1).integers(0, 50, (4, 30))
    y = np.asarray(embedding_dropout(key(), table, RATE))[words]
    kept = reference.keep(jax.random.key_data(key()), RATE, (50, 1))
    assert 0 < kept.sum() < 50
    dropped = np.diag(kept.ravel() / float(reference.keep_probability(RATE))) @ np.asarray(table)
    np.testing.assert_allclose(y, np.eye(50)[words] @ dropped, rtol=1e-6)


def test_gradient_of_a_dropped_word_is_zero():
    table, words = data((50, 6)), np.arange(20)

    def loss(table):
        return embedding_dropout(key(), table, RATE)[words].sum()

    gradient = np.asarray(jax.grad(loss)(table))
    kept = reference.keep(jax.random.key_data(key()), RATE, (50, 1)).ravel()
    np.testing.assert_array_equal((gradient != 0).all(axis=1), kept & (np.arange(50) < 20))
