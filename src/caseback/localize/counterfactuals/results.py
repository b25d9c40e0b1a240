"""What a search for counterfactuals found: the one that is taken, and those that come next.

Each says what was changed, what the model answers then, by how much that moved the answer and how large the change is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from torch import Tensor

from caseback.localize.counterfactuals.words import Word
from caseback.model.running.tokens import Tokens


@dataclass(frozen=True)
class Change:
    """One word in place of another.

    Attributes
    ----------
    word
        The word that stood there.
    text
        What stands there now.
    ids
        Its tokens, as many as the word had.
    """

    word: Word
    text: str
    ids: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.word.text.strip()} → {self.text.strip()} (position {self.word.pos[0]})"


@dataclass(frozen=True)
class Counterfactual:
    """A prompt in which something else is said, token against token.

    Attributes
    ----------
    tokens
        The prompt.
    changes
        The words that differ.
    way
        ``"replacement"`` of one word, ``"everywhere"`` of all its mentions, or ``"swap"`` of two words.
    foil, foil_text
        The token that the model answers then, unless another was given.
    clean, corrupt
        The logit difference of target and foil, after the prompt and after this one.
    effect
        By how much the target's share of the two falls: of 1 if all of it goes to the foil.
    size
        How large the change is: tokens, words that the prompt did not have, and how much less likely they are.
    score
        Effect by size, halved where the foil is not of the target's kind.
    moves
        Whether the answer moved: see ``find``.
    """

    tokens: Tokens = field(repr=False)
    changes: tuple[Change, ...]
    way: str
    foil: int
    foil_text: str
    clean: float
    corrupt: float
    effect: float
    size: float
    score: float
    moves: bool

    @property
    def text(self) -> str:
        """The prompt's tokens, joined."""
        return "".join(self.tokens.text[0])

    @property
    def pos(self) -> tuple[int, ...]:
        """The positions at which it differs."""
        return tuple(sorted(p for change in self.changes for p in change.word.pos))

    def __str__(self) -> str:
        changed = ", ".join(map(str, self.changes))
        return (
            f"{self.way}: {changed}; then {self.foil_text!r}, logit difference {self.clean:+.2f} → {self.corrupt:+.2f}"
        )


@dataclass(frozen=True)
class Counterfactuals:
    """Counterfactuals of a prompt, the best first.

    Attributes
    ----------
    tokens
        The prompt.
    target, target_text
        The token whose probability is to fall.
    all
        Those whose answer was looked at, by score.
    words
        The prompt's words.
    rows
        (version, pos), the token ids of every version that was measured.
    of_word
        For each version that replaces one word, which of ``words``; -1 for others.
    drop
        (version,), by how much the log probability of the target falls (its logit difference to a given foil).
    logits
        (version, vocab), the logits at the end of every version.
    """

    tokens: Tokens = field(repr=False)
    target: int
    target_text: str
    all: tuple[Counterfactual, ...]
    words: tuple[Word, ...] = field(repr=False)
    rows: np.ndarray = field(repr=False)
    of_word: np.ndarray = field(repr=False)
    drop: Float[np.ndarray, " version"] = field(repr=False)
    logits: Float[Tensor, "version vocab"] = field(repr=False)

    @property
    def best(self) -> Counterfactual | None:
        """The one to take; None where nothing that was tried moves the answer."""
        return self.all[0] if self.all and self.all[0].moves else None

    @property
    def runners_up(self) -> tuple[Counterfactual, ...]:
        """The others that move the answer."""
        return tuple(one for one in self.all[1:] if one.moves)

    def __len__(self) -> int:
        return len(self.all)

    def __str__(self) -> str:
        head = f"{self.target_text!r}: {len(self.rows)} versions of the prompt measured"
        if self.best is None:
            nearest = "" if not self.all else f"; the nearest is {self.all[0]}"
            return f"{head}; none moves the answer{nearest}"
        lines = _table([self.best, *self.runners_up[:7]])
        return "\n".join([head, *lines])

    __repr__ = __str__


def _table(listed: Sequence[Counterfactual]) -> list[str]:
    rows = [("", "change", "answer then", "logit difference", "effect", "size")]
    for i, one in enumerate(listed):
        changed = ", ".join(map(str, one.changes))
        margins = f"{one.clean:+.2f} → {one.corrupt:+.2f}"
        mark = "▸" if i == 0 else ""
        rows.append((mark, changed, repr(one.foil_text), margins, f"{one.effect:.2f}", f"{one.size:.2f}"))
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
