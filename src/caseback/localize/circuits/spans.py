"""A schema of named spans: every token of every prompt by a name that means the same in all of them (B.30).

    Mary | and | John | went to the store,        ->        IO | after IO | S1 | after S1

Circuits over positions need places that prompts of different lengths share (Haklay et al. 2025). The names that are
given are such places; what stands between two of them is named after the one that it follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from caseback.errors import CasebackError
from caseback.localize.circuits.machinery.cutting import tokens_at
from caseback.localize.circuits.machinery.masks import placed_all
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens

BEGINNING = "beginning"
"""What stands before the first named span."""


@checked
def span_schema(model: Model, prompts: PromptsLike, spans: Mapping[str, Any]) -> dict[str, list[list[int]]]:
    """Name every token of prompts: by the span that it is in, else by the one that it follows.

    Where spans share a token it belongs to the shorter, of equally long ones to the one named first.

    Parameters
    ----------
    model
        The model.
    prompts
        The prompts.
    spans
        By name positions as edits take them, a text that stands in every prompt, or (batch, 2) first and last as in
        a task's ``prompts.spans``.

    Returns
    -------
    dict
        For each name the positions that it has in each prompt, none where a prompt lacks it; names in the order in
        which they first come. ``edge_attribution``, ``run_circuit`` and others take it as ``positions``.

    Raises
    ------
    CasebackError
        For no spans, and for one whose name a stretch would get.

    Examples
    --------
    >>> import caseback as cb
    >>> span_schema(cb.load("meadow"), ["Mary and John ate"], {"first": "Mary", "second": "John"})
    {'beginning': [[0]], 'first': [[1]], 'after first': [[2]], 'second': [[3]], 'after second': [[4]]}
    """
    if not spans:
        raise CasebackError("no spans given: expected positions by name, such as a task's prompts.spans")
    given = {BEGINNING, *(f"after {name}" for name in spans)}
    if taken := sorted(given & set(spans)):
        raise CasebackError(f"a span is called {taken[0]!r}, as what lies between spans is: give it another name")
    tokens = model.tokens(prompts)
    placed = {name: placed_all([name], spans, tokens)[0] for name in spans}
    schema: dict[str, list[list[int]]] = {}
    for b, length in enumerate(tokens.lengths.tolist()):
        owner: dict[int, str] = {}
        for name in sorted(spans, key=lambda name: len(placed[name][b])):
            for at in placed[name][b]:
                owner.setdefault(at, name)
        stretch = BEGINNING
        for at in range(length):
            stretch = f"after {owner[at]}" if at in owner else stretch
            schema.setdefault(owner.get(at, stretch), [[] for _ in range(len(tokens))])[b].append(at)
    first = {name: min(row[0] for row in rows if row) for name, rows in schema.items()}
    return {name: schema[name] for name in sorted(schema, key=lambda name: first[name])}


def place_of_tokens(positions: Mapping[str, Any], tokens: Tokens) -> Int[Tensor, "batch pos"]:
    """The number of the place of every column, -1 for padding.

    Raises
    ------
    CasebackError
        For a token that has no name, or several.
    """
    names = list(positions)
    flat = tokens_at(placed_all(names, positions, tokens), tokens.lengths.tolist())
    places = torch.full(tokens.mask.shape, -1)
    places[tokens.mask.cpu()] = flat
    if nameless := (places == len(names)).nonzero().tolist():
        b, column = nameless[0]
        at = int(tokens.mask[b, :column].sum())
        raise CasebackError(
            f"position {at} of prompt {b}, {tokens.text[b][at]!r}, has no name: scores by place need one for every "
            "token, as span_schema(model, prompts, spans) gives"
        )
    return places


def ends_of(places: Int[Tensor, "batch pos"], count: int) -> tuple[Tensor, Tensor]:
    """The first and the last column of each place in each prompt, (place, batch); -1 where it has none."""
    at = torch.arange(places.shape[1])
    here = places[None] == torch.arange(count)[:, None, None]
    last = torch.where(here, at, -1).amax(-1)
    first = torch.where(here, at, places.shape[1]).amin(-1)
    return torch.where(last < 0, -1, first), last
