"""Colored objects: some things on a table, each of a different color; what color is this one? (PRIMER 5.4.7)

    On the table there is a red book, a blue pen and a green cup. What color is the pen? It is ->  blue

The counterfactual asks about another of the things, or exchanges two colors.
"""

from __future__ import annotations

import random

from caseback.errors import CasebackError
from caseback.lexicon import WIDE_COLORS, WIDE_THINGS, with_article
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task
from caseback.tasks.text import fill

TEMPLATES = (
    "On the table there is {shown}. What color is the {asked}? It is",
    "On the table there is {shown}. The color of the {asked} is",
    "There is {shown} on the chair. The {asked} is",
    "Q: On the table, there is {shown}. What color is the {asked}?\nA: It is",
)
CORRUPTIONS = ("question", "colors")
# prefixes of names: the thing asked about, the foil's thing, the others
NAMED = ("", "foil_", "other_", "further_")


def colored_objects(*, objects: int = 3, corruption: str = "question", templates: tuple[str, ...] = TEMPLATES) -> Task:
    """The color of one of several things.

    Positions: ``object`` and ``color`` (of the thing asked about, where it is shown), ``foil_object`` and
    ``foil_color``, ``other_object`` …, ``asked`` (in the question), ``end``.

    Parameters
    ----------
    objects
        How many things there are, 2 to 4; 3 in the paper.
    corruption
        ``"question"``: the question is about the foil's thing, so that the answer is the foil; ``"colors"``: the two
        things exchange their colors.
    templates
        Texts with ``{shown}`` and ``{asked}``.

    Raises
    ------
    CasebackError
        For an unknown corruption or another number of things.

    References
    ----------
    Merullo et al. 2024, "Circuit component reuse across tasks in transformer language models".

    Examples
    --------
    >>> pair = colored_objects(objects=2).draw(random.Random(0), {"colors": ["red", "blue"], "things": ["pen", "cup"]})
    >>> asked = slice(*pair.clean.spans["asked"])
    >>> f"{pair.target[0]} {pair.clean.text[asked]}" in pair.clean.text
    True
    """
    if corruption not in CORRUPTIONS:
        raise CasebackError(f"corruption {corruption!r} is unknown: expected one of {', '.join(CORRUPTIONS)}")
    if not 2 <= objects <= len(NAMED):
        raise CasebackError(f"{objects} objects: expected 2 to {len(NAMED)}")

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        things, colors = rng.sample(list(fillers["things"]), objects), rng.sample(list(fillers["colors"]), objects)
        order = rng.sample(range(objects), objects)
        # the articles stay where colors change places, or the two prompts would differ in more than the colors
        shown = [f"{with_article(colors[i]).split()[0]} {{{NAMED[i]}color}} {{{NAMED[i]}object}}" for i in order]
        template = rng.choice(templates)
        named = template.replace("{shown}", f"{', '.join(shown[:-1])} and {shown[-1]}")
        words = {f"{NAMED[i]}object": things[i] for i in range(objects)}
        words |= {f"{NAMED[i]}color": colors[i] for i in range(objects)}
        swapped = {"color": colors[1], "foil_color": colors[0]} if corruption == "colors" else {}
        return Pair.of(
            fill(named, **words, asked=things[0]),
            fill(named, **{**words, **swapped}, asked=things[0] if swapped else things[1]),
            f" {colors[0]}",
            f" {colors[1]}",
            corrupt_target=f" {colors[1]}",
            group=f"{templates.index(template)} place {order.index(0) + 1}",
        )

    return Task(
        "colored_objects",
        "Several things, each of a color: the color of the one asked over that of another.",
        draw,
        {"colors": WIDE_COLORS, "things": WIDE_THINGS},
        entry="5.4.7",
        citation="Merullo et al. 2024",
        needs=objects,
    )
