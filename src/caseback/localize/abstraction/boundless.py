"""Boundless distributed alignment search: how many dimensions a variable takes is learned too (PRIMER 3.2.35).

    m_j = sigmoid((p_j - l) / T) sigmoid((r - p_j) / T),    p_j = j + 1/2,   l = the r of the variable before or 0,
    r = l + b width
    loss = -mean log p(target) + penalty sum of b

Rotated coordinates between the boundaries l and r are exchanged, softly while the temperature T is high. As it falls
the mask hardens, and at T = 0 it is 1 for the coordinates inside and 0 outside: a search with a fixed size.

Two details differ from the code in use. Places p_j lie in the middle of their cell, so that r - l counts the
coordinates inside; with p_j = j the first one's mask is a half at any temperature. And the first variable's lower
boundary, the edge of the site, is not a boundary: its sigmoid is left out (``edge="open"``). With it (``"closed"``) the
mask is highest in the middle, so that a variable settles there while T is high and the coordinates below it stay in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor, nn

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.training import Plan, fit
from caseback.localize.abstraction.accuracy import accuracies
from caseback.localize.abstraction.alignment import At, seats
from caseback.localize.abstraction.distributed import (
    expect_changes,
    expect_free,
    found_subspace,
    job_of,
    parts,
)
from caseback.localize.abstraction.interchanges import Interchanges
from caseback.localize.abstraction.suffixes import Suffixes
from caseback.model.algebra.rotation import Rotation
from caseback.model.registry import technique
from caseback.model.running.model import Model

EDGES = ("open", "closed")
SMALLEST = 1e-3
"""Of a boundary, as a share of the width."""


class Boundaries(nn.Module):
    """The sizes of variables' parts of a rotated site, as shares of its width.

    Parameters
    ----------
    count, width
        How many variables, and the site's width.
    start
        The share that they take together at first, each as much.
    edge
        ``"open"``: nothing lies below the first coordinate. ``"closed"``: a boundary does.

    Examples
    --------
    >>> Boundaries(1, 4, start=0.5).masks(0.01)[0].round().tolist()
    [1.0, 1.0, 0.0, 0.0]
    """

    def __init__(
        self,
        count: int,
        width: int,
        *,
        start: float = 0.5,
        edge: str = "open",
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        self.open = edge == "open"
        self.share = nn.Parameter(torch.full((count,), start / count, device=device))
        self.width = width

    @property
    def shares(self) -> Float[Tensor, " variable"]:
        """Each variable's share of the width, from ``SMALLEST`` to 1."""
        return self.share.clamp(SMALLEST, 1.0)

    def edges(self) -> Float[Tensor, " edge"]:
        """Where parts begin and end in coordinates, one more than there are variables."""
        return torch.cat([self.share.new_zeros(1), self.shares.cumsum(0)]) * self.width

    def masks(self, temperature: float) -> list[Float[Tensor, " width"]]:
        """How much of each coordinate is exchanged, for each variable."""
        edges = self.edges()
        place = torch.arange(self.width, device=edges.device) + 0.5
        above = [torch.sigmoid((place - low) / temperature) for low in edges[:-1]]
        if self.open:
            above[0] = torch.ones_like(place)
        return [a * torch.sigmoid((high - place) / temperature) for a, high in zip(above, edges[1:], strict=True)]

    def sizes(self) -> list[int]:
        """The coordinates inside each variable's boundaries, which is where masks end as the temperature falls."""
        edges = self.edges().detach().clamp(0, self.width)
        place = torch.arange(self.width, device=edges.device) + 0.5
        return [int(((place > low) & (place < high)).sum()) for low, high in zip(edges, edges[1:], strict=False)]


@technique(
    role="causal abstraction",
    entry=("3.2.35",),
    citation="Wu et al. 2023",
    cost="epochs x (forward + backward from the place on + the exponential of a width x width matrix)",
)
def boundless_das(
    model: Model,
    data: Interchanges,
    at: At,
    *,
    held_out: float | Interchanges = 0.2,
    epochs: int = 3,
    batch_size: int = 16,
    accumulate: int = 4,
    lr: float = 1e-3,
    boundary_lr: float = 1e-2,
    penalty: float = 1.0,
    temperature: tuple[float, float] = (50.0, 0.1),
    start: float = 0.5,
    edge: str = "open",
    warmup: float = 0.1,
    among: Sequence[str | int] | None = None,
    seed: int = 0,
    memory: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """Search a place for a variable's subspace and for its number of dimensions.

    Parameters
    ----------
    model, data, at, held_out, among, seed, memory, progress, checkpoint
        As for ``das``.
    epochs, batch_size, accumulate, lr, boundary_lr, warmup
        Adam with a rate for the rotation and one for the boundaries. The published schedule, for some 10,000 examples
        of a site 4096 wide; on few examples take more epochs, no accumulation and higher rates.
    penalty
        What a whole width costs, in nats.
    temperature
        From, to: it falls linearly over the steps. In coordinates, so a narrow site wants less than the published 50.
    start
        The share of the width that is exchanged at first.
    edge
        Of the mask at the first coordinate: ``"open"``, or ``"closed"`` as published.

    Returns
    -------
    xr.DataArray
        (k, width of the site), the rows inside the boundaries, with the ``variable`` of each; there may be none. The
        attributes are those of ``das`` and each variable's ``sizes``, its ``boundaries`` (shares of the width) and the
        ``penalty``. Accuracies are those of the hard subspace.

    Raises
    ------
    OutOfRange
        For temperatures that do not fall to something above 0, or a start outside (0, 1].
    EditError, CasebackError
        As ``das``.

    Examples
    --------
    >>> from caseback.localize.abstraction.causal_model import CausalModel
    >>> from caseback.organisms.compiled import build
    >>> gate = build("or_gate")
    >>> causal = CausalModel({"a": "01", "b": "01"}, {"or": ("ab", lambda a, b: max(a, b))})
    >>> data = Interchanges.sample(gate.model, causal, lambda v: f"{v['a']} {v['b']} =", "a", 60, changing=0.5)
    >>> how = {"epochs": 40, "accumulate": 1, "lr": 0.03, "boundary_lr": 0.1, "temperature": (0.5, 0.1)}
    >>> subspace = boundless_das(gate.model, data, At("resid_mid", layer=0, pos=-1), **how)
    >>> subspace.sizes["k"], subspace.attrs["held_out_accuracy"]
    (1, 1.0)
    """
    if not (temperature[0] >= temperature[1] > 0):
        raise OutOfRange(f"temperature {temperature}: expected it to fall, to something above 0")
    if not 0 < start <= 1:
        raise OutOfRange(f"start is {start}: expected a share of the width, above 0 and at most 1")
    if edge not in EDGES:
        raise CasebackError(f"edge {edge!r} is unknown. {did_you_mean(edge, EDGES)}")
    searched, judged = parts(data, held_out, seed)
    expect_free(at)
    expect_changes(searched)
    names = list(data.variables)
    mine, theirs = (seats(model, d, dict.fromkeys(names, at)) for d in (searched, judged))
    width, device = mine[0].width, mine[0].donors[0].device
    rotation = Rotation(width, width, seed=seed, dtype=model.dtype, device=device)
    boundaries = Boundaries(len(names), width, start=start, edge=edge, device=device)
    suffixes = Suffixes(model, searched, mine, memory=memory)
    plan = Plan(
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        warmup=warmup,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
    )

    def loss(rows: Tensor, done: float) -> Tensor:
        now = temperature[0] + (temperature[1] - temperature[0]) * done
        masks, directions = dict(zip(names, boundaries.masks(now), strict=True)), rotation.rows
        fit_ = -suffixes.log_probs(rows, lambda seat: seat.edits(directions, masks[seat.variable])).mean()
        return fit_ + penalty * boundaries.shares.sum()

    def judge() -> float:
        directions, masks = rotation.rows.detach(), dict(zip(names, hard(), strict=True))
        edits = [edit for seat in theirs for edit in seat.edits(directions[masks[seat.variable]])]
        return float(accuracies(model, judged, [edits], among=among)[0])

    def hard() -> list[slice]:
        # each variable's rows of the rotation once the temperature is 0
        ends = torch.tensor([0, *boundaries.sizes()]).cumsum(0).tolist()
        return [slice(low, high) for low, high in zip(ends, ends[1:], strict=False)]

    options = (temperature, penalty, start, edge)
    curve = fit(
        [(list(rotation.parameters()), lr), ([boundaries.share], boundary_lr)],
        loss,
        len(searched),
        plan,
        judge=judge,
        job=job_of(model, searched, at, "boundless_das", options, judged, among),
        what=f"boundless das {at}",
        stuck=suffixes.nowhere,
    )
    sizes = dict(zip(names, boundaries.sizes(), strict=True))
    more: dict[str, Any] = {
        "boundaries": boundaries.shares.detach(),
        "penalty": penalty,
        "edge": edge,
        "temperature": list(temperature),
        "lr": lr,
        "boundary_lr": boundary_lr,
    }
    rows = rotation.rows.detach()[: sum(sizes.values())]
    return found_subspace(
        model, at, rows, sizes, (searched, mine), (judged, theirs), curve, plan, among, boundless_das, **more
    )
