"""How a model grew: kinds of heads, losses and norms over the checkpoints of its training."""
