"""A model on another machine, asked with edits, sites and metrics as data, answered with labeled results."""
