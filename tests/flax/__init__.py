"""Classes of linen and nnx: dropout, cells, and attention in Flax's own modules."""
