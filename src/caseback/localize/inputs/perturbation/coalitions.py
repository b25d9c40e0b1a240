"""Coalitions: what the metric is when only some features are present (PRIMER 3.1.7 to 3.1.9).

    v(S) = metric(x_S),   x_S: embeddings of the tokens in S as they are, those of other features at a baseline

This is what occlusion, LIME and Shapley values ask of a model; they differ in which coalitions they ask for and in what
they make of the answers. Positions stay, and tokens in no feature are always present. Coalitions that agree up to a
token share what is computed there (``caseback.model.sweeping.embedding_tree``).

A feature behind the position that the metric reads cannot matter: it is not a player, and its score is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.model.prompts.baselines import baseline_embedding, baseline_name, prompt_embeddings
from caseback.model.prompts.granularity import Features, Given, features_of, padded_text
from caseback.model.prompts.per_token import expect_metric, token_scores
from caseback.model.results import labelled
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.model.sweeping.embedding_tree import replaced, stops

Extra = dict[str, np.ndarray]


@dataclass
class Game:
    """Prompts, their features, and the value of any coalition of these.

    Attributes
    ----------
    players
        For each prompt the features that can matter, in order.
    clean
        The metric with all features present, once any value has been asked for.
    """

    model: Model
    tokens: Tokens
    metric: Metric
    features: Features
    baseline: str | int | Tensor = "mean"
    token_budget: int | None = None
    progress: bool = False
    checkpoint: str | Path | None = None
    players: list[list[int]] = field(init=False)
    clean: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        ends = stops(self.tokens, self.metric.on(self.tokens, self.model.anatomy))
        self.players = [
            [f for f, group in enumerate(row) if min(group) < end]
            for row, end in zip(self.features.groups, ends, strict=True)
        ]

    def values(self, present: np.ndarray) -> np.ndarray:
        """Values (coalition, batch) of coalitions (coalition, batch, feature), True where a feature is present."""
        member = self.features.membership(self.tokens.ids.shape[1]).numpy()
        # a token is replaced where any feature that holds it is absent
        absent = np.einsum("cbf,bfp->cbp", ~present, member) > 0
        value = baseline_embedding(self.model, self.baseline, prompt_embeddings(self.model, self.tokens))
        values, clean = replaced(
            self.model.anatomy,
            self.tokens,
            absent,
            value[None],
            self.metric,
            token_budget=self.token_budget,
            progress=self.progress,
            checkpoint=self.checkpoint,
        )
        self.clean = clean.cpu().double().numpy()
        return values.cpu().double().numpy()

    def scores(self, values: np.ndarray, technique: Callable[..., Any], extra: Extra | None = None, **attrs: Any):
        """Label scores (batch, feature); ``extra`` are further numbers of the same shape, as coordinates."""
        value = {"metric_value": self.clean.tolist(), "baseline": baseline_name(self.baseline)}
        return feature_scores(
            values, self.model, self.tokens, self.metric, self.features, technique, extra, **value, **attrs
        )


def game_of(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    features: Given = "token",
    keep: Positions = (),
    baseline: str | int | Tensor = "mean",
    token_budget: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> Game:
    """Prompts as a game of their features; the arguments are those of the techniques.

    Examples
    --------
    >>> import caseback as cb
    >>> game = game_of(cb.load("meadow"), "the cat and the dog", cb.logit(" cat"))
    >>> nobody, everybody = np.zeros((1, 1, game.features.most), bool), np.ones((1, 1, game.features.most), bool)
    >>> game.values(np.concatenate([nobody, everybody]))[1] == game.clean
    array([ True])
    """
    metric, tokens = expect_metric(metric), model.tokens(tokens)
    chosen = features_of(model, tokens, features, keep=keep)
    return Game(model, tokens, metric, chosen, baseline, token_budget, progress, checkpoint)


def at_least(name: str, value: int, least: int = 1) -> int:
    """Refuse a count that is too small."""
    if value < least:
        raise OutOfRange(f"{name} is {value}: expected at least {least}")
    return value


def spread_over(rows: Sequence[np.ndarray], players: Sequence[Sequence[int]], n_features: int) -> np.ndarray:
    """Numbers (..., player) of each prompt as one array (..., batch, feature), 0 for features that are not players."""
    shape = (*rows[0].shape[:-1], len(rows), n_features)
    spread = np.zeros(shape, dtype=rows[0].dtype)
    for b, (row, mine) in enumerate(zip(rows, players, strict=True)):
        spread[..., b, mine] = row
    return spread


def feature_scores(
    values: np.ndarray,
    model: Model,
    tokens: Tokens,
    metric: Metric,
    features: Features,
    technique: Callable[..., Any],
    extra: Extra | None = None,
    **attrs: Any,
) -> xr.DataArray:
    """Label scores of features (batch, feature): by position where the features are tokens, else by feature.

    NaN where a prompt has no such token or feature, and at tokens that are kept.
    """
    name = technique.__name__
    arrays = {}
    for key, given in {name: values, **(extra or {})}.items():
        by_token = features.level == "token"
        arrays[key] = np.full((len(given), tokens.ids.shape[1] if by_token else features.most), np.nan)
        for b, row in enumerate(features.groups):
            arrays[key][b, [group[0] for group in row] if by_token else slice(len(row))] = given[b, : len(row)]
    dims = ("batch", "pos" if features.level == "token" else "feature")
    if features.level == "token":
        scores = torch.from_numpy(arrays[name])
        result = token_scores(scores, model, tokens, metric, technique=technique, name=name, **attrs)
    else:
        result = labelled(
            arrays[name],
            dims,
            {"token": (dims, padded_text(features))},
            name=name,
            technique=technique,
            model=model,
            metric=metric.name,
            target=metric.target,
            foil=metric.foil,
            metric_pos=metric.pos,
            positions=features.groups,
            **attrs,
        )
    result.attrs["features"] = features.level
    return result.assign_coords({key: (dims, arrays[key]) for key in extra or {}})
