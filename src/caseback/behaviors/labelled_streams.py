"""Rows of text whose tokens have labels: how rare each is, and what a treebank says of its words.

    rarity     every token's quarter of the text by how often its id occurs, 0 the commonest; ``moved``: quarters of the
               text by ids in a random order, eight times
    treebank   by relation the place of the word at the other end of an arc, where that stands before; parts of speech
               and features of words; all at words' last tokens

Arcs are seen from their later end, since a model looks back: "nsubj head" from a subject to its verb, "nsubj dependent"
from a verb to its subject. A word with several dependents of a relation looks for the nearest. Controls of arcs,
``moved``, have the distance of another arc of the relation, so that a head of a fixed distance does as well on them;
those of words have the part of speech, or the feature, of another word of the treebank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import Int

from caseback.behaviors.synthetic import FOLDS
from caseback.errors import SiteAbsent
from caseback.model.running.model import Model
from caseback.stream.documents import documents
from caseback.stream.packing import rows_of
from caseback.tasks.formats.treebank import UNIVERSAL_POS, Sentence
from caseback.tasks.formats.word_tokens import word_tokens
from caseback.tasks.prompts import LabeledRow

RARITY, TREEBANK = "rarity", "treebank"
QUARTERS = 4
SHUFFLES = 8
RELATIONS = ("nsubj", "obj", "obl", "nmod", "amod", "advmod", "det", "case", "aux", "cop", "mark", "compound", "conj")
FEATURES = {"Number": ("Sing", "Plur"), "Tense": ("Pres", "Past")}
FEWEST = 200
"""A relation has so many arcs at least: 25 in each fold, on average."""
SKIP = 4
"""Queries at so many first positions of a row are left out."""
MOVED = ", moved"
LabeledFolds = tuple[list[list[LabeledRow]], dict[str, Any]]
"""Folds of labeled rows, and the options of their tables."""


def rarity(model: Model, given: Sequence[Sequence[Any]], n_rows: int, length: int | None, seed: int) -> LabeledFolds:
    """Rows of text with every token's quarter by frequency.

    Raises
    ------
    SiteAbsent
        For too little text.
    """
    every = [row for half in given for row in rows_of(model, documents(half), length=length, least=2 * SKIP)]
    if len(every) < 2 * FOLDS:
        raise SiteAbsent(f"{len(every)} rows of text: expected {2 * FOLDS} at least" if every else "no text was given")
    ids = np.concatenate([row.ids[row.front :] for row in every])
    counts = np.bincount(ids, minlength=model.d_vocab)
    rng = np.random.default_rng(seed)
    orders = {RARITY: np.argsort(-counts, kind="stable")}
    orders |= {f"{RARITY}{MOVED} {i}": rng.permutation(len(counts)) for i in range(SHUFFLES)}
    quarters = {name: quarters_of(counts, order) for name, order in orders.items()}
    rows = []
    for row in islice(every, n_rows):
        front, own = [-1] * row.front, row.ids[row.front :]
        rows.append((row.ids, {name: [*front, *of[own].tolist()] for name, of in quarters.items()}))
    keys = tuple(f"label:{name}:{QUARTERS}" for name in quarters)
    return _in_folds(rows), {"attention_received": {"queries": ("any",), "keys": keys}}


def quarters_of(counts: Int[np.ndarray, " vocab"], order: Int[np.ndarray, " vocab"]) -> Int[np.ndarray, " vocab"]:
    """Which quarter of the text each entry is in, where entries stand in an order.

    Examples
    --------
    >>> quarters_of(np.array([1, 6, 1, 0]), np.array([1, 0, 2, 3])).tolist()
    [3, 1, 3, 3]
    """
    middle = counts[order].cumsum() - counts[order] / 2
    quarters = np.empty(len(counts), int)
    quarters[order] = np.minimum(middle / counts.sum() * QUARTERS, QUARTERS - 1).astype(int)
    return quarters


def treebank(model: Model, sentences: Sequence[Sentence], seed: int) -> LabeledFolds:
    """Sentences with the labels of their words.

    Raises
    ------
    SiteAbsent
        Without sentences, or with too few arcs.
    """
    if not sentences:
        raise SiteAbsent("no treebank was given")
    words = word_tokens(sentences, model)
    rng = np.random.default_rng(seed)
    arcs: dict[str, list[tuple[int, int, int]]] = {}
    marks: dict[str, list[tuple[int, int, int]]] = {}
    documents = words.documents(FEATURES)
    ids = [row for row, _ in documents]
    for number, (sentence, spans) in enumerate(zip(words.sentences, words.spans, strict=True)):
        for name, query, key in arcs_of(sentence, spans[:, 1].tolist()):
            arcs.setdefault(name, []).append((number, query, key))
        for name, values in documents[number][1].items():
            own = [(number, place, value) for place, value in enumerate(values) if value >= 0]
            marks.setdefault(name, []).extend(own)
    arcs = {name: own for name, own in arcs.items() if len(own) >= FEWEST}
    if not arcs:
        raise SiteAbsent(f"no relation has {FEWEST} arcs of which this model sees both ends")
    labels: list[dict[str, list[int]]] = [{} for _ in ids]

    def put(name: str, placed: Sequence[tuple[int, int, int]]) -> None:
        for own, row in zip(labels, ids, strict=True):
            own[name] = [-1] * len(row)
        for number, place, value in placed:
            labels[number][name][place] = value

    for name, own in arcs.items():
        put(name, own)
        put(name + MOVED, moved(own, rng))
    marks = {name: own for name, own in marks.items() if own}
    for name, own in marks.items():
        put(name, own)
        others = rng.permutation([value for *_, value in own]).tolist()
        put(name + MOVED, [(number, place, value) for (number, place, _), value in zip(own, others, strict=True)])
    relations = tuple(f"to:{name}{what}" for name in arcs for what in ("", MOVED))
    sizes: Mapping[str, int] = {"pos": len(UNIVERSAL_POS), **{name: len(values) for name, values in FEATURES.items()}}
    groups = ("any", *(f"label:{name}{what}:{sizes[name]}" for name in marks for what in ("", MOVED)))
    options = {"attention_relations": {"relations": relations, "skip": SKIP}, "neuron_groups": {"groups": groups}}
    return _in_folds(list(zip(ids, labels, strict=True))), options


def arcs_of(sentence: Sentence, last: Sequence[int]) -> list[tuple[str, int, int]]:
    """By relation and direction (query, key), at words' last tokens; a row's first token is no key.

    Examples
    --------
    >>> rest = [("_", "_")] * 3 + [({}, {})]
    >>> words, relations = ("So", "dogs", "ran"), ("advmod", "nsubj", "root")
    >>> arcs_of(Sentence("So dogs ran", words, (), (2, 2, -1), relations, *rest), [1, 2, 3])
    [('advmod dependent', 3, 1), ('nsubj dependent', 3, 2)]
    """
    keys: dict[tuple[str, int], int] = {}
    for word, (head, relation) in enumerate(zip(sentence.heads, sentence.relations, strict=True)):
        name = relation.partition(":")[0]
        if head < 0 or name not in RELATIONS:
            continue
        query, key = max(last[word], last[head]), min(last[word], last[head])
        at = (f"{name} {'head' if last[head] == key else 'dependent'}", query)
        if 0 < key < query:
            keys[at] = max(key, keys.get(at, 0))
    return [(name, query, key) for (name, query), key in keys.items()]


def moved(arcs: Sequence[tuple[int, int, int]], rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """The same queries with other arcs' distances, where these lead to another key of the row."""
    of, query, key = np.array(arcs).T
    other = query - rng.permutation(query - key)
    some = (other > 0) & (other != key)
    return list(zip(of[some].tolist(), query[some].tolist(), other[some].tolist(), strict=True))


def _in_folds(rows: list[LabeledRow]) -> list[list[LabeledRow]]:
    return [rows[fold::FOLDS] for fold in range(FOLDS)]
