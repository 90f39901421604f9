"""What mc and plots use of this package, beside the functions that are public."""

from jaxdrop.uncertainty._checks import as_array as as_array
from jaxdrop.uncertainty._checks import check_count as check_count
from jaxdrop.uncertainty._entropy import entropy_of as entropy_of
from jaxdrop.uncertainty._likelihood import log_density as log_density
from jaxdrop.uncertainty._report import Classes as Classes
from jaxdrop.uncertainty._report import named_predictions as named_predictions
from jaxdrop.uncertainty._repr import readable as readable
from jaxdrop.uncertainty._repr import short as short
from jaxdrop.uncertainty._temperature_scaling import finite_logits as finite_logits
