"""Measure every behavior of a model trained like ``meadow``, on combinations that training never showed."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers import AutoTokenizer, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

from caseback.errors import CasebackError
from caseback.jobs.safe_files import read_json
from caseback.organisms import measure
from caseback.organisms.measure import Score
from caseback.organisms.prose import text
from caseback.organisms.tokenizer import end_of_text, whole_tokens


@dataclass(frozen=True)
class Behavior:
    """Something that the model is meant to do.

    Attributes
    ----------
    what, held_out
        What the card calls it, and which combinations training never shows.
    target
        The smallest share that counts as reached; ``None`` where chance alone decides.
    read
        Which share counts: that of prompts whose likeliest next token is right, or, where several words would do, that
        of prompts whose right word is likelier than the foil.
    """

    what: str
    held_out: str
    target: float | None = 0.95
    read: Literal["top", "over_foil"] = "top"


FRESH = "drawn afresh"
SPANS = {f"spans of {span}": span for span in (10, 25, 50)}
# a kind of document, or a length of random span, and what it shows
BEHAVIORS = {
    **{name: Behavior(f"random spans said twice, {span} tokens", FRESH) for name, span in SPANS.items()},
    "word_list": Behavior("lists of words said twice", FRESH),
    "giving": Behavior("indirect object, both orders of the names", "pairs of names"),
    "giving_by_another": Behavior("the same with a third giver (a toss, half is best)", "pairs of names", None),
    "errand": Behavior("somebody's list of things that comes back", FRESH),
    "story": Behavior("a word recalled in a story of two people", "pairs of names"),
    "pronoun": Behavior("she or he, her or his, herself or himself", "names, by sentence"),
    "fact": Behavior("countries, opposites, plurals, first letters", "wordings of each fact"),
    "resident": Behavior("job, home, sport, instrument of people with two names", "wordings of each fact"),
    "tale": Behavior("a tale against memory: the tale is believed", "subject and false word"),
    "tale_elsewhere": Behavior("a tale about another: memory is believed", "other subject and word"),
    "agreement": Behavior("verb and subject past another noun", "subject and other noun", read="over_foil"),
    "determiner": Behavior("singular or plural noun after one, two, this, these", "nouns, by sentence"),
    "years": Behavior("a year after a year (right: any later one)", "eras, by first year"),
    "series": Behavior("days, months, numbers, letters in order", "starts, by wording"),
    "arithmetic": Behavior("sums and differences of numbers to 20", "half the wordings of rare problems", 0.7),
    "few_shot": Behavior("opposite, capital, plural, next … from 2 to 6 pairs", "pairs, by sign", 0.7),
    "choice": Behavior("the letter of one of two to four options", "questions, by answer"),
    "colored": Behavior("the color of one of some things on a table", "thing and color"),
    "boxes_still": Behavior("what is in a box", FRESH),
    "boxes": Behavior("what is in a box, in two of three after a move or a swap", FRESH),
    "needle": Behavior("a word told up to a hundred tokens before", FRESH),
    "docstring": Behavior("the next argument in a docstring", FRESH),
    "brackets": Behavior("which bracket closes", "orders of open brackets"),
    "quotes": Behavior("whether a quotation mark closes", "thing and place"),
    "sentiment": Behavior("praise or blame, named or felt", "work, word and wording"),
}


def reached(kind: str, score: Score) -> bool:
    """Whether the share that counts for this behavior is at least its target."""
    behavior = BEHAVIORS[kind]
    return behavior.target is None or getattr(score, behavior.read) >= behavior.target


def loaded(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The model and the tokenizer in a folder that was trained on the closed world.

    Raises
    ------
    CasebackError
        If there is no model in the folder, or its tokenizer does not know the world's words.
    """
    if not all(os.path.isfile(folder / name) for name in ("config.json", "tokenizer.json")):
        raise CasebackError(
            f"{str(folder)!r} holds no model to measure: expected config.json and tokenizer.json in it, "
            "as `caseback organisms train` writes them."
        )
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "gpt2":
        raise CasebackError(
            f"{str(folder)!r} holds a model of the type {kind!r}: expected 'gpt2', as meadow is trained"
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    pieces = tokenizer(whole_tokens(), add_special_tokens=False)["input_ids"]
    if any(len(ids) != 1 for ids in pieces):
        raise CasebackError(
            f"{str(folder)!r} was not trained on the closed world (its tokenizer cuts the world's words): "
            "only models that `caseback organisms train meadow` made can be measured."
        )
    return GPT2LMHeadModel.from_pretrained(folder, use_safetensors=True).eval(), tokenizer


def scores(folder: Path, count: int = 500, seed: int = 1, kinds: Iterable[str] = tuple(BEHAVIORS)) -> dict[str, Score]:
    """Measure the behaviors of the model in a folder, on ``count`` held-out prompts per behavior.

    Parameters
    ----------
    folder
        A folder that ``from_pretrained`` reads, made by training ``meadow``.
    count
        Prompts per behavior; spans take a fifth as many, since each is scored at many positions.
    seed
        Same seed, same result. Draws the prompts.
    kinds
        Keys of ``BEHAVIORS``.

    Returns
    -------
    scores
        One per behavior, in the order of ``kinds``.

    Raises
    ------
    CasebackError
        If the folder holds no model of the closed world.

    Examples
    --------
    >>> from caseback.organisms import path
    >>> by_kind = scores(path("meadow"), count=40, kinds=["giving"])
    >>> by_kind["giving"].top > 0.9
    True
    """
    model, tokenizer = loaded(folder)
    by_kind = {}
    for kind in kinds:
        if kind in SPANS:
            by_kind[kind] = measure.repeated(
                model, len(tokenizer), end_of_text(tokenizer), SPANS[kind], max(1, count // 5), seed
            )
        elif kind == "years":
            by_kind[kind] = measure.later_years(model, tokenizer, count, seed)
        else:
            by_kind[kind] = measure.asked(model, tokenizer, text.documents(kind, count, seed))
    return by_kind


def as_rows(by_kind: dict[str, Score]) -> list[dict]:
    """Scores as plain data, one object per behavior; ``None`` where there is no foil or no target."""
    return [
        {
            "behaviour": kind,
            "what": BEHAVIORS[kind].what,
            "held_out": BEHAVIORS[kind].held_out,
            "count": score.count,
            "top": score.top,
            "over_foil": None if math.isnan(score.over_foil) else score.over_foil,
            "probability": score.probability,
            "read": BEHAVIORS[kind].read,
            "target": BEHAVIORS[kind].target,
            "reached": reached(kind, score),
        }
        for kind, score in by_kind.items()
    ]
