"""Gradients, integrated gradients and relevance (PRIMER 3.1.1 to 3.1.6)."""
