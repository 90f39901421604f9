"""Decoding with 16 sub-networks side by side, beside the same batch without dropout."""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks._report import rows_of
from benchmarks._timing import paired
from jaxdrop import mc

_RATE, _SEQUENCES, _VOCABULARY = 0.1, 16, 256


class _Decoder(nn.Module):
    """Blocks before norms, with Flax's cache and dropout."""

    width: int
    length: int
    layers: int

    @nn.compact
    def __call__(self, tokens):
        drop = functools.partial(nn.Dropout, _RATE, deterministic=True)
        place = self.variable("cache", "place", lambda: jnp.zeros((), jnp.int32))
        places = nn.Embed(self.length, self.width)(place.value + jnp.arange(tokens.shape[1]))
        if not self.is_initializing():
            place.value += 1
        x = drop()(nn.Embed(_VOCABULARY, self.width)(tokens) + places[None])
        for _ in range(self.layers):
            attention = nn.MultiHeadDotProductAttention(
                4, dropout_rate=_RATE, deterministic=True, decode=True
            )
            x = x + drop()(attention(nn.LayerNorm()(x)))
            hidden = nn.gelu(nn.Dense(4 * self.width)(nn.LayerNorm()(x)))
            x = x + drop()(nn.Dense(self.width)(hidden))
        return nn.Dense(_VOCABULARY)(x)


def decode(budget):
    """Greedy decoding of 16 sequences, all steps in one program and step by step."""
    width, length, layers = budget.decode
    model = _Decoder(width, length, layers)

    def variables_of(sequences):
        return jax.jit(model.init)(jax.random.key(0), jnp.zeros((sequences, length), jnp.int32))

    together, alone = variables_of(_SEQUENCES), variables_of(1)
    together = {**together, "params": alone["params"]}
    options = {"broadcast_dims": {"*": -2}, "mutable": ("cache",)}
    of_batch, of_one = (mc.from_linen(model, v, **options) for v in (together, alone))

    def without(keys, tokens, state):
        variables = {"params": alone["params"], **state}
        logits, state = model.apply(variables, tokens[:, None], mutable=["cache"])
        return logits[:, 0].argmax(-1), state

    def batch(keys, tokens, state):
        logits, state = of_batch(keys[0], tokens[:, None], state=state)
        return logits[:, 0].argmax(-1), state

    @jax.vmap
    def side_by_side(key, token, state):
        logits, state = of_one(key, token[None, None], state=state)
        return logits[0, 0].argmax(-1), state

    keys = jax.random.split(jax.random.key(1), _SEQUENCES)
    tokens, first = jnp.zeros(_SEQUENCES, jnp.int32), {"cache": together["cache"]}
    states = jax.tree.map(lambda x: jnp.stack([x] * _SEQUENCES), {"cache": alone["cache"]})
    steps = {
        "without dropout": (without, first),
        "a batch, one key": (batch, first),
        "vmap, 16 keys": (side_by_side, states),
    }
    for case, run in (("one program", _scanned), ("step by step", _stepped)):
        functions = {
            name: functools.partial(run(step, length), keys, tokens, state)
            for name, (step, state) in steps.items()
        }
        times = paired(functions, (), rounds=budget.rounds, seconds=budget.seconds)
        title = f"{length} steps of {layers} x {width}, 16 sequences, {case}"
        yield from rows_of("decode", title, times, "ms", "without dropout")


def _scanned(step, length):
    @jax.jit
    def run(keys, tokens, state):
        return jax.lax.scan(
            lambda carry, _: (step(keys, *carry), carry[0]), (tokens, state), length=length
        )[1]

    return run


def _stepped(step, length):
    step = jax.jit(step)

    def run(keys, tokens, state):
        for _ in range(length):
            tokens, state = step(keys, tokens, state)
        return tokens

    return run
