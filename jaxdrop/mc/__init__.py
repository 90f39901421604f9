"""Floor 4: Monte-Carlo dropout. A model becomes a stochastic function, its samples a summary."""

from jaxdrop.mc._audit import Audit as Audit
from jaxdrop.mc._audit import audit as audit
from jaxdrop.mc._from_linen import from_linen as from_linen
from jaxdrop.mc._from_nnx import from_nnx as from_nnx
from jaxdrop.mc._predict import predict as predict
from jaxdrop.mc._site import Site as Site
from jaxdrop.mc._summaries import Classification as Classification
from jaxdrop.mc._summaries import Moments as Moments
from jaxdrop.mc._summaries import Summary as Summary
from jaxdrop.mc._summaries import classification as classification
from jaxdrop.mc._summaries import moments as moments
from jaxdrop.mc._summaries import samples as samples

__all__ = [
    "Audit",
    "Classification",
    "Moments",
    "Site",
    "Summary",
    "audit",
    "classification",
    "from_linen",
    "from_nnx",
    "moments",
    "predict",
    "samples",
]
