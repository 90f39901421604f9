"""Dropout for JAX and Flax.

::

    key ──┐
    rate ─┼─► masks ─► words ─► functional ─► array ─► linen · nnx ─► mc ─► samples ─► uncertainty
    shape ┘   floor 1           floor 2                floor 3        floor 4          pure numbers

A floor imports only from the floors below it. The functions of floor 2 stand here as well.
"""

__version__ = "0.1.0"

from jaxdrop import functional as functional
from jaxdrop import linen as linen
from jaxdrop import masks as masks
from jaxdrop import mc as mc
from jaxdrop import nnx as nnx
from jaxdrop import plots as plots
from jaxdrop import uncertainty as uncertainty
from jaxdrop.functional import alpha_dropout as alpha_dropout
from jaxdrop.functional import attention_dropout as attention_dropout
from jaxdrop.functional import concrete_dropout as concrete_dropout
from jaxdrop.functional import concrete_regularizer as concrete_regularizer
from jaxdrop.functional import dot_product_attention as dot_product_attention
from jaxdrop.functional import drop_block as drop_block
from jaxdrop.functional import drop_connect as drop_connect
from jaxdrop.functional import drop_head as drop_head
from jaxdrop.functional import drop_key as drop_key
from jaxdrop.functional import drop_path as drop_path
from jaxdrop.functional import drop_path_rates as drop_path_rates
from jaxdrop.functional import dropout as dropout
from jaxdrop.functional import embedding_dropout as embedding_dropout
from jaxdrop.functional import feature_alpha_dropout as feature_alpha_dropout
from jaxdrop.functional import fold_in_axes as fold_in_axes
from jaxdrop.functional import gaussian_dropout as gaussian_dropout
from jaxdrop.functional import gaussian_noise as gaussian_noise
from jaxdrop.functional import layer_drop as layer_drop
from jaxdrop.functional import mc_dropout as mc_dropout
from jaxdrop.functional import multi_sample_loss as multi_sample_loss
from jaxdrop.functional import r_drop_loss as r_drop_loss
from jaxdrop.functional import spatial_dropout as spatial_dropout
from jaxdrop.functional import subset_residual as subset_residual
from jaxdrop.functional import thinned_mlp as thinned_mlp
from jaxdrop.functional import token_dropout as token_dropout
from jaxdrop.functional import variational_dropout as variational_dropout
from jaxdrop.functional import variational_gaussian_dropout as variational_gaussian_dropout
from jaxdrop.functional import variational_gaussian_kl as variational_gaussian_kl
from jaxdrop.functional import variational_gaussian_pruned as variational_gaussian_pruned
from jaxdrop.functional import word_dropout as word_dropout
from jaxdrop.functional import zoneout as zoneout

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
    "embedding_dropout",
    "feature_alpha_dropout",
    "fold_in_axes",
    "functional",
    "gaussian_dropout",
    "gaussian_noise",
    "layer_drop",
    "linen",
    "masks",
    "mc",
    "mc_dropout",
    "multi_sample_loss",
    "nnx",
    "plots",
    "r_drop_loss",
    "spatial_dropout",
    "subset_residual",
    "thinned_mlp",
    "token_dropout",
    "uncertainty",
    "variational_dropout",
    "variational_gaussian_dropout",
    "variational_gaussian_kl",
    "variational_gaussian_pruned",
    "word_dropout",
    "zoneout",
]
