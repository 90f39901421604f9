"""Pure functions, ``fn(key, x, rate, *, deterministic=False, ...)``."""

from jaxdrop.functional._alpha_dropout import alpha_dropout as alpha_dropout
from jaxdrop.functional._alpha_dropout import feature_alpha_dropout as feature_alpha_dropout
from jaxdrop.functional._attention import dot_product_attention as dot_product_attention
from jaxdrop.functional._attention_dropout import attention_dropout as attention_dropout
from jaxdrop.functional._concrete_dropout import concrete_dropout as concrete_dropout
from jaxdrop.functional._concrete_dropout import concrete_regularizer as concrete_regularizer
from jaxdrop.functional._drop_block import drop_block as drop_block
from jaxdrop.functional._drop_connect import drop_connect as drop_connect
from jaxdrop.functional._drop_head import drop_head as drop_head
from jaxdrop.functional._drop_key import drop_key as drop_key
from jaxdrop.functional._drop_path import drop_path as drop_path
from jaxdrop.functional._drop_path import drop_path_rates as drop_path_rates
from jaxdrop.functional._dropout import dropout as dropout
from jaxdrop.functional._dropout import mc_dropout as mc_dropout
from jaxdrop.functional._edge_dropout import edge_dropout as edge_dropout
from jaxdrop.functional._embedding_dropout import embedding_dropout as embedding_dropout
from jaxdrop.functional._fold_in_axes import fold_in_axes as fold_in_axes
from jaxdrop.functional._gaussian_dropout import gaussian_dropout as gaussian_dropout
from jaxdrop.functional._gaussian_noise import gaussian_noise as gaussian_noise
from jaxdrop.functional._layer_drop import layer_drop as layer_drop
from jaxdrop.functional._losses import multi_sample_loss as multi_sample_loss
from jaxdrop.functional._losses import r_drop_loss as r_drop_loss
from jaxdrop.functional._neftune_noise import neftune_noise as neftune_noise
from jaxdrop.functional._spatial_dropout import spatial_dropout as spatial_dropout
from jaxdrop.functional._subset_residual import subset_residual as subset_residual
from jaxdrop.functional._thinned_mlp import thinned_mlp as thinned_mlp
from jaxdrop.functional._token_dropout import token_dropout as token_dropout
from jaxdrop.functional._variational_dropout import variational_dropout as variational_dropout
from jaxdrop.functional._variational_gaussian_dropout import (
    variational_gaussian_dropout as variational_gaussian_dropout,
)
from jaxdrop.functional._variational_gaussian_dropout import (
    variational_gaussian_kl as variational_gaussian_kl,
)
from jaxdrop.functional._variational_gaussian_dropout import (
    variational_gaussian_pruned as variational_gaussian_pruned,
)
from jaxdrop.functional._word_dropout import word_dropout as word_dropout
from jaxdrop.functional._zoneout import zoneout as zoneout

__all__ = [
    "alpha_dropout",
    "attention_dropout",
    "concrete_dropout",
    "concrete_regularizer",
    "dot_product_attention",
    "drop_block",
    "drop_connect",
    "drop_head",
    "drop_key",
    "drop_path",
    "drop_path_rates",
    "dropout",
    "edge_dropout",
    "embedding_dropout",
    "feature_alpha_dropout",
    "fold_in_axes",
    "gaussian_dropout",
    "gaussian_noise",
    "layer_drop",
    "mc_dropout",
    "multi_sample_loss",
    "neftune_noise",
    "r_drop_loss",
    "spatial_dropout",
    "subset_residual",
    "thinned_mlp",
    "token_dropout",
    "variational_dropout",
    "variational_gaussian_dropout",
    "variational_gaussian_kl",
    "variational_gaussian_pruned",
    "word_dropout",
    "zoneout",
]
