"""Edits written into the rows of a site.

An edit is data. Where in a tensor it applies (rows of its prompts and positions, heads, units) is known only when a
pass reaches its site. Only these entries are read, changed and put back, in the order in which the edits are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.model.anatomy.sites import MAPS, Site
from caseback.model.running.edit_values import indices_in, units_of
from caseback.model.running.edits import Edit, Where
from caseback.model.running.frames import Frame, Rows
from caseback.model.running.passing import aside


def apply_edits(
    edits: Sequence[tuple[int | None, Edit]],
    x: Float[Tensor, "row *head unit"],
    frame: Frame,
    site: Site,
    columns_before: Callable[[Rows], Tensor],
    entered: Float[Tensor, "row in"] | None = None,
) -> Tensor:
    """Write edits, each with its owner, into a site's rows; returns a copy, or the very ``x`` if none applies.

    ``entered`` is what entered the module whose output the site is, where an edit follows from it.
    """
    given = x
    for owner, edit in edits:
        rows = frame.rows(owner, edit.pos, prompt=edit.prompt, grow=not edit.tied, height=len(x))
        if rows is None:
            continue
        of_rows = entered[rows.row.to(entered.device)] if edit.of_input and entered is not None else None
        where = Where(site, rows, x.shape[-1], columns_before(rows), of_rows)
        if edit.head is None and edit.unit is None and len(rows.row) == len(x) and rows.in_order:
            written = _new(edit, x, where)  # the whole tensor: nothing to pick out and put back
            if x.requires_grad and not written.requires_grad:
                written = x.clone().copy_(written)  # a value without a graph must not cut the run's graph
            x = written if written is x else written.clone(memory_format=torch.contiguous_format)
            continue
        x = x.clone() if x is given else x
        index, known = _index(edit, x, where)
        old = x[index]
        new = _new(edit, old, where)
        x[index] = new if known is None else torch.where(known, new, old)
    return x


def _new(edit: Edit, old: Tensor, where: Where) -> Tensor:
    with aside():  # an edit may be a user's function, which may run the model
        return edit.new(old, where).to(old.dtype)


def _index(edit: Edit, x: Tensor, where: Where) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """The addressed block of (row, head, unit) as an index, and at maps which of its keys exist (None: all)."""
    at, known = where.rows.row.to(x.device), None
    units = units_of(edit, where)
    if units is not None:
        units = units.to(x.device)
        if edit.site in MAPS:
            known = (units >= 0) & (units < x.shape[-1])
            units = units.clamp(0, x.shape[-1] - 1)
    if x.ndim == 2:
        return ((at,) if units is None else (at[:, None], units)), None
    heads = indices_in(edit.head, x.shape[1], "head", edit.site)
    heads = range(x.shape[1]) if heads is None else heads
    heads = torch.tensor(heads, dtype=torch.long, device=x.device)[None, :, None]
    last = torch.arange(x.shape[-1], device=x.device)[None] if units is None else units
    index = (at[:, None, None], heads, last[:, None, :])
    return index, None if known is None or bool(known.all()) else known[:, None, :]
