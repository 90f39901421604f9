"""Draws the pictures of these pages: ``python docs/pictures.py``, from the root of a clone."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

import jaxdrop
from benchmarks import _passes, _passes_nets
from jaxdrop import plots

_FOLDER = pathlib.Path(__file__).parent / "images"
_RATE = 0.25
_NUMBERS = (16, 32, 64, 128, 256, 512)  # of passes


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
        x = _passes.least_certain(fn, pixels, effort.rows)
        error = functools.partial(_error, fn, x, _passes.truth(fn, x, effort))
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


def _error(fn, x, true, number, repetitions, *, balanced):
    """Root of the mean squared error of probabilities, of so many passes."""
    found = _passes.repeated(fn, jax.random.key(3), x, number, repetitions, balanced=balanced)
    return np.sqrt(np.square(found.mean - true.mean).mean())


def main():
    """Draws each gallery, and what balanced passes save, into its own file."""
    for number, draw in enumerate((elements, structured, sequences, attention, weights, tokens)):
        keys = iter(list(jax.random.split(jax.random.key(number), 8)))
        masks = draw(keys)
        figure, axes = plots.figure(len(masks), width=2.3, height=2.4)
        plots.mask_gallery(axes, masks)
        figure.savefig(_FOLDER / f"{draw.__name__}.png", dpi=80)
    passes().savefig(_FOLDER / "passes.png", dpi=80)


if __name__ == "__main__":
    main()
