"""Streams of tokens that tell apart what heads match by: one token, two, a whole word, a likeness, a question.

    neighbors   r1 ... rk, then of each the token with the nearest embedding: nothing is repeated, all of it is alike
    prefixes    a b c  d b e  ...  a b      two tokens stood before c, one of them before e; for the control  f b
    entities    x1 w1  x2 w2  ...  x2 x1    words w of several tokens, and what stood before each; for the control  y
    needle      whose word is asked for, among sentences that also tell somebody else's word

Labels name places as in ``synthetic``: ``same`` and ``next`` of neighbors; ``matched`` (c) and ``unmatched`` (e) of
prefixes, ``last`` (the last token of w) of entities, the same with ``_absent`` where what stands before never did;
``word`` and ``distractor`` of needles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import numpy as np
import torch

from caseback import lexicon
from caseback.behaviors.synthetic import FOLDS, row, span_of
from caseback.errors import CasebackError, TokensError
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.model import Model
from caseback.stream.packing import front_of
from caseback.tasks.prompts import LabeledRow
from caseback.tasks.standard.needle import needle
from caseback.tasks.standard.repeats import ordinary_tokens

GROUPS = 12
"""How many b, or words, a row has at most."""
LEAST = 4
NEEDLE_TOKENS = 100
WORDS = (
    *(lexicon.WIDE_NAMES, lexicon.PLACES, lexicon.WIDE_ITEMS, lexicon.WIDE_ERAS, lexicon.WIDE_COUNTRIES),
    *(lexicon.WIDE_THINGS, lexicon.WIDE_PEOPLE, lexicon.WIDE_OPPOSITES, lexicon.LANDMARKS, lexicon.PRODUCTS),
)


def _folds(draw: Callable[[np.random.Generator], LabeledRow], rows: int, seed: int) -> list[list[LabeledRow]]:
    rng = np.random.default_rng(seed)
    drawn = [draw(rng) for _ in range(rows)]
    return [drawn[fold::FOLDS] for fold in range(FOLDS)]


def neighbors(model: Model, rows: int, seed: int) -> list[list[LabeledRow]]:
    """A span, and behind it the tokens with the nearest embeddings."""
    ordinary = np.array(ordinary_tokens(model))
    span = span_of(model, ordinary.tolist())
    table = at_least_float32(model.weights.W_E.detach())[torch.as_tensor(ordinary)]
    table = table - table.mean(0)
    table = table / table.norm(dim=1, keepdim=True).clamp_min(torch.finfo(table.dtype).tiny)

    def draw(rng: np.random.Generator) -> LabeledRow:
        first = rng.choice(len(ordinary), span, replace=False)
        cosines = table[first] @ table.T
        cosines[:, first] = -torch.inf
        second = []
        for own in cosines:  # each token once, so that nothing is repeated among them either
            second.append(int(own.argmax()))
            cosines[:, second[-1]] = -torch.inf
        return row(model, ordinary[first], ordinary[second], np.arange(span))

    return _folds(draw, rows, seed)


def _groups(model: Model, each: int, again: int, most: int = GROUPS) -> int:
    """How many groups of so many tokens, and so many when they come again, a row has room for.

    Raises
    ------
    TokensError
        Where not even four fit.
    """
    room = model.context
    groups = min(most, (room - len(front_of(model))) // (each + again) if room else most)
    if groups < LEAST:
        raise TokensError(
            f"a context of {room}, and ordinary tokens for {most} groups: expected room for {LEAST} groups of "
            f"{each + again} tokens"
        )
    return groups


def prefixes(model: Model, rows: int, seed: int) -> list[list[LabeledRow]]:
    """The same token after two others, and after one of these, or a new one, again."""
    ordinary = ordinary_tokens(model)
    groups = _groups(model, 6, 2, min(GROUPS, len(ordinary) // 6))  # all different in a row

    def draw(rng: np.random.Generator) -> LabeledRow:
        a, b, c, d, e, f = rng.choice(ordinary, (6, groups), replace=False)
        parts = [(number, which) for number in range(groups) for which in "ce"]
        ids, place = list(front_of(model)), {}
        for number, which in (parts[i] for i in rng.permutation(len(parts))):
            ids += [a[number], b[number], c[number]] if which == "c" else [d[number], b[number], e[number]]
            place[number, which] = len(ids) - 1
        labels = {name: [-1] * len(ids) for name in ("matched", "unmatched", "matched_absent", "unmatched_absent")}
        for turn, number in enumerate(rng.permutation(groups)):
            absent = turn % 2
            ids += [(f if absent else a)[number], b[number]]
            for name, own in labels.items():
                here = name.endswith("_absent") == bool(absent)
                own += [-1, place[number, "e" if name.startswith("un") else "c"] if here else -1]
        return [int(token) for token in ids], labels

    return _folds(draw, rows, seed)


def _words(model: Model) -> list[list[int]]:
    """Words of two to five tokens each.

    Raises
    ------
    TokensError
        For a model without a tokenizer, or with hardly a word of several tokens.
    """
    if model.tokenizer is None:
        raise TokensError("words of several tokens need a tokenizer")
    listed: Iterator[str] = (word if isinstance(word, str) else word[0] for word in chain.from_iterable(WORDS))
    texts = [f" {word}" for word in dict.fromkeys(listed)]
    several = [own for own in model.tokenizer(texts, add_special_tokens=False)["input_ids"] if 2 <= len(own) <= 5]
    if len(several) < GROUPS:
        raise TokensError(f"{len(several)} known words are of several tokens in this tokenizer: expected {GROUPS}")
    return several


def entities(model: Model, rows: int, seed: int) -> list[list[LabeledRow]]:
    """Words of several tokens, each behind a token of its own that comes again."""
    words, ordinary = _words(model), ordinary_tokens(model)
    groups = _groups(model, 6, 1)

    def draw(rng: np.random.Generator) -> LabeledRow:
        own = [words[i] for i in rng.choice(len(words), groups, replace=False)]
        inside = {token for word in own for token in word}
        before = [t for t in rng.choice(ordinary, 3 * groups + len(inside), replace=False) if t not in inside]
        ids, last = list(front_of(model)), []
        for token, word in zip(before, own, strict=False):
            ids += [int(token), *word]
            last.append(len(ids) - 1)
        labels = {name: [-1] * len(ids) for name in ("last", "last_absent")}
        for turn, number in enumerate(rng.permutation(groups)):
            absent = turn % 2
            ids.append(int(before[number + groups * absent]))
            for name, places in labels.items():
                places.append(last[number] if name.endswith("_absent") == bool(absent) else -1)
        return ids, labels

    return _folds(draw, rows, seed)


def needles(model: Model, rows: int, seed: int) -> list[list[LabeledRow]]:
    """Questions for one of two people's words; the labels stand at the token that the answer follows."""
    if model.tokenizer is None:
        raise TokensError("a question needs a tokenizer")
    length = min(NEEDLE_TOKENS, model.context or NEEDLE_TOKENS)
    try:
        prompts = needle(length=length).prompts(model, rows, seed=seed)
    except CasebackError as error:
        raise TokensError(f"no needles: {error}") from error
    drawn = []
    for number in range(len(prompts)):
        ids = prompts.clean.ids[number][prompts.clean.mask[number]].tolist()
        ends = {name: int(prompts.spans[name][number, 1]) for name in ("word", "distractor")}
        drawn.append((ids, {name: [*[-1] * (len(ids) - 1), place] for name, place in ends.items()}))
    return [drawn[fold::FOLDS] for fold in range(FOLDS)]


MATCHING: dict[str, Callable[[Model, int, int], Sequence[list[LabeledRow]]]] = {
    "neighbors": neighbors,
    "prefixes": prefixes,
    "entities": entities,
    "needle": needles,
}
"""How each stream is made, of a model, a number of rows and a seed."""
