"""Patchscopes: a state put into words by another run (PRIMER 4.3.8)."""
