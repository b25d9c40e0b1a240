"""MIB's simple multiple choice: a JSON list of objects and their colors. (Mueller et al. 2025)

[{"object": "lemon", "color": "yellow"}, …]
The lemon is yellow. What color is the lemon?
A. red
B. yellow
…
Answer:  ->  B
"""

from __future__ import annotations

import random
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from caseback.errors import LoadError
from caseback.model.arguments import checked
from caseback.tasks.formats.reading import Examples, choose, examples, json_records, value_at
from caseback.tasks.prompts import Pair
from caseback.tasks.text import Text, fill

CORRUPTIONS = ("position", "letters", "both")


@checked
def mib_mcqa(
    path: str | Path,
    *,
    count: int = 100,
    choices: int = 4,
    corruption: str = "position",
    seed: int = 0,
    skip_malformed: bool = False,
) -> Examples[Pair]:
    """Draw multiple-choice questions whose answer stands in the question.

    Positions: ``object``, ``color``, ``symbol0`` … and ``choice0`` … in the order in which they stand, ``end``. The
    target is the letter of the color; the group says which choice that is, counted from 0.

    Parameters
    ----------
    path
        JSON, an array or lines, with ``object`` and ``color``.
    count
        How many distinct pairs.
    choices
        How many answers each question offers.
    corruption
        What the counterfactual changes, so that another letter is right: ``"position"``: the right color changes
        places with another choice, and the letters stay; ``"letters"``: other letters stand before the same choices;
        or ``"both"``. The foil is the letter that is right in the counterfactual.
    seed
        Same seed, same result. Draws objects, choices and letters.
    skip_malformed
        Count malformed records in ``dropped`` instead of raising.

    Raises
    ------
    LoadError
        For a malformed record, with its line, too few colors, or fewer distinct pairs than asked for.

    References
    ----------
    Mueller et al. 2025, "MIB: A Mechanistic Interpretability Benchmark"; Wiegreffe et al. 2025.

    Examples
    --------
    >>> import json, tempfile
    >>> file = Path(tempfile.mkdtemp()) / "colors.json"
    >>> _ = file.write_text(json.dumps([{"object": o, "color": c} for o, c in
    ...     [("lemon", "yellow"), ("grass", "green")]]))
    >>> pair = mib_mcqa(file, count=1, choices=2, corruption="letters")[0]
    >>> pair.target != pair.foil, pair.foil == pair.corrupt_target, pair.clean.text[-7:]
    (True, True, 'Answer:')
    """
    choose("corruption", corruption, CORRUPTIONS)
    if not 2 <= choices <= len(ascii_uppercase) // 2 or count < 1:
        raise LoadError(f"choices {choices}, count {count}: expected 2 to 13 choices and at least 1 pair")

    def make(record: Any) -> tuple[str, str]:
        return value_at(record, "object").strip(), value_at(record, "color").strip()

    read = examples(path, json_records(path), make, skip_malformed=skip_malformed)
    colors = sorted({color for _, color in read})
    if len(colors) < choices:
        raise LoadError(f"{path} has {len(colors)} colors: expected at least {choices}, or ask for fewer choices")
    rng, seen, pairs = random.Random(seed), set(), Examples[Pair]((), read.dropped)
    for _ in range(20 * count):
        pair = _draw(rng, *rng.choice(read), colors, choices, corruption)
        if (pair.clean.text, pair.corrupt.text) not in seen:
            seen.add((pair.clean.text, pair.corrupt.text))
            pairs.append(pair)
        if len(pairs) == count:
            return pairs
    raise LoadError(f"{path} gave only {len(pairs)} distinct pairs of {count}: ask for fewer")


def _draw(rng: random.Random, thing: str, color: str, colors: list[str], choices: int, corruption: str) -> Pair:
    offered = rng.sample([other for other in colors if other != color], choices - 1)
    right = rng.randrange(choices)
    offered.insert(right, color)
    drawn = sorted(rng.sample(ascii_uppercase, 2 * choices))
    # Letters of both prompts interleave, so that neither has all the early ones.
    letters, others = drawn[::2], drawn[1::2]
    changed, moved = list(offered), right
    if corruption != "letters":
        moved = rng.choice([i for i in range(choices) if i != right])
        changed[right], changed[moved] = changed[moved], changed[right]
    marks = letters if corruption == "position" else others
    target, foil = f" {letters[right]}", f" {marks[moved]}"
    clean, corrupt = _asked(thing, color, letters, offered), _asked(thing, color, marks, changed)
    return Pair.of(clean, corrupt, target, foil, corrupt_target=foil, group=f"choice {right}")


def _asked(thing: str, color: str, symbols: list[str], offered: list[str]) -> Text:
    listed = "".join(f"\n{{symbol{i}}}. {{choice{i}}}" for i in range(len(offered)))
    words = {f"symbol{i}": symbol for i, symbol in enumerate(symbols)}
    words |= {f"choice{i}": choice for i, choice in enumerate(offered)}
    return fill(
        f"The {{object}} is {{color}}. What color is the {{object}}?{listed}\nAnswer:",
        object=thing,
        color=color,
        **words,
    )
