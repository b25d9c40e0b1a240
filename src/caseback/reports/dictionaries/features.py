"""What a page of a dictionary's features shows, as plain data: all of them in a table, some as cards, and a prompt.

States many times longer than the median are left out, as they are in training: a few sinks would have the largest
activations of many features, and every card would show them.

A row of the table has a feature's density, its largest activation, the words that it writes and its strongest token in
a corpus. A card adds the distribution of its activations, its strongest examples, its neighbors, and how much what it
reads is what it writes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from caseback.decode.dictionaries import (
    Dictionary,
    dictionary_digest,
    explain_features,
    features_on,
    neuron_factors,
)
from caseback.decode.dictionaries.architectures.several_sources import SeveralSources, expect_one_source
from caseback.decode.dictionaries.features.places import (
    in_words,
    place_of_codes,
    source_names,
    sources_of,
    target_names,
)
from caseback.decode.dictionaries.training.pools import SINK
from caseback.decode.vocabulary.activating import Activating, activating_inputs
from caseback.errors import CasebackError, OutOfRange
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.registered_sites import registered_site
from caseback.model.arguments import checked
from caseback.model.notes import Notes
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike
from caseback.reports.dictionaries.feature_cards import cards_of, notes_on, words_written
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tokens_text import visible
from caseback.stream.packing import front_of
from caseback.stream.tables.ordered_keys import index_of, values_of

__all__ = ["FEATURES", "features_document"]

SHOWN = 5  # features of a prompt's token that a page names


def _lengths(document: Any) -> None:
    for row in document["features"]:
        if not 0 <= row["density"] <= 1:
            raise CasebackError(f"feature {row['feature']} has a density beyond 0 and 1")
    for card in document["cards"]:
        for example in card["examples"]:
            if len(example["tokens"]) != len(example["values"]):
                raise CasebackError(f"an example of feature {card['feature']} has tokens without an activation")
    if (factors := document.get("factors")) is not None:
        for part in factors["parts"]:
            if len(part["values"]) != len(factors["tokens"]):
                raise CasebackError("a factor has tokens without an activation")


FEATURES = DocumentKind(
    "caseback.features",
    1,
    "a document of features",
    "features_document",
    sections=("dictionary", "tokens", "features", "cards", "prompt", "provenance"),
    lengths=_lengths,
)


@checked
def features_document(
    model: Model,
    dictionary: Dictionary,
    corpus: Iterable[Any] | Path,
    *,
    cards: Sequence[int] | int = 50,
    prompt: PromptsLike | None = None,
    factors: int = 0,
    top: int = 10,
    words: int = 8,
    before: int = 12,
    after: int = 6,
    length: int | None = None,
    explain: bool = False,
    notes: Notes | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Run a model over a corpus, and make the document of a dictionary's features.

    Parameters
    ----------
    model
        The model.
    dictionary
        What reads its states; it must say which site, or which of the model's layers it reads.
    corpus
        Texts, or the path of a file with one a line.
    cards
        Features that get a card; or how many, those with the largest activations, and the strongest on the prompt.
    prompt
        A prompt whose tokens are shown with their strongest features.
    factors
        Factors of the prompt's neurons that are shown beside: ``neuron_factors``, which needs no dictionary; 0: none.
    top
        Examples of a card.
    words
        Tokens that a feature raises, and as many that it lowers.
    before, after
        Tokens shown on either side of an example.
    length
        Tokens of a row at most.
    explain
        Whether cards say at which tokens a feature fires, and how far that holds: ``explain_features``, with the
        options that it has by default.
    notes
        What people say of features, from ``Notes.load``.
    progress
        Show a progress bar.

    Returns
    -------
    dict
        The document, plain JSON data: ``model``, ``dictionary``, ``tokens``; ``features``, a row for each, ``cards``,
        ``prompt``, ``factors``; and ``provenance``.

    Raises
    ------
    CasebackError
        For a dictionary that does not say its site, or reads two models, ``explain`` with one of several sites, no
        text, a feature that there is not, notes on another model or dictionary, and factors without a prompt.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> one = TopK(160, 320, k=4, facts=Facts(site="resid_post.1"))
    >>> document = features_document(cb.load("meadow"), one, ["Mary went to the store."], cards=[3])
    >>> len(document["features"]), document["cards"][0]["feature"]
    (320, 3)
    """
    place_of_codes(dictionary)  # says what is wrong before the model runs
    if explain:
        expect_one_source(dictionary, "what features fire at")
    if not isinstance(cards, int) and (beyond := [i for i in cards if not 0 <= i < dictionary.n_features]):
        raise OutOfRange(f"feature {beyond[0]}: there are {dictionary.n_features}, 0 to {dictionary.n_features - 1}")
    if factors and prompt is None:
        raise CasebackError("factors are of a prompt's neurons: give a prompt")
    if notes is not None:
        notes.expect(model, dictionary_digest(dictionary))
    dictionary = dictionary.to(model.device)
    with _readable(dictionary) as where:
        activating = activating_inputs(
            model,
            corpus,
            **where,
            top=top,
            skip=max(1, len(front_of(model))),  # the first token is a sink, with or without one in front
            length=length,
            progress=progress,
        )
        if isinstance(cards, int):
            largest = values_of(activating.tally.keys[:, :1])[:, 0].nan_to_num(0.0).abs()
            chosen = [i for i in largest.argsort(descending=True)[:cards].tolist() if largest[i] > 0]
        else:
            chosen = list(cards)
        on_prompt = [] if prompt is None else _prompt(model, dictionary, prompt)
        if isinstance(cards, int):  # those that the prompt's tokens name get one too
            chosen += [one["feature"] for token in on_prompt for one in token["features"][:SHOWN]]
        chosen = list(dict.fromkeys(chosen))
        written = words_written(model, dictionary, words)
        carded = cards_of(
            dictionary,
            chosen,
            [written[i] for i in chosen],
            model=model,
            activating=activating,
            top=top,
            before=before,
            after=after,
        )
    noted = [[] if notes is None else notes_on(notes, dictionary, i) for i in range(dictionary.n_features)]
    explained = _explained(model, dictionary, corpus, chosen, length, progress) if explain and chosen else {}
    return FEATURES.document(
        model_facts(model, "name", "n_layers", "d_model", "dtype"),
        dictionary={
            "architecture": dictionary.architecture,
            "site": in_words(source_names(dictionary)),
            "target": in_words(target_names(dictionary)),
            "n_features": dictionary.n_features,
            "d_in": dictionary.d_in,
            "options": dictionary.own_options(),
        },
        tokens=activating.n_tokens,
        features=[
            row | {"label": ", ".join(note["label"] for note in own)}
            for row, own in zip(_rows(model, activating, written), noted, strict=True)
        ],
        cards=[
            card | {"notes": noted[card["feature"]], "explanation": explained.get(card["feature"])} for card in carded
        ],
        prompt=on_prompt or None,
        factors=_factors(model, prompt, factors) if factors and prompt is not None else None,
        provenance=model.provenance(),
    )


class _WithoutSinks:
    """Codes of states, 0 where one, or that of any source, is many times longer than the median."""

    def __init__(self, dictionary: Dictionary):
        self.dictionary, self.n_features = dictionary, dictionary.n_features

    def encode(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            norms = at_least_float32(x).norm(dim=-1).reshape(len(x), -1)
            long = (norms > SINK * norms.median(0).values).any(1)
            return self.dictionary.encode(x).masked_fill(long[:, None], 0)

    def decode(self, coded: Tensor) -> Tensor:
        return self.dictionary.decode(coded)


@contextmanager
def _readable(dictionary: Dictionary) -> Iterator[dict[str, Any]]:
    """Where features are read, as ``activating_inputs`` is told it; of several sources as a site of their own."""
    place, codec = place_of_codes(dictionary), _WithoutSinks(dictionary)
    if not isinstance(dictionary, SeveralSources):
        yield {"site": place.name, "layer": place.layer, "directions": codec.encode}
        return
    layer = place.layer
    assert layer is not None
    with registered_site(
        "features_of_page",
        place.name,
        {layer: codec},
        flat=len(place.kind.dims) > 2,
        sources={layer: sources_of(dictionary)},
        editable=False,
    ) as name:
        yield {"site": name, "layer": layer}


def _explained(
    model: Model, dictionary: Dictionary, corpus: Any, chosen: Sequence[int], length: int | None, progress: bool
) -> dict[int, dict[str, Any]]:
    """At which tokens features fire, each with its scores beside those of another feature's list; None without one."""
    table = explain_features(
        model, dictionary, corpus, features=chosen, controls=False, length=length, progress=progress
    )
    names = ("detection", "detection_of_another", "fuzzing", "fuzzing_of_another")
    columns = [table[name].values.tolist() for name in names]
    scores = [
        {name: x if math.isfinite(x) else None for name, x in zip(names, row, strict=True)}
        for row in zip(*columns, strict=True)
    ]
    # conditions show their spaces in quotes
    texts = [visible(text).replace("␣", " ") for text in table["explanation"].values.tolist()]
    return {i: {"text": text, **row} for i, text, row in zip(chosen, texts, scores, strict=True)}


def _rows(model: Model, activating: Activating, written: list[dict[str, Any]]) -> list[dict[str, Any]]:
    density, mean = activating.frequency().tolist(), activating.mean().tolist()
    best = values_of(activating.tally.keys[:, :1])[:, 0].nan_to_num(0.0).tolist()
    places = index_of(activating.tally.keys[:, :1])[:, 0]
    row, pos = activating.rows.place(places.clamp_min(0))
    rows = []
    for i, words in enumerate(written):
        ids = activating.rows[int(row[i])]
        at = int(pos[i])
        fires = density[i] > 0
        rows.append(
            {
                "feature": i,
                "density": density[i],
                "mean": mean[i] / density[i] if fires else 0.0,  # of the tokens at which it is active
                "max": best[i] if fires else 0.0,
                "up": [one["token"] for one in words["up"][:4]],
                "down": [one["token"] for one in words["down"][:4]],
                "strongest": [visible(model.token_text(t)) for t in ids[max(0, at - 4) : at + 1]] if fires else [],
            }
        )
    return rows


def _prompt(model: Model, dictionary: Dictionary, prompt: PromptsLike) -> list[dict[str, Any]]:
    """A prompt's tokens with their strongest features."""
    read = features_on(model, dictionary, prompt).isel(batch=0)
    tokens = []
    for pos in range(read.sizes["pos"]):
        own = read.isel(pos=pos)
        pairs = zip(own["feature"].values.tolist(), own["activation"].values.tolist(), strict=True)
        tokens.append(
            {
                "token": visible(str(own["token"].values)),
                "active": int(own["active"]),
                "features": [{"feature": f, "activation": a} for f, a in pairs if f >= 0],
            }
        )
    return tokens


def _factors(model: Model, prompt: PromptsLike, count: int) -> dict[str, Any]:
    """Factors of a prompt's neurons: at which tokens each is active, of which neurons it is, what it raises."""
    read = neuron_factors(model, prompt, count)
    columns = (read[name].values.tolist() for name in ("share", "activation", "top_neuron", "up_token"))
    return {
        "explained": float(read.attrs["explained"]),
        "tokens": [visible(str(token)) for token in read["token"].values],
        "parts": [
            {"share": share, "values": values, "neurons": names, "up": [visible(word) for word in words]}
            for share, values, names, words in zip(*columns, strict=True)
        ],
    }
