"""CausalGym: how far a one-dimensional interchange moves the odds of two answers (PRIMER 3.2.36).

    odds(b, s) = log [ p(y_b | b) / p(y_s | b)  .  p(y_s | b, swapped) / p(y_b | b, swapped) ]

which is what the swap adds to the logit difference of the source's answer and the base's. A control task keeps the
prompts and names each answer by an arbitrary token: a method that can be trained to move those as well has found no
feature of the network but a handle on its output, and selectivity is what is left of the odds without that.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.jobs.progress import progress_bar
from caseback.jobs.training import Plan
from caseback.localize.abstraction.accuracy import grid, mapped, swaps
from caseback.localize.abstraction.alignment import Alignment, At, Seat, alignment_as_text, seats
from caseback.localize.abstraction.directions import WAYS, direction
from caseback.localize.abstraction.distributed import expect_changes, reached
from caseback.localize.abstraction.interchanges import Interchanges
from caseback.model.anatomy.coerce import in_float64
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit
from caseback.model.running.metrics import Metric, logit_diff
from caseback.model.running.model import Model
from caseback.model.sweeping.sweep import sweep

METHODS = ("das", *WAYS, "full")


@technique(
    role="judgement",
    entry=("3.2.36",),
    citation="Arora et al. 2024",
    cost="2 forwards + the forward from the place on",
)
def log_odds_ratio(
    model: Model, data: Interchanges, alignment: Alignment, *, batch_size: int | None = None
) -> xr.DataArray:
    """Score an interchange by what it adds to the log odds of the target against the base's own answer.

    Parameters
    ----------
    model, data, alignment, batch_size
        As for ``interchange_accuracy``.

    Returns
    -------
    xr.DataArray
        (batch); the attribute ``odds_ratio`` is their mean.

    Raises
    ------
    CasebackError
        Where no interchange changes the answer.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.abstraction import At, Interchanges
    >>> model = cb.load("meadow")
    >>> data = Interchanges.of_pairs(cb.tasks.agreement().prompts(model, 8))
    >>> log_odds_ratio(model, data, {"variable": At("resid_post", layer=0)}).attrs["odds_ratio"] > 0
    True
    """
    expect_changes(data)
    odds = _odds(model, data, [swaps(seats(model, data, alignment, batch_size=batch_size))])[0]
    return labelled(
        odds,
        ["batch"],
        {"target": ("batch", data.target), "base_target": ("batch", data.base_target)},
        name="log_odds_ratio",
        technique=log_odds_ratio,
        model=model,
        alignment=alignment_as_text(alignment),
        odds_ratio=float(in_float64(odds).mean()),
    )


def _odds(
    model: Model, data: Interchanges, variants: Sequence[Sequence[Edit]], progress: bool = False
) -> Float[Tensor, "variant batch"]:
    metric: Metric = logit_diff(data.target, data.base_target, pos=data.pos)
    values, own, *_ = sweep(model.anatomy, data.base, variants, metric, progress=progress)
    return values - own


@checked
def control_task(data: Interchanges, d_vocab: int, *, seed: int = 0) -> Interchanges:
    """The same prompts, with an arbitrary token in place of every answer, the same for the same answer.

    Raises
    ------
    CasebackError
        For a vocabulary with too few tokens beside the answers.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.abstraction import Interchanges
    >>> model = cb.load("meadow")
    >>> data = Interchanges.of_pairs(cb.tasks.agreement().prompts(model, 8))
    >>> control = control_task(data, model.d_vocab)
    >>> bool((control.changes == data.changes).all()), bool((control.target == data.target).any())
    (True, False)
    """
    answers = sorted({*data.target.tolist(), *data.base_target.tolist()})
    rest = [i for i in range(d_vocab) if i not in set(answers)]
    if len(rest) < len(answers):
        raise CasebackError(
            f"a control task for {len(answers)} answers needs as many other tokens, the vocabulary has {len(rest)}"
        )
    named = dict(zip(answers, random.Random(f"control-{seed}").sample(rest, len(answers)), strict=True))
    ids = [torch.tensor([named[i] for i in t.tolist()], device=t.device) for t in (data.target, data.base_target)]
    return replace(data, target=ids[0], base_target=ids[1], counterfactual=None)


@technique(
    role="judgement",
    entry=("3.2.36",),
    citation="Arora et al. 2024",
    cost="places x (methods + 2 DAS searches)",
)
def causal_gym(
    model: Model,
    data: Interchanges,
    *,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    pos: Sequence[int] | None = None,
    methods: Sequence[str] = METHODS,
    value: Bool[Tensor, " batch"] | None = None,
    held_out: float = 0.2,
    epochs: int = 1,
    batch_size: int = 4,
    lr: float = 5e-3,
    warmup: float = 0.1,
    seed: int = 0,
    progress: bool = False,
) -> xr.DataArray:
    """Compare ways to find a feature by the odds that swapping it moves, at every layer and position.

    Parameters
    ----------
    model
        The model.
    data
        Minimal pairs of one variable of two values, both ways: ``Interchanges.of_pairs``.
    site, layers, heads, pos
        The places, as for ``interchange_map``.
    methods
        Of ``METHODS``: ``"das"`` of one dimension, the ways of ``directions``, and ``"full"``, the whole activation.
    value
        Which of the variable's two values each base has; its source has the other. By default told by the answer,
        where there are two.
    held_out
        The share of the examples that odds are measured on.
    epochs, batch_size, lr, warmup
        Of DAS; the benchmark's are 400 examples seen once, by fours.
    seed
        Same seed, same result. It draws the split, the searches and the control task.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (variant, layer, pos) or (variant, layer, head, pos) of the mean log odds-ratio, the variants being methods.
        Beside it ``control``, the same for the control task (on which DAS is trained too), and ``selectivity``, the
        difference. The attributes ``overall``, ``overall_control`` and ``overall_selectivity`` hold, for each method,
        the mean over layers of the largest over positions, and the difference of these.

    Raises
    ------
    CasebackError
        For an unknown method, several variables, or answers that do not tell the variable's value.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.abstraction import Interchanges
    >>> model = cb.load("meadow")
    >>> data = Interchanges.of_pairs(cb.tasks.agreement().prompts(model, 12))
    >>> words = torch.tensor([model.token_id(word) for word in (" are", " were")]).to(data.base_target)
    >>> plural = torch.isin(data.base_target, words)
    >>> odds = causal_gym(model, data, methods=["full", "random"], layers=[1], pos=[-1], value=plural)
    >>> odds.dims, bool(odds.sel(variant="full") > odds.sel(variant="random"))
    (('variant', 'layer', 'pos'), True)
    """
    for name in methods:
        if name not in METHODS:
            raise CasebackError(f"no method is called {name!r}. {did_you_mean(name, METHODS)}")
    if len(data.variables) != 1 or not methods:
        raise CasebackError(
            f"expected examples of one variable and at least one method, got {', '.join(data.variables)}"
        )
    value = _values(data) if value is None else torch.as_tensor(value).bool().cpu()
    if value.shape != (len(data),):
        raise CasebackError(f"value has shape {tuple(value.shape)}: expected one truth value for each of {len(data)}")
    rows, others = data.split_rows(held_out, seed)
    searched, judged, mine = data[rows], data[others], value[rows]
    expect_changes(searched)
    expect_changes(judged)
    where = grid(model, data, site, layers, heads, pos)
    here, there = (seats(model, d, {data.variables[0]: where}) for d in (searched, judged))
    own = _base_values(model, searched, where)
    controls = [control_task(d, model.d_vocab, seed=seed) for d in (searched, judged)]
    plan = Plan(epochs=epochs, batch_size=batch_size, warmup=warmup, seed=seed)
    plain: list[list[Edit]] = []
    trained: list[list[Edit]] = []
    with progress_bar(total=len(methods) * len(where), show=progress, what="features", unit="place") as bar:
        for name in methods:
            for i, seat in enumerate(here):
                basis = _feature(model, name, searched, seat, own[i], mine, plan, lr, seed)
                other = basis if name != "das" else reached(model, controls[0], seat, 1, plan, lr=lr)
                plain.append(there[i].edits(basis))
                trained.append(there[i].edits(other))
                bar.update()
    odds = in_float64(_odds(model, judged, plain)).mean(-1)
    control = in_float64(_odds(model, controls[1], trained)).mean(-1)
    return _result(model, judged, where, list(methods), odds, control, site, plan, lr, len(searched))


def _values(data: Interchanges) -> Tensor:
    answers = sorted({*data.base_target.tolist(), *data.target.tolist()})
    if len(answers) != 2:
        raise CasebackError(
            f"{len(answers)} different answers do not tell which of two values the variable has: give value=, a truth "
            "value for each base"
        )
    return (data.base_target == answers[1]).cpu()


def _base_values(model: Model, data: Interchanges, where: Sequence[At]) -> list[Tensor]:
    """What stands in the bases themselves, at each place: (batch, width)."""
    selves = replace(data, sources={data.variables[0]: data.base})
    return [_flat(seat) for seat in seats(model, selves, {data.variables[0]: list(where)})]


def _flat(seat: Seat) -> Tensor:
    # of one position; where heads share a subspace, their mean
    return torch.cat(seat.donors, 1).flatten(1, -2).mean(1)


def _feature(
    model: Model,
    name: str,
    data: Interchanges,
    seat: Seat,
    own: Tensor,
    value: Tensor,
    plan: Plan,
    lr: float,
    seed: int,
) -> Tensor | None:
    if name == "full":
        return None
    if name == "das":
        return reached(model, data, seat, 1, plan, lr=lr)
    return direction(name, torch.cat([own, _flat(seat)]), torch.cat([value, ~value]), seed=seed)


def _result(
    model: Model,
    data: Interchanges,
    where: Sequence[At],
    methods: list[str],
    odds: Tensor,
    control: Tensor,
    site: str,
    plan: Plan,
    lr: float,
    searched: int,
) -> xr.DataArray:
    one = mapped(model, data, where, odds[: len(where)])
    shape = (len(methods), *one.shape)
    moved, controlled = (x.view(shape).cpu().numpy() for x in (odds, control))
    dims = ["variant", *map(str, one.dims)]
    overall = [_overall(x, one.ndim) for x in (moved, controlled)]
    summary: dict[str, Any] = {
        "overall": overall[0],
        "overall_control": overall[1],
        "overall_selectivity": [a - b for a, b in zip(*overall, strict=True)],
    }
    return labelled(
        moved,
        dims,
        {
            "variant": methods,
            **{str(name): (coord.dims, coord.values) for name, coord in one.coords.items()},
            "control": (dims, controlled),
            "selectivity": (dims, moved - controlled),
        },
        name="log_odds_ratio",
        technique=causal_gym,
        model=model,
        site=site,
        searched=searched,
        held_out=len(data),
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        lr=lr,
        seed=plan.seed,
        **summary,
    )


def _overall(odds: np.ndarray, ndim: int) -> list[float]:
    """Of each method: the mean over layers of the largest over positions (and heads)."""
    return odds.reshape(*odds.shape[:2], -1).max(-1).mean(-1).tolist() if ndim > 1 else odds.mean(-1).tolist()
