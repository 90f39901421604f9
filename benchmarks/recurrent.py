"""``python -m benchmarks.recurrent``: an LSTM predicts words, with three kinds of dropout.

Similar to AWD-LSTM (Merity et al. 2017): dropout of the embedding, variational dropout (Gal
& Ghahramani 2016), weight drop, tied embeddings; trained by SGD whose rate falls if the
validation loss no longer does.
"""

import argparse
import math
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization
from tqdm import tqdm

from benchmarks import _corpus, _report
from benchmarks._language_model import (
    LanguageModel,
    Learner,
    Rates,
    make_reader,
    make_stretch,
    start,
    zero_states,
)
from benchmarks._report import count

KINDS = {
    "no dropout": Rates(),
    "naive": Rates(step=0.3),
    "variational": Rates(embedding=0.1, input=0.25, state=0.2, output=0.3, weight=0.2),
}
_WINDOWS = 20  # in one call of the trainer
_LEARNING_RATE, _CLIP, _PATIENCE = 1.0, 5.0, 2.0


def main(arguments=None):
    """Trains, prints the perplexities, and returns them by name."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            _corpus.write_small(folder)
            print("no --data: a made-up text of 110 words, too small to say which kind is best\n")
        corpus = _corpus.read(options.data or folder)
    _report.print_context(_report.context())
    print(
        f"{len(corpus.train):,} words to learn from, {len(corpus.words):,} different; "
        f"{options.layers} x {options.cells} LSTM, {options.epochs} epochs\n"
    )
    found = {}
    for kind, rates in KINDS.items():
        model = LanguageModel(len(corpus.words), options.cells, options.layers, rates, False)
        learner = _train(kind, model, corpus, options)
        still = model.clone(deterministic=True)
        parts = {"valid": corpus.valid, "test": corpus.test}
        found[kind] = {part: _perplexity(still, learner, text) for part, text in parts.items()}
        if kind == "variational":
            name = f"variational, {options.samples} MC samples"
            found[name] = {
                part: _perplexity(model, learner, text, options.samples, options.seed)
                for part, text in parts.items()
            }
    _print_table(found)
    return found


def _options(arguments):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recurrent",
        description="Perplexity of an LSTM language model without dropout, with naive, with "
        "variational dropout, and with Monte-Carlo averaging.",
    )
    parser.add_argument("--data", metavar="DIR", help="holds train.txt, valid.txt and test.txt")
    parser.add_argument("--cells", type=count, default=200, metavar="N", help="width (200)")
    parser.add_argument("--layers", type=count, default=2, metavar="N", help="layers (2)")
    parser.add_argument("--epochs", type=count, default=13, metavar="N", help="at most (13)")
    parser.add_argument("--batch", type=count, default=20, metavar="N", help="stretches (20)")
    parser.add_argument("--steps", type=count, default=35, metavar="N", help="window (35)")
    parser.add_argument("--samples", type=count, default=50, metavar="N", help="MC passes (50)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed (0)")
    parser.add_argument(
        "--checkpoints",
        type=pathlib.Path,
        metavar="DIR",
        help="save a checkpoint there after every epoch, and continue from it",
    )
    return parser.parse_args(arguments)


def _train(kind, model, corpus, options):
    """The `Learner` after all epochs; starts at the last checkpoint."""
    key = jax.random.key(options.seed)
    learner = start(model, jax.random.fold_in(key, 0), _LEARNING_RATE)
    file = options.checkpoints and options.checkpoints / f"{kind.replace(' ', '_')}.msgpack"
    if file and file.is_file():
        learner = serialization.from_bytes(learner, file.read_bytes())
        print(f"{kind}: goes on after epoch {int(learner.epoch)}, from {file}")
    stretch = make_stretch(model, _CLIP)
    reader = make_reader(model.clone(deterministic=True))
    train = _corpus.windows(corpus.train, options.batch, options.steps)
    valid = _corpus.windows(corpus.valid, 10, options.steps)
    total = len(train[0])
    for epoch in range(int(learner.epoch), options.epochs):
        states, params, loss = zero_states(model, options.batch), learner.params, 0.0
        with tqdm(total=total, unit="window", ncols=78, leave=False) as bar:
            bar.set_description(f"{kind}, epoch {epoch + 1}/{options.epochs}")
            for first in range(0, total, _WINDOWS):
                part = [values[first : first + _WINDOWS] for values in train]
                used = jax.random.fold_in(jax.random.fold_in(key, epoch + 1), first)
                params, states, lost = stretch(params, states, used, learner.learning_rate, part)
                loss += float(lost)
                bar.update(len(part[0]))
        learner = _after_epoch(learner, params, _mean_loss(reader(params, key, valid), valid[-1]))
        if file:
            _save(file, learner)
        perplexity = _exp(loss / float(train[-1].sum()))
        print(
            f"{kind}, epoch {epoch + 1}: train {perplexity:.1f}, valid "
            f"{_exp(float(learner.best_loss)):.1f} at best"
        )
    return learner


def _after_epoch(learner, params, loss):
    """The `Learner` after one more epoch; the rate falls if the validation loss did not."""
    gained = loss < learner.best_loss
    rate = learner.learning_rate if gained else learner.learning_rate / _PATIENCE
    best: Any = (params, loss) if gained else (learner.best, learner.best_loss)
    return Learner(params, best[0], jnp.float32(best[1]), jnp.float32(rate), learner.epoch + 1)


def _save(file, learner):
    """Saves the whole file or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    unfinished.write_bytes(serialization.to_bytes(learner))
    unfinished.replace(file)


def _perplexity(model, learner, text, samples=1, seed=0):
    """Perplexity of the mean probability of each word over samples with different masks."""
    windows = _corpus.windows(text, 10, 35)
    reader = make_reader(model)
    key = jax.random.fold_in(jax.random.key(seed), 0x4D43)
    total = None
    with tqdm(total=samples, unit="sample", ncols=78, leave=False, disable=samples == 1) as bar:
        for number in range(samples):
            one = reader(learner.best, jax.random.fold_in(key, number), windows)
            total = one if total is None else jnp.logaddexp(total, one)
            bar.update()
    return _exp(_mean_loss(total - np.log(np.float32(samples)), windows[-1]))


def _mean_loss(log_probabilities, weights):
    return -float((log_probabilities * weights).sum() / weights.sum())


def _exp(loss):
    return math.exp(min(loss, 700.0))


def _print_table(found):
    print(f"\n{'perplexity':<34}{'valid':>10}{'test':>10}")
    for name, values in found.items():
        print(f"{name:<34}{values['valid']:>10.1f}{values['test']:>10.1f}")


if __name__ == "__main__":
    main()
