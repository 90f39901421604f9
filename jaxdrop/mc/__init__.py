"""Floor 4: Monte-Carlo dropout. A model becomes a stochastic function, its samples a summary."""

from jaxdrop.mc._audit import Audit as Audit
from jaxdrop.mc._audit import audit as audit
from jaxdrop.mc._classification import Classification as Classification
from jaxdrop.mc._classification import classification as classification
from jaxdrop.mc._combine import combine as combine
from jaxdrop.mc._from_linen import from_linen as from_linen
from jaxdrop.mc._from_nnx import from_nnx as from_nnx
from jaxdrop.mc._moments import Moments as Moments
from jaxdrop.mc._moments import moments as moments
from jaxdrop.mc._predict import predict as predict
from jaxdrop.mc._predict_batches import predict_batches as predict_batches
from jaxdrop.mc._regression import Regression as Regression
from jaxdrop.mc._regression import regression as regression
from jaxdrop.mc._samples import Quantiles as Quantiles
from jaxdrop.mc._samples import quantiles as quantiles
from jaxdrop.mc._samples import samples as samples
from jaxdrop.mc._site import Site as Site
from jaxdrop.mc._summary import Summary as Summary

__all__ = [
    "Audit",
    "Classification",
    "Moments",
    "Quantiles",
    "Regression",
    "Site",
    "Summary",
    "audit",
    "classification",
    "combine",
    "from_linen",
    "from_nnx",
    "moments",
    "predict",
    "predict_batches",
    "quantiles",
    "regression",
    "samples",
]
