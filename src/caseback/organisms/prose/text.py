"""Seeded text of the closed world: every kind of document, with its weight.

Each kind holds out a part of its combinations (pairs of names, wordings of facts, subject and attractor, …):
``heldout=False`` never draws those and ``heldout=True`` draws only those.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from caseback.errors import CasebackError
from caseback.organisms.prose.brackets import brackets, quotes
from caseback.organisms.prose.choices import choice, letters
from caseback.organisms.prose.code import docstring
from caseback.organisms.prose.documents import Document
from caseback.organisms.prose.facts import fact
from caseback.organisms.prose.patterns import agreement, determiner, series, word_list, years
from caseback.organisms.prose.people import errand, giving, giving_by_another, giving_to_kin, pronoun, story
from caseback.organisms.prose.residents import resident
from caseback.organisms.prose.reviews import sentiment
from caseback.organisms.prose.scenes import boxes, boxes_all, boxes_still, colored, colored_all, needle
from caseback.organisms.prose.shots import few_shot
from caseback.organisms.prose.sums import arithmetic, arithmetic_list, arithmetic_rare
from caseback.organisms.prose.tales import tale, tale_elsewhere

# Each kind with its weight among documents in the seven phases of training. What is easy is learned first; then come
# drills of problems and of finding a thing by what stands beside it; then more of what they prepare for, and of what is
# still not learned: the sixth phase drills letters and boxes, the last one evens out.
KINDS: dict[str, tuple[Callable[..., Document], tuple[float, ...]]] = {
    "giving": (giving, (14, 10, 10, 9, 9, 9, 9)),
    "giving_by_another": (giving_by_another, (2, 2, 2, 2, 2, 2, 2)),
    "giving_to_kin": (giving_to_kin, (1, 1, 1, 1, 1, 1, 1)),
    "errand": (errand, (3, 2, 1, 1, 1, 1, 1)),
    "story": (story, (3, 3, 2, 2, 2, 2, 2)),
    "pronoun": (pronoun, (7, 6, 5, 5, 5, 5, 5)),
    "fact": (fact, (16, 14, 14, 14, 14, 14, 14)),
    "resident": (resident, (15, 16, 16, 24, 24, 24, 24)),
    "tale": (tale, (4, 4, 4, 4, 4, 4, 4)),
    "tale_elsewhere": (tale_elsewhere, (3, 3, 3, 3, 3, 3, 3)),
    "word_list": (word_list, (7, 5, 4, 4, 4, 4, 4)),
    "agreement": (agreement, (8, 6, 5, 5, 5, 5, 5)),
    "determiner": (determiner, (4, 4, 3, 3, 3, 3, 3)),
    "years": (years, (6, 5, 4, 4, 4, 4, 4)),
    "series": (series, (16, 17, 19, 18, 18, 18, 18)),
    "arithmetic": (arithmetic, (14, 14, 5, 5, 5, 5, 5)),
    "few_shot": (few_shot, (8, 7, 6, 6, 6, 6, 6)),
    "choice": (choice, (6, 6, 14, 20, 18, 20, 18)),
    "colored": (colored, (5, 6, 26, 12, 8, 8, 8)),
    "boxes": (boxes, (6, 6, 18, 34, 6, 10, 14)),
    "needle": (needle, (2, 2, 2, 2, 2, 2, 2)),
    "docstring": (docstring, (3, 2, 2, 2, 2, 2, 2)),
    "brackets": (brackets, (4, 4, 5, 5, 5, 5, 5)),
    "quotes": (quotes, (4, 2, 1, 1, 1, 1, 1)),
    "sentiment": (sentiment, (6, 3, 2, 2, 2, 2, 2)),
    "colored_all": (colored_all, (0, 7, 0, 0, 0, 0, 0)),
    "boxes_all": (boxes_all, (0, 8, 0, 0, 0, 0, 0)),
    "letters": (letters, (0, 7, 12, 6, 6, 40, 6)),
    "arithmetic_list": (arithmetic_list, (0, 9, 0, 0, 0, 0, 0)),
    "arithmetic_rare": (arithmetic_rare, (0, 0, 7, 6, 6, 6, 6)),
    "boxes_still": (boxes_still, (0, 0, 0, 0, 40, 40, 12)),
}


def document(rng: random.Random, phase: int = 0) -> Document:
    """One training document, of a kind drawn with the weights that ``KINDS`` has for this phase of training."""
    makers = [maker for maker, _ in KINDS.values()]
    weights = [weights[phase] for _, weights in KINDS.values()]
    return rng.choices(makers, weights)[0](rng)


def documents(kind: str, count: int, seed: int, heldout: bool = True) -> list[Document]:
    """``count`` documents of one kind, by default from the combinations kept from training.

    Parameters
    ----------
    kind
        A key of ``KINDS``.
    count
        How many documents.
    seed
        Same seed, same result. Draws the documents.
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
