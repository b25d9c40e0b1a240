"""Where a variable lies: a search at every layer and position, judged on examples held out (PRIMER 3.2.34)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import xarray as xr

from caseback.errors import CasebackError
from caseback.jobs.progress import progress_bar
from caseback.jobs.training import Plan
from caseback.localize.abstraction.accuracy import accuracies, grid, mapped
from caseback.localize.abstraction.alignment import At, seats
from caseback.localize.abstraction.distributed import expect_changes, parts, reached
from caseback.localize.abstraction.interchanges import Interchanges
from caseback.model.algebra.rotation import random_rows
from caseback.model.registry import technique
from caseback.model.running.edits import Edit
from caseback.model.running.model import Model


@technique(
    role="causal abstraction",
    entry=("3.2.34",),
    citation="Geiger et al. 2023",
    cost="places x epochs x (forward + backward from the place on)",
)
def das_map(
    model: Model,
    data: Interchanges,
    *,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    pos: Sequence[int] | None = None,
    k: int = 1,
    held_out: float | Interchanges = 0.2,
    epochs: int = 10,
    batch_size: int = 64,
    lr: float = 1e-3,
    warmup: float = 0.1,
    among: Sequence[str | int] | None = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """Search each place for a subspace of one size, and map how well its swap does on examples held out.

    Parameters
    ----------
    model
        The model.
    data
        Examples of one variable.
    site, layers, heads, pos
        The places, as for ``interchange_map``.
    k, held_out, epochs, batch_size, lr, warmup, among, seed
        As for ``das``.
    progress
        Show a progress bar.
    checkpoint
        A folder that keeps what is done; the same call with it goes on after an interruption. One file per place.

    Returns
    -------
    xr.DataArray
        (layer, pos) or (layer, head, pos) of held-out interchange accuracy. Beside it ``random``, that of a random
        subspace of the same size at each place, and ``full``, of the whole activation; the attribute
        ``no_swap_accuracy`` is what swapping nothing scores.

    Raises
    ------
    CasebackError
        For examples of several variables, a folder that is not there, and as ``das``; but a place from which no swap
        reaches the answer is mapped, as what it is.

    Examples
    --------
    >>> from caseback.localize.abstraction import CausalModel
    >>> from caseback.organisms.compiled import build
    >>> gate = build("or_gate")
    >>> causal = CausalModel({"a": "01", "b": "01"}, {"or": ("ab", lambda a, b: max(a, b))})
    >>> data = Interchanges.sample(gate.model, causal, lambda v: f"{v['a']} {v['b']} =", "a", 40, changing=0.5)
    >>> das_map(gate.model, data, site="resid_mid", pos=[2, -1], lr=0.05).values.round(1).tolist()
    [[0.5, 1.0]]
    """
    if len(data.variables) != 1:
        raise CasebackError(f"a map is of one variable, these examples swap {', '.join(data.variables)}")
    folder = None if checkpoint is None else Path(checkpoint)
    if folder is not None and not os.path.isdir(folder):
        raise CasebackError(
            f"checkpoint={str(folder)!r} is not a folder: make one, in which each place's search keeps a file"
        )
    variable = data.variables[0]
    searched, judged = parts(data, held_out, seed)
    expect_changes(searched)
    where = grid(model, data, site, layers, heads, pos)
    here, there = (seats(model, d, {variable: where}) for d in (searched, judged))
    plan = Plan(epochs=epochs, batch_size=batch_size, warmup=warmup, seed=seed)
    variants: list[list[Edit]] = []
    with progress_bar(total=len(where), show=progress, what=f"das {site}", unit="place") as bar:
        for mine, theirs in zip(here, there, strict=True):
            own_plan = replace(plan, checkpoint=None if folder is None else folder / _file(mine.at))
            rows = reached(model, searched, mine, k, own_plan, lr=lr)
            drawn = random_rows(k, mine.width, seed + 1).to(rows)
            variants += [theirs.edits(rows), theirs.edits(drawn), theirs.edits()]
            bar.update()
    nothing = [there[0].edits(torch.zeros(0, there[0].width))]
    scores = accuracies(model, judged, [*variants, *nothing], among=among)
    learned, control, full = scores[:-1].view(-1, 3).unbind(1)
    accuracy_map = mapped(
        model,
        judged,
        where,
        learned,
        technique=das_map,
        site=site,
        rank=k,
        searched=len(searched),
        held_out=len(judged),
        no_swap_accuracy=float(scores[-1]),
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
    )
    shape = accuracy_map.shape
    return accuracy_map.assign_coords(
        random=(accuracy_map.dims, control.view(shape).cpu().numpy()),
        full=(accuracy_map.dims, full.view(shape).cpu().numpy()),
    )


def _file(at: At) -> str:
    head = "" if at.head is None else f".H{at.head}"
    return f"{at.site}.{'' if at.layer is None else f'L{at.layer}'}{head}.pos{at.pos}.safetensors"
