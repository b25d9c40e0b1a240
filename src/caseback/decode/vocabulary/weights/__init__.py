"""Weights as words (PRIMER 4.3.9 to 4.3.13)."""
