"""Floor 2: pure functions, ``fn(key, x, rate, *, deterministic=False, ...)``."""

from jaxdrop.functional._drop_connect import drop_connect as drop_connect
from jaxdrop.functional._drop_key import drop_key as drop_key
from jaxdrop.functional._dropout import dropout as dropout
from jaxdrop.functional._dropout import mc_dropout as mc_dropout
from jaxdrop.functional._losses import multi_sample_loss as multi_sample_loss
from jaxdrop.functional._losses import r_drop_loss as r_drop_loss
from jaxdrop.functional._spatial_dropout import spatial_dropout as spatial_dropout
from jaxdrop.functional._token_dropout import token_dropout as token_dropout
from jaxdrop.functional._variational_dropout import variational_dropout as variational_dropout
from jaxdrop.functional._word_dropout import word_dropout as word_dropout
from jaxdrop.functional._zoneout import zoneout as zoneout

__all__ = [
    "drop_connect",
    "drop_key",
    "dropout",
    "mc_dropout",
    "multi_sample_loss",
    "r_drop_loss",
    "spatial_dropout",
    "token_dropout",
    "variational_dropout",
    "word_dropout",
    "zoneout",
]
