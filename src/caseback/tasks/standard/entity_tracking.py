"""Entity tracking: things are put into boxes and moved; what is in this box now? (PRIMER 5.4.9)

    The cake is in box A, the drum is in box E. The cake is moved to box B. Box B contains the ->  cake

The counterfactual asks about another box, so that the answer is another thing.
"""

from __future__ import annotations

import random

from caseback.errors import CasebackError
from caseback.lexicon import LETTERS, WIDE_THINGS
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task, another
from caseback.tasks.text import fill

CHANGES = ("none", "move", "swap")


def entity_tracking(*, boxes: int = 3, change: str = "any") -> Task:
    """The thing in a box after some of them were moved.

    Positions: ``object1``, ``box1``, ``object2``, ``box2``, … as they are first told, ``asked`` (the box in the
    question), ``end``; where all prompts have the same change, also ``moved`` and ``to`` (of a move) or ``moved`` and
    ``with`` (of a swap). The foil is what the counterfactual's box holds.

    Parameters
    ----------
    boxes
        How many things there are, each in its own box, 2 to 5.
    change
        ``"none"``, ``"move"`` (one thing goes to an empty box), ``"swap"`` (two things change places), or ``"any"``.

    Raises
    ------
    CasebackError
        For an unknown change or another number of boxes.

    References
    ----------
    Kim & Schuster 2023, "Entity tracking in language models"; Prakash et al. 2024.

    Examples
    --------
    >>> pair = entity_tracking(boxes=2, change="none").draw(random.Random(0), {"things": ["cake", "drum"],
    ...     "boxes": ["A", "B", "C"]})
    >>> asked = pair.clean.text[slice(*pair.clean.spans["asked"])]
    >>> f"{pair.target[0]} is in box {asked}" in pair.clean.text.replace("The", "the")
    True
    """
    if change not in (*CHANGES, "any"):
        raise CasebackError(f"change {change!r} is unknown: expected one of {', '.join(CHANGES)}, any")
    if not 2 <= boxes <= 5:
        raise CasebackError(f"{boxes} boxes: expected 2 to 5")

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        *letters, empty = rng.sample(list(fillers["boxes"]), boxes + 1)
        things = rng.sample(list(fillers["things"]), boxes)
        inside = dict(zip(letters, things, strict=True))
        kind = rng.choice(CHANGES) if change == "any" else change
        template = ", ".join(f"the {{object{i}}} is in box {{box{i}}}" for i in range(1, boxes + 1)) + "."
        template = template[0].upper() + template[1:]
        words = {f"object{i}": thing for i, thing in enumerate(things, 1)}
        words |= {f"box{i}": letter for i, letter in enumerate(letters, 1)}
        if kind == "move":
            origin = rng.choice(letters)
            words |= {"moved": inside[origin], "to": empty}
            inside[empty] = inside.pop(origin)
            template += " The {moved} is moved to box {to}."
        elif kind == "swap":
            one, two = rng.sample(letters, 2)
            words |= {"moved": inside[one], "with": inside[two]}
            inside[one], inside[two] = inside[two], inside[one]
            template += " The {moved} and the {with} change places."
        asked = rng.choice(list(inside))
        other = another(rng, list(inside), asked)
        template += " Box {asked} contains the"
        return Pair.of(
            fill(template, **words, asked=asked),
            fill(template, **words, asked=other),
            f" {inside[asked]}",
            f" {inside[other]}",
            corrupt_target=f" {inside[other]}",
            group=kind,
        )

    return Task(
        "entity_tracking",
        "Things in boxes, perhaps moved: the thing in the box asked about over that in another.",
        draw,
        {"things": WIDE_THINGS, "boxes": LETTERS[:6]},
        entry="5.4.9",
        citation="Kim & Schuster 2023; Prakash et al. 2024",
        needs={"things": boxes, "boxes": boxes + 1},
    )
