"""Monte-Carlo dropout. A model becomes a stochastic function, its samples a summary."""

from jaxdrop.mc._adaptive import Adaptive
from jaxdrop.mc._audit import Audit, audit
from jaxdrop.mc._classification import Classification, classification
from jaxdrop.mc._delta import Delta, delta
from jaxdrop.mc._export import export
from jaxdrop.mc._insert import Insert
from jaxdrop.mc._marks import Site
from jaxdrop.mc._model_fn import from_linen, from_nnx
from jaxdrop.mc._predict import predict
from jaxdrop.mc._predict_batches import predict_batches
from jaxdrop.mc._regression import Regression, regression
from jaxdrop.mc._samples import Quantiles, quantiles, samples
from jaxdrop.mc._summary import Moments, Summary, combine, moments
from jaxdrop.mc._tune import Tuned, tune

__all__ = [
    "Adaptive",
    "Audit",
    "Classification",
    "Delta",
    "Insert",
    "Moments",
    "Quantiles",
    "Regression",
    "Site",
    "Summary",
    "Tuned",
    "audit",
    "classification",
    "combine",
    "delta",
    "export",
    "from_linen",
    "from_nnx",
    "moments",
    "predict",
    "predict_batches",
    "quantiles",
    "regression",
    "samples",
    "tune",
]
