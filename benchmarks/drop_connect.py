"""``python -m benchmarks.drop_connect``: MNIST with no dropout, with dropout, and with DropConnect.

Wan et al., "Regularization of neural networks using DropConnect", 2013: table 2, two layers of 800
ReLU units, without augmentation (numbers and table are not checked against the paper). Theirs
draws a mask for each example and trains for several hundred epochs. `jaxdrop.linen.DropConnect`
draws one for each call: here one for a batch, and in a further row one for each of ``--masks``
parts of it. The weights and biases of both hidden layers are dropped from.

A net is asked once with its whole weights, and by averages over Monte-Carlo passes. Wan et al.
sample, too, but each unit from the normal distribution of its sum.
"""

import argparse
import functools
from typing import NamedTuple

import jax
from flax import linen as nn

from benchmarks import _report, mnist
from jaxdrop import linen, mc

# Test error in per cent, mean and deviation (Wan et al. 2013, table 2).
PUBLISHED = {
    "no dropout": "1.62 ± 0.037",
    "dropout": "1.28 ± 0.040",
    "DropConnect": "1.20 ± 0.034",
}
_RATE = 0.5
_FULL = {"epochs": 20, "hidden": 800, "seeds": 3, "passes": 50, "masks": 4}
_QUICK = {"epochs": 10, "hidden": 64, "seeds": 2, "passes": 10, "masks": 4}


class DropConnectNet(nn.Module):
    """Dense ReLU layers whose weights and biases are dropped at random, all but the last ones."""

    hidden: int
    layers: int

    @nn.compact
    def __call__(self, x, deterministic=True):
        for _ in range(self.layers):
            layer = linen.DropConnect(nn.Dense(self.hidden), _RATE)
            x = nn.relu(layer(x, deterministic=deterministic))
        return nn.Dense(10)(x)


class Way(NamedTuple):
    """A net, and how many masks of weights serve a batch."""

    net: nn.Module
    masks: int = 1


def main(arguments=None):
    """Trains and asks each net from each seed, prints errors beside the published ones."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drop_connect",
        description="Test error on MNIST of no dropout, dropout and DropConnect.",
    )
    options, (train, test) = mnist.sized(parser, arguments, _FULL, _QUICK)
    _report.print_context(_report.context())
    print(
        f"\n2 x {options.hidden} ReLU, {options.epochs} epochs, seeds: {options.seeds}, "
        f"{len(train.labels):,} digits to learn from"
    )
    size = options.hidden, 2
    ways = {
        "no dropout": Way(mnist.Net(*size, (0.0, 0.0))),
        "dropout": Way(mnist.Net(*size, (0.0, _RATE))),
        "DropConnect": Way(DropConnectNet(*size)),
    }
    if options.masks > 1:
        ways[f"DropConnect, {options.masks} masks"] = Way(DropConnectNet(*size), options.masks)
    settings = {name: getattr(options, name) for name in ("epochs", "hidden", "passes")}
    saved = _report.Saved(options.json, {**settings, "digits": len(train.labels)})
    found = {name: {} for name in ways}
    for seed in range(options.seeds):
        for name, way in ways.items():
            learn = functools.partial(_errors, name, way, train, test, options, seed)
            _report.gather(found[name], saved(f"{name}, seed {seed}", learn))
    _print_table(found, options.passes, {} if options.quick else PUBLISHED)
    return found


def _errors(name, way, train, test, options, seed):
    """Test errors of a net from a seed, in per cent, asked once and by passes."""
    learning = argparse.Namespace(seed=seed, epochs=options.epochs, limit=None)
    title = f"{name}, seed {seed}"
    variables = mnist.train_net(title, way.net, train, learning, groups=way.masks)
    errors = {"whole": mnist.error_of(way.net.apply(variables, test.images), test.labels)}
    if name != "no dropout":
        fn = mc.from_linen(way.net, variables)
        key = jax.random.fold_in(jax.random.key(seed), 0x4D43)  # "MC": not one of training
        how = {"num_samples": options.passes, "chunk_size": 1, "balanced": False}
        out = mc.predict(fn, key, test.images, summary=mc.classification(), **how)
        errors["passes"] = mnist.error_of(out.probabilities, test.labels)
    return errors


def _print_table(found, passes, published):
    print(f"\n{'test error, %':<34}{'':>16}{'published':>15}")
    rows = {}
    for name, row in found.items():
        for asked, errors in row.items():
            title = name if asked == "whole" else f"{name}, {passes} passes"
            shown, rows[title] = published.get(name, ""), errors
            print(f"{title:<34}{_report.mean_and_error(errors):>16}{shown:>15}")
    _report.print_each_seed(rows)


if __name__ == "__main__":
    main()
