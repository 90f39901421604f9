"""Floor 3 for ``flax.nnx``: each function as a module, with Flax's arguments and call."""

from jaxdrop.nnx._drop_connect import DropConnect as DropConnect
from jaxdrop.nnx._drop_key import DropKey as DropKey
from jaxdrop.nnx._dropout import Dropout as Dropout
from jaxdrop.nnx._dropout import MCDropout as MCDropout
from jaxdrop.nnx._replace import replace_dropout as replace_dropout
from jaxdrop.nnx._spatial_dropout import SpatialDropout as SpatialDropout
from jaxdrop.nnx._token_dropout import TokenDropout as TokenDropout
from jaxdrop.nnx._variational_dropout import VariationalDropout as VariationalDropout
from jaxdrop.nnx._word_dropout import WordDropout as WordDropout
from jaxdrop.nnx._zoneout import Zoneout as Zoneout

__all__ = [
    "DropConnect",
    "DropKey",
    "Dropout",
    "MCDropout",
    "SpatialDropout",
    "TokenDropout",
    "VariationalDropout",
    "WordDropout",
    "Zoneout",
    "replace_dropout",
]
