"""BLiMP: JSON lines, each a good and a bad sentence that differ in one point. (Warstadt et al. 2020)

    {"sentence_good": "Paula references Robert.", "sentence_bad": "Paula reference Robert.", "UID": "regular_plural…"}

Three ways to read one: whole sentences to be compared; the words that both begin with, after which the good word is the
target and the bad one the foil; and, where the paradigm has it, two beginnings of which only one allows the next word.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from caseback.model.arguments import checked
from caseback.tasks.formats.reading import Examples, Unfit, choose, examples, json_records, value_at
from caseback.tasks.prompts import Pair
from caseback.tasks.sentence_scores import MinimalPair


@checked
def blimp_sentences(
    path: str | Path, *, skip_malformed: bool = False, limit: int | None = None
) -> Examples[MinimalPair]:
    """Read a BLiMP paradigm as whole sentences, for ``preference``.

    Parameters
    ----------
    path
        A file of JSON lines.
    skip_malformed
        Count malformed lines in ``dropped`` instead of raising.
    limit
        Stop after so many sentence pairs.

    Raises
    ------
    LoadError
        For a malformed line, with its number.

    Examples
    --------
    >>> import json, tempfile
    >>> file = Path(tempfile.mkdtemp()) / "agreement.jsonl"
    >>> _ = file.write_text(json.dumps({"sentence_good": "Dogs run.", "sentence_bad": "Dogs runs.", "UID": "a"}))
    >>> blimp_sentences(file)
    [MinimalPair(good='Dogs run.', bad='Dogs runs.', group='a')]
    """
    records = json_records(path)
    return examples(path, records, lambda record: _read(record, path), skip_malformed=skip_malformed, limit=limit)


@checked
def blimp(
    path: str | Path, *, method: str = "one_prefix", skip_malformed: bool = False, limit: int | None = None
) -> Examples[Pair]:
    """Read a BLiMP paradigm as prompts.

    With ``"one_prefix"`` the prompt is what both sentences begin with, and target and foil are the first words that
    differ. There is no counterfactual prompt: corrupt is the prompt itself. 20 of the 67 paradigms declare that these
    words decide (``one_prefix_method``); the others are refused, since both words may be right there. ``"shared"``
    reads those too. Pairs whose first words differ are left out and counted.

    With ``"two_prefix"`` clean and corrupt are the two beginnings and the target is the first word after them that the
    sentences share; there is no foil, so align with ``measure="log_prob"``. 20 further paradigms have it
    (``two_prefix_method``). The other 27 can only be compared as whole sentences: ``blimp_sentences``.

    Parameters
    ----------
    path
        A file of JSON lines.
    method
        ``"one_prefix"``, ``"shared"`` or ``"two_prefix"``. A line that does not declare whether its words decide, as in
        files of your own, is read.
    skip_malformed
        Count malformed lines in ``dropped`` instead of raising.
    limit
        Stop after so many pairs.

    Raises
    ------
    LoadError
        For a malformed line, with its number, or a paradigm without such prompts.

    References
    ----------
    Warstadt et al. 2020, "BLiMP: The Benchmark of Linguistic Minimal Pairs for English".

    Examples
    --------
    >>> import json, tempfile
    >>> file = Path(tempfile.mkdtemp()) / "agreement.jsonl"
    >>> _ = file.write_text(json.dumps({"sentence_good": "Dogs run.", "sentence_bad": "Dogs runs.", "UID": "a"}))
    >>> pair = blimp(file)[0]
    >>> pair.clean.text, pair.target, pair.foil
    ('Dogs', (' run',), (' runs',))
    """
    read = METHODS[choose("method", method, METHODS)]
    records = json_records(path)
    return examples(path, records, lambda record: read(record, path), skip_malformed=skip_malformed, limit=limit)


def _read(record: Any, path: str | Path) -> MinimalPair:
    good, bad = value_at(record, "sentence_good"), value_at(record, "sentence_bad")
    if good == bad:
        # A few published lines are like that, which is no reason to refuse the file.
        raise Unfit("the two sentences are the same")
    return MinimalPair(good, bad, str(record.get("UID", Path(path).stem)))


def _one_prefix(record: Any, path: str | Path) -> Pair:
    pair = _shared(record, path)
    if record.get("one_prefix_method") is False:
        raise Unfit("by its one_prefix_method no single word decides: try method='two_prefix', or blimp_sentences")
    return pair


def _shared(record: Any, path: str | Path) -> Pair:
    sentences = _read(record, path)
    good, bad = sentences.good.split(), sentences.bad.split()
    shared = next((i for i, (a, b) in enumerate(zip(good, bad, strict=False)) if a != b), None)
    if shared is None:
        raise Unfit("one sentence is the beginning of the other")
    if shared == 0:
        raise Unfit("the sentences differ in their first word")
    target, foil = good[shared].rstrip(".,?!"), bad[shared].rstrip(".,?!")
    if target == foil:
        raise Unfit("the sentences first differ in punctuation")
    prompt = " ".join(good[:shared])
    return Pair.of(prompt, prompt, f" {target}", f" {foil}", group=sentences.group)


def _two_prefix(record: Any, path: str | Path) -> Pair:
    sentences = _read(record, path)
    if record.get("two_prefix_method") is not True:
        raise Unfit("by its two_prefix_method it has no two beginnings: try method='one_prefix', or blimp_sentences")
    clean, corrupt = value_at(record, "two_prefix_prefix_good"), value_at(record, "two_prefix_prefix_bad")
    word = value_at(record, "two_prefix_word").split()[0]
    return Pair.of(clean, corrupt, f" {word}", group=sentences.group)


METHODS = {"one_prefix": _one_prefix, "shared": _shared, "two_prefix": _two_prefix}
