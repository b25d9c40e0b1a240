"""Cards of a dictionary's features, as plain data: what each writes, its neighbors, and where it is active.

Without a corpus a card has no examples and no histogram; without a model, no words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from caseback.decode.dictionaries import Dictionary, feature_words, nearest_features
from caseback.decode.dictionaries.features.digest import feature_name
from caseback.decode.dictionaries.features.places import target_names, written_norms
from caseback.decode.vocabulary.activating import Activating, Example
from caseback.decode.vocabulary.activating.tally import EIGHTHS
from caseback.model.notes import Notes
from caseback.model.running.model import Model
from caseback.reports.tokens_text import visible


def words_written(
    model: Model | None,
    dictionary: Dictionary,
    words: int,
    features: Sequence[int] | None = None,
    source: int | None = None,
) -> list[dict[str, Any]]:
    """What features raise and lower, all by default; nothing where they do not write into the model's stream."""
    if model is None or dictionary.d_out != model.d_model:
        count = dictionary.n_features if features is None else len(features)
        return [{"up": [], "down": []} for _ in range(count)]
    read = feature_words(model, dictionary, features, top=words, source=source)
    sides = {
        side: [
            [{"token": visible(t), "logit": float(v)} for t, v in zip(texts, values, strict=True)]
            for texts, values in zip(read[f"{side}_token"].values.tolist(), read[side].values.tolist(), strict=True)
        ]
        for side in ("up", "down")
    }
    return [{"up": up, "down": down} for up, down in zip(sides["up"], sides["down"], strict=True)]


def notes_on(notes: Notes, dictionary: Dictionary, feature: int) -> list[dict[str, str]]:
    """What people say of a feature."""
    name = feature_name(dictionary, feature)
    return [{"label": note.label, "text": note.text, "by": note.by} for note in notes.of(name)] if name else []


def cards_of(
    dictionary: Dictionary,
    chosen: Sequence[int],
    written: Sequence[dict[str, Any]],
    *,
    model: Model | None = None,
    activating: Activating | None = None,
    top: int = 10,
    before: int = 12,
    after: int = 6,
) -> list[dict[str, Any]]:
    """A card for each of some features.

    Parameters
    ----------
    dictionary, chosen
        The features.
    written
        What each of them raises and lowers, as ``words_written`` gives it.
    model, activating
        The model and what its features did on a corpus, where it was run over one.
    top, before, after
        Examples, and tokens shown on either side of each.
    """
    if not chosen:
        return []
    cosines, near = nearest_features(dictionary, chosen)
    with torch.no_grad():
        same = dictionary.W_enc.shape == dictionary.W_dec.shape
        agree = torch.nn.functional.cosine_similarity(dictionary.W_enc, dictionary.W_dec) if same else None
        norms, by_target = dictionary.norms(), written_norms(dictionary)
    names = target_names(dictionary)
    cards = []
    for i, feature in enumerate(chosen):
        cards.append(
            {
                "feature": feature,
                "norm": float(norms[feature]),
                "agreement": None if agree is None else float(agree[feature]),
                "by_target": [
                    {"target": name, "norm": float(norm)} for name, norm in zip(names, by_target[feature], strict=True)
                ]
                if len(names) > 1
                else None,
                **written[i],
                "neighbors": [
                    {"feature": int(j), "cosine": float(c)} for c, j in zip(cosines[i], near[i], strict=True)
                ],
                "histogram": [] if activating is None else _histogram(activating.tally.histogram[feature]),
                "examples": []
                if activating is None or model is None
                else [
                    _example(e)
                    for e in activating.examples(model, feature, top=top, before=before, after=after)
                    if e.value != 0
                ],
            }
        )
    return cards


def _histogram(counts: torch.Tensor) -> list[dict[str, Any]]:
    """How often a feature is how active, by half octaves of its activation's size, where it is active at all."""
    inner = EIGHTHS.inner_ends()
    size = inner.abs().log2().mul(2).floor()
    bars: dict[tuple[int, int], int] = {}
    for i in counts.nonzero()[:, 0].tolist():
        if float(inner[i]) != 0:
            sign = 1 if float(inner[i]) > 0 else -1
            bars[sign, int(size[i])] = bars.get((sign, int(size[i])), 0) + int(counts[i])
    return [
        {"low": sign * 2.0 ** (octave / 2), "count": count}
        for (sign, octave), count in sorted(bars.items(), key=lambda bar: bar[0][0] * 2.0 ** (bar[0][1] / 2))
    ]


def _example(example: Example) -> dict[str, Any]:
    return {
        "at": example.pos - example.first,
        "tokens": [visible(text) for text in example.text],
        "values": [float(value) for value in example.values],
    }
