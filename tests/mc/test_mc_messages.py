"""Slips in calls of `predict`: each message says what was expected, what came, what to write."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

import jaxdrop
from jaxdrop import mc
from tests.support.cases import assert_same_bits, key

X = jnp.ones((3, 4), jnp.float32)


class Graph(NamedTuple):
    """Stands for the tuples of graph libraries."""

    nodes: Any
    receivers: Any
    globals: Any = None


def drop(key, x):
    return jaxdrop.dropout(key, x, 0.5)


def returning(make):
    return lambda key, x: make(drop(key, x))


def linen():
    return mc.from_linen(nn.Dropout(0.5, deterministic=True), {})


def predict(fn=drop, *args, **options):
    return mc.predict(fn, key(), *(args or (X,)), num_samples=3, **options)


def batches(*given, fn=drop, **options):
    return mc.predict_batches(fn, key(), given, num_samples=3, progress=False, **options)


# id: (call, exception, what the message holds)
_SLIPS = {
    "a linen model": (
        lambda: predict(nn.Dropout(0.5)),
        TypeError,
        r"fn: expected a function .* got the model Dropout; write jaxdrop.mc.from_linen\(model, v",
    ),
    "an nnx model": (
        lambda: predict(nnx.Dropout(0.5)),
        TypeError,
        r"fn: expected a function .* got the model Dropout; write jaxdrop.mc.from_nnx\(model\)",
    ),
    "no function": (lambda: predict(3), TypeError, "fn: expected a function .* got 3 of type int"),
    "a key for fn": (lambda: mc.predict(key(), drop, X), TypeError, "key: expected one PRNG key"),
    "samples": (
        lambda: predict(samples=50),
        TypeError,
        "samples: expected a keyword argument of fn, .* did you mean num_samples?",
    ),
    "samples of an adapter": (
        lambda: predict(linen(), samples=50),
        TypeError,
        "samples: .* did you mean num_samples?",
    ),
    "chunksize": (
        lambda: predict(chunksize=5),
        TypeError,
        "chunksize: .* did you mean chunk_size?",
    ),
    "chunk": (lambda: predict(chunk=5), TypeError, "chunk: .* did you mean chunk_size?"),
    "nothing near": (
        lambda: predict(verbose=True),
        TypeError,
        r"verbose: .* the options are \['num_samples', 'summary'",
    ),
    "chunk_size all": (
        lambda: predict(chunk_size="all"),
        TypeError,
        "chunk_size: expected an integer, got 'all'; write .*'auto', or chunk_size=num_samples",
    ),
    "summary not called": (
        lambda: predict(summary=mc.classification),
        TypeError,
        r"summary: expected a Summary, got <function .*; call it: summary=mc.classification\(\)",
    ),
    "summary by name": (
        lambda: predict(summary="classification"),
        TypeError,
        r"summary: expected a Summary, got 'classification'; write summary=mc.classification\(\)",
    ),
    "summary by another name": (
        lambda: predict(summary="mean"),
        TypeError,
        r"summary: expected a Summary, got 'mean'; write summary=mc.moments\(\)",
    ),
    "summary of batches": (
        lambda: batches(X, summary=mc.moments),
        TypeError,
        r"call it: summary=mc.moments\(\)",
    ),
    "no examples": (
        lambda: predict(drop, X[:0]),
        ValueError,
        r"args: expected at least one example, got an array of shape \(0, 4\); leave empty",
    ),
    "None": (
        lambda: predict(lambda key, x: None),
        TypeError,
        "fn: expected arrays of numbers as outputs, got None; end it with a return",
    ),
    "a string": (
        lambda: predict(returning(lambda y: {"y": y, "name": "net"})),
        TypeError,
        r"got 'net' of type str at \['name'\]; return only .* output=lambda out: out\['logits'\]",
    ),
    "a key": (
        lambda: predict(returning(lambda y: (y, key()))),
        TypeError,
        r"fn: expected arrays of numbers as outputs, got a PRNG key at \[1\]; return only",
    ),
    "integers of a graph": (
        lambda: predict(returning(lambda y: Graph(y, jnp.arange(3, dtype=jnp.int32)))),
        TypeError,
        r"floating outputs, got dtype int32 at \.receivers; cast .* output=lambda out: out",
    ),
    "integers of a graph, quantiles": (
        lambda: predict(
            returning(lambda y: Graph(y, jnp.arange(3, dtype=jnp.int32))),
            summary=mc.quantiles((0.1, 0.9)),
        ),
        TypeError,
        r"floating outputs, got dtype int32 at \.receivers",
    ),
    "output by name": (
        lambda: predict(output="logits"),
        TypeError,
        "output: expected a function that picks .* got 'logits'; write for example output=lambda",
    ),
    "a list": (
        lambda: batches([X, jnp.zeros(3)]),
        TypeError,
        r"batches: expected arrays, or tuples .* got a list of 2; write inputs=lambda batch: b",
    ),
    "a pair": (
        lambda: batches((X, jnp.zeros(3))),
        TypeError,
        r"batches: expected what fn takes, got a tuple, .* inputs=lambda batch: batch\[0\]",
    ),
    "a pair, for an adapter": (
        lambda: batches(
            (X, jnp.zeros(3)),
            fn=mc.from_nnx(nnx.Sequential(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), nnx.Dropout(0.5))),
        ),
        TypeError,
        r"batches: expected what fn takes, got a tuple, .* inputs=lambda batch: batch\[0\]",
    ),
    "a dict": (
        lambda: batches({"x": X, "y": jnp.zeros(3)}),
        TypeError,
        r"(?s)batches: expected what fn takes, got a dict.* inputs=lambda batch: batch\['x'\]",
    ),
    "a dict, asked by a number": (
        lambda: batches({"x": X}, fn=lambda key, batch: drop(key, batch[0])),
        TypeError,
        r"(?s)batches: expected what fn takes, got a dict.* inputs=lambda batch: batch\['x'\]",
    ),
    "inputs by number": (
        lambda: batches((X, X), inputs=0),
        TypeError,
        "inputs: expected a function that picks the inputs of a batch, got 0; write",
    ),
    "a batch of no examples": (lambda: batches(X[:0]), ValueError, "the same number of examples"),
}


@pytest.mark.parametrize(("call", "kind", "message"), _SLIPS.values(), ids=_SLIPS)
def test_a_slip_is_told_with_what_to_write(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_a_generator_is_used_up_once():
    given = iter([X])
    mc.predict_batches(drop, key(), given, num_samples=3, progress=False)
    with pytest.raises(ValueError, match="got none; a generator is used up once"):
        mc.predict_batches(drop, key(), given, num_samples=3, progress=False)


def test_an_error_of_the_function_stays_its_own():
    def fn(key, x):
        raise TypeError("of the user's own")

    for call in (lambda: predict(fn), lambda: batches(X, fn=fn)):
        with pytest.raises(TypeError, match="of the user's own"):
            call()


def test_a_keyword_of_the_function_is_its_own():
    fn = lambda key, x, samples: drop(key, x) * samples  # noqa: E731
    assert_same_bits(predict(fn, samples=2.0).mean, 2 * predict().mean)


def test_a_model_that_takes_a_key_is_a_function():
    class Keyed(nnx.Module):
        def __call__(self, key, x):
            return drop(key, x)

    assert_same_bits(predict(Keyed()).mean, predict().mean)


# What is picked.


def test_output_picks_from_what_the_function_returns():
    fn = returning(lambda y: {"logits": y, "name": "net", "key": key(), "graph": Graph(2 * y, 3)})
    expected = predict().mean
    assert_same_bits(predict(fn, output=lambda out: out["logits"]).mean, expected)
    assert_same_bits(predict(fn, output=lambda out: out["graph"].nodes).mean, 2 * expected)
    found = mc.predict_batches(
        fn, key(), [X], num_samples=3, keys="call", output=lambda out: out["logits"], progress=False
    )
    assert_same_bits(found.mean, expected)


def test_nothing_among_the_outputs_stays_nothing():
    out = predict(returning(lambda y: Graph(y, 2 * y))).mean
    assert out.globals is None
    assert_same_bits(out.nodes, predict().mean)


@pytest.mark.parametrize(
    ("batch", "inputs"),
    [
        ([X, jnp.zeros(3)], lambda batch: batch[0]),
        ((X, jnp.zeros(3)), lambda batch: batch[0]),
        ({"x": X, "y": jnp.zeros(3)}, lambda batch: batch["x"]),
        ([X, X], lambda batch: (batch[0],)),
    ],
    ids=["list", "pair", "dict", "tuple"],
)
def test_inputs_picks_from_a_batch(batch, inputs):
    expected = batches(X)
    assert_same_bits(batches(batch, inputs=inputs).mean, expected.mean)


def test_a_dict_may_be_the_argument():
    fn = lambda key, batch: drop(key, batch["x"])  # noqa: E731
    assert_same_bits(batches({"x": X, "y": X}, fn=fn).mean, batches(X).mean)


def test_tensors_of_other_libraries_are_read_as_arrays():
    class Tensor:
        shape, dtype = X.shape, "theirs"

        def __array__(self, dtype=None, copy=None):
            return np.asarray(X, dtype)

    assert_same_bits(batches(Tensor()).mean, batches(X).mean)
