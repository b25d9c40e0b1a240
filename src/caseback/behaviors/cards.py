"""What a unit's card shows beside its scores: words of its weights, and the windows of text where it is strongest.

    neuron    reads: tokens whose embeddings its gate (its row of W_in without one) reads most;  writes, lowers: ends of
              w_out W_U;  windows: the rows in which it is largest, one a text, with its activation at every token
    head      reads and writes: the ends of the two strongest singular directions of W_V W_O;  windows: the queries at
              which |z W_O| is largest, one a row, with the attention to every token before

Activations are shares of the window's largest. Windows are of the half of the text that units are scored on; heads'
are of the rows that experiments have. Only units with a label have cards: each costs a row or two of the model's time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.decode.vocabulary.weights.singular_words import weight_svd_words
from caseback.decode.vocabulary.weights.weight_words import weights_as_words
from caseback.errors import CasebackError, EditError
from caseback.jobs.budget import limit
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.graph.names import Name, parse_name

WORDS, DIRECTIONS = 5, 2
WINDOWS, BEFORE, AFTER = 2, 20, 3
FROM = 4  # queries at a row's first positions have hardly a choice
TABLE = "neuron_windows"
Card = dict[str, list[dict[str, Any]]]


def cards_of(evidence: Evidence, units: Iterable[str]) -> dict[str, Card]:
    """Cards of units.

    Parameters
    ----------
    evidence
        What was measured.
    units
        Their names; experts have no cards.

    Returns
    -------
    dict
        By name: ``words``, lists of token texts by ``reads``, ``writes``, ``lowers``; and ``windows`` with their
        ``tokens``, by token the ``share`` of the largest in whole percents, and the ``value`` at the token ``at``.
    """
    by_layer: dict[tuple[str, int], list[int]] = {}
    for name in dict.fromkeys(units):
        parsed = parse_name(name)
        if parsed.kind in ("head", "neuron") and parsed.index is not None:
            by_layer.setdefault((parsed.kind, parsed.layer), []).append(parsed.index)
    cards: dict[str, Card] = {
        str(Name(kind, layer, index)): {"words": [], "windows": []}
        for (kind, layer), own in by_layer.items()
        for index in own
    }
    for (kind, layer), own in by_layer.items():
        words = _of_neurons if kind == "neuron" else _of_heads
        try:
            for index, rows in words(evidence, layer, own):
                cards[str(Name(kind, layer, index))]["words"] = rows
        except (CasebackError, EditError):
            continue  # no such weights, or edits that are in none of them
    heads = [(layer, index) for (kind, layer), own in by_layer.items() for index in own if kind == "head"]
    neurons = [(layer, index) for (kind, layer), own in by_layer.items() for index in own if kind == "neuron"]
    for kind, windows in (("neuron", _neuron_windows(evidence, neurons)), ("head", _head_windows(evidence, heads))):
        for (layer, index), window in windows:
            cards[str(Name(kind, layer, index))]["windows"].append(window)
    return cards


def _of_neurons(evidence: Evidence, layer: int, units: Sequence[int]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    model = evidence.model
    out = weights_as_words(model, "out", layer, units=units, k=WORDS)
    try:
        read = weights_as_words(model, "gate", layer, units=units, k=WORDS)
    except CasebackError:
        read = weights_as_words(model, "in", layer, units=units, k=WORDS)
    for i, unit in enumerate(units):
        reads, writes, lowers = (
            [str(text) for text in of[f"{end}_text"].values[i]]
            for of, end in ((read, "top"), (out, "top"), (out, "bottom"))
        )
        yield unit, [{"reads": reads, "writes": writes, "lowers": lowers}]


def _of_heads(evidence: Evidence, layer: int, heads: Sequence[int]) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    for head in heads:
        words = weight_svd_words(evidence.model, "ov", layer, head=head, top=DIRECTIONS, k=WORDS)
        ends = {"reads": "left_top_text", "writes": "right_top_text"}
        texts = {name: words[of].values.tolist() for name, of in ends.items()}
        yield head, [{name: of[rank] for name, of in texts.items()} for rank in range(len(words["value"]))]


def _neuron_windows(
    evidence: Evidence, units: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    """Of every neuron its windows, whose rows go through the model together where several neurons have them."""
    if not units or TEXT not in evidence.collections or TABLE not in evidence.collections[TEXT][-1]:
        return
    ids, places = evidence.text_ids(1)
    table = evidence.folds(TEXT, TABLE)[-1]["top_place"]
    wanted: dict[int, dict[int, list[tuple[int, int]]]] = {}
    for layer, neuron in units:
        for place in table.sel(layer=layer).isel(neuron=neuron).values[:WINDOWS].tolist():
            if place >= 0:
                start = place - int(places[place])
                wanted.setdefault(start, {}).setdefault(place, []).append((layer, neuron))
    rows = {}
    for start, at in wanted.items():
        end = max(at) + 1
        while end < len(places) and places[end] and end <= max(at) + AFTER:
            end += 1
        rows[start] = ids[start:end].tolist()
    layers = sorted({layer for layer, _ in units})
    for some in _batches(evidence, sorted(rows, key=lambda start: len(rows[start])), rows):
        run = evidence.model.run([rows[start] for start in some], read=[("mlp_post", layer) for layer in layers])
        values = {layer: at_least_float32(run["mlp_post", layer].detach()).cpu().numpy() for layer in layers}
        for number, start in enumerate(some):
            for place, own in wanted[start].items():
                for layer, neuron in own:
                    at = place - start
                    row = values[layer][number, : len(rows[start]), neuron]
                    yield (layer, neuron), _window(evidence, rows[start], row, at, float(row[at]))


def _head_windows(
    evidence: Evidence, heads: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], dict[str, Any]]]:
    """Of every head the queries at which it writes most, one a row, with what they look at."""
    model = evidence.model
    rows = dict(enumerate(row for row in evidence.prompts if len(row) > FROM))
    best: dict[tuple[int, int], list[tuple[float, int, int, np.ndarray]]] = {head: [] for head in heads}
    layers = sorted({layer for layer, _ in heads})
    sites = [(site, layer) for site in ("z", "pattern") for layer in layers]
    try:
        for some in _batches(evidence, list(rows), rows) if heads else ():
            run = model.run([rows[number] for number in some], read=sites)
            for layer, head in heads:
                write = at_least_float32(model.weights.W_O[layer][head].detach())
                size = (at_least_float32(run["z", layer][:, :, head].detach()) @ write).norm(dim=-1)
                for i, number in enumerate(some):
                    at = FROM + int(size[i, FROM : len(rows[number])].argmax())
                    row = at_least_float32(run["pattern", layer][i, head, at, : len(rows[number])].detach())
                    best[layer, head].append((float(size[i, at]), number, at, row.cpu().numpy()))
    except CasebackError:
        return  # a model without these sites
    for head, every in best.items():
        for size, number, at, row in sorted(every, key=lambda one: -one[0])[:WINDOWS]:
            yield head, _window(evidence, rows[number][: at + 1], row[: at + 1], at, size)


def _batches(evidence: Evidence, order: Sequence[int], rows: Mapping[int, Sequence[int]]) -> Iterator[list[int]]:
    """Rows whose padded tokens fit a pass."""
    most = limit("stream_tokens", evidence.model.device)
    some: list[int] = []
    for number in order:
        width = max([len(rows[number]), *(len(rows[one]) for one in some)])
        if some and width * (len(some) + 1) > most:
            yield some
            some = []
        some.append(number)
    if some:
        yield some


def _window(evidence: Evidence, ids: Sequence[int], values: np.ndarray, at: int, value: float) -> dict[str, Any]:
    """Some tokens around a place, and each one's share of the largest, in whole percents."""
    first, end = max(0, at - BEFORE), min(len(ids), at + AFTER + 1)
    own = values[first:end]
    most = max(float(np.abs(own).max()), float(torch.finfo(torch.float32).tiny))
    return {
        "tokens": [evidence.model.token_text(int(token)) for token in ids[first:end]],
        "share": [round(100 * float(x) / most) for x in own],
        "at": at - first,
        "value": float(f"{value:.3g}"),
    }
