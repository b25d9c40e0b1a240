"""Whether a dictionary is of a model, and what is folded once both are there.

A dictionary that reads the normalized stream without the norm's gain g reads it with the gain by W_enc / g.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from caseback.decode.dictionaries.architectures.cross_layer import CrossLayerTranscoder
from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.formats.hook_names import WITHOUT_GAIN, place_of
from caseback.decode.dictionaries.formats.saved_dictionaries import expect_model
from caseback.errors import CasebackError, LoadError
from caseback.model.running.model import Model

_SAME = {"gpt2-small": "gpt2"}


def expect_fit(dictionary: Dictionary, model: Model, where: str, *, force: bool) -> None:
    """Refuse a model that lacks a dictionary's places, has other widths there or, without ``force``, another name.

    Raises
    ------
    LoadError
    """
    if isinstance(dictionary, CrossLayerTranscoder):
        _expect_layers(dictionary, model, where)
    else:
        expect_model(dictionary, model, where)
    of, own = (_bare(name) for name in (dictionary.facts.model, model.name))
    if of and of != own and not force:
        raise LoadError(
            f"{where} is of the model {dictionary.facts.model!r}, and this one is {model.name!r}: force=True (in "
            "commands --force) reads it all the same"
        )


def with_gain(dictionary: Dictionary, model: Model, where: str) -> Dictionary:
    """A dictionary that reads what the norm gives, from one that reads it without the gain.

    Raises
    ------
    LoadError
        Where that cannot be: a gain of 0, or a norm with a bias.
    """
    facts = dictionary.facts
    if not facts.provenance.get(WITHOUT_GAIN) or not facts.site:
        return dictionary
    place = place_of(facts.site)
    layers = range(dictionary.n_layers) if isinstance(dictionary, CrossLayerTranscoder) else [place.layer]
    try:
        norms = [getattr(model.weights, place.name)[layer] for layer in layers]
    except (CasebackError, IndexError, AttributeError) as error:
        raise LoadError(f"{where} reads a norm that {model.name!r} has not: {error}") from None
    if any(norm is None or norm.beta is not None or not bool((norm.gamma != 0).all()) for norm in norms):
        raise LoadError(f"{where} reads {facts.site} without its gain, which cannot be divided out in {model.name!r}")
    gains = torch.stack([norm.gamma.detach().cpu().double() for norm in norms])
    if gains.shape[1] != dictionary.d_in:
        raise LoadError(f"{where} reads {dictionary.d_in} numbers, the norm of {model.name!r} gives {gains.shape[1]}")
    with torch.no_grad():
        rows = gains.repeat_interleave(dictionary.n_features // len(gains), 0)
        dictionary.W_enc.copy_(dictionary.W_enc.double() / rows)
        if dictionary.W_skip is not None:
            dictionary.W_skip.copy_(dictionary.W_skip.double() / gains[0][:, None])
    provenance = {key: value for key, value in facts.provenance.items() if key != WITHOUT_GAIN}
    dictionary.facts = replace(facts, provenance={**provenance, "folded": "the norm's gain, divided out of W_enc"})
    return dictionary


def _expect_layers(dictionary: CrossLayerTranscoder, model: Model, where: str) -> None:
    sizes = (dictionary.n_layers, dictionary.d_in, dictionary.d_out)
    own = (model.n_layers, model.d_model, model.d_model)
    if sizes != own:
        raise LoadError(
            f"{where} is of {sizes[0]} layers that read {sizes[1]} numbers and write {sizes[2]}: {model.name!r} has "
            f"{own[0]} of width {own[1]}"
        )


def _bare(name: str) -> str:
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    return _SAME.get(last, last)
