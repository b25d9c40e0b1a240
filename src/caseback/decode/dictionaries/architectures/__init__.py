"""Architectures of dictionaries: one file each, registered by its name."""
