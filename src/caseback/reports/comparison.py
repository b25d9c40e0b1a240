"""How well methods agree on one prompt, and how faithful each is: plain data for the terminal, pages and JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.localize.inputs.trust.agreement import agreement
from caseback.localize.inputs.trust.faithfulness import faithfulness
from caseback.model.arguments import checked
from caseback.model.prompts.granularity import features_of
from caseback.model.prompts.masked_prompts import special_tokens
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

__all__ = ["comparison", "plain_matrix"]

_ALL_COUNTS = 24  # up to so many features, the curves have one point per feature


@checked
def comparison(
    model: Model,
    tokens: Tokens,
    metric: Metric,
    scores: xr.DataArray,
    *,
    features: Any = "token",
    baseline: Any = "mean",
    chance: int = 8,
    points: int = 12,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """How well methods agree on one prompt and how faithful each is, as plain data.

    Parameters
    ----------
    model
        The model.
    tokens
        One prompt.
    metric
        What is measured, per prompt: the metric that was attributed.
    scores
        (attribution, 1, pos or feature).
    features
        The features that the scores are of.
    points
        Into how many steps the curves of a longer prompt are cut; with up to 24 features they have one point per
        feature.
    baseline, chance, seed, progress
        As for ``faithfulness``.

    Returns
    -------
    dict
        ``names``; ``spearman``, ``kendall``, ``top_k`` as matrices, None where there is no order; ``k`` and
        ``k_chance``; ``share``, and the ``deletion`` and ``insertion`` curves per method; ``comprehensiveness`` and
        ``sufficiency`` (AOPC) per method, and by ``chance`` with their spread; ``baseline``; the metric's ``value``.
    """
    n = scores.shape[-1]
    alone = special_tokens(model, tokens)[0]
    groups = features_of(model, tokens, features).groups[0]
    special = [[any(bool(alone[p]) for p in group) for group in groups]]
    # a prompt of nothing but special tokens is compared on these
    agree = agreement(scores, special=None if all(special[0]) else special)
    shares = None if n <= _ALL_COUNTS else [i / points for i in range(points + 1)]
    faith = faithfulness(
        model,
        tokens,
        metric,
        scores,
        shares=shares,
        baseline=baseline,
        features=features,
        chance=chance,
        seed=seed,
        progress=progress,
    )
    value = float(faith.value[0])
    there = np.isfinite(faith.share.values[0])
    by_chance = {
        name: None
        if not chance
        else {"mean": float(faith[f"chance_{name}"][0]), "sd": float(faith[f"chance_{name}_sd"][0])}
        for name in ("comprehensiveness", "sufficiency")
    }
    return {
        "names": [str(name) for name in scores["attribution"].values],
        **{name: plain_matrix(agree[name].values[:, :, 0]) for name in ("spearman", "kendall", "top_k")},
        "k": int(agree.k[0]),
        "k_chance": float(agree.chance[0]),
        "share": faith.share.values[0][there].tolist(),
        "deletion": (value - faith.comprehensiveness.values[:, 0][:, there]).tolist(),
        "insertion": (value - faith.sufficiency.values[:, 0][:, there]).tolist(),
        **{name: faith[f"aopc_{name}"].values[:, 0].tolist() for name in by_chance},
        "chance": by_chance if chance else None,
        "baseline": faith.attrs["baseline"],
        "value": value,
    }


@checked
def plain_matrix(values: np.ndarray) -> list[list[float | None]]:
    """Rows of numbers, None where a number is missing."""
    if np.ndim(values) != 2:
        raise CasebackError(f"numbers of {np.ndim(values)} dimensions: expected rows and columns")
    return [[float(x) if np.isfinite(x) else None for x in row] for row in values]
