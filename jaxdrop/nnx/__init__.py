"""Floor 3 for ``flax.nnx``: each function as a module, with Flax's arguments and call."""

from jaxdrop.nnx._attention import AttentionDropout as AttentionDropout
from jaxdrop.nnx._attention import DropHead as DropHead
from jaxdrop.nnx._attention import DropKey as DropKey
from jaxdrop.nnx._attention import attention_fn as attention_fn
from jaxdrop.nnx._cells import VariationalCell as VariationalCell
from jaxdrop.nnx._cells import WeightDropCell as WeightDropCell
from jaxdrop.nnx._cells import ZoneoutCell as ZoneoutCell
from jaxdrop.nnx._cheaper import LayerDrop as LayerDrop
from jaxdrop.nnx._cheaper import SubsetResidual as SubsetResidual
from jaxdrop.nnx._cheaper import ThinnedMLP as ThinnedMLP
from jaxdrop.nnx._elements import AlphaDropout as AlphaDropout
from jaxdrop.nnx._elements import Dropout as Dropout
from jaxdrop.nnx._elements import MCDropout as MCDropout
from jaxdrop.nnx._learned import ConcreteDropout as ConcreteDropout
from jaxdrop.nnx._learned import VariationalGaussianDropout as VariationalGaussianDropout
from jaxdrop.nnx._noise import GaussianDropout as GaussianDropout
from jaxdrop.nnx._noise import GaussianNoise as GaussianNoise
from jaxdrop.nnx._replace import replace_dropout as replace_dropout
from jaxdrop.nnx._sequences import EmbeddingDropout as EmbeddingDropout
from jaxdrop.nnx._sequences import TokenDropout as TokenDropout
from jaxdrop.nnx._sequences import VariationalDropout as VariationalDropout
from jaxdrop.nnx._sequences import WordDropout as WordDropout
from jaxdrop.nnx._sequences import Zoneout as Zoneout
from jaxdrop.nnx._structured import DropBlock as DropBlock
from jaxdrop.nnx._structured import DropPath as DropPath
from jaxdrop.nnx._structured import FeatureAlphaDropout as FeatureAlphaDropout
from jaxdrop.nnx._structured import SpatialDropout as SpatialDropout
from jaxdrop.nnx._weights import DropConnect as DropConnect

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
