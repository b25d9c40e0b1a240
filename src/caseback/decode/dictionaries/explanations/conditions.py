r"""What may be asked of a token without a language model: conditions, each true of some tokens of a corpus.

    the token itself                  ' york'
    its ending, its first letter      /ing$/, /^\W*[Yy]/
    its kind                          digits, punctuation, a word's first token (``stream.marks.KINDS``)
    the token before, or both         after ' new', ' new' ' york'

A condition is a column of a sparse matrix (token, condition); of conditions that are true of the same tokens the
earlier in this list is the simpler.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from caseback.stream.marks import KINDS, kinds_of_text


@dataclass(frozen=True)
class Conditions:
    """Which conditions hold at which tokens.

    Attributes
    ----------
    holds
        (token, condition), 1 where it holds.
    column
        Of each condition, which of ``columns`` it is a value of.
    key
        And which value.
    columns
        What is asked, and how a value of it is put into words.
    """

    holds: sparse.csr_matrix
    column: np.ndarray
    key: np.ndarray
    columns: Sequence[Callable[[int], str]]

    def text(self, condition: int) -> str:
        """A condition in words; empty for none."""
        return "" if condition < 0 else self.columns[self.column[condition]](int(self.key[condition]))


def conditions_of(ids: np.ndarray, previous: np.ndarray, texts: Callable[[int], str], *, least: int = 2) -> Conditions:
    """The conditions of a corpus' tokens.

    Parameters
    ----------
    ids, previous
        (token), a token's id and that of the one before, -1 where there is none.
    texts
        An id's text.
    least
        Conditions that hold at fewer tokens are left out.

    Examples
    --------
    >>> words = [" singing", " ringing", " cat"]
    >>> asked = conditions_of(np.array([0, 1, 2, 0]), np.array([-1, 0, 1, 2]), lambda i: words[i])
    >>> [asked.text(c) for c in range(3)]
    ["' singing'", '/ing$/', '/ng$/']
    """
    own, index = np.unique(ids, return_inverse=True)
    words = [texts(int(i)) for i in own]
    kinds = np.array([kinds_of_text(word) for word in words], dtype=np.int64)
    base = int(max(ids.max(initial=0), previous.max(initial=0))) + 1
    pair = np.where(previous >= 0, previous.astype(np.int64) * base + ids, -1)
    three, two, one = (_classes(words, of) for of in (lambda w: _ending(w, 3), lambda w: _ending(w, 2), _first_letter))
    columns: list[tuple[np.ndarray, Callable[[int], str]]] = [
        (ids, lambda i: repr(texts(i))),
        (three[0][index], lambda i: f"/{three[1][i]}$/"),
        (two[0][index], lambda i: f"/{two[1][i]}$/"),
        (one[0][index], lambda i: rf"/^\W*[{one[1][i].upper()}{one[1][i]}]/"),
        *(_kind(bit, kinds[index]) for bit in range(1, len(KINDS))),
        (pair, lambda i: f"{texts(i // base)!r} {texts(i % base)!r}"),
        (previous, lambda i: f"after {texts(i)!r}"),
    ]
    parts, column, key = [], [], []
    for number, (values, _) in enumerate(columns):
        known, at, counts = np.unique(values, return_inverse=True, return_counts=True)
        wanted = (known >= 0) & (counts >= least)
        place = np.where(wanted, wanted.cumsum() - 1, -1)[at]
        tokens = np.flatnonzero(place >= 0)
        shape = (len(ids), int(wanted.sum()))
        parts.append(sparse.csr_matrix((np.ones(len(tokens), np.int32), (tokens, place[tokens])), shape=shape))
        column.append(np.full(shape[1], number))
        key.append(known[wanted])
    holds = sparse.csr_matrix(sparse.hstack(parts, "csr"))
    return Conditions(holds, np.concatenate(column), np.concatenate(key), [say for _, say in columns])


def _kind(bit: int, kinds: np.ndarray) -> tuple[np.ndarray, Callable[[int], str]]:
    return np.where((kinds >> bit) & 1, bit, -1), lambda i: f"any {KINDS[i].replace('_', ' ')}"


def _classes(words: Sequence[str], of: Callable[[str], str]) -> tuple[np.ndarray, list[str]]:
    """Words by what a function makes of them; -1 where that is empty."""
    numbers: dict[str, int] = {}
    own = [numbers.setdefault(part, len(numbers)) if (part := of(word)) else -1 for word in words]
    return np.array(own, dtype=np.int64), list(numbers)


def _ending(word: str, n: int) -> str:
    bare = word.strip().lower()
    return bare[-n:] if len(bare) > n and bare.isalpha() else ""


def _first_letter(word: str) -> str:
    letters = [c for c in word.lower() if c.isalnum()]
    return letters[0] if letters and letters[0].isalpha() else ""
