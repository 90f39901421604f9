"""What linen, nnx and mc use of this package, beside the functions that are public."""

from jaxdrop.functional._attention.flax_call import attention as attention
from jaxdrop.functional._cells import Behaviour as Behaviour
from jaxdrop.functional._cells import CellCarry as CellCarry
from jaxdrop.functional._cells import Effects as Effects
from jaxdrop.functional._cells import Operands as Operands
from jaxdrop.functional._cells import changed_kernels as changed_kernels
from jaxdrop.functional._cells import finish as finish
from jaxdrop.functional._cells import hidden as hidden
from jaxdrop.functional._cells import innermost as innermost
from jaxdrop.functional._cells import refuse_untied as refuse_untied
from jaxdrop.functional._cells import with_hidden as with_hidden
from jaxdrop.functional._concrete_dropout import logit_of as logit_of
from jaxdrop.functional._gaussian_noise import equal_rate as equal_rate
from jaxdrop.functional._layer_drop import run_or_skip as run_or_skip
from jaxdrop.functional._low_rank import check_dropped as check_dropped
from jaxdrop.functional._low_rank import low_rank as low_rank
from jaxdrop.functional._modules import Role as Role
from jaxdrop.functional._modules import forward as forward
from jaxdrop.functional._recurrent import Variational as Variational
from jaxdrop.functional._recurrent import WeightDrop as WeightDrop
from jaxdrop.functional._recurrent import Zoneout as Zoneout
from jaxdrop.functional._subset_residual import add_branch as add_branch
from jaxdrop.functional._subset_residual import plan_subset as plan_subset
from jaxdrop.functional._thinned_mlp import cast_input as cast_input
