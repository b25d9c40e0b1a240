"""Wrong but plausible answers, and whether a weight of low rank is rid of them (PRIMER 5.4.24, on LASER, 4.3.11).

    an answer is    right,    plausible: another object of the relation, of these facts,    or any other token
    kept            W_k in place of one W: the weight and rank under which most of one half of the facts are right
    removed         W - W_k in place of it: what the components that were taken out say by themselves
    random          W on a random subspace of as many dimensions

Sharma et al. 2024 find that the small components of late MLP weights vote for plausible wrong answers and frequent
words, so that without them GPT-J is right more often. A best of many weights is flattered by chance: here it is chosen
on half of the facts and judged on the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
import xarray as xr

from caseback.behaviors.mechanisms.choices import sort_of_answer
from caseback.decode.vocabulary.weights.low_rank import RHO, LowRank, accuracy, laser
from caseback.edit.facts import Fact
from caseback.edit.places import pieces_of
from caseback.errors import CasebackError, OutOfRange
from caseback.model.registry import technique
from caseback.model.results import labelled_set
from caseback.model.running.model import Model

VARIANTS = ("as it is", "kept", "removed")
LEAST = 8
"""Facts: half of them are chosen on, half are judged on."""


@technique(
    entry=("5.4.24", "4.3.11"),
    citation="Sharma et al. 2024",
    cost="layers x matrices SVDs + a sweep of all ranks on half of the facts, and of 2 + draws variants on the others",
)
def plausible_answers(
    model: Model,
    facts: Sequence[Fact],
    *,
    layers: Sequence[int] | None = None,
    matrices: Sequence[str] = ("in", "out"),
    rho: Sequence[float] = RHO,
    draws: int = 5,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Look for one weight of low rank under which facts are recalled best, and sort the answers before and after.

    Parameters
    ----------
    model
        The model.
    facts
        Facts of one relation with their ``true`` answers, of which the first token counts; the objects of the relation
        are these answers and the ``new`` ones.
    layers, matrices, rho
        As for ``laser``.
    draws
        Random subspaces.
    seed
        Same seed, same result. It draws the half that is chosen on, and the subspaces.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``answers`` (variant, batch) of the judged facts: 1 right, 2 wrong but plausible, 0 any other; ``random`` (draw,
        batch) the same for random subspaces; ``accuracy`` (layer, component, rank) of the facts that were chosen on,
        ``rank`` being the share kept, and in ``accuracy_clean`` that of the model as it is. The attributes ``layer``,
        ``matrix``, ``rho``, ``rank`` and ``lost``, the share of the squared norm, are of what was chosen.

    Raises
    ------
    CasebackError
        For facts without a known answer, of which all have the same, and as ``laser``.
    OutOfRange
        For fewer than 8 facts, or fewer than one draw.

    Notes
    -----
    Entry 5.4.24. They choose on a validation set of CounterFact and count an answer as right where it is generated.

    Examples
    --------
    >>> import caseback as cb
    >>> facts = cb.edit.relation_facts("capital", count=16)
    >>> table = plausible_answers(cb.load("meadow"), facts, layers=[3], rho=[0.5], draws=2)
    >>> table["answers"].dims, int((table["answers"].sel(variant="as it is") == 1).sum())
    (('variant', 'batch'), 7)
    """
    if len(facts) < LEAST:
        raise OutOfRange(f"{len(facts)} facts: expected {LEAST} or more, half of them to judge on")
    if draws < 1:
        raise OutOfRange(f"draws={draws}: expected 1 or more")
    if odd := [fact for fact in facts if fact.true is None]:
        raise CasebackError(f"{odd[0].text!r} has no known answer: expected facts with `true`")
    right = [pieces[0] for pieces in pieces_of(model, [str(fact.true) for fact in facts])]
    if len(set(right)) < 2:
        raise CasebackError("all facts have the same answer, so that none is wrong but plausible: give others too")
    objects = {*right, *(pieces[0] for pieces in pieces_of(model, [fact.new for fact in facts]))}
    tokens = model.tokens([fact.text for fact in facts])
    order = np.random.default_rng(seed).permutation(len(facts))
    choosing, judging = (sorted(some.tolist()) for some in np.array_split(order, 2))
    shares = {"layers": layers, "matrices": matrices, "rho": rho}
    searched = laser(
        model, tokens[choosing], accuracy([right[i] for i in choosing]), **shares, seed=seed, progress=progress
    )
    at = {"layer": searched.attrs["best_layer"], "component": searched.attrs["best_matrix"]}
    share = searched.attrs["best_rho"]
    rank = int(searched["kept"].sel(rank=share, **at))
    weight = LowRank(model, at["component"], at["layer"])
    random = [_on_a_random_subspace(weight, seed + draw).edit(rank) for draw in range(draws)]
    swept = model.sweep(
        tokens[judging],
        [weight.edit(rank), weight.edit(rank, drop=True), *random],
        sort_of_answer([right[i] for i in judging], sorted(objects)),
        labels=[*VARIANTS[1:], *(f"random {draw}" for draw in range(draws))],
        progress=progress,
    )
    sorts = np.concatenate([swept["clean"].values[None], swept.values]).astype(int)
    arrays: dict[str, tuple[Any, tuple[str, ...]]] = {
        "answers": (sorts[: len(VARIANTS)], ("variant", "batch")),
        "random": (sorts[len(VARIANTS) :], ("draw", "batch")),
        "accuracy": (searched["value"].mean("batch").values, ("layer", "component", "rank")),
        "accuracy_clean": (float(searched["clean"].mean()), ()),
    }
    coords = {name: searched[name].values for name in ("layer", "component", "rank")}
    beside = {"fact": [facts[i].text for i in judging], "answer": [str(facts[i].true) for i in judging]}
    return labelled_set(
        arrays,
        {"variant": list(VARIANTS), **coords, **{name: ("batch", of) for name, of in beside.items()}},
        technique=plausible_answers,
        model=model,
        **{"best_layer": at["layer"], "best_matrix": at["component"], "rho": share, "kept_rank": rank},
        **{"lost": weight.lost(rank), "objects": len(objects), "chosen_on": len(choosing), "seed": seed},
    )


def _on_a_random_subspace(weight: LowRank, seed: int) -> LowRank:
    """The weight with random singular vectors, on which ``edit`` projects."""
    rng = torch.Generator().manual_seed(seed)
    other = copy(weight)
    for name in ("U", "Vh"):
        own = getattr(weight, name)
        tall = torch.randn(max(own.shape), min(own.shape), generator=rng, dtype=torch.float64)
        basis = torch.linalg.qr(tall).Q.to(own)
        setattr(other, name, basis if own.shape[0] >= own.shape[1] else basis.mT)
    return other
