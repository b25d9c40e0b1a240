"""Tables of clean and corrupted prompts: the CSV files of EAP-IG. (Hanna et al. 2024)

    IOI            clean,corrupted,corrupted_hard,correct_idx,incorrect_idx
    greater-than   clean,corrupted,label        "… from the year 1352 to the year 13", 52

The ``_idx`` columns are token ids of one vocabulary. So that the table serves every tokenizer, answers are read from
the text instead; where the text does not show them, ``ids_of`` names the tokenizer that the ids belong to.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from caseback.errors import LoadError
from caseback.model.arguments import checked
from caseback.model.running.tokens import piece
from caseback.tasks.align import tokenizer_of
from caseback.tasks.formats.reading import Examples, Malformed, choose, csv_rows, examples
from caseback.tasks.prompts import Pair
from caseback.tasks.text import Text

CORRUPTIONS = ("corrupted", "corrupted_hard")
SPAN_OF_YEARS = re.compile(r"(?P<century>\d\d)(?P<year>\d\d)\D+(?P<again>\d\d)$")
Row = dict[str, str]


@checked
def eap_ig(
    path: str | Path,
    *,
    corruption: str = "corrupted",
    ids_of: Any = None,
    skip_malformed: bool = False,
    limit: int | None = None,
) -> Examples[Pair]:
    r"""Read a table of EAP-IG; its columns say which table it is.

    IOI (``correct_idx``): target is the indirect object, foil the subject; positions ``IO``, ``S1``, ``S2``, ``end``.
    Greater-than (``label``): targets are all later years of the century, foils the others; positions ``century``,
    ``year``, ``again``, ``end``; align with ``measure="prob_diff"``.

    Parameters
    ----------
    path
        A CSV file with the columns ``clean``, ``corrupted``, and either ``correct_idx`` and ``incorrect_idx`` or
        ``label``.
    corruption
        The column that the counterfactual is taken from: ``"corrupted"`` (another name at the second mention of the
        subject; the year 01) or ``"corrupted_hard"`` (the indirect object's name there, so that the subject is the
        answer).
    ids_of
        A ``Model`` or a tokenizer whose vocabulary the ids come from: any table with ``correct_idx`` and
        ``incorrect_idx`` can then be read, and no position but ``end`` is named. None reads answers from the text.
    skip_malformed
        Count malformed rows in ``dropped`` instead of raising.
    limit
        Stop after so many pairs.

    Raises
    ------
    LoadError
        For an unknown header, or a malformed row, with its line.

    References
    ----------
    Hanna et al. 2024, "Have Faith in Faithfulness"; IOI of Wang et al. 2023, greater-than of Hanna et al. 2023.

    Examples
    --------
    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "greater_than.csv"
    >>> row = "The war lasted from the year 1752 to the year 17,The war lasted from the year 1701 to the year 17,52"
    >>> _ = file.write_text(f"clean,corrupted,label\n{row}\n")
    >>> pair = eap_ig(file)[0]
    >>> pair.target[0], pair.foil[-1], len(pair.target) + len(pair.foil)
    ('53', '52', 100)
    """
    choose("corruption", corruption, CORRUPTIONS)
    columns = next((row for _, row in csv_rows(path, "clean", corruption) if isinstance(row, dict)), {})
    make = _maker(path, columns, corruption, ids_of)
    records = csv_rows(path, "clean", corruption)
    return examples(path, records, make, skip_malformed=skip_malformed, limit=limit)


def _maker(path: str | Path, columns: Row, corruption: str, ids_of: Any) -> Callable[[Row], Pair]:
    if "correct_idx" in columns and "incorrect_idx" in columns:
        tokenizer = None if ids_of is None else tokenizer_of(ids_of)
        return lambda row: _names(row, corruption) if tokenizer is None else _by_ids(row, corruption, tokenizer)
    if "label" in columns and ids_of is None:
        return lambda row: _years(row, corruption)
    raise LoadError(
        f"{path}, line 1: expected the columns correct_idx and incorrect_idx, or label; found "
        f"{', '.join(filter(None, columns)) or 'no row'}"
    )


def _names(row: Row, corruption: str) -> Pair:
    """An IOI pair: the word in which the prompts differ is the subject's second mention."""
    clean, other = row["clean"], row[corruption]
    words, changed = clean.split(" "), other.split(" ")
    differ = [i for i, (a, b) in enumerate(zip(words, changed, strict=False)) if a != b]
    if len(words) != len(changed) or len(differ) != 1:
        raise Malformed("prompts that differ in one name", f"{clean} / {other}")
    (at,) = differ
    start = len(" ".join(words[:at])) + (at > 0)
    subject = _name(words[at])
    match = re.search(rf"\b(?:{re.escape(subject)} and (?P<b>\w+)|(?P<a>\w+) and {re.escape(subject)})\b", clean)
    if not subject or not match or match.end() > start:
        raise Malformed("'A and B' before the subject's second mention", clean)
    io = match["a"] or match["b"]
    first = match.start() + match[0].index(subject if match["b"] else io)
    second = match.end() - len(io if match["b"] else subject)
    io_at, s_at = (second, first) if match["b"] else (first, second)
    spans = {"IO": (io_at, io_at + len(io)), "S1": (s_at, s_at + len(subject))}
    clean, corrupt = (
        Text(text, {**spans, "S2": (start, start + len(_name(listed[at])))})
        for text, listed in ((clean, words), (other, changed))
    )
    hard = corruption == "corrupted_hard"
    order = "ABBA" if io_at < s_at else "BABA"
    return Pair.of(clean, corrupt, f" {io}", f" {subject}", corrupt_target=f" {subject}" if hard else (), group=order)


def _name(word: str) -> str:
    return word.strip(".,")


def _years(row: Row, corruption: str) -> Pair:
    """A greater-than pair: the year that the span begins in, and every year of its century."""
    texts = []
    for text in (row["clean"], row[corruption]):
        match = SPAN_OF_YEARS.search(text)
        if not match:
            raise Malformed("a prompt that ends in 'YYYY … YY'", text)
        texts.append(Text(text, {name: match.span(name) for name in ("century", "year", "again")}))
    years = [text.text[slice(*text.spans["year"])] for text in texts]
    if not re.fullmatch(r"\d+", row["label"].strip()) or int(row["label"]) != int(years[0]):
        raise Malformed(f"the label {int(years[0])}, as in the prompt", row["label"])
    begins = int(years[0])
    later, others = ([f"{y:02}" for y in span] for span in (range(begins + 1, 100), range(begins + 1)))
    if not later:
        raise Malformed("a year before 99, so that some year is later", row["clean"])
    clean, corrupt = texts
    return Pair.of(clean, corrupt, later, others, group=clean.text[slice(*clean.spans["century"])])


def _by_ids(row: Row, corruption: str, tokenizer: Any) -> Pair:
    """A pair whose answers are the text that the table's ids stand for in its own vocabulary."""
    answers = []
    for column in ("correct_idx", "incorrect_idx"):
        text = row[column].strip()
        if not text.isdigit() or int(text) >= len(tokenizer):
            raise Malformed(f"a token id below {len(tokenizer)} under {column!r}", row[column])
        answers.append(piece(tokenizer, int(text)))
    target, foil = answers
    return Pair.of(row["clean"], row[corruption], target, foil)
