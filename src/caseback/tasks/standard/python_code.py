"""Docstring: a function's parameters are documented in the order of its signature. (PRIMER 5.4.6)

    def port(self, load, size, file, last):
        \"\"\"the old house

        :param load: the red store
        :param size: the quiet lake
        :param ->  file

The counterfactuals put other names in the definition, in the docstring, or in both, which takes the answer away.
"""

from __future__ import annotations

import random

from caseback.errors import CasebackError
from caseback.lexicon import PLACES, WIDE_COLORS, WIDE_THINGS
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task
from caseback.tasks.text import Text, fill

CORRUPTIONS = ("random_random", "random_def", "random_doc")
ARGUMENTS = (
    "load size file last line name path word count index value data order state list key mode size group type user "
    "date time title option field image page result table item event node link shape level score target source"
).split()


def docstring(*, corruption: str = "random_random", documented: int = 2, remarks: int = 3) -> Task:
    """The next parameter of a docstring.

    Positions: ``A_def``, ``B_def``, ``C_def``, … for the arguments of the definition, in order (the last is never the
    answer); ``A_doc``, ``B_doc`` for those that are documented; ``end``. The foil is another argument.

    Parameters
    ----------
    corruption
        ``"random_random"``: other names in definition and docstring; ``"random_def"``: in the definition alone;
        ``"random_doc"``: in the docstring alone.
    documented
        How many parameters are documented before the one asked for, 1 to 4; 2 in the paper.
    remarks
        Words per remark.

    Raises
    ------
    CasebackError
        For an unknown corruption or a number out of range.

    References
    ----------
    Heimersheim & Janiak 2023, "A circuit for Python docstrings in a 4-layer attention-only transformer".

    Examples
    --------
    >>> words = [f"x{i}" for i in range(20)]
    >>> pair = docstring().draw(random.Random(0), {"arguments": words, "colors": ["red"], "places": ["hill"]})
    >>> pair.clean.text.count(pair.target[0]), pair.clean.text.splitlines()[-1]
    (1, '    :param')
    """
    if corruption not in CORRUPTIONS:
        raise CasebackError(f"corruption {corruption!r} is unknown: expected one of {', '.join(CORRUPTIONS)}")
    if not 1 <= documented <= 4 or remarks < 1:
        raise CasebackError(f"documented={documented}, remarks={remarks}: expected 1 to 4 and at least 1")
    letters = "ABCDEF"[: documented + 2]

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        name, *rest = rng.sample(list(fillers["arguments"]), 1 + 3 * len(letters))
        own, in_def, in_doc = (rest[i::3] for i in range(3))
        lines = [_remark(rng, fillers, remarks) for _ in range(documented + 1)]
        target, foil = own[documented], rng.choice(own[:documented] + own[documented + 1 :])
        return Pair.of(
            _code(name, own, own, lines),
            _code(
                name,
                own if corruption == "random_doc" else in_def,
                own if corruption == "random_def" else in_doc,
                lines,
            ),
            f" {target}",
            f" {foil}",
            group="ABCDEF"[own.index(foil)],
        )

    return Task(
        "docstring",
        "A Python function whose parameters are being documented: the next argument over another one.",
        draw,
        {"arguments": list(dict.fromkeys(ARGUMENTS + WIDE_THINGS)), "colors": WIDE_COLORS, "places": PLACES},
        entry="5.4.6",
        citation="Heimersheim & Janiak 2023",
        needs={"arguments": 1 + 3 * len(letters)},
    )


def _remark(rng: random.Random, fillers: Fillers, words: int) -> str:
    """A remark such as ``the red store``; shorter ones lack its first words, longer ones have more colors."""
    colors = [rng.choice(fillers["colors"]) for _ in range(max(1, words - 2))]
    return " ".join(["the", *colors, rng.choice(fillers["places"])][-words:])


def _code(name: str, arguments: list[str], parameters: list[str], lines: list[str]) -> Text:
    letters = "ABCDEF"[: len(arguments)]
    documented = letters[: len(lines) - 1]
    head = f'def {name}(self, {", ".join(f"{{{c}_def}}" for c in letters)}):\n    """{lines[0]}\n\n'
    body = "".join(f"    :param {{{c}_doc}}: {line}\n" for c, line in zip(documented, lines[1:], strict=True))
    words = {f"{c}_def": word for c, word in zip(letters, arguments, strict=True)}
    words |= {f"{c}_doc": word for c, word in zip(documented, parameters, strict=False)}
    return fill(head + body + "    :param", **words)
