"""A board game of five by five squares, and the run of a model that sees nothing of it but the moves (5.4.15)."""
