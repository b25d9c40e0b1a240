"""Whether a dictionary is of a model, and what is folded once both are there.

A dictionary that reads the normalized stream without the norm's gain g reads it with the gain by W_enc / g.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.formats.hook_names import WITHOUT_GAIN, place_of
from caseback.decode.dictionaries.formats.saved_dictionaries import expect_model
from caseback.errors import CasebackError, LoadError
from caseback.model.running.model import Model

_SAME = {"gpt2-small": "gpt2"}


def expect_fit(dictionary: Dictionary, model: Model, where: str) -> None:
    """Refuse a model that lacks a dictionary's places, has other widths there, or has another name.

    Raises
    ------
    LoadError
    """
    try:
        expect_model(dictionary, model, where)
    except LoadError as error:
        raise LoadError(f"{error}; force=True reads it all the same") from None
    of, own = (_bare(name) for name in (dictionary.facts.model, model.name))
    if of and not (
        of == own or own.startswith(f"{of}-") and own.removeprefix(f"{of}-")[:2] not in ("it", "in", "ch", "ba")
    ):
        raise LoadError(
            f"{where} is of the model {dictionary.facts.model!r}, and this one is {model.name!r}: force=True reads it "
            "all the same"
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
    try:
        norm = getattr(model.weights, place.name)[place.layer]
    except (CasebackError, IndexError, AttributeError) as error:
        raise LoadError(f"{where} reads a norm that {model.name!r} has not: {error}") from None
    if norm is None or norm.beta is not None or not bool((norm.gamma != 0).all()):
        raise LoadError(f"{where} reads {facts.site} without its gain, which cannot be divided out in {model.name!r}")
    with torch.no_grad():
        gain = norm.gamma.detach().cpu().double()
        if len(gain) != dictionary.d_in:
            raise LoadError(f"{where} reads {dictionary.d_in} numbers, and the norm of {model.name!r} has {len(gain)}")
        dictionary.W_enc.copy_(dictionary.W_enc.double() / gain)
        if dictionary.W_skip is not None:
            dictionary.W_skip.copy_(dictionary.W_skip.double() / gain[:, None])
    provenance = {key: value for key, value in facts.provenance.items() if key != WITHOUT_GAIN}
    dictionary.facts = replace(facts, provenance={**provenance, "folded": "the norm's gain, divided out of W_enc"})
    return dictionary


def _bare(name: str) -> str:
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    return _SAME.get(last, last)
