"""Floor 2: pure functions, ``fn(key, x, rate, *, deterministic=False, ...)``."""

from jaxdrop.functional._attention_dropout import attention_dropout as attention_dropout
from jaxdrop.functional._drop_block import drop_block as drop_block
from jaxdrop.functional._drop_head import drop_head as drop_head
from jaxdrop.functional._drop_path import drop_path as drop_path
from jaxdrop.functional._drop_path import drop_path_rates as drop_path_rates
from jaxdrop.functional._dropout import dropout as dropout
from jaxdrop.functional._dropout import mc_dropout as mc_dropout
from jaxdrop.functional._embedding_dropout import embedding_dropout as embedding_dropout
from jaxdrop.functional._spatial_dropout import spatial_dropout as spatial_dropout
from jaxdrop.functional._variational_dropout import variational_dropout as variational_dropout

__all__ = [
    "attention_dropout",
    "drop_block",
    "drop_head",
    "drop_path",
    "drop_path_rates",
    "dropout",
    "embedding_dropout",
    "mc_dropout",
    "spatial_dropout",
    "variational_dropout",
]
