"""Results as figures: one drawing for a notebook, a page and a file."""
