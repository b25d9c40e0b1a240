"""Distributed alignment search: the subspace in which a variable lies (PRIMER 3.2.34).

    min over R with R R^T = 1 of  mean  -log p_N(M(b | do(V := V(s))) | b, do(R h := R h(s)))

Variables of one place get rows of one rotation, so that their subspaces are orthogonal and may be swapped together,
each from a source of its own. A search can find a subspace that works without being where the network keeps the
variable: see ``causal_gym`` for control tasks, ``subspace_illusion`` for dormant directions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, EditError
from caseback.jobs.training import Curve, Plan, fit
from caseback.localize.abstraction.accuracy import accuracies
from caseback.localize.abstraction.alignment import At, Seat, seats
from caseback.localize.abstraction.interchanges import Interchanges
from caseback.localize.abstraction.suffixes import Suffixes, Unreachable
from caseback.model.algebra.rotation import Rotation, random_rows
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit
from caseback.model.running.model import Model


@technique(
    role="causal abstraction",
    entry=("3.2.34",),
    citation="Geiger et al. 2023",
    cost="epochs x (forward + backward from the place on)",
)
def das(
    model: Model,
    data: Interchanges,
    at: At,
    *,
    k: int | Mapping[str, int] = 1,
    held_out: float | Interchanges = 0.2,
    epochs: int = 10,
    batch_size: int = 64,
    lr: float = 1e-3,
    warmup: float = 0.1,
    accumulate: int = 1,
    patience: int | None = None,
    among: Sequence[str | int] | None = None,
    seed: int = 0,
    memory: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """Search a place for the subspace whose interchange makes the network answer as the causal model does.

    Parameters
    ----------
    model
        The model. It stays as it is.
    data
        Examples of interchanges. Those of several tasks may be added up, as in multi-task DAS: with examples in which
        another attribute is asked for, whose answer must stay, the subspace is searched that isolates the variable.
    at
        The place, without a subspace. At several positions, and at several heads, one subspace serves all.
    k
        Dimensions of the subspace, of each variable where there are several.
    held_out
        The share of the examples, or other examples, that accuracy is measured on.
    epochs, batch_size, lr, warmup, accumulate
        Adam, with a linear warm-up over a share of the steps and a linear decay after it. The rate is the original's;
        on few examples, or small sites, 1e-2 gets there in fewer epochs.
    patience
        Stop after so many epochs without a better held-out accuracy, and keep the best.
    among
        Tokens that answers are chosen from when accuracy is measured; by default the whole vocabulary.
    seed
        Same seed, same result. It draws the first rotation, the order of the examples and which are held out.
    memory
        Bytes of the bases' activations kept between steps; past it they are computed again.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    xr.DataArray
        (k, width of the site), orthonormal rows, with the ``variable`` of each. Attributes: ``accuracy`` on the
        examples searched on, ``held_out_accuracy``, ``held_out_accuracy_where_changed``, and beside them
        ``random_accuracy`` (a random subspace of this size), ``full_accuracy`` (the whole activation) and
        ``no_swap_accuracy`` on the same held-out examples; the curves ``loss_curve`` and ``held_out_curve``.

    Raises
    ------
    EditError
        For a subspace larger than the site, or a place that has one already.
    CasebackError
        Where no interchange changes the answer, or none can reach it.

    Examples
    --------
    >>> from caseback.localize.abstraction.causal_model import CausalModel
    >>> from caseback.organisms.compiled import build
    >>> gate = build("or_gate")
    >>> causal = CausalModel({"a": "01", "b": "01"}, {"or": ("ab", lambda a, b: max(a, b))})
    >>> data = Interchanges.sample(gate.model, causal, lambda v: f"{v['a']} {v['b']} =", "a", 60, changing=0.5)
    >>> subspace = das(gate.model, data, At("resid_mid", layer=0, pos=-1), lr=0.05)
    >>> subspace.dims, subspace.attrs["held_out_accuracy"]
    (('k', 'd_model'), 1.0)
    """
    sizes = _sizes(data, k)
    searched, judged = parts(data, held_out, seed)
    expect_free(at)
    expect_changes(searched)
    mine = seats(model, searched, dict.fromkeys(sizes, at))
    theirs = seats(model, judged, dict.fromkeys(sizes, at))
    plan = Plan(
        epochs=epochs,
        batch_size=batch_size,
        accumulate=accumulate,
        warmup=warmup,
        patience=patience,
        seed=seed,
        progress=progress,
        checkpoint=checkpoint,
    )
    rows, curve = turned(
        model,
        searched,
        mine,
        sizes,
        plan,
        lr=lr,
        memory=memory,
        judge=lambda rows: swapped_accuracy(model, judged, theirs, rows, sizes, among),
        judged_on=[judged, among],
    )
    return found_subspace(model, at, rows, sizes, (searched, mine), (judged, theirs), curve, plan, among, das, lr=lr)


def turned(
    model: Model,
    data: Interchanges,
    seated: Sequence[Seat],
    sizes: Mapping[str, int],
    plan: Plan,
    *,
    lr: float,
    memory: int | None = None,
    judge: Callable[[Tensor], float] | None = None,
    judged_on: Any = None,
) -> tuple[Float[Tensor, "k width"], Curve]:
    """Turn a rotation until swaps of its rows give the targets; the rows, and how it went."""
    at, donor = seated[0].at, seated[0].donors[0]
    rotation = Rotation(sum(sizes.values()), seated[0].width, seed=plan.seed, dtype=model.dtype, device=donor.device)
    suffixes = Suffixes(model, data, seated, memory=memory)

    def loss(rows: Tensor, done: float) -> Tensor:
        pieces = dict(zip(sizes, rotation.rows.split(list(sizes.values())), strict=True))
        return -suffixes.log_probs(rows, lambda seat: seat.edits(pieces[seat.variable])).mean()

    curve = fit(
        [(list(rotation.parameters()), lr)],
        loss,
        len(data),
        plan,
        judge=None if judge is None else lambda: judge(rotation.rows.detach()),
        job=job_of(model, data, at, "das", dict(sizes), judged_on),
        what=f"das {at}",
        # a whole rotation exchanges everything, however it is turned
        stuck=suffixes.nowhere if len(rotation.rows) < seated[0].width else None,
    )
    return rotation.rows.detach(), curve


def reached(
    model: Model, data: Interchanges, seat: Seat, k: int, plan: Plan, *, lr: float, memory: int | None = None
) -> Float[Tensor, "k width"]:
    """The rows that are found at one place of many; random ones, as good as any, where no swap reaches the answer."""
    try:
        return turned(model, data, [seat], {seat.variable: k}, plan, lr=lr, memory=memory)[0]
    except Unreachable:
        dtype = torch.promote_types(model.dtype, torch.float32)
        return random_rows(k, seat.width, plan.seed).to(seat.donors[0].device, dtype)


def parts(data: Interchanges, held_out: float | Interchanges, seed: int) -> tuple[Interchanges, Interchanges]:
    """Examples to search on, and examples held out."""
    return (data, held_out) if isinstance(held_out, Interchanges) else data.split(held_out, seed)


def _sizes(data: Interchanges, k: int | Mapping[str, int]) -> dict[str, int]:
    sizes = dict.fromkeys(data.variables, k) if isinstance(k, int) else dict(k)
    if set(sizes) != set(data.variables):
        raise CasebackError(f"k gives sizes for {', '.join(sizes)}; the examples swap {', '.join(data.variables)}")
    wrong = [name for name, size in sizes.items() if size < 1]
    if wrong:
        raise EditError(f"{wrong[0]!r} in {sizes[wrong[0]]} dimensions: expected at least 1")
    return sizes


def expect_free(at: At) -> None:
    """Refuse a place that has a subspace."""
    if at.basis is not None:
        raise EditError(f"{at} has a subspace already, which is what is searched for: leave out basis=")


def expect_changes(data: Interchanges) -> None:
    """Refuse examples that a search learns nothing from.

    Raises
    ------
    CasebackError
        Where the answer is the same with and without the interchange in every one.
    """
    if not bool(data.changes.any()):
        raise CasebackError(
            f"none of {len(data)} interchanges changes the answer, so a swap of nothing is right everywhere: take "
            "sources on which the variable differs, or sample with changing=0.5"
        )


def job_of(model: Model, data: Interchanges, places: Any, *options: Any) -> dict[str, Any]:
    """What a search's checkpoint depends on, besides its plan."""
    return {"model": model, "examples": data, "place": places, "options": options}


def swapped_accuracy(
    model: Model,
    data: Interchanges,
    seated: Sequence[Seat],
    rows: Tensor,
    sizes: Mapping[str, int],
    among: Sequence[str | int] | None = None,
) -> float:
    """Interchange accuracy with each variable's rows of a rotation."""
    pieces = dict(zip(sizes, rows.split(list(sizes.values())), strict=True))
    edits = [edit for seat in seated for edit in seat.edits(pieces[seat.variable])]
    return float(accuracies(model, data, [edits], among=among)[0])


def found_subspace(
    model: Model,
    at: At,
    rows: Tensor,
    sizes: Mapping[str, int],
    searched: tuple[Interchanges, list[Seat]],
    judged: tuple[Interchanges, list[Seat]],
    curve: Curve,
    plan: Plan,
    among: Sequence[str | int] | None,
    made_by: Callable[..., Any],
    **attrs: Any,
) -> xr.DataArray:
    """What a search returns: rows, and how well they do beside random ones, all and none."""
    data, seated = judged
    changed = data.changes.nonzero()[:, 0].cpu()
    some, theirs = data[changed], [seat.of(changed) for seat in seated]
    drawn = random_rows(len(rows), rows.shape[1], plan.seed + 1).to(rows)
    site = seated[0].site
    where_changed = swapped_accuracy(model, some, theirs, rows, sizes, among) if len(some) else None
    return labelled(
        rows,
        ["k", site.kind.dims[-1]],
        {"variable": ("k", [name for name, size in sizes.items() for _ in range(size)])},
        name="basis",
        technique=made_by,
        model=model,
        place=str(at),
        site=site.name,
        site_layer=site.layer,
        site_head=at.head,
        accuracy=swapped_accuracy(model, *searched, rows, sizes, among),
        held_out_accuracy=swapped_accuracy(model, *judged, rows, sizes, among),
        held_out_accuracy_where_changed=where_changed,
        random_accuracy=swapped_accuracy(model, *judged, drawn, sizes, among),
        full_accuracy=float(accuracies(model, data, [[e for s in seated for e in s.edits()]], among=among)[0])
        if len(sizes) == 1
        else None,
        no_swap_accuracy=float(accuracies(model, data, [_nothing(seated)], among=among)[0]),
        sizes=dict(sizes),
        held_out=len(data),
        loss_curve=curve.loss,
        held_out_curve=curve.judged,
        epochs=len(curve.loss),
        kept_epoch=curve.best if plan.patience is not None else len(curve.loss) - 1,
        batch_size=plan.batch_size,
        warmup=plan.warmup,
        seed=plan.seed,
        **attrs,
    )


def _nothing(seated: Sequence[Seat]) -> list[Edit]:
    return [edit for seat in seated for edit in seat.edits(torch.zeros(0, seat.width))]
