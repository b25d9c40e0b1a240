"""RAVEL for features: which way to cut a place apart moves one attribute of an entity alone (PRIMER 3.2.36, 4.2.22).

    all, nothing     the whole state swapped, or none of it: what cause and isolation are worth at their ends
    coordinates      a mask over the site's coordinates (neurons), trained;  pca: over the principal components
    das              a rotated subspace, trained
    features         a mask over the features of an attached dictionary, trained: what it does not reconstruct stays
    random features  as many others of those that are active, drawn;   all features: every one

All are trained on the same examples, of cause and isolation together, and scored on other entities.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.training import Plan
from caseback.localize.abstraction.accuracy import prediction
from caseback.localize.abstraction.alignment import Seat, seats
from caseback.localize.abstraction.distributed import turned
from caseback.localize.abstraction.entities import EntityExamples
from caseback.localize.abstraction.masks import masked, swapped
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit
from caseback.model.running.model import Model
from caseback.model.sweeping.sweep import sweep


@technique(
    role="judgement",
    entry=("3.2.36", "4.2.22", "B.11"),
    citation="Huang et al. 2024; Karvonen et al. 2025",
    cost="for each way epochs x (forward + backward from the place on), and one sweep of the judged examples",
)
def disentangling(
    model: Model,
    trained: EntityExamples,
    judged: EntityExamples,
    site: str,
    layer: int | None = None,
    *,
    features: Sequence[str] = (),
    k: int = 8,
    epochs: int = 10,
    batch_size: int = 32,
    lr: float = 0.1,
    das_lr: float = 1e-2,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Score ways to swap one attribute of an entity by cause and isolation.

    Parameters
    ----------
    model
        The model.
    trained, judged
        Examples to search on, and others, of other entities: ``EntityExamples.split``.
    site, layer
        Where the entity's last token is cut apart.
    features
        Names of sites of dictionaries that are attached there (``attached(model, dictionary, name=…)``), such as
        ``["feature"]``; a random dictionary under another name is the control.
    k
        Dimensions of the rotated subspace.
    epochs, batch_size, lr
        Of the masks; RAVEL's are 2 epochs of 5,000 pairs.
    das_lr
        Of the rotation.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        By ``variant``, a way: ``cause``, the share of cause examples answered as for the source; ``isolation``, the
        mean over the other attributes of the share still answered as for the base; ``disentangle``, the mean of both;
        ``size``, how many coordinates are swapped. By ``variant`` and ``group``, an attribute: ``kept_answer``.
        Attributes: ``attribute``, ``examples``.

    Raises
    ------
    CasebackError
        For judged examples of one kind alone, and for a site of features that reads elsewhere.
    OutOfRange
        For more dimensions than the site has.
    Unreachable
        Where nothing that is swapped there reaches the answer.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.abstraction.entities import entity_examples
    >>> from caseback.organisms.prose.world import RESIDENTS
    >>> model = cb.load("meadow")
    >>> people = {f"{who.name} {who.surname}": {"job": who.job, "city": who.city} for who in RESIDENTS}
    >>> asked = {"job": "{entity} earns money as a", "city": "The home of {entity} is in"}
    >>> examples = entity_examples(model, people, asked, "job", count=200)
    >>> table = disentangling(model, *examples.split(), "resid_post", 1, epochs=1)
    >>> table.variant.values.tolist()
    ['nothing', 'all', 'coordinates', 'pca', 'das 8']
    """
    moved = np.array([asked == judged.attribute for asked in judged.asked])
    if moved.all() or not moved.any():
        raise CasebackError("the judged examples are of one kind: expected some that ask for another attribute")
    plan = Plan(epochs=epochs, batch_size=batch_size, seed=seed, progress=progress)
    mine, theirs = (_seats(model, part, site, layer) for part in (trained, judged))
    width = mine[0].width
    if not 1 <= k <= width:
        raise OutOfRange(f"k is {k}: expected 1 to {width}, the width of {site}")
    ways: dict[str, tuple[list[Edit], int]] = {}
    none = torch.zeros(width, dtype=torch.bool)
    ways["nothing"] = swapped(theirs, none), 0
    ways["all"] = swapped(theirs, ~none), width
    mask, _ = masked(model, trained.data, mine, None, plan, lr=lr)
    ways["coordinates"] = swapped(theirs, mask), int(mask.sum())
    rows = _components(mine)
    mask, _ = masked(model, trained.data, mine, rows, plan, lr=lr)
    ways["pca"] = swapped(theirs, mask, rows), int(mask.sum())
    turn, _ = turned(model, trained.data, mine, {"entity": k}, plan, lr=das_lr)
    ways[f"das {k}"] = [edit for seat in theirs for edit in seat.edits(turn)], k
    for name in features:
        ways |= _of_features(model, trained, judged, name, layer, plan, lr)
    answers, *_ = sweep(model.anatomy, judged.data.base, [edits for edits, _ in ways.values()], prediction())
    hits = (answers.cpu() == judged.data.target.cpu()).double().numpy()
    others = list(dict.fromkeys(asked for asked in judged.asked if asked != judged.attribute))
    each = np.stack([hits[:, [a == one for a in judged.asked]].mean(1) for one in others], 1)
    cause, apart = hits[:, moved].mean(1), each.mean(1)
    arrays: dict[str, Any] = {
        "cause": (["variant"], cause),
        "isolation": (["variant"], apart),
        "disentangle": (["variant"], (cause + apart) / 2),
        "size": (["variant"], np.array([size for _, size in ways.values()])),
        "kept_answer": (["variant", "group"], each),
    }
    attrs = {"attribute": judged.attribute, "examples": len(judged), "place": f"{site}.{layer}", "k": k, "seed": seed}
    of = labelled(each, ["variant", "group"], technique=disentangling, model=model, **attrs, epochs=epochs).attrs
    return xr.Dataset(arrays, {"variant": list(ways), "group": others}, of)


def _seats(model: Model, part: EntityExamples, site: str, layer: int | None) -> list[Seat]:
    return seats(model, part.data, {"entity": part.at(site, layer)})


def _components(seated: Sequence[Seat]) -> Tensor:
    """Principal components of the sources' states, orthonormal rows."""
    x = in_float64(torch.cat([seat.donors[0].flatten(0, -2) for seat in seated]))
    return torch.linalg.svd(x - x.mean(0), full_matrices=False)[2].to(seated[0].donors[0])


def _of_features(
    model: Model,
    trained: EntityExamples,
    judged: EntityExamples,
    name: str,
    layer: int | None,
    plan: Plan,
    lr: float,
) -> dict[str, tuple[list[Edit], int]]:
    """The features that a mask takes, as many others of those that are active, and all."""
    mine, theirs = (_seats(model, part, name, layer) for part in (trained, judged))
    mask, _ = masked(model, trained.data, mine, None, plan, lr=lr)
    active = torch.stack([(seat.donors[0] != 0).flatten(0, -2).any(0) for seat in mine]).any(0).cpu()
    free = (active & ~mask.cpu()).nonzero()[:, 0]
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(plan.seed))
    drawn = torch.zeros_like(active)
    drawn[free[order[: int(mask.sum())]]] = True
    return {
        name: (swapped(theirs, mask), int(mask.sum())),
        f"{name}, random features": (swapped(theirs, drawn), int(drawn.sum())),
        f"{name}, all features": (swapped(theirs, torch.ones_like(mask)), int(active.sum())),
    }
