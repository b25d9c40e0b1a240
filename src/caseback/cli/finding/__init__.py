"""Where known mechanisms are in a model, and what led to a prediction."""
