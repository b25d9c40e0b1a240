"""What was opened must be closed: brackets in reverse order, quotation marks at the sentence's end."""

from __future__ import annotations

import random

from caseback import lexicon
from caseback.organisms.prose.documents import Document, held_out, until

CLOSERS = {"(": ")", "[": "]", "{": "}"}


def brackets(rng: random.Random, heldout: bool = False) -> Document:
    """Nested brackets around a word, after which everything closes; one of the closers is asked for.

    Before the word a bracket may open and close again: ``( [ { } ring ] )``. A checksum decides which orders of the
    open ones are held out.
    """
    opened = until(
        lambda: rng.choices(list(CLOSERS), k=rng.randint(1, 4)),
        lambda opened: len(set(opened)) > 1 and held_out(*opened, one_in=6) == heldout,
    )
    words = []
    for bracket in opened:
        words.append(bracket)
        if rng.random() < 0.25:
            inner = rng.choice(list(CLOSERS))
            words += [inner, CLOSERS[inner]]
    words.append(rng.choice(lexicon.THINGS))
    closing = [CLOSERS[bracket] for bracket in reversed(opened)]
    asked = rng.randrange(len(closing))
    foil = rng.choice([closer for closer in CLOSERS.values() if closer != closing[asked]])
    rest = "".join(f" {closer}" for closer in closing[asked + 1 :])
    return Document("brackets", " ".join([*words, *closing[:asked]]), f" {closing[asked]}", rest, f" {foil}")


# what stands before the sentence, the mark that ends it, the wrong mark, what follows
SPOKEN = (
    ('"The', ',"', ".", " said {n}."),
    ('{n} said, "The', '."', ".", ""),
    ("{n} said that the", ".", '."', ""),
    ("The", ".", ',"', " Then {n} left."),
)


def quotes(rng: random.Random, heldout: bool = False) -> Document:
    """A sentence that ends with a closing quotation mark if it began with an opening one."""
    thing, place = until(
        lambda: (rng.choice(lexicon.THINGS), rng.choice(lexicon.PLACES)),
        lambda pair: held_out(*pair, one_in=6) == heldout,
    )
    before, mark, wrong, after = (
        part.format(n=rng.choice(lexicon.NAMES)) for part in SPOKEN[rng.choice((0, 0, 1, 1, 2, 3))]
    )
    state = rng.choice(("is", "was"))
    return Document("quotes", f"{before} {thing} {state} at the {place}", mark, after, wrong)
