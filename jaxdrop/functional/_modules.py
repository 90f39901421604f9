"""What the modules of linen and nnx share."""

from typing import Literal

# What Monte Carlo adapters may do with a module: turn its dropout on, at another rate if one is
# asked for; or only that, since the rate fixes an output shape; or obey its own flag, since it is
# never switched off by the model's; or treat it as a recurrent cell, which draws for a sequence.
Role = Literal["drops", "drops shapes", "always on", "cell"]
