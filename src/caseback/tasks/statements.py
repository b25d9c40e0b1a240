"""Statements that are true or false, by topic, affirmative and negated: what detectors of truth are judged on.

    The capital of France is Paris.          true         The capital of France is not Paris.          false
    The capital of France is Rome.           false        The capital of France is not Rome.           true

A topic is a relation. The false answers of a topic are its true ones, dealt anew: each answer stands in as many true
statements as in false ones, so that words alone do not tell them apart. (Marks & Tegmark 2023; Buerger et al. 2024)
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from caseback.errors import CasebackError, LoadError, OutOfRange
from caseback.jobs.json_text import shortened
from caseback.model.arguments import checked
from caseback.tasks.formats.truth_statements import LABELS
from caseback.tasks.labeled_texts import table_records
from caseback.tasks.prompts import Pair

Span = tuple[int, int]
COLUMNS = ("statement", "label")
_VERB = re.compile(r"\b(is|are|was|were)\b")


@dataclass(frozen=True, eq=False)
class Statements:
    """Statements in order.

    Attributes
    ----------
    texts
        None is empty.
    true
        Whether each is true.
    topics
        What each is about: its relation.
    negated
        Whether each says that something is not so.
    facts
        A number for what each is made of; statements of one number know each other, so no split parts them.
    subjects
        The characters of each one's subject, where that is known.
    answers
        The character at which each one's answer begins, where that is known.
    """

    texts: list[str]
    true: Bool[np.ndarray, " batch"]
    topics: list[str]
    negated: Bool[np.ndarray, " batch"]
    facts: Int[np.ndarray, " batch"]
    subjects: list[Span | None]
    answers: list[int | None]

    def __len__(self) -> int:
        return len(self.texts)

    def of(self, rows: Sequence[int] | Int[np.ndarray, " row"] | Bool[np.ndarray, " batch"]) -> Statements:
        """Some of them, by number or by a mask."""
        at = np.arange(len(self))[np.asarray(rows)].tolist()
        take = lambda listed: [listed[i] for i in at]  # noqa: E731
        return Statements(
            take(self.texts),
            self.true[at],
            take(self.topics),
            self.negated[at],
            self.facts[at],
            take(self.subjects),
            take(self.answers),
        )

    def __repr__(self) -> str:
        return (
            f"Statements({len(self)} of {len(set(self.topics))} topics; {int(self.true.sum())} true, "
            f"{int(self.negated.sum())} negated)"
        )


@checked
def statements_of(pairs: Sequence[Pair], *, each: int = 40, negated: bool = True, seed: int = 0) -> Statements:
    """Make true and false statements of prompts with an answer.

    Parameters
    ----------
    pairs
        Prompts that end where the answer begins, each with its answer as ``target`` and its relation as ``group``: as
        ``formats.relations`` and ``formats.known_facts`` read them. Of a subject that a relation has twice the first
        answer is taken, and none of its answers is a false one.
    each
        At most so many facts of a topic.
    negated
        Add the same statements with "not" behind their last is, are, was or were, where they have one.
    seed
        Same seed, same result. Facts are drawn and answers dealt with it.

    Returns
    -------
    Statements
        Of each fact a true and a false one, then both negated. Topics with fewer than two answers are left out.

    Raises
    ------
    CasebackError
        For no pairs, a pair of token ids, and pairs of which no topic has two answers.

    Examples
    --------
    >>> from caseback.tasks import Text
    >>> facts = [("Rome", "Italy"), ("Paris", "France")]
    >>> pairs = [Pair.of(Text(f"{s} is in", {"subject": (0, len(s))}), "", f" {o}", group="city") for s, o in facts]
    >>> sorted(statements_of(pairs).texts)[:3]
    ['Paris is in France.', 'Paris is in Italy.', 'Paris is not in France.']
    """
    if not pairs:
        raise CasebackError("no facts are given: expected prompts with answers")
    if each < 2:
        raise OutOfRange(f"each={each}: expected 2 or more facts of a topic, since false answers are others' true ones")
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, bool, str, bool, int, Span | None, int]] = []
    number = 0
    for topic in dict.fromkeys(pair.group for pair in pairs):
        for pair, answer, wrong in _dealt([pair for pair in pairs if pair.group == topic], each, rng):
            stem, span = pair.clean.text.rstrip(), pair.clean.spans.get("subject")
            forms = [(stem, span, False)]
            if negated and (other := _negation(stem, span)) is not None:
                forms.append((*other, True))
            for text, place, no in forms:
                rows += [
                    (f"{text}{spoken}.", so != no, topic, no, number, place, len(text))
                    for spoken, so in ((answer, True), (wrong, False))
                ]
            number += 1
    if not rows:
        raise CasebackError("no topic has two facts with different answers: a false statement needs another's answer")
    texts, true, topics, no, facts, subjects, answers = (list(column) for column in zip(*rows, strict=True))
    return Statements(texts, np.array(true), topics, np.array(no), np.array(facts), subjects, answers)


def _dealt(pairs: Sequence[Pair], each: int, rng: np.random.Generator) -> list[tuple[Pair, str, str]]:
    """Some of a topic's facts, each with its answer and another's, all answers as often right as wrong."""
    own: dict[str, set[str]] = {}
    first: dict[str, Pair] = {}
    for pair in pairs:
        answer = pair.target[0]
        if not isinstance(answer, str) or pair.clean.ids is not None:
            raise CasebackError(f"{pair.clean.text!r} is given as token ids: expected text, which statements are")
        own.setdefault(pair.clean.text, set()).add(answer.strip().lower())
        first.setdefault(pair.clean.text, pair)
    listed = list(first.values())
    chosen = [listed[i] for i in rng.permutation(len(listed))[:each]]
    by_answer: dict[str, list[Pair]] = {}
    for pair in chosen:
        by_answer.setdefault(str(pair.target[0]), []).append(pair)
    # in order of answers and turned by the commonest one's count, nobody gets their own, if no answer has over half
    while len(by_answer) > 1:
        common = max(by_answer.values(), key=len)
        if 2 * len(common) <= sum(map(len, by_answer.values())):
            break
        common.pop()
    if len(by_answer) < 2:
        return []
    names = list(by_answer)
    ordered = [pair for i in rng.permutation(len(names)) for pair in by_answer[names[i]]]
    turn = max(map(len, by_answer.values()))
    dealt = []
    for pair, other in zip(ordered, ordered[turn:] + ordered[:turn], strict=True):
        wrong = str(other.target[0])
        if wrong.strip().lower() not in own[pair.clean.text]:
            dealt.append((pair, f" {str(pair.target[0]).strip()}", f" {wrong.strip()}"))
    return dealt


def _negation(stem: str, span: Span | None) -> tuple[str, Span | None] | None:
    """A stem with "not" behind its last verb, and where its subject then stands."""
    verbs = [match for match in _VERB.finditer(stem) if span is None or not span[0] <= match.start() < span[1]]
    if not verbs:
        return None
    at = verbs[-1].end()
    moved = span if span is None or span[0] < at else (span[0] + 4, span[1] + 4)
    return f"{stem[:at]} not{stem[at:]}", moved


@checked
def load_statements(path: str | Path) -> Statements:
    r"""Read statements from a file.

    Parameters
    ----------
    path
        A file named ``.csv``, ``.tsv``, ``.jsonl``, ``.json`` or ``.parquet`` with the columns ``statement`` and
        ``label`` (1 or 0, true or false). It may have more: ``topic`` (else all are of the file's name), ``negated``
        (as label), ``fact`` (what several statements are made of), ``subject`` and ``object``, which stand in the
        statement; the object is its answer and stands last.

    Returns
    -------
    Statements
        In the order of the file.

    Raises
    ------
    LoadError
        For a file that cannot be read, columns that it lacks, an empty statement, a label that is neither true nor
        false, and a subject or an object that does not stand in its statement, with where it is.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "cities.csv"
    >>> _ = file.write_text("statement,label,topic\nRome is in Italy.,1,city\nRome is in Peru.,0,city\n")
    >>> load_statements(file)
    Statements(2 of 1 topics; 1 true, 0 negated)
    """
    path = Path(path)
    rows = [_row(record, where, path.stem) for where, record in table_records(path)]
    if not rows:
        raise LoadError(f"{str(path)!r} has no rows: expected statements with labels")
    texts, true, topics, negated, names, subjects, answers = (list(column) for column in zip(*rows, strict=True))
    number: dict[Any, int] = {}
    facts = [number.setdefault(name if name is not None else (i,), len(number)) for i, name in enumerate(names)]
    return Statements(texts, np.array(true), topics, np.array(negated), np.array(facts), subjects, answers)


def _row(record: Any, where: str, name: str) -> tuple[Any, ...]:
    if not isinstance(record, Mapping):
        raise LoadError(f"{where}, is {shortened(repr(record), 60)}: expected a record with statement and label")
    if missing := [column for column in COLUMNS if column not in record]:
        raise LoadError(
            f"{where}, has no column {missing[0]!r}: expected statement and label, and of others topic, negated, fact, "
            "subject and object"
        )
    text = record["statement"]
    if not isinstance(text, str) or not text.strip():
        raise LoadError(f"{where}: the statement is {shortened(repr(text), 60)}, expected words")
    fact = record.get("fact") or record.get("subject")
    topic = record.get("topic")
    return (
        text,
        _truth(record["label"], where, "label"),
        name if topic in (None, "") else str(topic),
        _truth(record.get("negated") or 0, where, "negated"),
        None if fact in (None, "") else (str(topic), str(fact)),
        _place(text, record.get("subject"), where, "subject"),
        None if (span := _place(text, record.get("object"), where, "object")) is None else span[0],
    )


def _truth(value: Any, where: str, column: str) -> bool:
    known = LABELS.get(str(value).strip().lower())
    if known is None:
        shown = shortened(repr(value), 60)
        raise LoadError(f"{where}: the value under {column!r} is {shown}, expected 1 or 0, or true or false")
    return known


def _place(text: str, part: Any, where: str, column: str) -> Span | None:
    """The characters of a part of a statement; of an object that stands there twice the last."""
    if part in (None, ""):
        return None
    at = text.find(str(part)) if column == "subject" else text.rfind(str(part))
    if at < 0:
        raise LoadError(f"{where}: the {column} {shortened(repr(part), 60)} does not stand in its statement {text!r}")
    return at, at + len(str(part))


@checked
def statements_of_files(
    paths: Sequence[str | Path], *, each: int = 40, negated: bool = True, seed: int = 0
) -> Statements:
    """Make statements of relations in files.

    Parameters
    ----------
    paths
        JSON files of relations (LRE), folders of them, or files of known facts.
    each, negated, seed
        As for ``statements_of``.

    Returns
    -------
    Statements
        The first template of each relation is its wording.

    Raises
    ------
    LoadError, CasebackError
        As ``formats.relations``, ``formats.known_facts`` and ``statements_of``.

    Examples
    --------
    >>> import json, tempfile
    >>> file = Path(tempfile.mkdtemp()) / "capital.json"
    >>> samples = [{"subject": "Canada", "object": "Ottawa"}, {"subject": "Kenya", "object": "Nairobi"}]
    >>> _ = file.write_text(json.dumps({"name": "capital", "prompt_templates": ["The capital of {} is"],
    ...     "samples": samples}))
    >>> statements_of_files([file], negated=False)
    Statements(4 of 1 topics; 2 true, 0 negated)
    """
    return statements_of(facts_of_files(paths), each=each, negated=negated, seed=seed)


@checked
def facts_of_files(paths: Sequence[str | Path]) -> list[Pair]:
    """Read prompts with answers from files of relations or of known facts.

    Parameters
    ----------
    paths
        As for ``statements_of_files``.

    Raises
    ------
    LoadError
        For files that are neither, or are malformed.

    Examples
    --------
    ::

        facts_of_files(["relations/factual", "known_1000.json"])
    """
    from caseback.tasks.formats import known_facts, relations
    from caseback.tasks.formats.reading import json_value

    pairs: list[Pair] = []
    for path in paths:
        known = not os.path.isdir(path) and isinstance(json_value(Path(path)), list)
        read = known_facts if known else relations
        pairs += read(path, corruption="none")
    return pairs
