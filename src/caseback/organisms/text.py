"""Seeded text of the closed world: every kind of document, with its weight.

Each kind holds out a part of its combinations (the pair of names, the wording of a fact, subject
and attractor, …): ``heldout=False`` never draws those and ``heldout=True`` draws only those.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from caseback.errors import CasebackError
from caseback.organisms.documents import Document
from caseback.organisms.facts import analogy, fact
from caseback.organisms.patterns import agreement, series, word_list, years
from caseback.organisms.people import errand, giving, giving_by_another, giving_to_kin, pronoun, story

# Each kind with its weight among documents.
KINDS: dict[str, tuple[Callable[..., Document], float]] = {
    "giving": (giving, 20),
    "giving_by_another": (giving_by_another, 3),
    "giving_to_kin": (giving_to_kin, 1),
    "word_list": (word_list, 9),
    "errand": (errand, 3),
    "fact": (fact, 14),
    "analogy": (analogy, 4),
    "agreement": (agreement, 12),
    "years": (years, 9),
    "series": (series, 13),
    "pronoun": (pronoun, 6),
    "story": (story, 4),
}


def document(rng: random.Random) -> Document:
    """One training document of a kind drawn by ``KINDS``' weights."""
    makers = [maker for maker, _ in KINDS.values()]
    weights = [weight for _, weight in KINDS.values()]
    return rng.choices(makers, weights)[0](rng)


def documents(kind: str, count: int, seed: int, heldout: bool = True) -> list[Document]:
    """``count`` documents of one kind, by default from the combinations kept from training.

    Parameters
    ----------
    kind
        A key of ``KINDS``.
    count
        How many.
    seed
        Same seed, same documents.
    heldout
        ``True`` draws from what training never shows, ``False`` from what it shows.

    Raises
    ------
    CasebackError
        If the kind is unknown.

    Examples
    --------
    >>> documents("giving", 1, seed=0)[0].kind
    'giving'
    """
    if kind not in KINDS:
        raise CasebackError(f"No kind of document is called {kind!r}: expected one of {', '.join(KINDS)}.")
    rng = random.Random(f"{kind}-{seed}-{heldout}")
    maker, _ = KINDS[kind]
    return [maker(rng, heldout) for _ in range(count)]
