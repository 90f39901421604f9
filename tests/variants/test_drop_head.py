"""DropHead against its equations, and how it differs from the paper: the scale."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdrop import drop_head
from tests.support import reference
from tests.support.cases import assert_same_bits, data, key

RATE = 0.3


@pytest.mark.parametrize("head_axis", [-2, 1])
def test_joined_heads_are_those_of_the_paper(head_axis):
    """MultiHead(x) = Concat(xi_1 head_1, ..., xi_H head_H) / keep, with xi of each example."""
    x = data((6, 8, 8, 5))
    mask_shape = (6, 1, 8, 1) if head_axis == -2 else (6, 8, 1, 1)
    xi = reference.keep(jax.random.key_data(key()), RATE, mask_shape).reshape(6, 8)
    keep = float(reference.keep_probability(RATE))
    y = np.moveaxis(np.asarray(drop_head(key(), x, RATE, head_axis=head_axis)), head_axis, 1)
    heads = np.moveaxis(np.asarray(x), head_axis, 1)
    for example in range(6):
        joined = np.concatenate([xi[example, h] * heads[example, h] / keep for h in range(8)], -1)
        np.testing.assert_allclose(np.concatenate(y[example], -1), joined, rtol=1e-6)


def test_scale_does_not_depend_on_how_many_heads_survive():
    """The mean over keys is exact, where the paper divides by the share of survivors."""
    y = np.asarray(drop_head(key(), jnp.ones((64, 1, 4, 1)), 0.5)).reshape(64, 4)
    assert len(set(np.count_nonzero(y, axis=1).tolist())) == 5  # from no head to all four
    assert set(y.ravel().tolist()) == {0.0, 2.0}


def test_a_single_example_needs_no_batch_axis():
    x = data((7, 32, 5))
    y = drop_head(key(), x, RATE, batch_axis=None)
    kept = reference.keep(jax.random.key_data(key()), RATE, (1, 32, 1))
    np.testing.assert_array_equal(np.asarray(y) != 0, np.broadcast_to(kept, x.shape))


def test_rates_may_differ_by_head():
    rates = jnp.array([0.0, 0.5, 1.0])[:, None]
    x = data((64, 4, 3, 2))
    y = drop_head(key(), x, rates)
    assert_same_bits(y[:, :, 0], x[:, :, 0])
    np.testing.assert_array_equal(y[:, :, 2], 0.0)
    assert 0 < np.count_nonzero(y[:, 0, 1, 0]) < 64
