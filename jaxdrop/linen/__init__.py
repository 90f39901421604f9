"""Floor 3 for ``flax.linen``: each function as a module, with Flax's fields and call."""

from jaxdrop.linen._attention_dropout import AttentionDropout as AttentionDropout
from jaxdrop.linen._drop_block import DropBlock as DropBlock
from jaxdrop.linen._drop_head import DropHead as DropHead
from jaxdrop.linen._drop_path import DropPath as DropPath
from jaxdrop.linen._dropout import Dropout as Dropout
from jaxdrop.linen._dropout import MCDropout as MCDropout
from jaxdrop.linen._embedding_dropout import EmbeddingDropout as EmbeddingDropout
from jaxdrop.linen._replace import replace_dropout as replace_dropout
from jaxdrop.linen._spatial_dropout import SpatialDropout as SpatialDropout
from jaxdrop.linen._variational_dropout import VariationalDropout as VariationalDropout

__all__ = [
    "AttentionDropout",
    "DropBlock",
    "DropHead",
    "DropPath",
    "Dropout",
    "EmbeddingDropout",
    "MCDropout",
    "SpatialDropout",
    "VariationalDropout",
    "replace_dropout",
]
