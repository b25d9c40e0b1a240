"""Prompts of which only some tokens are kept: the others' embeddings give way to a baseline's (PRIMER 3.1.28).

    hard   x'_i = x_i where i is kept, else b_i
    soft   x'_ij = x_ij where u_ij < q_i, else b_ij,  u_ij uniform in [0, 1): q_i of token i's dimensions are left

Positions stay where they are. As an edit of ``embed`` a partly kept prompt is one variant of a sweep, which computes
again only what stands from the first replaced token on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.errors import CasebackError
from caseback.localize.inputs.baselines import baseline_embedding
from caseback.model.edits import Edit, Where
from caseback.model.metrics import Metric
from caseback.model.model import Model
from caseback.model.tokens import Tokens


@dataclass(frozen=True, eq=False)
class Kept(Edit):
    """Keep some tokens of each prompt, by its own positions, and put ``instead`` in the others' places.

    Attributes
    ----------
    keep
        (batch, pos): whether, or with ``draw`` which share of its dimensions, each token keeps.
    instead
        (batch, pos, d_model), the baseline.
    draw
        Which draw of the soft masks, and their seed; None where tokens are kept whole.
    """

    keep: Float[Tensor, "batch pos"] | Bool[Tensor, "batch pos"]
    instead: Float[Tensor, "batch pos d_model"]
    draw: tuple[int, int] | None = None

    def unchanged_before(self, tokens: Tokens, example: int) -> int:
        """Leading tokens that are kept whole."""
        gone = (self.keep[example, : int(tokens.lengths[example])] < 1).nonzero()
        return int(gone[0]) if len(gone) else int(tokens.lengths[example])

    def new(self, old: Tensor, where: Where) -> Tensor:
        """What the embedding writes where it is kept, and the baseline elsewhere."""
        at = where.rows.example, where.rows.token
        keep, instead = self.keep[at][:, None], self.instead[at].to(old)
        if self.draw is not None:
            # the same numbers at the same token whatever batch it is in: no prompt's result depends on its neighbours
            uniform = np.random.default_rng(self.draw).random((int(where.rows.token.max()) + 1, old.shape[-1]))
            keep = torch.from_numpy(uniform)[where.rows.token] < keep
        return torch.where(keep.to(old.device).bool(), old, instead)


def instead_of(model: Model, tokens: Tokens, baseline: Any) -> Float[Tensor, "batch pos d_model"]:
    """A baseline in the shape of the prompts' embeddings, each prompt beginning at 0."""
    like = torch.zeros(*tokens.ids.shape, model.d_model, dtype=model.dtype, device=model.device)
    return baseline_embedding(model, baseline, like)


def units_of(
    model: Model, tokens: Tokens, metric: Metric, groups: Any = None, *, special: bool = False
) -> Int[Tensor, "batch pos"]:
    """Which tokens are replaced together: a number from 0 on for each unit of a prompt, -1 where none may be.

    Parameters
    ----------
    model
        The model.
    tokens
        The prompts.
    metric
        What is measured: a token after its position cannot matter and is in no unit.
    groups
        (batch, pos) whole numbers; tokens with the same one are a unit, one below 0 is left alone. Each token by
        itself by default.
    special
        Also replace the tokenizer's special tokens, such as the one that begins a text.

    Raises
    ------
    CasebackError
        Where a prompt has no token that may be replaced, or the groups do not fit the prompts.
    """
    width = tokens.ids.shape[1]
    place = torch.arange(width)
    lengths, first = tokens.lengths.cpu(), tokens.first.cpu()
    may = place < lengths[:, None]
    if metric.pos is not None:
        may &= place <= (tokens.column(metric.pos).cpu() - first)[:, None]
    if not special and model.tokenizer is not None:
        ids = torch.zeros(len(tokens), width, dtype=torch.long)
        for b, (at, n) in enumerate(zip(first.tolist(), lengths.tolist(), strict=True)):
            ids[b, :n] = tokens.ids[b, at : at + n].cpu()
        may &= ~torch.isin(ids, torch.tensor(model.tokenizer.all_special_ids, dtype=torch.long))
    if groups is None:
        given = place.expand(len(tokens), width)
    else:
        given = torch.as_tensor(np.asarray(groups))
        if given.shape != (len(tokens), width) or given.is_floating_point():
            raise CasebackError(
                f"groups of shape {tuple(given.shape)} and type {given.dtype} for prompts {(len(tokens), width)}: "
                "expected one whole number a token"
            )
    units = torch.full((len(tokens), width), -1)
    for b in range(len(tokens)):
        here = may[b] & (given[b] >= 0)
        if not bool(here.any()):
            raise CasebackError(
                f"prompt {b} has no token that may be replaced ({''.join(tokens.text[b])!r}): give a longer prompt, "
                "measure at a later position, or allow special tokens with special=True"
            )
        units[b, here] = given[b, here].unique(return_inverse=True)[1]
    return units
