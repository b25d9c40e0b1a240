"""Subject–verb agreement: the verb has the number of its subject, whatever noun stands between. (PRIMER 5.4.11)

    The keys near the cabinet ->  are, not is

The counterfactual is the same sentence with its subject in the other number, which reverses the answer.
"""

from __future__ import annotations

import random

from caseback.errors import CasebackError
from caseback.lexicon import BE, DO, WIDE_ITEMS, WIDE_PEOPLE
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task, another
from caseback.tasks.text import fill

# <near> and <sees> are drawn too, but are not named positions
STRUCTURES = {
    "simple": "The {subject}",
    "noun_phrase": "The {subject} <near> the {attractor}",
    "relative_clause": "The {subject} that the {attractor} <sees>",
    "within_clause": "The {attractor} that the {subject}",
}
ATTRACTORS = ("either", "same", "other")
NEAR = ("near", "by", "behind", "beside")


def agreement(*, structure: str = "noun_phrase", attractor: str = "either") -> Task:
    """Subject–verb agreement.

    Positions: ``subject``, ``attractor`` (unless the structure is or may be ``simple``), ``end``.

    Parameters
    ----------
    structure
        ``"simple"``: nothing stands between subject and verb; ``"noun_phrase"``: *near the cabinet*;
        ``"relative_clause"``: *that the guard sees*, the verb of the main clause being asked; ``"within_clause"``:
        the verb of the relative clause itself; or ``"all"``.
    attractor
        The number of the other noun: ``"same"`` as the clean subject's, the ``"other"``, or ``"either"``.

    Raises
    ------
    CasebackError
        For an unknown structure or attractor.

    References
    ----------
    Linzen et al. 2016, "Assessing the ability of LSTMs to learn syntax-sensitive dependencies"; Finlayson et al. 2021,
    "Causal analysis of syntactic agreement mechanisms"; the structures as in Marks et al. 2024.

    Examples
    --------
    >>> pair = agreement(attractor="other").draw(random.Random(0), {"people": [("guard", "guards"), ("king", "kings")],
    ...     "things": [], "states": [("is", "are")], "deeds": [("likes", "like")]})
    >>> subject, attractor = pair.clean.text.split()[1], pair.clean.text.split()[-1]
    >>> subject.endswith("s") == (pair.target == (" are",)), attractor.endswith("s") == (pair.foil == (" are",))
    (True, True)
    """
    if structure not in (*STRUCTURES, "all"):
        raise CasebackError(f"structure {structure!r} is unknown: expected one of {', '.join(STRUCTURES)}, all")
    if attractor not in ATTRACTORS:
        raise CasebackError(f"attractor {attractor!r} is unknown: expected one of {', '.join(ATTRACTORS)}")

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        kind = rng.choice(list(STRUCTURES)) if structure == "all" else structure
        # in clauses the nouns see and like, which takes people; elsewhere things will do too
        people = [*fillers["people"]]
        nouns = people if kind in ("relative_clause", "within_clause") else people + [*fillers["things"]]
        subject = rng.choice(nouns)
        near = another(rng, nouns, subject)
        number = rng.randrange(2)
        other = rng.randrange(2) if attractor == "either" else number if attractor == "same" else 1 - number
        verb = rng.choice(fillers["deeds" if kind == "within_clause" else "states"])
        sees = rng.choice(fillers["deeds"])[other]
        template = STRUCTURES[kind].replace("<near>", rng.choice(NEAR)).replace("<sees>", sees)
        return Pair.of(
            fill(template, subject=subject[number], attractor=near[other]),
            fill(template, subject=subject[1 - number], attractor=near[other]),
            f" {verb[number]}",
            f" {verb[1 - number]}",
            corrupt_target=f" {verb[1 - number]}",
            group=f"{kind} {('singular', 'plural')[number]}",
        )

    return Task(
        "agreement",
        "A noun and perhaps another one: the verb in the number of its subject over the other form.",
        draw,
        {"people": WIDE_PEOPLE, "things": WIDE_ITEMS, "states": BE, "deeds": DO},
        entry="5.4.11",
        citation="Linzen et al. 2016; Finlayson et al. 2021",
        needs={"people": 2},
    )
