"""Subject-verb agreement as clean and patch prefixes: JSON lines of the feature-circuits data. (Marks et al. 2024)

    {"clean_prefix": "The teachers near the desk", "patch_prefix": "The teacher near the desk",
     "clean_answer": " are", "patch_answer": " is", "case": "plural_singular"}

The word that changes its number between the prefixes is the subject of the verb that follows; in other languages words
beside it change too (*El perro*, *Los perros*).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caseback.model.arguments import checked
from caseback.tasks.formats.reading import Examples, Malformed, examples, json_records, value_at
from caseback.tasks.prompts import Pair
from caseback.tasks.text import Text


@checked
def agreement_pairs(path: str | Path, *, skip_malformed: bool = False, limit: int | None = None) -> Examples[Pair]:
    """Read agreement pairs: the patch prefix is corrupt, its answer the foil.

    Positions: ``subject``, the word that differs or several neighbors, and ``end``. The group is the case, as in
    ``plural_singular``.

    Parameters
    ----------
    path
        A file of JSON lines.
    skip_malformed
        Count malformed lines in ``dropped`` instead of raising.
    limit
        Stop after so many pairs.

    Raises
    ------
    LoadError
        For a malformed line, with its number, or prefixes that do not differ in one word or in neighbors.

    References
    ----------
    Marks et al. 2024, "Sparse Feature Circuits"; templates of Finlayson et al. 2021.

    Examples
    --------
    >>> import json, tempfile
    >>> file = Path(tempfile.mkdtemp()) / "simple.json"
    >>> line = {"clean_prefix": "The dogs", "patch_prefix": "The dog", "clean_answer": " are", "patch_answer": " is"}
    >>> _ = file.write_text(json.dumps({**line, "case": "plural"}))
    >>> pair = agreement_pairs(file)[0]
    >>> pair.corrupt.text, pair.foil, pair.clean.spans["subject"]
    ('The dog', (' is',), (4, 8))
    """
    return examples(path, json_records(path), _pair, skip_malformed=skip_malformed, limit=limit)


def _pair(record: Any) -> Pair:
    clean, corrupt = value_at(record, "clean_prefix"), value_at(record, "patch_prefix")
    answer, other = value_at(record, "clean_answer"), value_at(record, "patch_answer")
    words, changed = clean.split(" "), corrupt.split(" ")
    differ = [i for i, (a, b) in enumerate(zip(words, changed, strict=False)) if a != b]
    if len(words) != len(changed) or not differ or len(differ) <= differ[-1] - differ[0]:
        raise Malformed("prefixes that differ in one word, or in neighbors", f"{clean} / {corrupt}")
    clean, corrupt = (_named(listed, differ[0], differ[-1] + 1) for listed in (words, changed))
    return Pair.of(clean, corrupt, answer, other, corrupt_target=other, group=str(record.get("case", "")))


def _named(words: list[str], first: int, stop: int) -> Text:
    start = len(" ".join(words[:first])) + (first > 0)
    return Text(" ".join(words), {"subject": (start, len(" ".join(words[:stop])))})
