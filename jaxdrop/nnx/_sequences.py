"""Dropout in sequences: time steps, words, tokens and recurrent states."""

from typing import Any

from jaxdrop import functional
from jaxdrop.nnx._base import Layer, find_key, layer


@layer
class VariationalDropout(Layer):
    """Drops the same entries at every time step of a sequence.

    Takes floating or complex arrays of shape ``(B, L, C)``, or with the time axis elsewhere, and
    keeps shape and dtype.

    Args:
        rate: probability of dropping, in [0, 1].
        time_axis: axis of the inputs that counts time steps.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = VariationalDropout(0.5, rngs=nnx.Rngs(0))
        >>> y = layer(jnp.ones((3, 10, 4)))
        >>> bool((y == y[:, :1]).all())
        True

    References:
        Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural
        networks", 2016, section 4.
    """

    time_axis: int = 1

    function = staticmethod(functional.variational_dropout)


@layer
class EmbeddingDropout(Layer):
    """Drops whole words from an embedding table; call it with the table, before the look-up.

    Takes a table of V words, a floating or complex array of shape ``(V, D)``, and keeps shape and
    dtype.

    Args:
        rate: probability of dropping a word, in [0, 1].
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = EmbeddingDropout(0.5, rngs=nnx.Rngs(0))
        >>> table = layer(jnp.ones((100, 4)))
        >>> bool((table == table[:, :1]).all())
        True

    References:
        Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural
        networks", 2016, section 4.2.
    """

    function = staticmethod(functional.embedding_dropout)


@layer
class WordDropout(Layer):
    """Replaces integer tokens at random by the one of an unknown word.

    Args:
        rate: probability of dropping, in [0, 1].
        unknown_id: what a dropped token becomes.
        deterministic: if true, inputs pass unchanged; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = WordDropout(0.5, unknown_id=1, rngs=nnx.Rngs(0))
        >>> sorted({int(v) for v in layer(jnp.full((2, 8), 7)).ravel()})
        [1, 7]

    References:
        Iyyer et al., "Deep unordered composition rivals syntactic methods for text classification",
        2015, section 3.1.
    """

    unknown_id: int

    function = staticmethod(functional.word_dropout)

    def __call__(self, inputs, *, deterministic: bool | None = None, rngs: Any = None):
        """Replaces tokens of ``inputs``.

        Args:
            inputs: integer array of token ids, of any shape.
            deterministic: overrides the attribute for this call.
            rngs: key, stream or ``nnx.Rngs`` to use in place of the module's own stream.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        return self.call(inputs, deterministic, rngs)


@layer
class TokenDropout(Layer):
    """Leaves out a share of the tokens of each example; returns the pair ``(kept, indices)``.

    Args:
        rate: share of the tokens behind the prefix to leave out, in [0, 1], a Python number.
        num_prefix_tokens: number of tokens at the start that are always kept.
        ordered: whether the kept tokens stand in the order that they had.
        deterministic: if true, all tokens are kept; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = TokenDropout(0.5, num_prefix_tokens=1, rngs=nnx.Rngs(0))
        >>> kept, indices = layer(jnp.ones((2, 9, 4)))
        >>> kept.shape, indices.shape
        ((2, 5, 4), (2, 5))

    References:
        Liu et al., "PatchDropout: economizing vision transformers using patch dropout", 2022.
    """

    num_prefix_tokens: int = 0
    ordered: bool = True

    function = staticmethod(functional.token_dropout)
    mc_role = "drops shapes"

    def __call__(self, inputs, *, deterministic: bool | None = None, rngs: Any = None):
        """Leaves out tokens of ``inputs``.

        Args:
            inputs: floating or complex array of shape ``(B, L, D)``.
            deterministic: overrides the attribute for this call.
            rngs: key, stream or ``nnx.Rngs`` to use in place of the module's own stream.

        Returns:
            The pair ``(kept, indices)``: an array of shape ``(B, K, D)`` with the dtype of
            ``inputs``, and an int32 array of shape ``(B, K)``, the place of each kept token.
        """
        return self.call(inputs, deterministic, rngs)


@layer
class Zoneout(Layer):
    """Keeps the old value of entries of a recurrent state; the mean of both when switched off.

    Args:
        rate: probability of keeping the old value, in [0, 1].
        deterministic: if true, gives the mean over keys; ``train()`` and ``eval()`` set it.
        rng_collection: name of the stream that keys are taken from.
        rngs: ``nnx.Rngs`` or stream to fork the module's own stream from.

    Example:
        >>> layer = Zoneout(0.5, rngs=nnx.Rngs(0))
        >>> h = layer(jnp.zeros((2, 8)), jnp.ones((2, 8)))
        >>> sorted({float(v) for v in h.ravel()})
        [0.0, 1.0]

    References:
        Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations",
        2017, eq. 2.
    """

    function = staticmethod(functional.zoneout)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, h_old, h_new, *, deterministic: bool | None = None, rngs: Any = None
    ):
        """Chooses between the entries of two states.

        Args:
            h_old: state before the step, a floating or complex array of any shape.
            h_new: state after it, of the same shape and dtype.
            deterministic: overrides the attribute for this call.
            rngs: key, stream or ``nnx.Rngs`` to use in place of the module's own stream.

        Returns:
            Array with the shape and dtype of the states.
        """
        flag = self.resolve(deterministic)
        return self.drop(find_key(self, flag, rngs), h_old, h_new, flag)

    def drop(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key, h_old, h_new, deterministic
    ):
        return self.function(key, h_old, h_new, self.rate, deterministic=deterministic)
