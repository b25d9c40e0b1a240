"""Text about a small closed world, generated from seeds: what the bundled models are trained on and asked about."""
