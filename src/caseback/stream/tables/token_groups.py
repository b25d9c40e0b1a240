"""Groups of tokens by their marks, as columns of zeros and ones: statistics by group are one product.

    G (token, group),        sum over group g = (G^T x)_g

any                 every token
position            its place in the row: 0, 1-3, 4-7, 8-15, ... 4096 and later
kinds               each bit of the token's text (``KINDS``)
previous_kinds      each bit of the token before it; none at a row's first
repeats             whether the row has the same token earlier
words               tokens of letters that go on with a word, and those of them that end it (what follows begins a word
                    or is no letter); and ends that are some other token's of the row
first_letter        whether its text begins with a, with b ... with z, whatever its case
frequency           bins of a factor of ten, 0 the commonest; see ``with_frequency``
permuted_kinds      the bits of some other token of the row, and its position's bin: groups of the same sizes with
permuted_position   no relation to the token, for comparison; likewise permuted_first_letter
label:NAME:N        each value below N of a label of the corpus
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_lowercase

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.stream.marks import FREQUENCIES, KINDS, Marks

_STARTS = (0, 1, *(2**octave for octave in range(2, 13)))
"""Where the bins of positions begin; the last one has no end."""


def position_bins(position: Tensor) -> Tensor:
    """The bin of each position.

    Examples
    --------
    >>> position_bins(torch.tensor([0, 1, 3, 4, 9000])).tolist()
    [0, 1, 1, 2, 12]
    """
    return torch.bucketize(position, torch.tensor(_STARTS, device=position.device), right=True) - 1


def _position_names() -> list[str]:
    ends = [f"{start}-{end - 1}" for start, end in zip(_STARTS[1:], _STARTS[2:], strict=False)]
    return [f"position {words}" for words in ("0", *ends, f"{_STARTS[-1]}-")]


def _of_number(values: Tensor, n: int) -> Tensor:
    return values[:, None] == torch.arange(n, device=values.device)


def _bits(kinds: Tensor) -> Tensor:
    return (kinds[:, None] >> torch.arange(len(KINDS), device=kinds.device)) & 1 == 1


def _previous_bits(marks: Marks) -> Tensor:
    before = marks.kinds.roll(1)
    return _bits(torch.where(marks.position > 0, before, 0))


def _permuted(marks: Marks) -> Tensor:
    """For each token another of its row, by a hash of document, position and token that no batching changes."""
    mask = 2**32 - 1
    mixed = (marks.position * 2654435761 + marks.document * 2246822519 + marks.current * 3266489917) & mask
    for shift, factor in ((15, 2221713035), (13, 3935559000)):
        mixed = ((mixed ^ (mixed >> shift)) * (factor | 1)) & mask
    # rows stand one behind another, so the tokens of a row in another order stand in its own places
    return (marks.row * (mask + 1) + (mixed ^ (mixed >> 16))).argsort(stable=True)


def _words(marks: Marks) -> Tensor:
    letters = marks.kind("letters")
    inside = letters & ~marks.kind("starts_word")
    same = torch.zeros_like(inside)
    same[1:] = marks.row[1:] == marks.row[:-1]
    continues = inside & same & letters.roll(1)
    # the row's last token may go on
    ends = continues & ~inside.roll(-1) & same.roll(-1)
    return torch.stack([continues, ends, continues & ends[_permuted(marks)]], 1)


_KNOWN: dict[str, tuple[Callable[[], list[str]], Callable[[Marks], Tensor]]] = {
    "any": (lambda: ["any"], lambda marks: torch.ones_like(marks.position, dtype=torch.bool)[:, None]),
    "position": (_position_names, lambda marks: _of_number(position_bins(marks.position), len(_STARTS))),
    "kinds": (lambda: list(KINDS), lambda marks: _bits(marks.kinds)),
    "previous_kinds": (lambda: [f"after {kind}" for kind in KINDS], _previous_bits),
    "repeats": (lambda: ["repeats"], lambda marks: (marks.repeat > 0)[:, None]),
    "permuted_kinds": (
        lambda: [f"permuted {kind}" for kind in KINDS],
        lambda marks: _bits(marks.kinds[_permuted(marks)]),
    ),
    "permuted_position": (
        lambda: [f"permuted {name}" for name in _position_names()],
        lambda marks: _of_number(position_bins(marks.position[_permuted(marks)]), len(_STARTS)),
    ),
    "first_letter": (
        lambda: [f"begins with {letter}" for letter in ascii_lowercase],
        lambda marks: _of_number(marks.first_letter, len(ascii_lowercase)),
    ),
    "permuted_first_letter": (
        lambda: [f"permuted begins with {letter}" for letter in ascii_lowercase],
        lambda marks: _of_number(marks.first_letter[_permuted(marks)], len(ascii_lowercase)),
    ),
    "words": (lambda: ["continues a word", "ends a word", "permuted ends a word"], _words),
    "frequency": (
        lambda: [f"frequency 1e-{i}" for i in range(FREQUENCIES)],
        lambda marks: _of_number(marks.frequency, FREQUENCIES),
    ),
}


def _label(spec: str) -> tuple[str, int]:
    kind, _, rest = spec.partition(":")
    name, _, n = rest.rpartition(":")
    if kind != "label" or not name or not n.isdecimal() or int(n) < 1:
        raise CasebackError(
            f"no groups of tokens are called {spec!r}. {did_you_mean(spec, [*_KNOWN, 'label:NAME:N'])} "
            f"Expected some of {', '.join(_KNOWN)}, label:NAME:N"
        )
    return name, int(n)


def group_names(specs: Sequence[str]) -> list[str]:
    """The groups' names, in the order of the columns.

    Raises
    ------
    CasebackError
        For groups that are unknown.

    Examples
    --------
    >>> group_names(["any", "repeats", "label:domain:2"])
    ['any', 'repeats', 'domain 0', 'domain 1']
    """
    names = []
    for spec in specs:
        if spec in _KNOWN:
            names += _KNOWN[spec][0]()
        else:
            label, n = _label(spec)
            names += [f"{label} {value}" for value in range(n)]
    return names


def group_matrix(marks: Marks, specs: Sequence[str], dtype: torch.dtype) -> Float[Tensor, "token group"]:
    """Zeros and ones: which tokens are in which group.

    Raises
    ------
    CasebackError
        For a label that the corpus does not bring.
    """
    parts = []
    for spec in specs:
        if spec in _KNOWN:
            parts.append(_KNOWN[spec][1](marks))
            continue
        name, n = _label(spec)
        if name not in marks.labels:
            raise CasebackError(f"the corpus has no label {name!r}. {did_you_mean(name, marks.labels)}")
        parts.append(_of_number(marks.labels[name], n))
    return torch.cat(parts, 1).to(dtype)
