"""Where known mechanisms are in a model."""
