"""Draws the pictures of these pages, from the root of a clone.

``python docs/pictures.py`` draws all of them, ``python docs/pictures.py front attention`` two.
"""

import functools
import pathlib
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from matplotlib import cbook, image

import jaxdrop
from benchmarks import _passes, _passes_nets
from jaxdrop import mc, plots

_FOLDER = pathlib.Path(__file__).parent / "images"
_TABLES = pathlib.Path(__file__).parents[1] / "benchmarks" / "README.md"
_RATE = 0.25
_NUMBERS = (16, 32, 64, 128, 256, 512)  # of passes
_BLUE, _GREY = "#0072B2", "#9A9A9A"
_DPI = 200  # about two pixels for each of a page's
_SIZE = 15  # points, on the first page's picture: 9 pixels and more if a phone is 390 pixels wide
_AXES = {  # what runs down and what runs across each mask
    "elements": [("examples", "features")] * 2,
    "structured": [("height", "width")] * 2 + [("examples", "channels")] * 2,
    "sequences": [("time", "features")] * 2 + [("table", "features"), ("sentences", "positions")],
    "attention": [("queries", "keys")] * 2 + [("examples", "heads")],
    "weights": [("inputs", "outputs")],
    "tokens": [("examples", "tokens")],
}


def elements(keys):
    """Independent elements, and elements that share a decision."""
    x = jnp.ones((16, 24))
    return {
        "dropout": jaxdrop.dropout(next(keys), x, _RATE) != 0,
        "broadcast_dims=(0,)": jnp.broadcast_to(
            jaxdrop.dropout(next(keys), x, _RATE, broadcast_dims=(0,)) != 0, x.shape
        ),
    }


def structured(keys):
    """One image, or a batch of examples by channels."""
    image, batch = jnp.ones((1, 24, 24, 1)), jnp.ones((12, 1, 1, 16))
    block = jaxdrop.drop_block(next(keys), image, _RATE, block_size=5)
    return {
        "dropout": jaxdrop.dropout(next(keys), image, _RATE) != 0,
        "drop_block": block != 0,
        "spatial_dropout": jaxdrop.spatial_dropout(next(keys), batch, _RATE) != 0,
        "drop_path": jaxdrop.drop_path(next(keys), batch, _RATE) != 0,
    }


def sequences(keys):
    """Time down, features across; and tokens of several sentences."""
    x = jnp.ones((1, 20, 24))
    tokens = jnp.full((12, 20), 7)
    return {
        "dropout": jaxdrop.dropout(next(keys), x, _RATE) != 0,
        "variational_dropout": jaxdrop.variational_dropout(next(keys), x, _RATE) != 0,
        "embedding_dropout": jaxdrop.embedding_dropout(next(keys), x[0], _RATE) != 0,
        "word_dropout": jaxdrop.word_dropout(next(keys), tokens, _RATE, unknown_id=0) != 0,
    }


def attention(keys):
    """Queries down, keys across; in the last, examples down and heads across."""
    weights, heads = jnp.ones((1, 1, 20, 20)), jnp.ones((12, 1, 8, 1))
    return {
        "attention_dropout": jaxdrop.attention_dropout(next(keys), weights, _RATE) != 0,
        "drop_key": jnp.isfinite(jaxdrop.drop_key(next(keys), weights, _RATE)),
        "drop_head": jaxdrop.drop_head(next(keys), heads, _RATE) != 0,
    }


def weights(keys):
    """A kernel, inputs down and outputs across."""
    params = {"kernel": jnp.ones((16, 24))}
    return {"drop_connect": jaxdrop.drop_connect(next(keys), params, _RATE)["kernel"] != 0}


def tokens(keys):
    """Which tokens of each example stay."""
    indices = jaxdrop.token_dropout(next(keys), jnp.ones((12, 20, 1)), 0.5).indices
    return {"token_dropout": jax.nn.one_hot(indices, 20).sum(1) > 0}


def passes():
    """Error of mean probabilities against the number of passes: a figure with two nets."""
    train, pixels = _passes_nets.digits()
    effort = _passes.FULL
    figure, axes = plots.figure(2, width=3.8, height=3.2)
    for ax, case in zip(axes, (_passes_nets.DIGITS[0], _passes_nets.DIGITS[4])):
        fn = _passes_nets.trained(case.net, train, effort.epochs)
        x = _passes.least_certain(case, fn, pixels, effort.rows)
        error = functools.partial(_error, case, fn, x, _passes.truth(case, fn, x, effort))
        independent = [error(number, 20, balanced=False) for number in _NUMBERS]
        # Up to a rate of 0.5, the two passes of a block of two are antithetic: what one drops, the
        # other keeps. Eight passes are four such blocks, and more of them are averages of these.
        antithetic = error(8, 320, balanced=True) * np.sqrt(8 / np.array(_NUMBERS))
        balanced = [error(number, 20, balanced=True) for number in _NUMBERS]
        for name, errors in (
            ("independent", independent),
            ("antithetic", antithetic),
            ("balanced", balanced),
        ):
            ax.loglog(_NUMBERS, errors, "o-", label=name)
        ax.set(title=case.name, xlabel="passes", ylabel="error of a probability")
        ax.set_xticks(_NUMBERS, [str(number) for number in _NUMBERS])
        ax.minorticks_off()
        ax.set_yticks([0.001, 0.003, 0.01, 0.03], ["0.001", "0.003", "0.01", "0.03"])
        ax.legend(frameon=False)
    return figure


def _error(case, fn, x, true, number, repetitions, *, balanced):
    """Root of the mean squared error of probabilities, of so many passes."""
    key = jax.random.key(3)
    found = _passes.repeated(case, fn, key, x, number, repetitions, balanced=balanced)
    return np.sqrt(np.square(found.mean - true.mean).mean())


class _Curve(nn.Module):
    """A number and its variance."""

    @nn.compact
    def __call__(self, x, train=False):
        for width in (128, 128):
            x = nn.silu(nn.Dense(width)(x))
            x = jaxdrop.linen.Dropout(0.1, deterministic=not train)(x)
        mean, logarithm = jnp.split(nn.Dense(2)(x), 2, axis=-1)
        return mean, jnp.exp(logarithm.clip(-6, 0))


def copies(library="forward: float32 4096x4096, rate 0.1"):
    """Time of each library in copies of the array: the rows of the first dated table with it."""
    rows = _TABLES.read_text("utf-8").split(f"{library}\n")[1].split("\n\n")[0]
    found = re.findall(r"^  (\S[\w ]*?) {2,}.* ([\d.]+) x copy$", rows, re.MULTILINE)
    return {name: float(ratio) for name, ratio in found}


def front():
    """What the first page shows: what dropout costs, what it drops, and how sure a model is."""
    figure, (empty,) = plots.figure(1, width=7.6, height=4.8)
    empty.remove()
    above, below = figure.subfigures(2, 1, height_ratios=(3, 2.2))
    left, right = above.subplots(1, 2, width_ratios=(1, 1.2))
    _draw_cost(left)
    _draw_doubt(right)
    _draw_variants(below.subplots(1, 4))
    return figure


def _draw_cost(ax):
    times = copies()
    names = {"jaxdrop": "jaxdrop", "flax linen": "Flax", "equinox": "Equinox", "haiku": "Haiku"}
    names["keras"] = "Keras"
    values = [times[name] for name in names]
    bars = ax.barh(list(names.values()), values, color=[_BLUE, *[_GREY] * 4], height=0.65)
    ax.bar_label(bars, [f" {value:.1f}" for value in values], fontsize=_SIZE)
    ax.invert_yaxis()
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    ax.set(xticks=[], xlim=(0, 1.3 * max(values)))
    ax.tick_params(axis="y", length=0, labelsize=_SIZE)
    ax.set_title("Time on a CPU,\nin copies of the array", fontsize=_SIZE)


def _photograph(size):
    """Grace Hopper, a public-domain photograph that matplotlib ships, small and square."""
    with cbook.get_sample_data("grace_hopper.jpg") as file:
        pixels = image.imread(file, format="jpg")[20:500, 20:500] / 255.0
    step = 480 // size
    return pixels.reshape(size, step, size, step, 3).mean((1, 3)).astype(np.float32)


def _draw_variants(places):
    photo = jnp.asarray(_photograph(48))
    keys = iter(list(jax.random.split(jax.random.key(3), 8)))
    one = jnp.ones((1, 48, 48, 1))
    batch = jnp.asarray(np.stack([_photograph(24)] * 4))
    lost = jaxdrop.drop_path(next(keys), jnp.ones((4, 1, 1, 1)), 0.25) != 0
    grid = jnp.where(lost, batch, 1.0).reshape(2, 2, 24, 24, 3).swapaxes(1, 2).reshape(48, 48, 3)
    shown = {
        "dropout": jaxdrop.dropout(next(keys), one, 0.25)[0] != 0,
        "drop_block": jaxdrop.drop_block(next(keys), one, 0.25, block_size=9)[0] != 0,
        "spatial_dropout": jnp.array([False, True, True]),
        "drop_path": None,
    }
    for ax, (name, keep) in zip(places, shown.items()):
        empty = 0.0 if name == "spatial_dropout" else jnp.array(_rgb(_BLUE))
        ax.imshow(grid if keep is None else jnp.where(keep, photo, empty))
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=_SIZE, pad=3)


def _rgb(colour):
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def _draw_doubt(ax):
    x, y, fn = _fitted()
    line = jnp.linspace(-4, 3.7, 200)[:, None]
    out = mc.predict(fn, jax.random.key(2), line, num_samples=256, summary=mc.regression())
    parts = {"model and noise": out.total, "model alone": out.epistemic}
    bands = {name: 2 * jnp.sqrt(part)[:, 0] for name, part in parts.items()}
    plots.predictive_bands(ax, line[:, 0], out.mean[:, 0], bands, data=(x[:, 0], y[:, 0]))
    ax.set(xlabel="", ylabel="", xticks=[], yticks=[], ylim=(-6.8, 3), xlim=(-4, 3.7))
    ax.set_title("How sure is the network?\n± 2 deviations", fontsize=_SIZE)
    shown = [part for part in zip(*ax.get_legend_handles_labels()) if part[1] in bands]
    compact = {"frameon": False, "labelspacing": 0.2, "handlelength": 1, "handletextpad": 0.5}
    ax.legend(*zip(*shown), loc="lower right", fontsize=_SIZE, **compact)


def _fitted():
    """Points with a gap, and a network that has learned them with dropout."""
    keys = jax.random.split(jax.random.key(0), 3)
    places = jnp.concatenate([jnp.linspace(-3.5, -1.2, 60), jnp.linspace(1.0, 3.0, 50)])
    noise = (0.1 + 0.3 * (places > 0)) * jax.random.normal(keys[0], places.shape)
    x, y = places[:, None], (1.5 * jnp.sin(2 * places) + noise)[:, None]
    model, optimizer = _Curve(), optax.adam(3e-3)
    variables = model.init(keys[1], x)

    def loss(variables, key):
        mean, variance = model.apply(variables, x, train=True, rngs={"dropout": key})
        return jaxdrop.uncertainty.gaussian_negative_log_likelihood(mean, variance, y).mean()

    def step(state, key):
        gradient = jax.grad(loss)(state[0], key)
        updates, memory = optimizer.update(gradient, state[1])
        return (optax.apply_updates(state[0], updates), memory), None

    state = variables, optimizer.init(variables)
    state, _ = jax.jit(lambda s, k: jax.lax.scan(step, s, k))(
        state, jax.random.split(keys[2], 4000)
    )
    return x, y, mc.from_linen(model, state[0])


def gallery(draw, number):
    """The masks that a function above samples, two or three in a row, with words on their axes."""
    masks = draw(iter(list(jax.random.split(jax.random.key(number), 8))))
    rows = 2 if len(masks) == 4 else 1  # four in a row are too small on a phone
    columns = len(masks) // rows
    figure, (empty,) = plots.figure(1, width=2.1 * columns, height=2.3 * rows)
    empty.remove()
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    plots.mask_gallery(axes, masks)
    for ax, (down, across) in zip(axes, _AXES[draw.__name__]):
        ax.set(ylabel=down, xlabel=f"{across}\n{ax.get_xlabel()}")
        for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
            text.set_fontsize(12)
    return figure


_GALLERIES = (elements, structured, sequences, attention, weights, tokens)


def main():
    """Draws the pictures that the command names, or all, each into its own file."""
    wanted = sys.argv[1:]
    for number, draw in enumerate(_GALLERIES):
        if not wanted or draw.__name__ in wanted:
            gallery(draw, number).savefig(_FOLDER / f"{draw.__name__}.png", dpi=_DPI)
    for draw in (passes, front):
        if not wanted or draw.__name__ in wanted:
            draw().savefig(_FOLDER / f"{draw.__name__}.png", dpi=_DPI)


if __name__ == "__main__":
    main()
