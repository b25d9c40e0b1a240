"""Gendered pronouns: a name decides between she and he, her and his. (PRIMER 3.2.14)

    So Mary is a really great friend, isn't ->  she, not he

The counterfactual names somebody of the other gender, which reverses the answer.
"""

from __future__ import annotations

import random

from caseback.errors import CasebackError
from caseback.lexicon import PLACES, WIDE_MEN, WIDE_THINGS, WIDE_WOMEN
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task
from caseback.tasks.text import fill

TEMPLATES = {
    "subject": (
        "So {name} is a really great friend, isn't",
        "{name} was hungry, so",
        "{name} was late, but",
        "When {name} woke up,",
        "After {name} found the {thing},",
        "{name} could not find the {thing} because",
        "{name} said that",
    ),
    "possessive": (
        "{name} went to the {place} with",
        "{name} lost",
        "At the {place}, {name} met",
    ),
}
WORDS = {"subject": (" she", " he"), "possessive": (" her", " his")}


def pronoun(*, case: str = "both") -> Task:
    """The pronoun of somebody whose name tells the gender.

    Positions: ``name``, ``end``.

    Parameters
    ----------
    case
        ``"subject"``: she or he; ``"possessive"``: her or his; or ``"both"``.

    Raises
    ------
    CasebackError
        For an unknown case.

    References
    ----------
    Mathwin et al. 2023, "Identifying a preliminary circuit for predicting gendered pronouns in GPT-2 small"; names and
    pronouns as mediation of gender in Vig et al. 2020.

    Examples
    --------
    >>> pair = pronoun(case="subject").draw(random.Random(1), {"women": ["Mary"], "men": ["John"], "places": ["park"],
    ...     "things": ["ring"]})
    >>> ("Mary" in pair.clean.text) == (pair.target == (" she",)), sorted(pair.target + pair.foil)
    (True, [' he', ' she'])
    """
    if case not in (*TEMPLATES, "both"):
        raise CasebackError(f"case {case!r} is unknown: expected one of {', '.join(TEMPLATES)}, both")
    wordings = [(kind, template) for kind in TEMPLATES if case in (kind, "both") for template in TEMPLATES[kind]]

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        kind, template = rng.choice(wordings)
        names = (rng.choice(fillers["women"]), rng.choice(fillers["men"]))
        gender = rng.randrange(2)
        words = {"thing": rng.choice(fillers["things"]), "place": rng.choice(fillers["places"])}
        return Pair.of(
            fill(template, name=names[gender], **words),
            fill(template, name=names[1 - gender], **words),
            WORDS[kind][gender],
            WORDS[kind][1 - gender],
            corrupt_target=WORDS[kind][1 - gender],
            group=f"{kind} {('woman', 'man')[gender]}",
        )

    return Task(
        "pronoun",
        "A name: she or he, her or his by the gender that the name tells.",
        draw,
        {"women": WIDE_WOMEN, "men": WIDE_MEN, "places": PLACES, "things": WIDE_THINGS},
        entry="3.2.14",
        citation="Mathwin et al. 2023; Vig et al. 2020",
    )
