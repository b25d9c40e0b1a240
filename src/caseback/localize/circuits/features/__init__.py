"""Sparse feature circuits: circuits whose nodes are features, errors, neurons, heads or MLPs (PRIMER 3.2.29)."""

from caseback.localize.circuits.features.circuit import feature_circuit as feature_circuit
from caseback.localize.circuits.features.effects import feature_effects as feature_effects
from caseback.localize.circuits.features.judging import feature_faithfulness as feature_faithfulness
from caseback.localize.circuits.features.judging import strongest_nodes as strongest_nodes
from caseback.localize.circuits.features.shift import shift as shift
