"""One text of the closed world, and which texts are kept from training.

A document is a prompt, the answer that the prompt calls for, and what follows it: a model reads
``prompt + answer + rest`` in training and is asked ``prompt`` alone in evaluation. A checksum of the words decides
which combinations are held out, so that is the same in every run, whatever the seed.

Templates mark the answer with square brackets: ``"The capital of {c} is[ {x}]."``
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from caseback import lexicon

T = TypeVar("T")


@dataclass(frozen=True)
class Document:
    """One text of the closed world.

    Attributes
    ----------
    kind
        Which behavior it shows, a key of ``KINDS``.
    prompt, answer, rest
        The text in three pieces. The answer carries its leading space.
    foil
        A wrong answer of the same sort; ``None`` where there is no natural one.
    """

    kind: str
    prompt: str
    answer: str
    rest: str
    foil: str | None = None

    @property
    def text(self) -> str:
        return self.prompt + self.answer + self.rest


def checksum(*words: str) -> int:
    """A number for this combination of words, the same in every run."""
    return zlib.crc32("|".join(words).encode())


def held_out(*words: str, one_in: int) -> bool:
    """Whether this combination of words is kept from training, as one in ``one_in`` is."""
    return checksum(*words) % one_in == 0


def held_out_pair(first: str, second: str) -> bool:
    """Whether two names never meet in a training sentence. Mary and John never do."""
    pair = sorted((first, second))
    return pair == ["John", "Mary"] or held_out(*pair, one_in=10)


def marked(kind: str, text: str, foil: str | None = None) -> Document:
    """A document from a text whose answer stands in square brackets."""
    prompt, _, tail = text.partition("[")
    answer, _, rest = tail.partition("]")
    return Document(kind, prompt, answer, rest, foil)


def until(draw: Callable[[], T], wanted: Callable[[T], bool]) -> T:
    """Draw again until what is drawn is wanted."""
    while True:
        drawn = draw()
        if wanted(drawn):
            return drawn


def strangers(rng: random.Random) -> list[str]:
    """Two names that may meet in training."""
    return until(lambda: rng.sample(lexicon.NAMES, 2), lambda pair: not held_out_pair(*pair))
