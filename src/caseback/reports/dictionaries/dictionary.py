"""What dictionaries in a file or folder are, as plain data, and cards of some features.

Everything is read from the weights and from what the files say. With the model, cards have the words that a feature
writes; with a corpus too, the texts where it is active (see ``features_document``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from caseback.decode.dictionaries import Dictionary, dictionary_digest
from caseback.decode.dictionaries.architectures.crosscoders import Crosscoder
from caseback.decode.dictionaries.architectures.latent_scaling import kinds_by_norm
from caseback.decode.dictionaries.features.places import source_names, target_names, written_norms
from caseback.errors import CasebackError, OutOfRange
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.reports.dictionaries.feature_cards import cards_of, words_written
from caseback.reports.dictionaries.features import features_document
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts

__all__ = ["DICTIONARY", "dictionary_document"]

TRAININGS = ("trained", "trained end to end")
"""Under these names ``Facts.provenance`` has how a dictionary of ours was trained."""


def _lengths(document: Any) -> None:
    for one in document["dictionaries"]:
        if len(one["sources"]) != len(one["scales"]):
            raise CasebackError(f"{one['name']!r} has {len(one['sources'])} sources and {len(one['scales'])} scales")


DICTIONARY = DocumentKind(
    "caseback.dictionary",
    1,
    "a document of dictionaries' facts",
    "dictionary_document",
    sections=("dictionaries", "cards", "tokens", "provenance"),
    lengths=_lengths,
)


@checked
def dictionary_document(
    dictionaries: Mapping[str, Dictionary],
    features: Sequence[int] = (),
    *,
    model: Model | None = None,
    corpus: Iterable[Any] | Path | None = None,
    top: int = 10,
    words: int = 8,
    length: int | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Say what dictionaries are, and make cards of some features of one.

    Parameters
    ----------
    dictionaries
        By name.
    features
        Which get a card; none by default. They are of the one dictionary that is given.
    model
        The model whose states it reads: cards then say which tokens a feature raises and lowers. Of a crosscoder of two
        models, the one of its sources that is called so, or else its last.
    corpus
        Texts, or the path of a file of them, in which the features are looked for; needs the model.
    top
        Examples of a card.
    words
        Tokens that a feature raises, and as many that it lowers.
    length
        Tokens of a row at most.
    progress
        Show a progress bar.

    Returns
    -------
    dict
        The document, plain JSON data: ``model``, its name and what is known of it; ``dictionaries``, each with its
        ``layout``, ``architecture``, sizes, ``sources`` and ``targets``, ``normalization`` and ``scales``, ``options``,
        how it was ``trained`` with what its last step measured, what else its files ``say``, and, with several targets,
        how many features are of which ``classes``; ``cards``; ``tokens`` of the corpus; ``provenance``.

    Raises
    ------
    CasebackError
        For no dictionary, features of several, or a corpus without the model.
    OutOfRange
        For a feature that there is not.

    Examples
    --------
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> one = TopK(160, 320, k=4, facts=Facts(site="resid_post.1", model="meadow"))
    >>> document = dictionary_document({"mine": one}, [3])
    >>> document["dictionaries"][0]["architecture"], document["cards"][0]["feature"]
    ('topk', 3)
    """
    if not dictionaries:
        raise CasebackError("there is nothing to show: give a dictionary")
    if features and len(dictionaries) > 1:
        raise CasebackError(f"features of which of {', '.join(dictionaries)}? Name one of them")
    if corpus is not None and model is None:
        raise CasebackError("a corpus is read by a model: name it")
    if corpus is not None and not features:
        raise CasebackError("which features are to be looked for in the corpus? Name some")
    first = next(iter(dictionaries.values()))
    if beyond := [i for i in features if not 0 <= i < first.n_features]:
        raise OutOfRange(f"feature {beyond[0]}: there are {first.n_features}, 0 to {first.n_features - 1}")
    cards, tokens = [], None
    if corpus is not None and model is not None:
        how: dict[str, Any] = {"top": top, "words": words, "length": length, "progress": progress}
        page = features_document(model, first, corpus, cards=features, **how)
        cards, tokens = page["cards"], page["tokens"]
    elif features:
        if model is not None:
            first = first.to(model.device)
        written = words_written(model, first, words, features, _source(first, model))
        cards = cards_of(first, features, written)
    facts = {"name": first.facts.model} if model is None else model_facts(model, "name", "n_layers", "d_model", "dtype")
    return DICTIONARY.document(
        facts,
        dictionaries=[_about(name, one) for name, one in dictionaries.items()],
        cards=[{"notes": [], "explanation": None, **card} for card in cards],
        tokens=tokens,
        provenance={} if model is None else model.provenance(),
    )


def _source(dictionary: Dictionary, model: Model | None) -> int | None:
    """Of a crosscoder of two models, whose source the model is."""
    names = source_names(dictionary)
    layered = all(name.rpartition(".")[2].isdecimal() and ":" not in name for name in names)
    if model is None or not isinstance(dictionary, Crosscoder) or layered:
        return None
    own = [i for i, name in enumerate(names) if name.partition(":")[0] == model.name]
    return own[0] if own else len(names) - 1


def _about(name: str, dictionary: Dictionary) -> dict[str, Any]:
    facts = dictionary.facts
    provenance = {key: value for key, value in facts.provenance.items() if key not in ("sites", "targets", "format")}
    trained = {what: provenance.pop(what) for what in TRAININGS if what in provenance}
    sources = source_names(dictionary)
    with torch.no_grad():
        norms = dictionary.norms().double()
        scales = dictionary.scale.double().flatten().expand(max(1, len(sources))).tolist()
    return {
        "name": name,
        "layout": facts.provenance.get("format", "caseback"),
        "digest": dictionary_digest(dictionary),
        "architecture": dictionary.architecture,
        "model": facts.model,
        "sources": sources or ["not said"],
        "targets": target_names(dictionary) if sources else ["not said"],
        "n_features": dictionary.n_features,
        "d_in": dictionary.d_in,
        "d_out": dictionary.d_out,
        "dtype": str(dictionary.W_dec.dtype).removeprefix("torch."),
        "parameters": sum(p.numel() for p in dictionary.parameters()),
        "options": dictionary.own_options(),
        "skip": dictionary.W_skip is not None,
        "signed": dictionary.signed,
        "normalization": facts.normalization,
        "scales": scales,
        "centered": facts.centered,
        "by_norm": facts.by_norm,
        "unit_rows": facts.unit_rows,
        "norms": [float(norms.min()), float(norms.median()), float(norms.max())],
        "tokens": facts.tokens,
        "trained": trained,
        "says": provenance,
        "classes": _classes(dictionary),
    }


def _classes(dictionary: Dictionary) -> dict[str, int] | None:
    """How many features write to all sources alike, and how many to one alone, by their rows; None of one source."""
    if not isinstance(dictionary, Crosscoder) or dictionary.n_sources < 2:
        return None
    return dict(Counter(kinds_by_norm(written_norms(dictionary).T, source_names(dictionary)).tolist()).most_common())
