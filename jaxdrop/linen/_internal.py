"""What mc uses of this package, beside the classes that are public."""

from jaxdrop.linen._base import adapted as adapted
from jaxdrop.linen._elements import drop_entries as drop_entries
from jaxdrop.linen._replace import replaced_attention as replaced_attention
