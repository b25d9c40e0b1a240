"""Sparse dictionaries: states of a model as a few features each (entries 4.2.12 to 4.2.23).

``Dictionary`` is one of them, of whatever architecture; ``architectures()`` lists these.
"""

from caseback.decode.dictionaries.architectures.batch_topk import BatchTopK
from caseback.decode.dictionaries.architectures.jump_relu import JumpReLU
from caseback.decode.dictionaries.architectures.standard import Standard
from caseback.decode.dictionaries.architectures.topk import TopK
from caseback.decode.dictionaries.dictionary import Dictionary, Facts, Losses
from caseback.decode.dictionaries.formats.saved_dictionaries import load_dictionary, save_dictionary
from caseback.decode.dictionaries.registry import architecture, architecture_of, architectures
from caseback.decode.dictionaries.toy_models import superposition_phases, toy_superposition

__all__ = [
    "BatchTopK",
    "Dictionary",
    "Facts",
    "JumpReLU",
    "Losses",
    "Standard",
    "TopK",
    "architecture",
    "architecture_of",
    "architectures",
    "load_dictionary",
    "save_dictionary",
    "superposition_phases",
    "toy_superposition",
]
