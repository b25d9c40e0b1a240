"""Detectors of what is true: from states, attention, confidence and samples, and one evaluation for all of them."""
