"""Lenses: what a state says in words, fitted or not (PRIMER 4.3.1 to 4.3.5)."""
