"""Prompts of which only some tokens are kept: a baseline takes the place of the others' embeddings (PRIMER 3.1.28).

    hard   x'_i = x_i where i is kept, else b_i
    soft   x'_ij = x_ij where u_ij < q_i, else b_ij,  u_ij uniform in [0, 1): a share q_i of token i's dimensions stays

Positions stay where they are. As an edit of ``embed`` a partly kept prompt is one variant of a sweep, which recomputes
only from the first replaced token on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.errors import CasebackError
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.prompts.baselines import baseline_embedding, prompt_embeddings
from caseback.model.prompts.granularity import Given, features_of
from caseback.model.prompts.per_token import aligned
from caseback.model.running.edits import Edit, Where
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens


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

    def unchanged_before(self, tokens: Tokens, example: int, anatomy: Anatomy) -> int:
        """Leading tokens that are kept whole."""
        gone = (self.keep[example, : int(tokens.lengths[example])] < 1).nonzero()
        return int(gone[0]) if len(gone) else int(tokens.lengths[example])

    def new(self, old: Tensor, where: Where) -> Tensor:
        """What the embedding writes where it is kept, and the baseline elsewhere."""
        at = where.rows.example, where.rows.token
        keep, instead = self.keep[at][:, None], self.instead[at].to(old)
        if self.draw is not None:
            # The same numbers at the same token in any batch: no prompt's result depends on the prompts beside it.
            uniform = np.random.default_rng(self.draw).random((int(where.rows.token.max()) + 1, old.shape[-1]))
            keep = torch.from_numpy(uniform)[where.rows.token] < keep
        return torch.where(keep.to(old.device).bool(), old, instead)


def instead_of(model: Model, tokens: Tokens, baseline: Any) -> Float[Tensor, "batch pos d_model"]:
    """A baseline in the shape of the prompts' embeddings, with each prompt from column 0."""
    return baseline_embedding(model, baseline, prompt_embeddings(model, tokens))


@dataclass(frozen=True)
class Units:
    """What is replaced together in each prompt.

    Attributes
    ----------
    of
        (batch, pos), by each prompt's own positions: the feature that a token is part of; -1 where it stays.
    free
        (batch, feature): which features may be replaced.
    """

    of: Int[Tensor, "batch pos"]
    free: Bool[Tensor, "batch feature"]

    @property
    def count(self) -> Int[Tensor, " batch"]:
        """How many features of each prompt may be replaced."""
        return self.free.sum(-1)


def units_of(
    model: Model, tokens: Tokens, metric: Metric, features: Given = "token", *, special: bool = False
) -> Units:
    """Which tokens are replaced together, and which are never replaced.

    Parameters
    ----------
    model
        The model.
    tokens
        The prompts.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. A feature that begins after the position
        that it reads cannot matter and stays.
    features
        As for ``features_of``: ``"token"``, ``"word"``, ``"sentence"`` or groups.
    special
        Also replace the tokenizer's special tokens, such as the one that begins a text. A feature with such a token
        in it stays otherwise.

    Raises
    ------
    CasebackError
        Where a prompt has no token that may be replaced, or as ``features_of``.
    """
    grouped = features_of(model, tokens, features)
    member = grouped.membership(tokens.ids.shape[1])
    place = torch.arange(tokens.ids.shape[1])
    free = member.any(-1)
    if metric.pos is not None:
        at = (tokens.column(metric.pos) - tokens.first).cpu()
        free &= (member & (place <= at[:, None])[:, None]).any(-1)
    if not special and model.tokenizer is not None:
        free &= ~(member & special_tokens(model, tokens)[:, None]).any(-1)
    empty = (~free.any(-1)).nonzero()
    if len(empty):
        b = int(empty[0])
        raise CasebackError(
            f"prompt {b} has no token that may be replaced ({''.join(tokens.text[b])!r}): give a longer prompt, "
            "measure at a later position, or allow special tokens with special=True"
        )
    which = (member & free[..., None]).to(torch.int8)
    return Units(torch.where(which.any(1), which.argmax(1), -1), free)


def special_tokens(model: Model, tokens: Tokens) -> Bool[Tensor, "batch pos"]:
    """The tokenizer's special tokens, by each prompt's own positions."""
    listed = [] if model.tokenizer is None else model.tokenizer.all_special_ids
    is_special = torch.isin(tokens.ids, torch.tensor(listed, dtype=torch.long, device=tokens.ids.device))
    return aligned(is_special & tokens.mask, tokens).cpu()
