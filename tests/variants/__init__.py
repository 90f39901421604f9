"""Each variant against the equations of its paper."""
