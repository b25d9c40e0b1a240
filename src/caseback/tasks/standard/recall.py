"""Facts (s, r, a): a subject and a relation ask for an attribute that only memory can give. (PRIMER 5.4.19)

    The capital of France is ->  Paris

The counterfactual names another subject, as many tokens long, that has another attribute.
"""

from __future__ import annotations

import random

from caseback.errors import CasebackError, did_you_mean
from caseback.tasks.facts import RELATIONS
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task, another
from caseback.tasks.text import fill


def relation(name: str = "capital", *, templates: tuple[str, ...] = ()) -> Task:
    """Facts of one relation.

    Positions: ``subject`` (its last token; ``subject.first`` is its first), ``end``. Subjects may be several tokens
    long.

    Parameters
    ----------
    name
        One of ``capital country language continent opposite plural first_letter past landmark maker``.
    templates
        Texts with ``{subject}`` whose next word is the attribute; by default the relation's own.

    Raises
    ------
    CasebackError
        For an unknown relation.

    References
    ----------
    Meng et al. 2022, "Locating and editing factual associations in GPT"; Geva et al. 2023; Hernandez et al. 2024.

    Examples
    --------
    >>> pair = relation("capital").draw(random.Random(0), {"facts": [("France", "Paris"), ("Italy", "Rome")]})
    >>> ("France" in pair.clean.text) == (pair.target == (" Paris",))
    True
    """
    if name not in RELATIONS:
        raise CasebackError(f"no relation is called {name!r}. {did_you_mean(name, RELATIONS, most=len(RELATIONS))}")
    templates = templates or RELATIONS[name].wordings

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        facts = fillers["facts"]
        subject, attribute = rng.choice(facts)
        other, foil = another(rng, facts, *[fact for fact in facts if fact[1] == attribute])
        template = rng.choice(templates)
        return Pair.of(
            fill(template, subject=subject),
            fill(template, subject=other),
            f" {attribute}",
            f" {foil}",
            corrupt_target=f" {foil}",
            group=f"{name} {templates.index(template)}",
        )

    return Task(
        "relation",
        f"A fact from memory ({RELATIONS[name].about}) over that of another subject.",
        draw,
        {"facts": RELATIONS[name].facts},
        entry="5.4.19",
        citation="Meng et al. 2022; Geva et al. 2023; Hernandez et al. 2024",
        needs=2,
        free=("facts",),
    )
