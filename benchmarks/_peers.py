"""Dropout of each library as ``fn(key, x)``; libraries that are not installed are left out."""

import importlib.util
import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

import jaxdrop


def copy(key, x):
    """The limit: reads and writes every element once."""
    del key
    return x * jnp.asarray(1.0001, x.dtype)


def scaled(key, x):
    """The limit in bfloat16, where a factor of 1.0001 is 1 and a compiler may leave it out."""
    del key
    return x * jnp.asarray(1.5, x.dtype)


def ours(rate):
    """jaxdrop."""
    return lambda key, x: jaxdrop.dropout(key, x, rate)


def flax_linen(rate):
    """flax.linen."""
    layer = nn.Dropout(rate, deterministic=False)
    return lambda key, x: layer.apply({}, x, rngs={"dropout": key})


def flax_nnx(rate):
    """flax.nnx."""
    layer = nnx.Dropout(rate, deterministic=False)
    return lambda key, x: layer(x, rngs=key)


def equinox(rate):
    """Equinox."""
    import equinox

    layer = equinox.nn.Dropout(rate)
    return lambda key, x: layer(x, key=key)


def haiku(rate):
    """Haiku."""
    import haiku

    return lambda key, x: haiku.dropout(key, rate, x)


def keras(rate):
    """Keras, on its JAX backend."""
    from keras import ops, random

    del ops
    return lambda key, x: random.dropout(x, rate, seed=jax.random.key_data(key))


_OPTIONAL = {"equinox": equinox, "haiku": haiku, "keras": keras}


def in_jax(rate):
    """Every library that computes with JAX and is installed here, by name."""
    found = {"jaxdrop": ours(rate), "flax linen": flax_linen(rate), "flax nnx": flax_nnx(rate)}
    for name, make in _OPTIONAL.items():
        if importlib.util.find_spec(name) is not None:
            found[name] = make(rate)
    return found


def torch(rate, x):
    """``torch.nn.functional.dropout`` of a tensor like ``x`` as ``fn(key, x)``; None without it."""
    if importlib.util.find_spec("torch") is None or jax.default_backend() != "cpu":
        return None
    import numpy as np
    import torch as library

    tensor = library.from_numpy(np.array(x, np.float32)).to(
        {"float32": library.float32, "bfloat16": library.bfloat16}[str(x.dtype)]
    )
    return lambda key, x: library.nn.functional.dropout(tensor, rate).numel()


def monte_carlo(x, width, layers, rate, classes, num_samples):
    """Mean and variance of Monte-Carlo passes of an MLP by torch libraries that are installed."""
    if importlib.util.find_spec("torch") is None or jax.default_backend() != "cpu":
        return {}
    import numpy as np
    import torch as library

    sizes = [x.shape[1], *[width] * layers]
    blocks = [
        part
        for before, after in itertools.pairwise(sizes)
        for part in (
            library.nn.Linear(before, after),
            library.nn.ReLU(),
            library.nn.Dropout(rate),
        )
    ]
    net = library.nn.Sequential(*blocks, library.nn.Linear(width, classes)).eval()
    tensor = library.from_numpy(np.array(x, np.float32))

    def summarised(draw):
        def run():
            with library.no_grad():
                samples = draw()
                return samples.mean(0).numpy(), samples.var(0).numpy()

        return run

    found = {}
    if importlib.util.find_spec("torch_uncertainty") is not None:
        from torch_uncertainty.methods import mc_dropout

        for name, on_batch in (("torch-uncertainty", True), ("its loop", False)):
            wrapped = mc_dropout(net, num_samples, on_batch=on_batch).eval()
            found[name] = summarised(
                lambda wrapped=wrapped: wrapped(tensor).reshape(num_samples, len(tensor), -1)
            )
    if importlib.util.find_spec("baal") is not None:
        from baal.bayesian.dropout import patch_module
        from baal.modelwrapper import ModelWrapper, TrainingArgs

        arguments = TrainingArgs(use_cuda=False, replicate_in_memory=len(tensor) < 100)
        wrapper = ModelWrapper(patch_module(net, inplace=False).eval(), arguments)
        found["baal"] = summarised(
            lambda: wrapper.predict_on_batch(tensor, iterations=num_samples).movedim(-1, 0)
        )
    return found
