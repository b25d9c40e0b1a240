"""Function vectors' data: a JSON list of inputs and outputs, shown in context as few shots. (Todd et al. 2024)

[{"input": "flawed", "output": "perfect"}, …]
Q: big        Q: old        Q: flawed
A: small      A: new        A:         ->  perfect
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from caseback.errors import LoadError
from caseback.model.arguments import checked
from caseback.tasks.formats.reading import Examples, choose, examples, json_records, value_at
from caseback.tasks.formats.swapped_subjects import Fact, one_token_answers, pairs_of
from caseback.tasks.prompts import Pair
from caseback.tasks.text import Text

CORRUPTIONS = ("labels", "query", "none")
SHOT = "Q: {input}\nA: {output}\n\n"
QUERY = "Q: {input}\nA:"


@checked
def word_functions(path: str | Path, *, skip_malformed: bool = False) -> Examples[tuple[str, str]]:
    r"""Read the pairs of words of one function.

    Parameters
    ----------
    path
        JSON, an array or lines, with ``input`` and ``output``.
    skip_malformed
        Count malformed records in ``dropped`` instead of raising.

    Raises
    ------
    LoadError
        For a malformed record, with its line.

    References
    ----------
    Todd et al. 2024, "Function Vectors in Large Language Models".

    Examples
    --------
    >>> import json, tempfile
    >>> file = Path(tempfile.mkdtemp()) / "antonym.json"
    >>> _ = file.write_text(json.dumps([{"input": "big", "output": "small"}]))
    >>> list(word_functions(file))
    [('big', 'small')]
    """

    def make(record: Any) -> tuple[str, str]:
        return value_at(record, "input").strip(), value_at(record, "output").strip()

    return examples(path, json_records(path), make, skip_malformed=skip_malformed)


@checked
def function_vectors(
    path: str | Path,
    *,
    shots: int = 10,
    corruption: str = "labels",
    shot: str = SHOT,
    query: str = QUERY,
    model: Any = None,
    seed: int = 0,
    skip_malformed: bool = False,
    limit: int | None = None,
) -> Examples[Pair]:
    r"""Read pairs of words and show them as few-shot prompts; the query's output is the target.

    Positions: ``query``, the input that is asked about, and ``end``. The group is the file's name.

    Parameters
    ----------
    path
        JSON, an array or lines, with ``input`` and ``output``.
    shots
        How many examples stand before the query, drawn anew for every record from the others; ten as in the paper.
        0 is allowed, except with ``"labels"``.
    corruption
        ``"labels"``: the same shots with their outputs exchanged, so that none stands after its own input; the foil
        is another record's output. ``"query"``: the same shots before another input, whose output is the foil.
        ``"none"``: corrupt is the prompt itself; the foil is another record's output.
    shot, query
        Templates with ``{input}`` and, in ``shot``, ``{output}``. The target is the output with a leading space, so
        the query's template should not end in one.
    model
        A ``Model`` or a tokenizer: foils are then single tokens, and with ``"query"`` other inputs have as many tokens
        as the query.
    seed
        Same seed, same result. Draws shots, their order and foils.
    skip_malformed
        Count malformed records in ``dropped`` instead of raising.
    limit
        Stop after so many pairs; shots come from the whole file.

    Raises
    ------
    LoadError
        For a malformed record, with its line, fewer records than shots, or an unknown corruption.

    References
    ----------
    Todd et al. 2024, "Function Vectors in Large Language Models".

    Examples
    --------
    >>> import json, tempfile
    >>> file = Path(tempfile.mkdtemp()) / "antonym.json"
    >>> words = [("big", "small"), ("old", "new"), ("hot", "cold"), ("wet", "dry")]
    >>> _ = file.write_text(json.dumps([{"input": a, "output": b} for a, b in words]))
    >>> pair = function_vectors(file, shots=2)[0]
    >>> pair.clean.text[-9:], pair.target, sorted(pair.clean.text) == sorted(pair.corrupt.text)
    ('Q: big\nA:', (' small',), True)
    """
    choose("corruption", corruption, CORRUPTIONS)
    least = 2 if corruption == "labels" else 0
    if shots < least:
        raise LoadError(f"{shots} shots: expected at least {least} with corruption={corruption!r}")
    for name, given, fields in (("shot", shot, ("{input}", "{output}")), ("query", query, ("{input}",))):
        if any(given.count(field) != 1 for field in fields):
            raise LoadError(f"{name}={given!r}: expected a template with {' and '.join(fields)} once each")

    read = word_functions(path, skip_malformed=skip_malformed)
    rng, group = random.Random(seed), Path(path).stem
    before, after = query.split("{input}")
    facts, moved = [], []
    for asked, answer in read[: None if corruption == "query" else limit]:
        shown = _shots(read, asked, shots, rng, path)
        inputs = frozenset(given for given, _ in shown)
        facts.append(Fact(_shown(shot, shown) + before, asked, after, answer, "", group, "query", inputs))
        moved.append(_shown(shot, _moved(shown, rng)) + before)
    if corruption == "query":
        return pairs_of(facts, path=path, model=model, seed=seed, limit=limit, dropped=read.dropped)
    pairs: Examples[Pair] = Examples((), read.dropped)
    foils = one_token_answers([output for _, output in read], model)
    for fact, start in zip(facts, moved, strict=True):
        clean = fact.about(fact.subject)
        corrupt = _after(start, fact) if corruption == "labels" else clean
        pairs.append(Pair.of(clean, corrupt, f" {fact.answer}", _foil(foils, fact.answer, rng), group=group))
    return pairs


def _shots(
    read: list[tuple[str, str]], asked: str, shots: int, rng: random.Random, path: str | Path
) -> list[tuple[str, str]]:
    """Other records, none of which has the input that is asked about."""
    tried = rng.sample(range(len(read)), min(len(read), shots + 20))
    chosen = [read[i] for i in tried if read[i][0] != asked][:shots]
    if len(chosen) < shots:
        chosen = [record for record in rng.sample(read, len(read)) if record[0] != asked][:shots]
    if len(chosen) < shots:
        raise LoadError(
            f"{path} has {len(chosen)} records besides {asked!r}, {shots} shots were asked for: ask for fewer"
        )
    return chosen


def _moved(shown: list[tuple[str, str]], rng: random.Random) -> list[tuple[str, str]]:
    """The shots with their outputs passed on along a random cycle, so that every output moves."""
    circle = rng.sample(range(len(shown)), len(shown))
    takes = dict(zip(circle, circle[1:] + circle[:1], strict=True))
    return [(shown[i][0], shown[takes[i]][1]) for i in range(len(shown))]


def _shown(shot: str, shown: list[tuple[str, str]]) -> str:
    # not str.format: inputs and outputs may contain braces
    texts = (_put(shot, given, output) for given, output in shown)
    return "".join(texts)


def _put(shot: str, given: str, output: str) -> str:
    first, second = sorted(("{input}", "{output}"), key=shot.index)
    word = {"{input}": given, "{output}": output}
    start, _, rest = shot.partition(first)
    middle, _, end = rest.partition(second)
    return start + word[first] + middle + word[second] + end


def _after(start: str, fact: Fact) -> Text:
    return Fact(start, fact.subject, fact.after, "", name=fact.name).about(fact.subject)


def _foil(outputs: list[str], answer: str, rng: random.Random) -> tuple[str, ...]:
    """Another record's output; nothing if all records have the same one."""
    start = rng.randrange(len(outputs)) if outputs else 0
    around = (outputs[(start + i) % len(outputs)] for i in range(len(outputs)))
    other = next((output for output in around if output.lower() != answer.lower()), None)
    return () if other is None else (f" {other}",)
