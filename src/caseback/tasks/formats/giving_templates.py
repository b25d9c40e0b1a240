"""MIB's indirect-object task: JSON lists of templates, names, objects and places. (Mueller et al. 2025)

    templates.json   "Then, {name_A} and {name_B} went to the {place}. {name_C} gave a {object} to"

Name C repeats A or B; the other of the two is the answer. Half of the templates have ``an {object}``; they get objects
that begin with a vowel.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from caseback.errors import LoadError
from caseback.model.arguments import checked
from caseback.tasks.formats.reading import Examples, Malformed, examples, json_records
from caseback.tasks.prompts import Pair
from caseback.tasks.standard.indirect_object import ioi

FIELDS = ("{name_A}", "{name_B}", "{name_C}")
OURS = {"{name_A}": "{A}", "{name_B}": "{B}", "{name_C}": "{S2}", "{object}": "{thing}"}


@checked
def mib_ioi(
    folder: str | Path,
    *,
    count: int = 100,
    order: str = "both",
    corruption: str = "swap",
    seed: int = 0,
    skip_malformed: bool = False,
) -> Examples[Pair]:
    """Draw indirect-object prompts from MIB's templates.

    Positions: ``IO``, ``S1``, ``S2``, ``end``, and ``place`` and ``thing`` where the template has them (``Prompts``
    keeps the names that all of its examples have). The group is the template's number and the order.

    Parameters
    ----------
    folder
        A folder with ``templates.json``, ``names.json``, ``objects.json`` and ``places.json``.
    count
        How many distinct pairs.
    order, corruption
        As in ``ioi``. ``"swap"``, which says the other name (``s2_io_flip``), is the benchmark's default.
    seed
        Same seed, same result. Draws templates, names, objects and places.
    skip_malformed
        Count malformed entries in ``dropped`` instead of raising.

    Raises
    ------
    LoadError
        For a missing file, a malformed entry, with its line, or fewer distinct pairs than asked for.

    References
    ----------
    Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark"; Wang et al. 2023.

    Examples
    --------
    >>> import json, tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> lists = {"names": ["Ann", "Ben", "Cleo", "Dan", "Eve"], "objects": ["ring"], "places": ["store"],
    ...     "templates": ["{name_A} and {name_B} went to the {place}. {name_C} gave a {object} to"]}
    >>> for name, listed in lists.items():
    ...     _ = (folder / f"{name}.json").write_text(json.dumps(listed))
    >>> pairs = mib_ioi(folder, count=5)
    >>> len(pairs), all(pair.corrupt_target == pair.foil for pair in pairs)
    (5, True)
    """
    if count < 1:
        raise LoadError(f"count {count}: expected at least 1")
    pairs: Examples[Pair] = Examples()
    lists = {}
    for name in ("templates", "names", "objects", "places"):
        file = Path(folder) / f"{name}.json"
        lists[name] = examples(
            file, json_records(file), _template if name == "templates" else _word, skip_malformed=skip_malformed
        )
        pairs.dropped += lists[name].dropped
    if len(set(lists["names"])) < 5:
        raise LoadError(f"{Path(folder) / 'names.json'}: expected at least 5 names, found {len(set(lists['names']))}")
    usable = [
        (i, template, things)
        for i, template in enumerate(lists["templates"])
        if (things := _fitting(template, lists["objects"]))
    ]
    if not usable:
        raise LoadError(f"{folder}: no object fits a template's 'a' or 'an'")
    rng, seen = random.Random(seed), set()
    for _ in range(20 * count):
        number, template, things = rng.choice(usable)
        fillers = {"names": lists["names"], "places": lists["places"], "things": things}
        drawn = ioi(order=order, corruption=corruption, templates=(template,)).draw(rng, fillers)
        pair = replace(drawn, group=f"{number} {drawn.group.split()[-1]}")
        if (pair.clean.text, pair.corrupt.text) not in seen:
            seen.add((pair.clean.text, pair.corrupt.text))
            pairs.append(pair)
        if len(pairs) == count:
            return pairs
    raise LoadError(f"{folder} gave only {len(pairs)} distinct pairs of {count}: ask for fewer")


def _template(record: Any) -> str:
    text = _word(record)
    if any(text.count(field) != 1 for field in FIELDS):
        raise Malformed(f"a template with {', '.join(FIELDS)} once each", text)
    for theirs, ours in OURS.items():
        text = text.replace(theirs, ours)
    return text


def _word(record: Any) -> str:
    if not isinstance(record, str) or not record.strip():
        raise Malformed("a text", record)
    return record


def _fitting(template: str, things: list[str]) -> list[str]:
    """The objects that may follow the template's article; all of them where it has none."""
    vowel: Callable[[str], bool] = lambda word: word[0].lower() in "aeiou"  # noqa: E731
    if " an {thing}" in template:
        return [thing for thing in things if vowel(thing)]
    if " a {thing}" in template:
        return [thing for thing in things if not vowel(thing)]
    return list(things)
