"""One wide pass over texts, from which every score takes what it needs.

score (example, ...):   texts of like length together, each reduced to a few numbers while its run is in hand
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.decode.states import of_like_length
from caseback.edit.places import covering
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import Tokens
from caseback.tasks.statements import Statements


@dataclass(frozen=True, eq=False)
class Marked:
    """Texts as tokens, padded on the right, with what is known of their places.

    Attributes
    ----------
    tokens
        The texts.
    subject
        Which tokens are the subject; nowhere where none is known.
    start
        The position of the first token that was answered or generated; 1, all but the first, where it is not known.
    """

    tokens: Tokens
    subject: Bool[Tensor, "batch pos"]
    start: Int[Tensor, " batch"]

    def rows(self, at: Int[Tensor, " row"]) -> Marked:
        """Some of the texts, as wide as the longest of them."""
        tokens, longest = self.tokens, int(self.tokens.lengths[at].max())
        some = Tokens(tokens.ids[at, :longest], tokens.mask[at, :longest], [tokens.text[i] for i in at.tolist()])
        return Marked(some, self.subject[at, :longest], self.start[at])

    @property
    def last(self) -> Int[Tensor, " batch"]:
        """The position of each text's last token."""
        return self.tokens.lengths - 1

    @property
    def row(self) -> Int[Tensor, " batch"]:
        """The number of each text."""
        return torch.arange(len(self.tokens), device=self.tokens.ids.device)

    @property
    def new(self) -> Bool[Tensor, "batch pos"]:
        """The tokens from ``start`` on."""
        at = torch.arange(self.tokens.shape[1], device=self.start.device)
        return (at >= self.start[:, None]) & self.tokens.mask


def marked(
    model: Model,
    tokens: Tokens,
    subject: Sequence[Sequence[int]] | None = None,
    start: int | Sequence[int] | Tensor = 1,
) -> Marked:
    """Tokens with positions that a caller gives, counted among each text's own.

    Raises
    ------
    OutOfRange
        For positions that a text does not have, and a start at its first token.
    CasebackError
        For another number of subjects than texts, or an empty one.
    """
    tokens = tokens.padded_on("right")
    lengths = tokens.lengths
    first = torch.as_tensor(start, device=lengths.device).reshape(-1)
    if first.numel() not in (1, len(tokens)):
        raise CasebackError(f"{first.numel()} starts for {len(tokens)} texts: give one, or one for each")
    first = first.expand(len(tokens))
    first = torch.where(first < 0, first + lengths, first)
    if bool(((first < 1) | (first >= lengths)).any()):
        row = int(((first < 1) | (first >= lengths)).int().argmax())
        raise OutOfRange(
            f"start {int(first[row])}: text {row} has {int(lengths[row])} tokens, expected 1 to {int(lengths[row]) - 1}"
        )
    inside = torch.zeros_like(tokens.mask)
    if subject is not None:
        if len(subject) != len(tokens):
            raise CasebackError(f"{len(subject)} subjects for {len(tokens)} texts: expected positions for each")
        for row, places in enumerate(subject):
            n = int(lengths[row])
            if not len(places):
                raise CasebackError(f"the subject of text {row} has no token: expected one position or more")
            if odd := [place for place in places if not -n <= place < n]:
                raise OutOfRange(f"position {odd[0]} is out of range: text {row} has {n} tokens")
            inside[row, [place % n for place in places]] = True
    return Marked(tokens, inside, first)


def marked_statements(model: Model, statements: Statements) -> Marked:
    """Statements as tokens, with their subjects and answers where these are known.

    Raises
    ------
    EditError, TokensError
        For a subject without a token of its own, a tokenizer that does not say which characters tokens cover, and a
        statement longer than the context.
    OutOfRange
        For an answer that begins at a statement's first token.
    """
    tokens = model.tokens(statements.texts).padded_on("right")
    inside = torch.zeros_like(tokens.mask)
    start = torch.ones_like(tokens.lengths)
    for listed, put in ((statements.subjects, _put(inside)), (statements.answers, _begin(start))):
        at = [i for i, place in enumerate(listed) if place is not None]
        spans = [
            place if isinstance(place, tuple) else (place or 0, len(statements.texts[i]))
            for i in at
            for place in [listed[i]]
        ]
        for i, (_, covered) in zip(at, covering(model, [statements.texts[i] for i in at], spans) if at else [],
                                   strict=True):  # fmt: skip
            put(i, covered)
    if bool((start < 1).any()):
        row = int((start < 1).int().argmax())
        raise OutOfRange(f"{statements.texts[row]!r}: its answer begins at its first token, expected words before it")
    return Marked(tokens, inside, start)


def _put(inside: Tensor) -> Callable[[int, list[int]], None]:
    def put(row: int, covered: list[int]) -> None:
        inside[row, covered] = True

    return put


def _begin(start: Tensor) -> Callable[[int, list[int]], None]:
    def begin(row: int, covered: list[int]) -> None:
        start[row] = covered[0]

    return begin


Reduced = Callable[[Run, Marked], Float[Tensor, "batch *dims"]]


@dataclass(frozen=True)
class Reading:
    """What a score needs of a run, and how the run is reduced to it.

    Attributes
    ----------
    sites
        What is read.
    of
        Of a run and its texts, numbers for each text.
    """

    sites: Sequence[Site]
    of: Reduced


def read_all(
    model: Model, given: Marked, readings: dict[str, Reading], *, progress: bool = False
) -> dict[str, Float[Tensor, "batch *dims"]]:
    """Several readings of the same texts, in one pass over them, in the order of the texts."""
    budget = limit("stream_tokens", model.device)
    sites = list(dict.fromkeys(site for reading in readings.values() for site in reading.sites))
    parts: dict[str, list[Tensor]] = {name: [] for name in readings}
    batches = of_like_length(given.tokens, budget)
    for rows in progress_bar(batches, "read", show=progress, unit="batch"):
        some = given.rows(rows.to(given.tokens.ids.device))
        run = execute(model.anatomy, some.tokens, read=sites, logits=False)
        with torch.no_grad():
            for name, reading in readings.items():
                parts[name].append(reading.of(run, some))
        del run
    order = torch.cat(batches).argsort()
    return {name: torch.cat(values)[order.to(values[0].device)] for name, values in parts.items()}
