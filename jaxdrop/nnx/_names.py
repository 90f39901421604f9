"""The public names of the floor; whoever imports this file loads ``flax.nnx``."""

from jaxdrop.nnx._alpha_dropout import AlphaDropout as AlphaDropout
from jaxdrop.nnx._alpha_dropout import FeatureAlphaDropout as FeatureAlphaDropout
from jaxdrop.nnx._attention_dropout import AttentionDropout as AttentionDropout
from jaxdrop.nnx._attention_fn import attention_fn as attention_fn
from jaxdrop.nnx._concrete_dropout import ConcreteDropout as ConcreteDropout
from jaxdrop.nnx._drop_block import DropBlock as DropBlock
from jaxdrop.nnx._drop_connect import DropConnect as DropConnect
from jaxdrop.nnx._drop_head import DropHead as DropHead
from jaxdrop.nnx._drop_key import DropKey as DropKey
from jaxdrop.nnx._drop_path import DropPath as DropPath
from jaxdrop.nnx._dropout import Dropout as Dropout
from jaxdrop.nnx._dropout import MCDropout as MCDropout
from jaxdrop.nnx._embedding_dropout import EmbeddingDropout as EmbeddingDropout
from jaxdrop.nnx._gaussian_dropout import GaussianDropout as GaussianDropout
from jaxdrop.nnx._gaussian_noise import GaussianNoise as GaussianNoise
from jaxdrop.nnx._layer_drop import LayerDrop as LayerDrop
from jaxdrop.nnx._replace import replace_dropout as replace_dropout
from jaxdrop.nnx._spatial_dropout import SpatialDropout as SpatialDropout
from jaxdrop.nnx._subset_residual import SubsetResidual as SubsetResidual
from jaxdrop.nnx._thinned_mlp import ThinnedMLP as ThinnedMLP
from jaxdrop.nnx._token_dropout import TokenDropout as TokenDropout
from jaxdrop.nnx._variational_cell import VariationalCell as VariationalCell
from jaxdrop.nnx._variational_dropout import VariationalDropout as VariationalDropout
from jaxdrop.nnx._variational_gaussian_dropout import (
    VariationalGaussianDropout as VariationalGaussianDropout,
)
from jaxdrop.nnx._weight_drop_cell import WeightDropCell as WeightDropCell
from jaxdrop.nnx._word_dropout import WordDropout as WordDropout
from jaxdrop.nnx._zoneout import Zoneout as Zoneout
from jaxdrop.nnx._zoneout_cell import ZoneoutCell as ZoneoutCell

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
