"""Text that repeats itself, and the run of a small attention-only model that learns to look back in it (5.4.13)."""
