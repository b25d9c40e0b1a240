"""Detectors of known mechanisms: heads, neurons, stream and circuits (the Primer's section 5)."""
