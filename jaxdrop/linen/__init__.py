"""Floor 3 for ``flax.linen``: each function as a module, with Flax's fields and call."""

from jaxdrop.linen._alpha_dropout import AlphaDropout as AlphaDropout
from jaxdrop.linen._alpha_dropout import FeatureAlphaDropout as FeatureAlphaDropout
from jaxdrop.linen._attention_dropout import AttentionDropout as AttentionDropout
from jaxdrop.linen._attention_fn import attention_fn as attention_fn
from jaxdrop.linen._concrete_dropout import ConcreteDropout as ConcreteDropout
from jaxdrop.linen._drop_block import DropBlock as DropBlock
from jaxdrop.linen._drop_connect import DropConnect as DropConnect
from jaxdrop.linen._drop_head import DropHead as DropHead
from jaxdrop.linen._drop_key import DropKey as DropKey
from jaxdrop.linen._drop_path import DropPath as DropPath
from jaxdrop.linen._dropout import Dropout as Dropout
from jaxdrop.linen._dropout import MCDropout as MCDropout
from jaxdrop.linen._embedding_dropout import EmbeddingDropout as EmbeddingDropout
from jaxdrop.linen._gaussian_dropout import GaussianDropout as GaussianDropout
from jaxdrop.linen._gaussian_noise import GaussianNoise as GaussianNoise
from jaxdrop.linen._layer_drop import LayerDrop as LayerDrop
from jaxdrop.linen._replace import replace_dropout as replace_dropout
from jaxdrop.linen._spatial_dropout import SpatialDropout as SpatialDropout
from jaxdrop.linen._subset_residual import SubsetResidual as SubsetResidual
from jaxdrop.linen._thinned_mlp import ThinnedMLP as ThinnedMLP
from jaxdrop.linen._token_dropout import TokenDropout as TokenDropout
from jaxdrop.linen._variational_cell import VariationalCell as VariationalCell
from jaxdrop.linen._variational_dropout import VariationalDropout as VariationalDropout
from jaxdrop.linen._variational_gaussian_dropout import (
    VariationalGaussianDropout as VariationalGaussianDropout,
)
from jaxdrop.linen._weight_drop_cell import WeightDropCell as WeightDropCell
from jaxdrop.linen._word_dropout import WordDropout as WordDropout
from jaxdrop.linen._zoneout import Zoneout as Zoneout
from jaxdrop.linen._zoneout_cell import ZoneoutCell as ZoneoutCell

__all__ = [
    "AlphaDropout",
    "AttentionDropout",
    "ConcreteDropout",
    "DropBlock",
    "DropConnect",
    "DropHead",
    "DropKey",
    "DropPath",
    "Dropout",
    "EmbeddingDropout",
    "FeatureAlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
    "LayerDrop",
    "MCDropout",
    "SpatialDropout",
    "SubsetResidual",
    "ThinnedMLP",
    "TokenDropout",
    "VariationalCell",
    "VariationalDropout",
    "VariationalGaussianDropout",
    "WeightDropCell",
    "WordDropout",
    "Zoneout",
    "ZoneoutCell",
    "attention_fn",
    "replace_dropout",
]
