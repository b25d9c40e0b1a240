"""Facts of the residual stream (entries 5.3.1 to 5.3.6, 5.1.11, 5.1.12), from tables and weights alone."""
