"""Edits written into the rows of a site.

An edit is data. Where in a tensor it applies (rows of its prompts and positions, heads, units) is known only when a
pass reaches its site. Only these entries are read, changed and put back, in the order in which the edits are given.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.model.anatomy.sites import MAPS, Site
from caseback.model.running.edit_values import heads_of, on, units_of
from caseback.model.running.edits import Edit, Where
from caseback.model.running.frames import Frame, Rows
from caseback.model.running.passing import aside


def apply_edits(
    edits: Sequence[tuple[int | None, Edit]],
    x: Float[Tensor, "row *head unit"],
    frame: Frame,
    site: Site,
    columns_before: Callable[[Rows], np.ndarray],
    entered: Float[Tensor, "row in"] | None = None,
) -> Tensor:
    """Write edits, each with its owner, into a site's rows; returns a copy, or the very ``x`` if none applies."""
    given = x
    for owned in in_turns(edits):
        edit = owned[0][1]
        rows = frame.rows(owned, height=len(x))
        if rows is None:
            continue
        of_rows = entered[rows.row.to(entered.device)] if edit.of_input and entered is not None else None
        alike, before = [one for _, one in owned], columns_before(rows)
        heads = heads_of(alike, rows.edit, x.shape[1]) if x.ndim == 3 else None
        units = units_of(alike, rows.edit, x.shape[-1], before)
        where = Where(site, rows, x.shape[-1], before, alike, heads, units, of_rows)
        if heads is None and units is None and len(rows) == len(x) and rows.in_order:
            written = _new(edit, x, where)  # the whole tensor: nothing to pick out and put back
            if x.requires_grad and not written.requires_grad:
                written = x.clone().copy_(written)  # a value without a graph must not cut the run's graph
            x = written if written is x else written.clone(memory_format=torch.contiguous_format)
            continue
        x = x.clone() if x is given else x
        index, known = _index(x, where)
        old = x[index]
        new = _new(edit, old, where)
        x[index] = new if known is None else torch.where(known, new, old)
    return x


def in_turns(edits: Sequence[tuple[int | None, Edit]]) -> list[list[tuple[int | None, Edit]]]:
    """Edits sorted into those that one call can make: alike, of different owners; each owner's stay in their order."""
    if len(edits) == 1:
        return [list(edits)]
    groups: dict[Any, list[tuple[int | None, Edit]]] = {}
    turns: Counter[int | None] = Counter()
    for i, (owner, edit) in enumerate(edits):
        like = None if owner is None else edit.like()
        # edits without an owner are of all rows, and stand before all others
        groups.setdefault((owner is not None, turns[owner], i if like is None else like), []).append((owner, edit))
        turns[owner] += 1
    return [groups[key] for key in sorted(groups, key=lambda key: key[:2])]


def _new(edit: Edit, old: Tensor, where: Where) -> Tensor:
    with aside():  # an edit may be a user's function, which may run the model
        return edit.new(old, where).to(old.dtype)


def _index(x: Tensor, where: Where) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The addressed block of (row, head, unit) as an index, and at maps which of its keys exist (None: all)."""
    at, heads, units, known = where.rows.at[0], where.heads, where.units, None
    if units is not None and where.site.name in MAPS:
        inside = (units >= 0) & (units < x.shape[-1])
        known = None if inside.all() else on(x, inside[:, None])
        units = units.clip(0, x.shape[-1] - 1)
    if units is None:
        return ((on(x, at),) if heads is None else (on(x, at[:, None]), on(x, heads))), None
    if x.ndim == 2:
        return (on(x, at[:, None]), on(x, units)), None
    heads = np.arange(x.shape[1])[None] if heads is None else heads
    return (on(x, at[:, None, None]), on(x, heads[:, :, None]), on(x, units[:, None])), known
