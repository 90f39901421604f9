"""``python -m benchmarks.sparse``: how many weights sparse variational dropout cuts on MNIST.

Molchanov, Ashukha & Vetrov, "Variational dropout sparsifies deep neural networks", 2017, its table
of LeNet architectures (the figures were checked against the authors' repository). Each weight has a
variance of its own. Training follows the authors' program: Adam, the divergence absent in the
first five epochs and at full weight from the twentieth on, a rate that is constant and falls to 0
in the second half. They train for 200 epochs, and with ``--cut``.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from benchmarks import _report, mnist
from jaxdrop import functional

# Test error in per cent, pruned weights of each layer in per cent, all weights per weight left.
PUBLISHED = {
    "dense": {"error, %": 1.64},
    "sparse": {
        "error, %": 1.92,
        "layer 1, %": 98.9,
        "layer 2, %": 97.2,
        "layer 3, %": 62.0,
        "times fewer": 68,
    },
}
_THRESHOLD, _LEARNING_RATE = 3.0, 1e-3
_FULL = {"epochs": 100, "seeds": 3, "batch": 100, "first": 300, "second": 100}
_QUICK = {"epochs": 100, "seeds": 2, "batch": 20, "first": 32, "second": 16}


class SparseDense(nn.Module):
    """Dense layer whose weights are normal, each with a mean and a variance of its own.

    In training the noise is added to the sums, whose mean and variance follow from those of the
    weights (the local reparameterisation of Kingma, Salimans & Welling 2015, section 2.3); the
    logarithm of the variance is the parameter (Molchanov et al. 2017, section 4.2). Otherwise the
    weights are their means, and 0 where the noise exceeds the threshold.

    Attributes:
        features: size of the result's last axis.
        threshold: of the logarithm of variance per squared mean.
        cut: whether means count as 0 in training, too, where the noise exceeds the threshold.
    """

    features: int
    threshold: float
    cut: bool = False

    @nn.compact
    def __call__(self, x, deterministic=True):
        shape = x.shape[-1], self.features
        kernel = self.param("kernel", nn.initializers.normal(0.01), shape)
        log_variance = self.param("log_variance", nn.initializers.constant(-10.0), shape)
        bias = self.param("bias", nn.initializers.zeros, self.features)
        if deterministic or self.cut:
            noise = log_alpha(kernel, log_variance)
            pruned = functional.variational_gaussian_pruned(noise, self.threshold).pruned
            kernel = jnp.where(pruned, 0, kernel)
        if deterministic:
            return x @ kernel + bias
        variance = jnp.square(x) @ jnp.exp(log_variance)
        # The small number keeps the gradient of the root finite where all inputs are 0.
        noise = jnp.sqrt(variance + 1e-8)
        return functional.gaussian_noise(self.make_rng("dropout"), x @ kernel + bias, noise)


class LeNet(nn.Module):
    """Dense ReLU layers, with weights that are sparse or known exactly."""

    widths: tuple[int, int]
    sparse: bool
    threshold: float = _THRESHOLD
    cut: bool = False

    @nn.compact
    def __call__(self, x, deterministic=True):
        for width in (*self.widths, 10):
            if self.sparse:
                x = SparseDense(width, self.threshold, self.cut)(x, deterministic)
            else:
                x = nn.Dense(width)(x)
            x = x if width == 10 else nn.relu(x)
        return x


def log_alpha(kernel, log_variance):
    """Logarithm of variance per squared mean; the small number is for means of 0."""
    return log_variance - jnp.log(jnp.square(kernel) + 1e-8)


def penalty(variables, epoch, *, examples, cut=False):
    """Divergence of all weights from their prior, per example, by its weight in this epoch.

    With ``cut`` it does not move the weights that are cut.
    """
    divergence = 0
    for layer in variables["params"].values():
        noise = log_alpha(layer["kernel"], layer["log_variance"])
        if cut:
            noise = jnp.where(noise > _THRESHOLD, jax.lax.stop_gradient(noise), noise)
        divergence += functional.variational_gaussian_kl(noise)
    return jnp.clip((epoch - 5) / 15, 0, 1) * divergence / examples


def main(arguments=None):
    """Trains each net from each seed, prints errors and shares beside the published ones."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sparse",
        description="Weights that sparse variational dropout cuts from LeNet-300-100 on MNIST.",
    )
    parser.add_argument("--cut", action="store_true", help="weights are set to 0 in training, too")
    options, (train, test) = mnist.sized(parser, arguments, _FULL, _QUICK)
    _report.print_context(_report.context())
    widths = f"{train.images.shape[1]}-{options.first}-{options.second}-10"
    print(
        f"\n{widths}, {options.epochs} epochs, batch {options.batch}, seeds: {options.seeds}, "
        f"{len(train.labels):,} digits to learn from"
    )
    settings = {name: getattr(options, name) for name in (*_FULL, "cut") if name != "seeds"}
    saved = _report.Saved(options.json, {**settings, "digits": len(train.labels)})
    found = {name: {} for name in PUBLISHED}
    for seed in range(options.seeds):
        for name, rows in found.items():
            learn = functools.partial(_figures, name, train, test, options, seed)
            _report.gather(rows, saved(f"{name}, seed {seed}", learn))
    _print_table(found, {} if options.quick else PUBLISHED)
    return found


def _figures(name, train, test, options, seed):
    """Test error of a net from a seed, and what is pruned."""
    widths = options.first, options.second
    net = LeNet(widths, sparse=name == "sparse", cut=options.cut)
    learning = argparse.Namespace(seed=seed, epochs=options.epochs, limit=None)
    how = {"batch": options.batch, "optimizer_for": _adam}
    if net.sparse:
        how["penalty"] = functools.partial(penalty, examples=len(train.labels), cut=options.cut)
    variables = mnist.train_net(f"{name}, seed {seed}", net, train, learning, **how)
    figures = {"error, %": mnist.error_of(net.apply(variables, test.images), test.labels)}
    if net.sparse:
        whole = net.clone(threshold=float(np.finfo(np.float32).max))
        error = mnist.error_of(whole.apply(variables, test.images), test.labels)
        figures["error before pruning, %"] = error
        figures |= _pruned(variables["params"].values())
    return figures


def _pruned(layers):
    """Shares of each layer's weights that are pruned, and all weights per weight that is left."""
    shares, sizes = [], []
    for layer in layers:
        noise = log_alpha(layer["kernel"], layer["log_variance"])
        shares.append(float(functional.variational_gaussian_pruned(noise, _THRESHOLD).share))
        sizes.append(noise.size)
    figures = {f"layer {number + 1}, %": 100 * share for number, share in enumerate(shares)}
    left = round(sum(size * (1 - share) for size, share in zip(sizes, shares)))
    return {**figures, "times fewer": sum(sizes) / max(left, 1)}


def _adam(steps):
    falling = optax.linear_schedule(_LEARNING_RATE, 0.0, steps - steps // 2, steps // 2)
    return optax.adam(falling)


def _print_table(found, published):
    rows = {f"{name}, {row}": each for name, of in found.items() for row, each in of.items()}
    known = {f"{name}, {row}": x for name, of in published.items() for row, x in of.items()}
    print(f"\n{'':<32}{'':>18}{'published':>12}")
    for title, figures in rows.items():
        print(f"{title:<32}{_report.mean_and_error(figures):>18}{known.get(title, ''):>12}")
    _report.print_each_seed(rows)


if __name__ == "__main__":
    main()
