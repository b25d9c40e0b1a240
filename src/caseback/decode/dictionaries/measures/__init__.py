"""How good a dictionary is: of its states, of the model with it, beside a truth, and in use (entries 4.2.15 to 4.2.23).

No number says it alone. Explained variance and loss recovered are fidelity; whether features are those that the model
has is known only where a truth was planted; use is measured beside neurons and random dictionaries.
"""

from caseback.decode.dictionaries.measures.absorption import absorption, first_letter_absorption
from caseback.decode.dictionaries.measures.board import board_measures, supervised_dictionary
from caseback.decode.dictionaries.measures.controls import frozen_decoder, neuron_dictionary, random_dictionary
from caseback.decode.dictionaries.measures.failures import hedging, planted_absorption
from caseback.decode.dictionaries.measures.feature_classes import feature_classes
from caseback.decode.dictionaries.measures.pareto import compare_dictionaries
from caseback.decode.dictionaries.measures.perturbation import (
    spurious_correlation_removal,
    targeted_probe_perturbation,
)
from caseback.decode.dictionaries.measures.planted import Planted, planted_features
from caseback.decode.dictionaries.measures.probing import probe_features
from caseback.decode.dictionaries.measures.reconstruction import reconstruction_measures
from caseback.decode.dictionaries.measures.recovery import recovery_measures
from caseback.decode.dictionaries.measures.replacement import replacement_measures
from caseback.decode.dictionaries.measures.source_measures import source_measures
from caseback.decode.dictionaries.measures.unlearning import unlearning

__all__ = [
    "Planted",
    "absorption",
    "board_measures",
    "compare_dictionaries",
    "feature_classes",
    "first_letter_absorption",
    "frozen_decoder",
    "hedging",
    "neuron_dictionary",
    "planted_absorption",
    "planted_features",
    "probe_features",
    "random_dictionary",
    "reconstruction_measures",
    "recovery_measures",
    "replacement_measures",
    "source_measures",
    "spurious_correlation_removal",
    "supervised_dictionary",
    "targeted_probe_perturbation",
    "unlearning",
]
