"""The smooth calibration error against its definition, in float64, and the authors' package."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from jaxdrop.uncertainty import expected_calibration_error, smooth_calibration_error

POINTS = np.arange(1000) / 1000 + 1 / 2000


def classifier(size, truth, classes=4, dtype=np.float32, seed=0):
    """Probabilities of logits that are ``truth`` times those that the labels are drawn from."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(size, classes)) * 1.5
    labels = (logits + rng.gumbel(size=(size, classes))).argmax(-1)
    return special.softmax(truth * logits, axis=-1).astype(dtype), labels


def close(got, expected, rtol=1e-5, atol=1e-6):
    np.testing.assert_allclose(got, expected, rtol, atol)


def by_definition(confidence, residual, width):
    """Integral of the residuals, each spread by a Gaussian and all its mirror images."""
    turns = 2 * np.arange(-4, 5)[:, None]
    images = np.concatenate([turns + confidence, turns - confidence])
    kernel = np.exp(-(((POINTS[:, None, None] - images) / width) ** 2) / 2)
    curve = (kernel.sum(1) / (width * np.sqrt(2 * np.pi))) @ residual
    return abs(curve / len(residual)).mean()


def fixed_point(p, labels):
    wide = p.astype(np.float64)
    confidence, correct = wide.max(-1), wide.argmax(-1) == labels
    error = functools.partial(by_definition, confidence, correct - confidence)
    return optimize.brentq(lambda width: error(width) - width, 1 / 512, 1.1, xtol=1e-9)


@pytest.mark.parametrize("truth", [0.3, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("size", [1, 5, 30])
def test_error_is_the_fixed_point_of_the_definition(size, truth):
    p, labels = classifier(size, truth)
    close(smooth_calibration_error(p, labels), fixed_point(p, labels), rtol=2e-5)


def test_error_in_float64():
    with jax.enable_x64(True):
        p, labels = classifier(30, 1.0, dtype=np.float64)
        close(smooth_calibration_error(p, labels), fixed_point(p, labels), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("truth", "expected"),
    [(0.8, 0.0754875), (1.0, 0.0285774), (1.2, 0.0350057), (1.5, 0.0795805)],
)
def test_error_is_that_of_relplot(truth, expected):
    """``relplot.smECE`` 1.0, with 4000 ``config.smECE_mesh_pts``; it halves the width ten times."""
    close(smooth_calibration_error(*classifier(2000, truth)), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("confidence", [0.5, 0.6, 0.9, 1.0])
@pytest.mark.parametrize("accuracy", [0.0, 0.25, 1.0])
def test_one_confidence_has_the_error_of_its_mean(confidence, accuracy):
    """A kernel moves its residual and takes nothing from it."""
    p = np.repeat(np.array([[confidence, 1 - confidence]], np.float32), 4, axis=0)
    labels = (np.arange(4) >= 4 * accuracy).astype(int)
    error = smooth_calibration_error(p, labels)
    close(error, abs(accuracy - confidence), rtol=1e-4, atol=2e-6)
    close(error, expected_calibration_error(p, labels), rtol=1e-4, atol=2e-6)


def test_small_errors_are_not_lost():
    p = np.array([[0.9999, 0.0001], [0.9998, 0.0002]], np.float32)
    close(smooth_calibration_error(p, np.zeros(2, int)), 1.5e-4, rtol=1e-3)
    sure = np.eye(3, dtype=np.float32)
    assert smooth_calibration_error(sure, np.arange(3)) == 0
    close(smooth_calibration_error(sure, (np.arange(3) + 1) % 3), 1)


def test_error_has_no_edges_of_bins():
    """Two confidences on both sides of an edge, right and wrong, are one to the kernel."""
    labels = np.array([0, 1, 0, 1])
    errors = []
    for shift in (-1e-4, 1e-4):
        p = np.array([[0.8 + shift, 0.2 - shift], [0.8 - shift, 0.2 + shift]] * 2, np.float32)
        errors.append(float(smooth_calibration_error(p, labels)))
    close(errors, [0.3, 0.3], atol=1e-3)
    p = np.array([[0.8 - 1e-4, 0.2 + 1e-4], [0.8 + 1e-4, 0.2 - 1e-4]] * 2, np.float32)
    assert expected_calibration_error(p, labels) > 0.4


def test_calibrated_models_have_a_small_error_that_falls_with_the_examples():
    few, many = (float(smooth_calibration_error(*classifier(n, 1.0))) for n in (500, 20_000))
    assert many < few / 2 < 0.03
    assert smooth_calibration_error(*classifier(20_000, 3.0)) > 0.15


@pytest.mark.parametrize("truth", [0.9, 3.0])
def test_gradient_is_that_of_the_fixed_point(truth):
    with jax.enable_x64(True):
        p, labels = classifier(20, truth, dtype=np.float64)
        direction = np.random.default_rng(1).normal(size=p.shape)
        direction -= direction.mean(-1, keepdims=True)
        error = jax.jit(smooth_calibration_error)
        ahead, behind = (error(p + step * direction, labels) for step in (1e-6, -1e-6))
        got = (jax.grad(error)(p, labels) * direction).sum()
        close(got, (ahead - behind) / 2e-6, rtol=1e-6)


def test_confidence_that_rounding_put_above_1_is_reflected():
    above = np.array([[np.nextafter(np.float32(1), np.float32(2)), 0]])
    close(smooth_calibration_error(above, [1]), 1)


def test_shape_of_the_batch_does_not_matter():
    p, labels = classifier(24, 2.0)
    expected = smooth_calibration_error(p, labels)
    close(smooth_calibration_error(p.reshape(4, 6, 4), labels.reshape(4, 6)), expected)
    close(smooth_calibration_error(jnp.asarray(p[0]), labels[0]), fixed_point(p[:1], labels[:1]))
