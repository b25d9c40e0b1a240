"""Arithmetic: which simple rules about operands and results a model's neurons follow (PRIMER 5.4.10)."""

from caseback.behaviors.arithmetic.heuristics import arithmetic_heuristics as arithmetic_heuristics
