"""What may stand in a word's place: others of its kind and length, from three sources.

    the prompt     like words that it has anyway
    tasks          words beside this one in a task's lists (keys, key), those that the task has it contrasted with
                   (wonderful, awful), and the others of its list (Mary, Anna)
    the model      what it expects there itself: the likeliest first tokens of the kind, each gone on with

All of them are judged by how likely the model finds their first token in that place, which one pass says for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, zip_longest

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import TokensError
from caseback.localize.counterfactuals.words import JOINING, Word, kind_of, texts_of
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens, tokenize
from caseback.tasks import get, names

LOOKED_AT = 96
"""Of the tokens that a model expects in a place, how many are looked at for some of the kind."""


@dataclass(frozen=True)
class Alternative:
    """A word for another's place: its tokens, its text, whether the prompt has it, and how much less likely it is."""

    ids: tuple[int, ...]
    text: str
    known: bool
    surprise: float


def alternatives(
    model: Model, tokens: Tokens, words: Sequence[Word], log_prob: Float[Tensor, "pos vocab"], k: int
) -> dict[int, list[Alternative]]:
    """For each word that can be replaced, at most ``k`` others, the prompt's own and the likeliest first.

    ``log_prob`` are the model's log probabilities after every token of the prompt.
    """
    text = texts_of(model)
    guesses = _guesses(model, tokens, words, log_prob, k, text)
    listed: dict[int, list[Alternative]] = {}
    for w, word in enumerate(words):
        if word.kind in ("special", "sign"):
            continue
        own = {other.ids: other.text for other in words if word.like(other) and other.content == word.content}
        at = word.pos[0] - 1
        score = log_prob[at] if at >= 0 else None

        def surprise(ids: Sequence[int], score: Tensor | None = score, word: Word = word) -> float:
            return 0.0 if score is None else max(0.0, float(score[word.ids[0]] - score[ids[0]]))

        sources = [{**guesses.get(w, {})}] if not word.content else [*_fellows(model, word, text), guesses.get(w, {})]
        # half of the places for the prompt's own words at most, and the others from every source in turn
        mine = sorted(own, key=surprise)[: max(1, k // 2)]
        turns = zip_longest(*(sorted(source, key=surprise) for source in sources))
        others = [ids for turn in turns for ids in turn if ids is not None and ids not in own and ids != word.ids]
        written = {ids: text for source in (*sources, own) for ids, text in source.items()}
        taken = list(dict.fromkeys([*mine, *others]))[:k]
        listed[w] = [Alternative(ids, written[ids], ids in own, surprise(ids)) for ids in taken]
    return {w: rows for w, rows in listed.items() if rows}


@dataclass(frozen=True)
class _Column:
    """A list of words of a task, with what goes together with each of them."""

    words: tuple[str, ...]
    beside: tuple[tuple[str, ...], ...]


@cache
def _lists() -> list[tuple[_Column, ...]]:
    """The lists of every task that has some."""
    tasks = []
    for name in names():
        columns = []
        for fillers in get(name).fillers.values():
            if callable(fillers):
                continue
            rows = [(f,) if isinstance(f, str) else tuple(f) for f in fillers]
            for c in range(len(rows[0])):
                beside = tuple(tuple(word for word in row if word != row[c]) for row in rows)
                columns.append(_Column(tuple(row[c] for row in rows), beside))
        tasks.append(tuple(columns))
    return tasks


def _fellows(model: Model, word: Word, text: Callable[[int], str]) -> list[dict[tuple[int, ...], str]]:
    """Words of tasks' lists in three parts: what stands beside this one, what its task contrasts it with, its own list.

    They have as many tokens as the word, and are of its kind.
    """
    if model.tokenizer is None:
        return []
    bare, space = word.text.strip(), word.shape[2]
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for lists in _lists():
        inside = [column for column in lists if bare in column.words]
        for column in inside:
            parts[0].extend(other for i, one in enumerate(column.words) if one == bare for other in column.beside[i])
            parts[1].extend(other for else_ in lists if else_ not in inside for other in else_.words)
            parts[2].extend(column.words)
    spelled = []
    for part in parts:
        others = [space + other for other in dict.fromkeys(part) if other != bare and kind_of(other) == word.kind]
        same = (
            (ids, written) for ids, written in _spelled(model.tokenizer, word.text, others) if len(ids) == len(word.ids)
        )
        spelled.append({ids: written for ids, written in same if "".join(map(text, ids)) == written})
    return spelled


def _spelled(tokenizer, before: str, texts: Sequence[str]) -> Iterator[tuple[tuple[int, ...], str]]:
    """The tokens of texts where another word stood; texts with white space before them as within running text."""
    if not texts:
        return
    encode = lambda listed: tokenizer(list(listed), add_special_tokens=False)["input_ids"]  # noqa: E731
    if not texts[0][0].isspace():
        known = tokenizer.get_vocab()
        single = [written for written in texts if written in known]
        yield from (((int(known[written]),), written) for written in single)
        return
    try:
        # the word itself is put before it, since it is one that the tokenizer knows
        start, *rows = encode([before.strip(), *(before.strip() + written for written in texts)])
    except TokensError:
        return
    for written, ids in zip(texts, rows, strict=True):
        if ids[: len(start)] == start:
            yield tuple(ids[len(start) :]), written


def _guesses(
    model: Model,
    tokens: Tokens,
    words: Sequence[Word],
    log_prob: Float[Tensor, "pos vocab"],
    k: int,
    text: Callable[[int], str],
) -> dict[int, dict[tuple[int, ...], str]]:
    """What the model expects in each word's place, of its kind and length: its own words, one token after another."""
    begun: list[tuple[int, list[int]]] = []
    for w, word in enumerate(words):
        if word.kind in ("special", "sign") or word.pos[0] == 0:
            continue
        likeliest = log_prob[word.pos[0] - 1].topk(min(LOOKED_AT, log_prob.shape[-1])).indices.tolist()
        fitting = [i for i in likeliest if i != word.ids[0] and _fits(word, text(i), model)]
        begun += [(w, [i]) for i in fitting[:k]]
    own = tokens.ids[0][tokens.mask[0]].tolist()
    for length in range(1, max((len(word.ids) for word in words), default=1)):
        # one that could not be gone on with is shorter, and stays so
        open_ = [(w, ids) for w, ids in begun if len(ids) == length < len(words[w].ids)]
        if not open_:
            continue
        rows = [own[: words[w].pos[0]] + ids for w, ids in open_]
        batch = tokenize(rows, model.tokenizer, d_vocab=model.d_vocab, context=model.context).to(model.device)
        logits = model.run(batch).logits[torch.arange(len(rows)), batch.column(-1)]
        for (w, ids), row in zip(open_, logits.topk(min(LOOKED_AT, logits.shape[-1])).indices.tolist(), strict=True):
            number = words[w].kind == "number"
            further = (i for i in row if text(i).isalnum() and text(i).isdigit() == number)
            ids.extend(islice(further, 1))
    guesses: dict[int, dict[tuple[int, ...], str]] = {}
    for w, ids in begun:
        if len(ids) == len(words[w].ids):
            guesses.setdefault(w, {})[tuple(ids)] = "".join(map(text, ids))
    return guesses


def _fits(word: Word, written: str, model: Model) -> bool:
    """Whether a token may begin another word of this one's kind."""
    if model.tokenizer is None:
        return True
    space = written[: len(written) - len(written.lstrip())]
    bare = written.strip()
    joins = word.content and bare.lower() in JOINING and len(bare) > 1
    return space == word.shape[2] and bare.isalnum() and kind_of(written) == word.kind and not joins
