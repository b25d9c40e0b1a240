"""Which coordinates of a place hold a variable: a mask is searched in place of a rotation (PRIMER 3.2.36).

    min over l of  mean  -log p_N(M(b | do(V := V(s))) | b, do(h_i := h_i + m_i (h_i(s) - h_i)))  +  penalty mean m
    m = sigmoid(l / T),   T falls;   at the end m_i is 1 where l_i > 0, else 0

The coordinates are neurons, features of a dictionary that is attached, or those of given rows. A coordinate that is
the same in bases and sources has no gradient and stays out. With examples whose answer must stay among the others
(``EntityExamples``) it is RAVEL's multi-task differential binary masking.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.jobs.training import Curve, Plan, fit
from caseback.localize.abstraction.accuracy import accuracies
from caseback.localize.abstraction.alignment import At, Seat, seats
from caseback.localize.abstraction.distributed import expect_changes, expect_free, job_of, parts
from caseback.localize.abstraction.interchanges import Interchanges
from caseback.localize.abstraction.suffixes import Suffixes
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit
from caseback.model.running.model import Model


@technique(
    role="causal abstraction",
    entry=("3.2.36",),
    citation="De Cao et al. 2020; Huang et al. 2024",
    cost="epochs x (forward + backward from the place on)",
)
def binary_mask(
    model: Model,
    data: Interchanges,
    at: At,
    *,
    held_out: float | Interchanges = 0.2,
    epochs: int = 10,
    batch_size: int = 64,
    lr: float = 0.1,
    temperature: tuple[float, float] = (1.0, 0.05),
    penalty: float = 0.0,
    among: Sequence[str | int] | None = None,
    seed: int = 0,
    memory: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """Search a place for the coordinates whose interchange makes the network answer as the causal model does.

    Parameters
    ----------
    model, data, held_out, among, seed, memory, progress, checkpoint
        As for ``das``.
    at
        The place, without a subspace; ``At("feature", layer=…)`` while a dictionary is attached.
    epochs, batch_size, lr
        Adam, with the warm-up and decay of ``das``.
    temperature
        From, to: it falls linearly over the steps.
    penalty
        What all coordinates together cost, in nats. Without examples whose answer must stay, a search without it has
        no reason to leave a coordinate out.

    Returns
    -------
    xr.DataArray
        (coordinate of the site) of 0 and 1. Attributes: ``size``, how many are 1; ``held_out_accuracy``, beside it
        ``full_accuracy`` and ``no_swap_accuracy`` on the same examples; the curve ``loss_curve``.

    Raises
    ------
    OutOfRange
        For temperatures that do not fall to something above 0, or a penalty below 0.
    EditError, CasebackError
        As ``das``.

    Examples
    --------
    >>> from caseback.localize.abstraction.causal_model import CausalModel
    >>> from caseback.organisms.compiled import build
    >>> gate = build("or_gate")
    >>> causal = CausalModel({"a": "01", "b": "01"}, {"or": ("ab", lambda a, b: max(a, b))})
    >>> data = Interchanges.sample(gate.model, causal, lambda v: f"{v['a']} {v['b']} =", "a", 60, changing=0.5)
    >>> mask = binary_mask(gate.model, data, At("resid_mid", layer=0, pos=-1), lr=0.3)
    >>> mask.attrs["held_out_accuracy"], mask.attrs["size"] < mask.size
    (1.0, True)
    """
    if not (temperature[0] >= temperature[1] > 0) or penalty < 0:
        raise OutOfRange(
            f"temperature {temperature}, penalty {penalty}: expected it to fall, to above 0, and 0 or more"
        )
    searched, judged = parts(data, held_out, seed)
    expect_free(at)
    expect_changes(searched)
    names = dict.fromkeys(data.variables, at)
    mine, theirs = seats(model, searched, names), seats(model, judged, names)
    plan = Plan(epochs=epochs, batch_size=batch_size, seed=seed, progress=progress, checkpoint=checkpoint)
    mask, curve = masked(
        model,
        searched,
        mine,
        None,
        plan,
        lr=lr,
        temperature=temperature,
        penalty=penalty,
        memory=memory,
        judged_on=[judged, among],
    )

    def accuracy(*variants: list[Edit]) -> list[float]:
        return accuracies(model, judged, variants, among=among).tolist()

    none = torch.zeros_like(mask)
    own, whole, nothing = accuracy(swapped(theirs, mask), swapped(theirs, ~none), swapped(theirs, none))
    site = mine[0].site
    return labelled(
        in_float64(mask),
        [site.kind.dims[-1]],
        name="mask",
        technique=binary_mask,
        model=model,
        place=str(at),
        size=int(mask.sum()),
        held_out_accuracy=own,
        full_accuracy=whole,
        no_swap_accuracy=nothing,
        held_out=len(judged),
        loss_curve=curve.loss,
        penalty=penalty,
        temperature=list(temperature),
        lr=lr,
        epochs=epochs,
        seed=seed,
    )


def masked(
    model: Model,
    data: Interchanges,
    seated: Sequence[Seat],
    rows: Float[Tensor, "k width"] | None,
    plan: Plan,
    *,
    lr: float,
    temperature: tuple[float, float] = (1.0, 0.05),
    penalty: float = 0.0,
    memory: int | None = None,
    judged_on: object = None,
) -> tuple[Bool[Tensor, " k"], Curve]:
    """Search a mask over the coordinates, or over given rows; the mask, and how it went."""
    donor = seated[0].donors[0]
    level = torch.zeros(seated[0].width if rows is None else len(rows), dtype=donor.dtype, device=donor.device)
    level.requires_grad_(True)
    suffixes = Suffixes(model, data, seated, memory=memory)

    def loss(some: Tensor, done: float) -> Tensor:
        mask = torch.sigmoid(level / (temperature[0] + (temperature[1] - temperature[0]) * done))
        return -suffixes.log_probs(some, lambda seat: seat.edits(rows, mask)).mean() + penalty * mask.mean()

    curve = fit(
        [([level], lr)],
        loss,
        len(data),
        plan,
        job=job_of(model, data, seated[0].at, "binary_mask", rows, temperature, penalty, judged_on),
        what=f"mask {seated[0].at}",
        stuck=suffixes.nowhere if not penalty else None,
    )
    return level.detach() > 0, curve


def swapped(seated: Sequence[Seat], mask: Tensor, rows: Tensor | None = None) -> list[Edit]:
    """The interchange of the coordinates, or rows, of a mask."""
    return [edit for seat in seated for edit in seat.edits(rows, mask)]
