"""Published requests: the JSON of CounterFact and of zsRE as editing uses it.

CounterFact   requested_rewrite {prompt, subject, target_new.str, target_true.str}, paraphrase_prompts,
neighborhood_prompts (their answer is target_true), generation_prompts
zsRE          src, subject, alt (the new answer), answers, rephrase, loc ("nq question: ..."), loc_ans
known facts   subject, attribute, prompt, relation_id (ROME's known_1000): what is true, of which requests are made
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

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


@checked
def load_known(path: str | Path, *, limit: int | None = None) -> list[Fact]:
    """Facts from a file in the layout of ROME's known facts, a list of records, each made into a request.

    The new answer is the next other attribute of the relation in the file, and neighbors are other subjects with the
    same attribute, at most ten, as CounterFact has them.

    Parameters
    ----------
    path
        The JSON file.
    limit
        The first so many facts; all by default. Facts whose prompt does not name the subject once are left out, and
        those of a relation with one attribute.

    Returns
    -------
    list of Fact
        Facts of many relations, each with its own prompt.

    Raises
    ------
    LoadError
        For a file that cannot be read, or a record of another layout, by its number.

    Examples
    --------
    >>> import json, tempfile
    >>> pairs = [("Ada", "English"), ("Blaise", "French")]
    >>> records = [{"subject": s, "attribute": a, "prompt": f"{s} speaks", "relation_id": "P1"} for s, a in pairs]
    >>> file = Path(tempfile.mkdtemp()) / "known.json"
    >>> _ = file.write_text(json.dumps(records))
    >>> [str(fact) for fact in load_known(file)]
    ['Ada speaks -> French', 'Blaise speaks -> English']
    """
    if limit is not None and limit < 1:
        raise OutOfRange(f"limit is {limit}: expected 1 or more")

    def known(record: Mapping[str, Any]) -> tuple[str, str, str, str, str]:
        parts = record["relation_id"], record["subject"], record["attribute"], record["prompt"]
        if not all(isinstance(part, str) and part.strip() for part in parts):
            raise TypeError("relation_id, subject, attribute and prompt are not all texts")
        return (*parts, str(record.get("known_id", "")))

    of_relation: dict[str, list[tuple[str, str, str]]] = {}
    records = _facts(path, None, known, "known facts")
    for relation, subject, attribute, prompt, _ in records:
        of_relation.setdefault(relation, []).append((subject, attribute, prompt))
    facts, at = [], dict.fromkeys(of_relation, 0)
    for relation, subject, attribute, prompt, name in records:
        rows, i = of_relation[relation], at[relation]
        at[relation] += 1
        others = [other for _, other, _ in (*rows[i:], *rows[:i]) if other != attribute]
        if not others or prompt.count(subject) != 1:
            continue
        near = [(text, attribute) for who, other, text in rows if other == attribute and who != subject]
        facts.append(Fact(prompt, subject, others[0], attribute, neighbors=near[:10], name=name))
    return facts[:limit]


Read = TypeVar("Read")


def _facts(path: str | Path, limit: int | None, fact: Callable[[Mapping[str, Any]], Read], layout: str) -> list[Read]:
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
