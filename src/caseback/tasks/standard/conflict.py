"""In-context answer against memory: the prompt contradicts what memory knows. (PRIMER 5.4.22)

    In this tale, the capital of France is Rome. The capital of France is ->  Rome (told), not Paris (known)

The counterfactual says it of another subject, or says what is true; then memory is right.
"""

from __future__ import annotations

import random

from caseback.errors import CasebackError
from caseback.tasks.facts import RELATIONS
from caseback.tasks.prompts import Pair
from caseback.tasks.task import Fillers, Task, another
from caseback.tasks.text import fill

TEMPLATES = {
    "capital": (
        "In this tale, the capital of {told} is {context}. The capital of {subject} is",
        "Let us say that the capital of {told} is {context}. The capital of {subject} is",
        "Imagine that the capital of {told} is {context}. The capital of {subject} is",
        "The capital of {told} is {context}.\nQ: What is the capital of {subject}?\nA:",
    ),
    "language": (
        "In this tale, the language of {told} is {context}. The language of {subject} is",
        "Let us say that the language of {told} is {context}. The language of {subject} is",
        "Imagine that the language of {told} is {context}. The language of {subject} is",
        "The language of {told} is {context}.\nQ: What is the language of {subject}?\nA:",
    ),
}
CORRUPTIONS = ("elsewhere", "true")


def conflict(*, relations: tuple[str, ...] = tuple(TEMPLATES), corruption: str = "elsewhere") -> Task:
    """A false fact in the prompt, asked for right afterwards.

    Positions: ``told`` (the subject of what is said), ``context`` (the false word), ``subject`` (in the question),
    ``end``. The target is what the prompt says, the foil what memory knows.

    Parameters
    ----------
    relations
        Which of ``capital language``.
    corruption
        ``"elsewhere"``: the false word is said of another subject; ``"true"``: the true word is said. Either way the
        foil is then right.

    Raises
    ------
    CasebackError
        For an unknown relation or corruption.

    References
    ----------
    Yu et al. 2023, "Characterizing mechanisms for factual recall in language models"; Ortu et al. 2024; Monea et al.
    2024.

    Examples
    --------
    >>> facts = [("France", "Paris"), ("Italy", "Rome"), ("Spain", "Madrid")]
    >>> pair = conflict(relations=("capital",)).draw(random.Random(0), {"capital": facts})
    >>> dict(facts)[pair.clean.text.split(" is")[0].split()[-1]] == pair.foil[0].strip()
    True
    """
    unknown = [name for name in relations if name not in TEMPLATES]
    if unknown or not relations:
        raise CasebackError(f"relations {', '.join(unknown) or 'are none'}: expected some of {', '.join(TEMPLATES)}")
    if corruption not in CORRUPTIONS:
        raise CasebackError(f"corruption {corruption!r} is unknown: expected one of {', '.join(CORRUPTIONS)}")

    def draw(rng: random.Random, fillers: Fillers) -> Pair:
        kind = rng.choice(relations)
        facts = fillers[kind]
        subject, known = rng.choice(facts)
        claimed = another(rng, sorted({word for _, word in facts}), known)
        # neither the false word nor the answer known from memory may be true of the other subject
        elsewhere, _ = another(rng, facts, *[fact for fact in facts if fact[1] in (known, claimed)])
        template = rng.choice(TEMPLATES[kind])
        words = {"told": subject, "context": claimed, "subject": subject}
        changed = {"told": elsewhere} if corruption == "elsewhere" else {"context": known}
        return Pair.of(
            fill(template, **words),
            fill(template, **{**words, **changed}),
            f" {claimed}",
            f" {known}",
            corrupt_target=f" {known}",
            group=f"{kind} {TEMPLATES[kind].index(template)}",
        )

    return Task(
        "conflict",
        "A false fact that the prompt tells and asks for: what was told over what is known.",
        draw,
        {name: RELATIONS[name].facts for name in relations},
        entry="5.4.22",
        citation="Yu et al. 2023; Ortu et al. 2024; Monea et al. 2024",
        needs=3,
        free=relations,
    )
