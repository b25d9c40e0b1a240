"""Published requests: the JSON of CounterFact and of zsRE as editing uses it.

CounterFact   requested_rewrite {prompt, subject, target_new.str, target_true.str}, paraphrase_prompts,
neighborhood_prompts (their answer is target_true), generation_prompts
zsRE          src, subject, alt (the new answer), answers, rephrase, loc ("nq question: ..."), loc_ans
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from caseback.edit.facts import Fact
from caseback.errors import CasebackError, LoadError, OutOfRange
from caseback.jobs.json_text import parse_json
from caseback.model.arguments import checked


@checked
def load_counterfact(path: str | Path, *, limit: int | None = None) -> list[Fact]:
    """Requests from a file in CounterFact's layout, a list of records.

    Parameters
    ----------
    path
        The JSON file.
    limit
        The first so many records; all by default.

    Returns
    -------
    list of Fact
        Each neighbor's own answer is the true answer, as CounterFact has it.

    Raises
    ------
    LoadError
        For a file that cannot be read, or a record of another layout, by its number.
    """

    def fact(record: Mapping[str, Any]) -> Fact:
        rewrite = record["requested_rewrite"]
        true = rewrite["target_true"]["str"]
        return Fact(
            rewrite["prompt"],
            rewrite["subject"],
            rewrite["target_new"]["str"],
            true,
            record.get("paraphrase_prompts", ()),
            [(text, true) for text in record.get("neighborhood_prompts", ())],
            openings=record.get("generation_prompts", ()),
            name=str(record.get("case_id", "")),
        )

    return _facts(path, limit, fact, "CounterFact")


@checked
def load_zsre(path: str | Path, *, limit: int | None = None) -> list[Fact]:
    """Requests from a file in the layout of zsRE for editing, a list of records.

    Parameters
    ----------
    path
        The JSON file.
    limit
        The first so many records; all by default.

    Returns
    -------
    list of Fact
        The neighbor is an unrelated question with its own answer, which the edit should leave right.

    Raises
    ------
    LoadError
        For a file that cannot be read, or a record of another layout, by its number.
    """

    def fact(record: Mapping[str, Any]) -> Fact:
        loc = record.get("loc")
        question = None if loc is None else loc.removeprefix("nq question: ")
        question = question if question is None or question.endswith("?") else f"{question}?"
        answers = record.get("answers") or [None]
        true = answers[0] if answers[0] != record["alt"] else None
        return Fact(
            record["src"],
            record["subject"],
            record["alt"],
            true,
            [record["rephrase"]] if record.get("rephrase") else [],
            [] if question is None else [(question, record["loc_ans"])],
            name=str(record.get("case_id", "")),
        )

    return _facts(path, limit, fact, "zsRE")


def _facts(path: str | Path, limit: int | None, fact: Callable[[Mapping[str, Any]], Fact], layout: str) -> list[Fact]:
    if limit is not None and limit < 1:
        raise OutOfRange(f"limit is {limit}: expected 1 or more")
    try:
        text = Path(path).read_text(encoding="utf-8")
        records = parse_json(text)
    except (OSError, ValueError, RecursionError) as error:
        raise LoadError(f"{path} cannot be read as JSON in {layout}'s layout: {error}") from None
    if not isinstance(records, list) or not records:
        raise LoadError(f"{path} holds no list of records, as {layout} does")
    facts = []
    for i, record in enumerate(records[:limit]):
        try:
            facts.append(fact(record))
        except (KeyError, TypeError, AttributeError, CasebackError) as error:
            raise LoadError(f"{path}: record {i} is not in {layout}'s layout: {error}") from None
    return facts
