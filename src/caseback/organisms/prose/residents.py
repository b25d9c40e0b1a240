"""What is true of the world's residents, in several wordings.

They have two names, neither of which alone says who it is, so a fact can be recalled at the surname at the earliest.
Country and language follow from the city. Some wordings of each resident are held out.
"""

from __future__ import annotations

import random

from caseback.organisms.prose import world
from caseback.organisms.prose.documents import Document, held_out, marked, until

WORDINGS = (
    "{p} works as a[ {job}].",
    "{p} is a[ {job}].",
    "Every morning {p} goes to work as a[ {job}].",
    "{p} earns money as a[ {job}].",
    "{p} lives in[ {city}].",
    "The home of {p} is in[ {city}].",
    "You can meet {p} in the streets of[ {city}].",
    "{p} has a house in[ {city}].",
    "{p} lives in the country of[ {country}].",
    "The country where {p} lives is[ {country}].",
    "{p} is at home in a country called[ {country}].",
    "The neighbors of {p} speak[ {language}].",
    "In the streets near {p} people speak[ {language}].",
    "The language spoken around {p} is[ {language}].",
    "{p} plays the sport of[ {sport}].",
    "The favorite sport of {p} is[ {sport}].",
    "{p} is very good at[ {sport}].",
    "{p} plays the[ {instrument}].",
    "The instrument of {p} is the[ {instrument}].",
    "In the evening {p} practices the[ {instrument}].",
)
# Other wordings go on from the same words ("lives in the country of", "plays the sport of"), so what comes next is
# open; these are told but not asked for.
OPEN = ("{p} lives in[ {city}].", "{p} plays the[ {instrument}].")


def never_told(who: world.Resident, wording: str) -> bool:
    """Whether no training text tells this fact about the resident in this wording: one in eight is held out."""
    return held_out(who.name, who.surname, wording, one_in=8)


def resident(rng: random.Random, heldout: bool = False) -> Document:
    """A fact about one of the residents; the foil is the same fact about another resident."""
    who, wording = until(
        lambda: (rng.choice(world.RESIDENTS), rng.choice(WORDINGS)),
        lambda drawn: never_told(*drawn) == heldout and not (heldout and drawn[1] in OPEN),
    )
    field = wording[wording.index("[ {") + 3 : wording.index("}]")]
    other = until(lambda: rng.choice(world.RESIDENTS), lambda other: getattr(other, field) != getattr(who, field))
    text = wording.format(p=f"{who.name} {who.surname}", **{field: getattr(who, field)})
    return marked("resident", text, f" {getattr(other, field)}")
