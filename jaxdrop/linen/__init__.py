"""Floor 3 for ``flax.linen``: each function as a module, with Flax's fields and call."""

from jaxdrop.linen._attention import AttentionDropout as AttentionDropout
from jaxdrop.linen._attention import DropHead as DropHead
from jaxdrop.linen._attention import DropKey as DropKey
from jaxdrop.linen._attention import attention_fn as attention_fn
from jaxdrop.linen._cells import VariationalCell as VariationalCell
from jaxdrop.linen._cells import WeightDropCell as WeightDropCell
from jaxdrop.linen._cells import ZoneoutCell as ZoneoutCell
from jaxdrop.linen._cheaper import LayerDrop as LayerDrop
from jaxdrop.linen._cheaper import SubsetResidual as SubsetResidual
from jaxdrop.linen._cheaper import ThinnedMLP as ThinnedMLP
from jaxdrop.linen._elements import AlphaDropout as AlphaDropout
from jaxdrop.linen._elements import Dropout as Dropout
from jaxdrop.linen._elements import MCDropout as MCDropout
from jaxdrop.linen._learned import ConcreteDropout as ConcreteDropout
from jaxdrop.linen._learned import VariationalGaussianDropout as VariationalGaussianDropout
from jaxdrop.linen._noise import GaussianDropout as GaussianDropout
from jaxdrop.linen._noise import GaussianNoise as GaussianNoise
from jaxdrop.linen._replace import replace_dropout as replace_dropout
from jaxdrop.linen._sequences import EmbeddingDropout as EmbeddingDropout
from jaxdrop.linen._sequences import TokenDropout as TokenDropout
from jaxdrop.linen._sequences import VariationalDropout as VariationalDropout
from jaxdrop.linen._sequences import WordDropout as WordDropout
from jaxdrop.linen._sequences import Zoneout as Zoneout
from jaxdrop.linen._structured import DropBlock as DropBlock
from jaxdrop.linen._structured import DropPath as DropPath
from jaxdrop.linen._structured import FeatureAlphaDropout as FeatureAlphaDropout
from jaxdrop.linen._structured import SpatialDropout as SpatialDropout
from jaxdrop.linen._weights import DropConnect as DropConnect

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
