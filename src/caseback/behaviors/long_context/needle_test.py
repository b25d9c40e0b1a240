"""Needle in a haystack: where a word that was told once is found again, and which heads bring it (PRIMER 5.4.25).

    recall(length, depth)   the share of prompts whose answer is the word
    score(h)                the share of recalled prompts in which h attends most, from the last token, to the word
    without                 recall when all heads with score >= threshold write nothing, beside as many others

Wu et al. 2024 count tokens that are copied from the needle while the model writes; a word here is one token, so that a
prompt counts once, and a score ends at 1 (the published code counts repeats too, and can pass it). Only prompts that
the model answers count: of what is not said there is no bringer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.results import labelled_set
from caseback.model.running.edits import Edit, Zero
from caseback.model.running.metrics import is_first
from caseback.model.running.model import Model
from caseback.tasks.prompts import Prompts
from caseback.tasks.standard.needle import needle

LENGTHS = 60, 120, 240
LEAST = 4
"""Recalled prompts, half of them to find heads on and half to judge them on."""


@technique(
    entry=("5.4.25",),
    citation="Wu et al. 2024, Kamradt 2023",
    cost="a forward of all prompts, and 1 + draws variants of a sweep over half of them",
)
def needle_test(
    model: Model,
    *,
    lengths: Sequence[int] | None = None,
    depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    count: int = 8,
    distractors: int = 1,
    threshold: float = 0.1,
    draws: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Ask for a word told at some depth of prompts of some lengths, and find the heads that bring it.

    Parameters
    ----------
    model
        The model.
    lengths
        Of prompts, in tokens; by default 60, 120 and 240, as far as the context goes.
    depths
        Shares of the sentences that come before the needle, 0 to 1.
    count
        Prompts for each length and depth: half of them to find heads on, half to judge them on.
    distractors
        Other people whose words are told too, 1 to 3.
    threshold
        From which score on a head counts; .1 is the published one.
    draws
        Random sets of as many other heads, or of all others where more than half of the heads are past the threshold.
    seed
        Same seed, same result. It draws prompts and random heads.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``recall`` (length, depth); ``score`` and ``held_out`` (layer, head), of the prompts that heads are found on and
        of the others; ``by_place`` (layer, head, length, depth), of all of them, NaN where none is recalled;
        ``distractor`` (layer, head), the share of recalled prompts in which a head attends most to another person's
        word; on the held-out prompts ``clean`` and ``without`` (length,), and ``without_random`` (draw, length), the
        recall of the model as it is and without heads. The attribute ``heads`` names the heads past the threshold.

    Raises
    ------
    OutOfRange
        For lengths past the model's context, depths outside 0 to 1, numbers below their least.
    CasebackError
        Where fewer than 4 prompts are recalled: of what is not found there are no heads.
    SiteAbsent
        For a model without attention patterns.

    Notes
    -----
    Entry 5.4.25: Wu et al. 2024. Their needles are sentences, and their masks are of all positions, as here.

    Examples
    --------
    >>> import caseback as cb
    >>> found = needle_test(cb.load("meadow"), lengths=[60], depths=[0.0, 1.0], count=8, draws=2)
    >>> found["recall"].dims, found["score"].shape
    (('length', 'depth'), (4, 5))
    """
    if lengths is None:
        lengths = [length for length in LENGTHS if model.context is None or length <= model.context]
    _expect(model, lengths, depths, count, threshold, draws)
    cells = {
        (i, j): needle(length=length, depth=depth, distractors=distractors).prompts(model, count, seed=seed)
        for i, length in enumerate(lengths)
        for j, depth in enumerate(depths)
    }
    asked = progress_bar(cells.items(), "needles", show=progress)
    looks = {at: _looks(model, prompts) for at, prompts in asked}
    recalled = {at: right for at, (_, _, right) in looks.items()}
    if (known := sum(int(right.sum()) for right in recalled.values())) < LEAST:
        total = sum(map(len, cells.values()))
        raise CasebackError(
            f"the model finds the needle in {known} of {total} prompts: expected {LEAST} or more. Give shorter "
            "lengths; of what is not found there are no heads"
        )
    first = {at: torch.arange(len(right)) % 2 == 0 for at, right in recalled.items()}
    score = _share([hits[right & half] for (hits, _, right), half in zip(looks.values(), first.values(), strict=True)])
    held = _share([hits[right & ~half] for (hits, _, right), half in zip(looks.values(), first.values(), strict=True)])
    names = [(int(i), int(h)) for i, h in (score >= threshold).nonzero()]
    without = _without(model, cells, first, len(lengths), names, draws, seed, progress)
    shape = len(lengths), len(depths)
    by_place = torch.stack([_share([hits[right]]) for hits, _, right in looks.values()], -1)
    recall = torch.stack([right.double().mean() for right in recalled.values()]).view(shape)
    arrays: dict[str, tuple[Any, tuple[str, ...]]] = {
        "recall": (recall, ("length", "depth")),
        "score": (score, ("layer", "head")),
        "held_out": (held, ("layer", "head")),
        "distractor": (_share([other[right] for _, other, right in looks.values()]), ("layer", "head")),
        "by_place": (by_place.view(*score.shape, *shape), ("layer", "head", "length", "depth")),
        "clean": (without[0], ("length",)),
        "without": (without[1], ("length",)),
        "without_random": (without[2:], ("draw", "length")),
    }
    return labelled_set(
        arrays,
        {"length": list(lengths), "depth": list(depths)},
        technique=needle_test,
        model=model,
        heads=[f"L{i}H{h}" for i, h in names],
        recalled=known,
        prompts=sum(map(len, cells.values())),
        threshold=threshold,
        seed=seed,
    )


def _looks(
    model: Model, prompts: Prompts
) -> tuple[Bool[Tensor, "batch layer head"], Bool[Tensor, "batch layer head"], Bool[Tensor, " batch"]]:
    """Whether each head attends most to the word, and to another's word, at the end; and whether the word is said."""
    parts: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
    step = max(1, limit("stream_tokens", model.device) // prompts.clean.ids.shape[1])
    for start in range(0, len(prompts), step):
        some = prompts[start : start + step]
        run = model.run(some.clean, read=["pattern"])
        rows, end = torch.arange(len(some), device=model.device), some.clean.column(-1).to(model.device)
        top = torch.stack([run["pattern", i][rows, :, end].argmax(-1) for i in range(model.n_layers)], 1).cpu()
        for part, name in zip(parts, ("word", "distractor"), strict=False):
            column = some.clean.column(some.spans[name][:, 1]).cpu()
            part.append(top == column[:, None, None])
        parts[2].append(is_first([ids[0] for ids in some.target])(run).bool().cpu())
    hits, other, right = (torch.cat(part) for part in parts)
    return hits, other, right


def _share(hits: Sequence[Bool[Tensor, "batch layer head"]]) -> Tensor:
    """The share of prompts, (layer, head); NaN of none."""
    return torch.cat(list(hits)).double().mean(0)


def _without(
    model: Model,
    cells: dict[tuple[int, int], Prompts],
    first: dict[tuple[int, int], Bool[Tensor, " batch"]],
    n_lengths: int,
    heads: list[tuple[int, int]],
    draws: int,
    seed: int,
    progress: bool,
) -> Tensor:
    """(2 + draws, length): recall on held-out prompts, without the heads, and without as many others."""
    others = [(i, h) for i in range(model.n_layers) for h in range(model.n_heads) if (i, h) not in heads]
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(len(others))[: len(heads)] for _ in range(draws)]
    variants: list[list[Edit]] = [
        [Zero("z", layer=i, head=h) for i, h in some] for some in (heads, *([others[k] for k in row] for row in drawn))
    ]
    recalls = []
    for length in range(n_lengths):
        held = [prompts[(~first[at]).nonzero()[:, 0].tolist()] for at, prompts in cells.items() if at[0] == length]
        ids = [row[mask].tolist() for some in held for row, mask in zip(some.clean.ids, some.clean.mask, strict=True)]
        target = [answer[0] for some in held for answer in some.target]
        swept = model.sweep(ids, variants, is_first(target), progress=progress)
        values = torch.as_tensor(np.concatenate([swept["clean"].values[None], swept.values]))
        recalls.append(in_float64(values).mean(1))
    return torch.stack(recalls, -1)


def _expect(
    model: Model, lengths: Sequence[int], depths: Sequence[float], count: int, threshold: float, draws: int
) -> None:
    if not lengths or min(lengths) < 1 or (model.context is not None and max(lengths) > model.context):
        raise OutOfRange(f"lengths={list(lengths)}: expected one or more, up to the model's context of {model.context}")
    if not depths or min(depths) < 0 or max(depths) > 1:
        raise OutOfRange(f"depths={list(depths)}: expected one or more shares from 0 to 1")
    if count < 2 or draws < 1:
        raise OutOfRange(f"count={count}, draws={draws}: expected 2 prompts or more for each place, and 1 draw or more")
    if not 0 < threshold <= 1:
        raise OutOfRange(f"threshold={threshold}: expected more than 0, up to 1")
