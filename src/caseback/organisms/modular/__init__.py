"""Modular addition: the grokking run of PRIMER 5.4.17, its training and its progress measures."""
