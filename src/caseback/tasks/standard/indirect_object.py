"""Indirect object identification: one of two people gives something; to whom? (PRIMER 5.4.4)

    When Mary and John went to the store, John gave a drink to ->  Mary, not John

The counterfactuals of Wang et al. 2023 replace all three names (``abc``), which takes the answer away; ``name``
replaces the second mention of the subject alone, and ``swap`` says the other name there, which reverses the answer.
"""

from __future__ import annotations

import random

from caseback.errors import CasebackError
from caseback.lexicon import PLACES, WIDE_NAMES, WIDE_THINGS
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task
from caseback.tasks.text import fill

TEMPLATES = (
    "When {A} and {B} went to the {place}, {S2} gave a {thing} to",
    "When {A} and {B} got a {thing} at the {place}, {S2} decided to give it to",
    "After {A} and {B} went to the {place}, {S2} gave a {thing} to",
    "While {A} and {B} were at the {place}, {S2} handed a {thing} to",
    "While {A} and {B} were working at the {place}, {S2} gave a {thing} to",
    "Then, {A} and {B} went to the {place}. {S2} gave a {thing} to",
    "Then, {A} and {B} had a lot of fun at the {place}. {S2} gave a {thing} to",
    "Friends {A} and {B} found a {thing} at the {place}. {S2} gave it to",
)
ORDERS = ("both", "ABBA", "BABA")
CORRUPTIONS = ("abc", "name", "swap")


def ioi(*, order: str = "both", corruption: str = "abc", templates: tuple[str, ...] = TEMPLATES) -> Task:
    """Indirect object identification.

    Positions: ``IO``, ``S1``, ``S2``, ``place``, ``thing``, ``end``; ``S1+1`` follows the first mention of the subject.

    Parameters
    ----------
    order
        ``"ABBA"``: the indirect object comes first; ``"BABA"``: the subject does; or ``"both"``.
    corruption
        ``"abc"``: three other names (the paper's p_ABC); ``"name"``: another name at the second mention of the
        subject; ``"swap"``: the indirect object's name there, so that the answer is the subject.
    templates
        Texts with ``{A}``, ``{B}`` and ``{S2}``, and perhaps ``{place}`` and ``{thing}``. A and B are the two people in
        the order of their first mention.

    Raises
    ------
    CasebackError
        For an unknown order or corruption.

    References
    ----------
    Wang et al. 2023, "Interpretability in the wild".

    Examples
    --------
    >>> pair = ioi(order="ABBA").draw(random.Random(0), {"names": ["Mary", "John", "Tom", "Kate", "Ann"],
    ...     "places": ["store"], "things": ["drink"]})
    >>> pair.clean.text.count(pair.foil[0]), pair.clean.text.count(pair.target[0])
    (2, 1)
    """
    if order not in ORDERS:
        raise CasebackError(f"order {order!r} is unknown: expected one of {', '.join(ORDERS)}")
    if corruption not in CORRUPTIONS:
        raise CasebackError(f"corruption {corruption!r} is unknown: expected one of {', '.join(CORRUPTIONS)}")

    whole = {"names": WIDE_NAMES, "places": PLACES, "things": WIDE_THINGS}
    # no template needs a list whose word none of them contains
    lists = {kind: whole[kind] for kind in whole if kind == "names" or any(f"{{{kind[:-1]}}}" in t for t in templates)}

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        template = rng.choice(templates)
        drawn_order = rng.choice(ORDERS[1:]) if order == "both" else order
        io, s, *others = rng.sample(list(fillers["names"]), 5)
        rest = {kind.removesuffix("s"): rng.choice(fillers[kind]) for kind in fillers if kind != "names"}
        first, second = ("IO", "S1") if drawn_order == "ABBA" else ("S1", "IO")
        named = template.replace("{A}", f"{{{first}}}").replace("{B}", f"{{{second}}}")
        replaced = {
            "abc": {"IO": others[0], "S1": others[1], "S2": others[2]},
            "name": {"IO": io, "S1": s, "S2": others[0]},
            "swap": {"IO": io, "S1": s, "S2": io},
        }[corruption]
        return Pair.of(
            fill(named, IO=io, S1=s, S2=s, **rest),
            fill(named, **replaced, **rest),
            f" {io}",
            f" {s}",
            corrupt_target=f" {s}" if corruption == "swap" else (),
            group=f"{templates.index(template)} {drawn_order}",
        )

    return Task(
        "ioi",
        "Two people, one gives something to the other: the name of the receiver over that of the giver.",
        draw,
        lists,
        entry="5.4.4",
        citation="Wang et al. 2023",
        needs={"names": 5},
    )
