"""Dropout in sequences: time steps, words, tokens and recurrent states."""

from typing import Any

from flax import linen as nn

from jaxdrop import functional
from jaxdrop.linen._base import Dropper, find_key


class VariationalDropout(Dropper):
    """Drops the same entries at every time step of a sequence.

    Takes floating or complex arrays of shape ``(B, L, C)``, or with the time axis elsewhere, and
    keeps shape and dtype.

    Attributes:
        rate: probability of dropping, in [0, 1].
        time_axis: axis of the inputs that counts time steps.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = VariationalDropout(0.5, deterministic=False)
        >>> x = jnp.ones((3, 10, 4))
        >>> y = layer.apply({}, x, rngs={"dropout": jax.random.key(0)})
        >>> bool((y == y[:, :1]).all())
        True

    References:
        Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural
        networks", 2016, section 4.
    """

    rate: float
    time_axis: int = 1
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.variational_dropout)


class EmbeddingDropout(Dropper):
    """Drops whole words from an embedding table; call it with the table, before the look-up.

    Takes a table of V words, a floating or complex array of shape ``(V, D)``, and keeps shape and
    dtype.

    Attributes:
        rate: probability of dropping a word, in [0, 1].
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = EmbeddingDropout(0.5, deterministic=False)
        >>> table = layer.apply({}, jnp.ones((100, 4)), rngs={"dropout": jax.random.key(0)})
        >>> bool((table == table[:, :1]).all())
        True

    References:
        Gal & Ghahramani, "A theoretically grounded application of dropout in recurrent neural
        networks", 2016, section 4.2.
    """

    rate: float
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.embedding_dropout)


class WordDropout(Dropper):
    """Replaces integer tokens at random by the one of an unknown word.

    Attributes:
        rate: probability of dropping, in [0, 1].
        unknown_id: what a dropped token becomes.
        deterministic: if true, inputs pass unchanged; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = WordDropout(0.5, unknown_id=1, deterministic=False)
        >>> tokens = jnp.full((2, 8), 7)
        >>> y = layer.apply({}, tokens, rngs={"dropout": jax.random.key(0)})
        >>> sorted({int(v) for v in y.ravel()})
        [1, 7]

    References:
        Iyyer et al., "Deep unordered composition rivals syntactic methods for text classification",
        2015, section 3.1.
    """

    rate: float
    unknown_id: int
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.word_dropout)

    @nn.compact
    def __call__(self, inputs, deterministic: bool | None = None, rng: Any = None):
        """Replaces tokens of ``inputs``.

        Args:
            inputs: integer array of token ids, of any shape.
            deterministic: as the field, for this call.
            rng: key to use in place of one from ``rng_collection``.

        Returns:
            Array with the shape and dtype of ``inputs``.
        """
        return self.call(inputs, deterministic, rng)


class TokenDropout(Dropper):
    """Leaves out a share of the tokens of each example; returns the pair ``(kept, indices)``.

    Attributes:
        rate: share of the tokens behind the prefix to leave out, in [0, 1], a Python number.
        num_prefix_tokens: number of tokens at the start that are always kept.
        ordered: whether the kept tokens stand in the order that they had.
        deterministic: if true, all tokens are kept; give it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = TokenDropout(0.5, num_prefix_tokens=1, deterministic=False)
        >>> x = jnp.ones((2, 9, 4))
        >>> kept, indices = layer.apply({}, x, rngs={"dropout": jax.random.key(0)})
        >>> kept.shape, indices.shape
        ((2, 5, 4), (2, 5))

    References:
        Liu et al., "PatchDropout: economizing vision transformers using patch dropout", 2022.
    """

    rate: float
    num_prefix_tokens: int = 0
    ordered: bool = True
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.token_dropout)
    mc_role = "drops shapes"

    @nn.compact
    def __call__(self, inputs, deterministic: bool | None = None, rng: Any = None):
        """Leaves out tokens of ``inputs``.

        Args:
            inputs: floating or complex array of shape ``(B, L, D)``.
            deterministic: as the field, for this call.
            rng: key to use in place of one from ``rng_collection``.

        Returns:
            The pair ``(kept, indices)``: an array of shape ``(B, K, D)`` with the dtype of
            ``inputs``, and an int32 array of shape ``(B, K)``, the place of each kept token.
        """
        return self.call(inputs, deterministic, rng)


class Zoneout(Dropper):
    """Keeps the old value of entries of a recurrent state; the mean of both when switched off.

    Attributes:
        rate: probability of keeping the old value, in [0, 1].
        deterministic: if true, gives the mean over keys; set it here or in the call.
        rng_collection: collection that the key is taken from.

    Example:
        >>> layer = Zoneout(0.5, deterministic=False)
        >>> old, new = jnp.zeros((2, 8)), jnp.ones((2, 8))
        >>> h = layer.apply({}, old, new, rngs={"dropout": jax.random.key(0)})
        >>> sorted({float(v) for v in h.ravel()})
        [0.0, 1.0]

    References:
        Krueger et al., "Zoneout: regularizing RNNs by randomly preserving hidden activations",
        2017, eq. 2.
    """

    rate: float
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    function = staticmethod(functional.zoneout)

    @nn.compact
    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, h_old, h_new, deterministic: bool | None = None, rng: Any = None
    ):
        """Chooses between the entries of two states.

        Args:
            h_old: state before the step, a floating or complex array of any shape.
            h_new: state after it, of the same shape and dtype.
            deterministic: as the field, for this call.
            rng: key to use in place of one from ``rng_collection``.

        Returns:
            Array with the shape and dtype of the states.
        """
        flag = self.resolve(deterministic)
        return self.drop(find_key(self, flag, rng), h_old, h_new, flag)

    def drop(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, key, h_old, h_new, deterministic
    ):
        return self.function(key, h_old, h_new, self.rate, deterministic=deterministic)
