"""Training of dictionaries: many on one stream of a model's states."""
