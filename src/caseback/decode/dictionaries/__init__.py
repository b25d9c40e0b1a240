"""Sparse dictionaries: states of a model as a few features each (entries 4.2.12 to 4.2.23).

``Dictionary`` is one of them, of whatever architecture; ``architectures()`` lists these.
"""

from caseback.decode.dictionaries.architectures.batch_topk import BatchTopK
from caseback.decode.dictionaries.architectures.jump_relu import JumpReLU
from caseback.decode.dictionaries.architectures.standard import Standard
from caseback.decode.dictionaries.architectures.topk import TopK
from caseback.decode.dictionaries.dictionary import Dictionary, Facts, Losses
from caseback.decode.dictionaries.formats.loading import FORMATS, load, load_set, save
from caseback.decode.dictionaries.formats.saved_dictionaries import load_dictionary, save_dictionary
from caseback.decode.dictionaries.registry import architecture, architecture_of, architectures

__all__ = [
    "FORMATS",
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
    "load",
    "load_dictionary",
    "load_set",
    "save",
    "save_dictionary",
]
