"""Sparse dictionaries: states of a model as a few features each (entries 4.2.12 to 4.2.23).

``Dictionary`` is one of them, of whatever architecture; ``architectures()`` lists these.
"""

from caseback.decode.dictionaries.architectures.abs_topk import AbsTopK
from caseback.decode.dictionaries.architectures.batch_topk import BatchTopK
from caseback.decode.dictionaries.architectures.cross_layer import (
    CrossLayerBatchTopK,
    CrossLayerJumpReLU,
    CrossLayerStandard,
    CrossLayerTopK,
    CrossLayerTranscoder,
)
from caseback.decode.dictionaries.architectures.crosscoders import (
    BatchTopKCrosscoder,
    Crosscoder,
    JumpReLUCrosscoder,
    StandardCrosscoder,
    TopKCrosscoder,
)
from caseback.decode.dictionaries.architectures.folding import as_jump_relu, folded
from caseback.decode.dictionaries.architectures.gated import Gated
from caseback.decode.dictionaries.architectures.group_topk import GroupTopK
from caseback.decode.dictionaries.architectures.jump_relu import JumpReLU
from caseback.decode.dictionaries.architectures.latent_scaling import latent_scaling
from caseback.decode.dictionaries.architectures.matching_pursuit import MatchingPursuit
from caseback.decode.dictionaries.architectures.matryoshka import Matryoshka
from caseback.decode.dictionaries.architectures.p_annealing import PAnnealing
from caseback.decode.dictionaries.architectures.standard import Standard
from caseback.decode.dictionaries.architectures.switch import Switch
from caseback.decode.dictionaries.architectures.temporal import Temporal
from caseback.decode.dictionaries.architectures.topk import TopK
from caseback.decode.dictionaries.dictionary import Dictionary, Losses
from caseback.decode.dictionaries.explanations.explain import explain_features
from caseback.decode.dictionaries.explanations.judged import judge_explanations, local_judge
from caseback.decode.dictionaries.facts import Facts
from caseback.decode.dictionaries.features.attach import attach, attached, detach
from caseback.decode.dictionaries.features.digest import dictionary_digest
from caseback.decode.dictionaries.features.prompt_factors import neuron_factors
from caseback.decode.dictionaries.features.reading import feature_words, features_on, nearest_features
from caseback.decode.dictionaries.formats.loading import FORMATS, load, load_set, save
from caseback.decode.dictionaries.formats.neuronpedia import (
    FeatureExample,
    FeatureRecord,
    read_feature,
    write_dashboards,
    write_features,
)
from caseback.decode.dictionaries.formats.neuronpedia_explanations import (
    FeatureExplanation,
    explanations_of_notes,
    read_explanations,
    write_explanations,
)
from caseback.decode.dictionaries.formats.published import published
from caseback.decode.dictionaries.formats.saved_dictionaries import load_dictionary, save_dictionary
from caseback.decode.dictionaries.registry import architecture, architecture_of, architectures
from caseback.decode.dictionaries.toy_models import superposition_phases, toy_superposition
from caseback.decode.dictionaries.training.curves import Trained
from caseback.decode.dictionaries.training.end_to_end import train_end_to_end
from caseback.decode.dictionaries.training.recipe import Recipe
from caseback.decode.dictionaries.training.train import train_dictionaries

__all__ = [
    "FORMATS",
    "FeatureExample",
    "FeatureExplanation",
    "FeatureRecord",
    "AbsTopK",
    "CrossLayerBatchTopK",
    "CrossLayerJumpReLU",
    "CrossLayerStandard",
    "CrossLayerTopK",
    "CrossLayerTranscoder",
    "BatchTopKCrosscoder",
    "Crosscoder",
    "JumpReLUCrosscoder",
    "StandardCrosscoder",
    "TopKCrosscoder",
    "as_jump_relu",
    "folded",
    "Gated",
    "GroupTopK",
    "latent_scaling",
    "MatchingPursuit",
    "Matryoshka",
    "PAnnealing",
    "BatchTopK",
    "Dictionary",
    "Facts",
    "JumpReLU",
    "Losses",
    "Recipe",
    "Standard",
    "Switch",
    "Temporal",
    "TopK",
    "Trained",
    "architecture",
    "architecture_of",
    "architectures",
    "attach",
    "attached",
    "detach",
    "dictionary_digest",
    "explain_features",
    "explanations_of_notes",
    "judge_explanations",
    "local_judge",
    "feature_words",
    "features_on",
    "load_dictionary",
    "nearest_features",
    "neuron_factors",
    "load",
    "load_set",
    "published",
    "read_explanations",
    "read_feature",
    "save",
    "save_dictionary",
    "write_dashboards",
    "write_explanations",
    "write_features",
    "train_dictionaries",
    "train_end_to_end",
    "superposition_phases",
    "toy_superposition",
]
