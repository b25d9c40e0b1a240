"""What erasing does that takes a text's label, beside the same erasing fitted to, and given, labels dealt at random.

    effect = mean(metric under erasure - metric of the clean run)

A random concept of equal rank or variance is no fair control there: what is erased of a text depends on its label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from caseback.decode.erasure import OracleEraser, QuadraticEraser
from caseback.decode.states import States
from caseback.errors import OutOfRange
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import in_float64
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

LabeledEraser = OracleEraser | QuadraticEraser


def labeled_effects(
    model: Model,
    tokens: Tokens,
    labels: Sequence[Any],
    fit: Callable[..., LabeledEraser],
    given: States,
    known: Sequence[Any],
    eraser: LabeledEraser,
    metric: Metric,
    pos: Positions,
    *,
    draws: int,
    seed: int,
    progress: bool,
) -> tuple[float, list[dict[str, Any]]]:
    """The clean run's metric, and effects of erasing at each place, and last at all where there are several.

    ``tokens`` with ``labels`` are judged on; ``given`` with ``known`` is what ``fit`` fitted ``eraser`` to.
    """
    if draws < 2:
        raise OutOfRange(f"draws {draws}: expected at least 2, of which the control's interval is made")
    clean, own = _swept(model, tokens, labels, eraser, metric, pos)
    random = np.random.default_rng(seed)
    prompts, first = np.unique(given.prompt.numpy(), return_index=True)
    drawn = []
    for _ in progress_bar(range(draws), "labels dealt at random", show=progress, unit="draw"):
        dealt = dict(zip(prompts.tolist(), (known[i] for i in random.permutation(first).tolist()), strict=True))
        by_chance = fit(given, [dealt[prompt] for prompt in given.prompt.tolist()])
        mixed = [labels[i] for i in random.permutation(len(labels)).tolist()]
        drawn.append(_swept(model, tokens, mixed, by_chance, metric, pos)[1])
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    return clean, [
        {"erased": float(effect), "labels dealt at random": [float(low[i]), float(high[i])]}
        for i, effect in enumerate(own)
    ]


def _swept(
    model: Model, tokens: Tokens, labels: Sequence[Any], eraser: LabeledEraser, metric: Metric, pos: Positions
) -> tuple[float, Float[np.ndarray, " variant"]]:
    erasers = [*eraser.each().values(), *([eraser] if len(eraser.places) > 1 else [])]
    swept = model.sweep(tokens, [one.edits(labels, pos) for one in erasers], metric)
    return float(swept.clean.mean()), (swept.values - swept.clean.values).mean(-1)


def ranks_of(eraser: LabeledEraser) -> list[int]:
    """In how many dimensions it changes states, at each place."""
    if isinstance(eraser, OracleEraser):
        return torch.linalg.matrix_rank(eraser.coef).tolist()
    away = eraser.maps - torch.eye(eraser.maps.shape[-1]).to(eraser.maps)
    return torch.linalg.matrix_rank(away.transpose(1, 2).flatten(2)).tolist()


def shares_removed(before: States, after: States) -> list[float]:
    """The share of the variance that is gone, at each place."""
    left, whole = (in_float64(states.x).var(1).sum(1) for states in (after, before))
    return (1 - left / whole).tolist()
