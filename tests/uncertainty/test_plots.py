"""Pictures by the data of their artists, not by their pixels."""

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import jaxdrop
from jaxdrop import uncertainty
from jaxdrop.plots import (
    figure,
    mask_gallery,
    overview,
    predictive_bands,
    reliability_diagram,
    risk_coverage,
    uncertainty_histogram,
)

X = np.array([2.0, 0.0, 3.0, 1.0])
MEAN = X**2


def one():
    return figure(1)[1][0]


def legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def heights(band):
    """Lower and upper end of a filled band, by its inputs."""
    corners = {}
    for x, y in band.get_paths()[0].vertices:
        corners.setdefault(float(x), set()).add(float(y))
    return {x: (min(ys), max(ys)) for x, ys in corners.items()}


def saved(axes, tmp_path):
    path = tmp_path / "picture.png"
    axes.figure.savefig(path)
    return path.read_bytes()[:4] == b"\x89PNG"


def draw_bands(axes):
    bands = {f"± {n} deviations": np.full(4, n) for n in (1, 2, 3, 4)}
    predictive_bands(axes, X, MEAN, bands, data=(X, MEAN))


def draw_reliability(axes):
    ends = jnp.array([0.0, 1.0])
    reliability_diagram(axes, {"least": uncertainty.ReliabilityCurve(ends, ends[::-1], ends + 1)})


def draw_risk(axes):
    wrong = {"none wrong": np.zeros(4), "all wrong": np.ones(4)}
    curves = {label: uncertainty.risk_coverage(X, errors) for label, errors in wrong.items()}
    risk_coverage(axes, curves)


def draw_histogram(axes):
    uncertainty_histogram(axes, {"sure": np.zeros(5), "unsure": np.ones(5)})


@pytest.mark.parametrize("draw", [draw_bands, draw_reliability, draw_risk, draw_histogram])
def test_legends_cover_nothing(tmp_path, draw):
    axes = one()
    draw(axes)
    saved(axes, tmp_path)  # lays out
    bottom = axes.get_legend().get_window_extent().y0
    assert axes.transData.transform((0, max(axes.get_yticks())))[1] < bottom  # nor a tick beside it
    drawn = [*axes.collections, *axes.patches, *axes.lines]
    assert bottom > max(artist.get_window_extent().y1 for artist in drawn)


DRAW = {
    "bands": lambda axes, x, label: predictive_bands(axes, x, x, {label: (x - 1, x + 1)}),
    "bands of a deviation": lambda axes, x, label: predictive_bands(
        axes, np.ones(len(x)), x, {label: abs(x)}
    ),
    "reliability": lambda axes, x, label: reliability_diagram(
        axes, {label: uncertainty.ReliabilityCurve(x, x, np.ones(len(x)))}
    ),
    "risk": lambda axes, x, label: risk_coverage(
        axes, {label: uncertainty.RiskCoverage(np.arange(1, 1 + len(x)) / len(x), x)}
    ),
    "histogram": lambda axes, x, label: uncertainty_histogram(axes, {label: x}),
}
VALUES = {
    "single": [0.5],
    "single and huge": [-3e38],
    "constant": [0.25] * 5,
    "zeros": [0.0, -0.0, 0.0],
    "tiny": [0.0, 5e-324],
    "one ulp apart": [1.0, np.nextafter(1.0, 2)],
    "few ulps apart": (1 + np.arange(9) * 2.0**-52).tolist(),
    "huge and close": [1e20, np.nextafter(1e20, 2e20)],
    "huge and far": [-3e38, 3e38],
}
UNKNOWN = {
    "NaN": [np.nan, 0.5, 1.0],
    "infinity": [np.inf, 0.5, 1.0],
    "minus infinity": [-np.inf, 0.5, np.nan],
    "nothing but NaN": [np.nan] * 3,
}


@pytest.mark.parametrize("as_array", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("values", VALUES | UNKNOWN)
@pytest.mark.parametrize("name", DRAW)
def test_whatever_numbers_there_are_are_drawn(tmp_path, name, values, as_array):
    x = as_array((VALUES | UNKNOWN)[values])
    axes = one()
    if name == "histogram" and values in UNKNOWN:
        with pytest.raises(ValueError, match="only finite ones"):
            DRAW[name](axes, x, "a")
        return
    DRAW[name](axes, x, "a")
    assert saved(axes, tmp_path)
    assert "a" in legend(axes)
    if name == "histogram":
        drawn = axes.patches[0].get_data()
        assert drawn.values.sum() == pytest.approx(1)
        assert (np.diff(drawn.edges) > 0).all()


@pytest.mark.parametrize("name", DRAW)
@pytest.mark.parametrize("label", ["", "_hidden", None])
def test_a_curve_without_a_label_has_no_legend(tmp_path, name, label):
    axes = one()
    DRAW[name](axes, np.array([0.1, 0.2, 0.4]), label)
    assert saved(axes, tmp_path)
    if name.startswith("bands"):
        assert legend(axes) == ["mean"]
    else:
        assert axes.get_legend() is None


@pytest.mark.parametrize("draw", [reliability_diagram, risk_coverage])
def test_no_curve_at_all_is_an_empty_figure(tmp_path, draw):
    axes = one()
    draw(axes, {})
    assert axes.get_legend() is None and saved(axes, tmp_path)


def test_one_point_is_seen(tmp_path):
    """A line through one point has no length, and an area over it no width."""
    axes = one()
    predictive_bands(axes, [1.0], [2.0], {"a": [0.5]})
    risk = one()
    risk_coverage(risk, {"a": uncertainty.risk_coverage(jnp.array([0.1]), jnp.array([0.0]))})
    assert axes.lines[0].get_marker() == risk.lines[0].get_marker() == "o"
    assert axes.collections[0].get_linewidth() > 0
    assert saved(axes, tmp_path)


# --- bands


def test_bands_lie_around_the_mean_and_are_sorted(tmp_path):
    axes = one()
    bands = {"narrow": jnp.full(4, 0.5), "wide": (MEAN - 1, MEAN + 3)}
    predictive_bands(axes, jnp.asarray(X), jnp.asarray(MEAN), bands, data=([5, 6, 7], [1, 2, 3]))
    mean, data = axes.lines
    np.testing.assert_array_equal(mean.get_xydata(), [[0, 0], [1, 1], [2, 4], [3, 9]])
    np.testing.assert_array_equal(data.get_xydata(), [[5, 1], [6, 2], [7, 3]])
    wide, narrow = axes.collections  # the wider one below
    assert heights(wide) == {x: (x**2 - 1, x**2 + 3) for x in (0, 1, 2, 3)}
    assert heights(narrow) == {x: (x**2 - 0.5, x**2 + 0.5) for x in (0, 1, 2, 3)}
    assert legend(axes) == ["wide", "narrow", "mean", "data"]
    pale, strong = (band.get_facecolor()[0] for band in (wide, narrow))
    assert pale[3] == strong[3] == 1 and (pale[:3] > strong[:3])[:2].all()
    assert saved(axes, tmp_path)


def test_bands_of_a_split_variance():
    axes = one()
    split = uncertainty.variance_split(np.stack([MEAN, MEAN + 2]), 3.0)
    parts = {"epistemic": np.sqrt(split.epistemic), "total": np.sqrt(split.total)}
    predictive_bands(axes, X, split.mean, parts)
    total, epistemic = (heights(band)[2.0] for band in axes.collections)
    np.testing.assert_allclose([total, epistemic], [(3, 7), (4, 6)])


@pytest.mark.parametrize(
    ("x", "mean", "band", "match"),
    [
        (X[:, None], X[:, None], X, r"x and mean: .*\(N,\), got \(4, 1\) and \(4, 1\); flatten"),
        (X, X[:3], X, r"x and mean: expected the same shape \(N,\), got \(4,\) and \(3,\); flatt"),
        (X, X, X[:, None], r"x and bands\['a'\]: .* got \(4,\) and \(4, 1\); flatten"),
        (X, X, 1.0, r"bands\['a'\]: .* got \(4,\) and \(\)"),
        (X, X, (X, X[:2]), r"bands\['a'\]: .* got \(4,\) and \(4,\), \(2,\)"),
    ],
)
def test_bands_of_other_shapes_are_refused(x, mean, band, match):
    with pytest.raises(ValueError, match=match):
        predictive_bands(one(), x, mean, {"a": band})


def test_bands_of_points_at_one_input_do_not_depend_on_their_order():
    x, mean = np.array([1.0, 0, 1, 1]), np.array([3.0, 0, 1, 2])
    lines = []
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1]):
        axes = one()
        predictive_bands(axes, x[order], mean[order], {"a": mean[order] + 1})
        lines.append(axes.lines[0].get_xydata())
    assert all((line == lines[0]).all() for line in lines)


def test_gaps_do_not_decide_which_band_is_wide():
    axes = one()
    wide = np.where(X == 2, np.nan, 3.0)
    predictive_bands(axes, X, MEAN, {"narrow": np.full(4, 1.0), "wide": wide, "none": X * np.nan})
    assert legend(axes) == ["wide", "narrow", "none", "mean"]


@pytest.mark.parametrize(
    ("x", "band", "match"),
    [
        (
            X,
            np.array([1.0, -1, 1, -2]),
            "of at least 0, .* for 2 of 4 points; take jnp.exp",
        ),
        (X, (X + 1, X), r"bands\['a'\]: .*lower <= upper, got the opposite for 4 of 4"),
        (X[:0], X[:0], r"x and mean: .* got \(0,\) and \(0,\); .* one point or more"),
    ],
)
def test_bands_that_end_before_they_begin_are_refused(x, band, match):
    with pytest.raises(ValueError, match=match):
        predictive_bands(one(), x, x, {"a": band})


@pytest.mark.parametrize(("bad", "kind"), [(0, ValueError), (2.5, TypeError), ("auto", TypeError)])
def test_numbers_of_bins_and_axes_are_integers(bad, kind):
    with pytest.raises(kind, match=r"num_bins: expected .*, got .*; write"):
        uncertainty_histogram(one(), {"a": X}, num_bins=bad)
    with pytest.raises(kind, match=r"num_axes: expected .*, got .*; write"):
        figure(bad)


# --- histogram


def test_groups_of_any_size_add_up_to_1_in_common_bins(tmp_path):
    axes = one()
    small, large = np.array([0.0, 0.9, 1.0]), np.linspace(0, 2, 50).reshape(5, 10)
    uncertainty_histogram(axes, {"small": small, "large": jnp.asarray(large)}, num_bins=4)
    first, second = (patch.get_data() for patch in axes.patches)
    np.testing.assert_allclose(first.edges, np.linspace(0, 2, 5))
    np.testing.assert_allclose(second.edges, first.edges)
    np.testing.assert_allclose(first.values, [1 / 3, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(second.values, np.histogram(large, 4)[0] / 50)
    assert legend(axes) == ["small", "large"]
    colours = {patch.get_edgecolor() for patch in axes.patches}
    assert len(colours) == 2
    assert saved(axes, tmp_path)


def test_one_value_is_a_histogram_too():
    axes = one()
    uncertainty_histogram(axes, {"sure": np.zeros(5)})
    assert axes.patches[0].get_data().values.sum() == 1


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({}, "values: expected at least one group, got none; write"),
        ({"a": []}, r"values\['a'\]: expected at least one number.*got 0 finite ones of 0; leave"),
        ({"b": [1, np.nan]}, r"values\['b'\]: .*got 1 finite ones of 2; leave"),
        ({"b": [1, np.inf]}, r"values\['b'\]: .*only finite ones, got 1 finite ones of 2"),
    ],
)
def test_groups_that_cannot_be_drawn_are_refused(values, match):
    with pytest.raises(ValueError, match=match):
        uncertainty_histogram(one(), values)


# --- masks


def test_gallery_shows_each_mask(tmp_path):
    mask = jaxdrop.masks.sample(jax.random.key(0), 0.3, (8, 9))
    blocks = np.ones((1, 6, 6, 1), bool)
    blocks[0, :3, :4] = False
    _, axes = figure(3, width=2, height=2)
    mask_gallery(axes, {"entries": mask, "blocks": blocks, "row": jnp.array([True, False])})
    shown = [np.asarray(a.images[0].get_array()) for a in axes]
    np.testing.assert_array_equal(shown[0], mask.unpack())
    np.testing.assert_array_equal(shown[1], blocks[0, :, :, 0])
    np.testing.assert_array_equal(shown[2], [[True, False]])
    assert [a.get_title() for a in axes] == ["entries", "blocks", "row"]
    dropped = 100 * (1 - np.asarray(mask.unpack()).mean())
    labels = [a.get_xlabel() for a in axes]
    assert labels == [f"{dropped:.1f} % dropped", "33.3 % dropped", "50.0 % dropped"]
    assert saved(axes[0], tmp_path)


@pytest.mark.parametrize("keep", [True, False])
def test_a_mask_of_one_kind_has_its_colour(keep):
    axes = one()
    mask_gallery([axes], {"all": np.full((2, 2), keep)})
    picture = axes.images[0]
    colour = picture.cmap(picture.norm(picture.get_array()))[0, 0, :3]
    expected = to_rgb("#F0F0F0") if keep else axes.xaxis.label.get_color()
    np.testing.assert_allclose(colour, to_rgb(expected))


def test_bad_masks_are_refused():
    with pytest.raises(ValueError, match=r"axes: expected one for each of 2 masks, got 1; write"):
        mask_gallery([one()], {"a": np.ones(2, bool), "b": np.ones(2, bool)})
    with pytest.raises(TypeError, match=r"masks\['a'\]: expected a Mask or boo.*float64; write"):
        mask_gallery([one()], {"a": np.ones(2)})
    for shape in ((2, 3, 4), (0, 3)):
        with pytest.raises(
            ValueError, match=r"masks\['a'\]: .*at most two axes.*got shape.*; pick"
        ):
            mask_gallery([one()], {"a": np.ones(shape, bool)})


# --- curves


def test_curves_are_drawn_as_they_are():
    p, labels = jnp.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]]), jnp.array([0, 1, 0])
    curve = uncertainty.reliability_curve(p, labels)
    axes = one()
    reliability_diagram(axes, {"model": curve})
    diagonal, line = axes.lines
    np.testing.assert_array_equal(diagonal.get_xydata(), [[0, 0], [1, 1]])
    np.testing.assert_allclose(line.get_xydata(), [[0.7, 1], [0.8, 0], [0.9, 1]], rtol=1e-6)
    axes = one()
    risk_coverage(axes, {"model": uncertainty.risk_coverage(1 - p.max(-1), labels == 1)})
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[1 / 3, 1], [2 / 3, 1], [1, 2 / 3]])


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_an_overview_draws_each_prediction_on_three_axes(tmp_path, kind):
    rng = np.random.default_rng(0)
    p = jax.nn.softmax(jnp.asarray(rng.normal(size=(40, 3)), jnp.float32))
    labels = rng.integers(0, 3, 40)
    if kind == "numbers":
        p, labels = (p[:, 0], p[:, 1] + 0.1), p[:, 2]
    drawn, axes = overview({"one": p, "other": p}, labels)
    assert [len(each.lines) for each in axes] == [3, 2, 0]
    assert legend(axes[0]) == legend(axes[1]) == ["one", "other"]
    assert len(legend(axes[2])) == 2
    assert axes[2].get_title() == "Uncertainty, one"
    assert saved(axes[0], tmp_path)
    mine = figure(3)[1]
    again, same = overview(p, labels, axes=mine)
    assert same == mine
    assert again is mine[0].figure
    assert again is not drawn
    with pytest.raises(ValueError, match="axes: expected 3 axes, got 1; write"):
        overview(p, labels, axes=mine[:1])
    with pytest.raises(TypeError, match="predictions: expected all of one kind, got classes and"):
        overview({"a": jnp.full((3, 2), 0.5), "b": (jnp.ones(3), 1.0)}, np.array([0, 1, 1]))


def test_an_overview_of_a_perfect_classifier_has_one_group():
    labels = np.array([0, 1, 1])
    _, axes = overview(jax.nn.one_hot(labels, 2), labels)
    assert legend(axes[2]) == ["right"]


def test_nothing_global_is_touched():
    before = dict(mpl.rcParams)
    predictive_bands(one(), X, MEAN, {"a": X})
    assert dict(mpl.rcParams) == before
