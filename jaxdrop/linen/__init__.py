"""Floor 3 for ``flax.linen``: each function as a module, with Flax's fields and call."""

from jaxdrop.linen._drop_connect import DropConnect as DropConnect
from jaxdrop.linen._drop_key import DropKey as DropKey
from jaxdrop.linen._dropout import Dropout as Dropout
from jaxdrop.linen._dropout import MCDropout as MCDropout
from jaxdrop.linen._replace import replace_dropout as replace_dropout
from jaxdrop.linen._spatial_dropout import SpatialDropout as SpatialDropout
from jaxdrop.linen._token_dropout import TokenDropout as TokenDropout
from jaxdrop.linen._variational_dropout import VariationalDropout as VariationalDropout
from jaxdrop.linen._word_dropout import WordDropout as WordDropout
from jaxdrop.linen._zoneout import Zoneout as Zoneout

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
