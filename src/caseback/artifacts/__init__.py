"""Fitted things on disk in one form: lenses, mappings, subspaces, circuits."""
