"""Pages of input attributions: of many prompts, and of a context that a generation relies on."""
