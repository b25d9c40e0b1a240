"""Sparse feature circuits: circuits whose nodes are features, errors, neurons, heads or MLPs (PRIMER 3.2.29)."""
