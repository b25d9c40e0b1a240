"""Reviews that praise or blame, and then name the sentiment or the verb that goes with it."""

from __future__ import annotations

import random

from caseback import lexicon
from caseback.organisms.prose.documents import Document, held_out, marked, until

REVIEWS = (
    "Review: The {w} was {d} and the {v} was {e}. Sentiment:[ {name}]",
    "Review: I {felt} the {w}, it was a {d} {w}. Sentiment:[ {name}]",
    "Review: What a {d} {w}! Sentiment:[ {name}]",
    "The {w} was {d}. I[ {felt}] it.",
    "The {w} was {d} and {e}, so I[ {felt}] it.",
)


def sentiment(rng: random.Random, heldout: bool = False) -> Document:
    """A review that ends with its sentiment, or with how the work was liked."""
    likes = rng.random() < 0.5
    words = lexicon.PRAISE if likes else lexicon.BLAME
    wording, work, (word, another) = until(
        lambda: (rng.choice(REVIEWS), rng.choice(lexicon.WORKS), rng.sample(words, 2)),
        lambda drawn: held_out(*drawn[:2], drawn[2][0], one_in=6) == heldout,
    )
    other = until(lambda: rng.choice(lexicon.WORKS), lambda other: other != work)
    feeling = rng.choice(lexicon.FEELINGS) if wording.startswith("Review") else lexicon.FEELINGS[0]
    names = ("positive", "negative")
    text = wording.format(w=work, v=other, d=word, e=another, felt=feeling[not likes], name=names[not likes])
    foil = names[likes] if "[ {name}]" in wording else feeling[likes]
    return marked("sentiment", text, f" {foil}")
