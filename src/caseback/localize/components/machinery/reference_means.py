"""Means of reference prompts, by template: what a component writes on average where prompts are of one kind.

    h_c(b, i) = mean over reference prompts r with label(r) = label(b)   (at position i, or over positions too)

IOI's means are of this kind: each template has its own, so that what the template fixes is kept and only what
varies within it is removed.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from caseback.errors import TokensError
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import Tokens


def mean_run(
    model: Model,
    tokens: Tokens,
    reference: Run,
    *,
    groups: Sequence[Hashable],
    over_groups: Sequence[Hashable],
    per_position: bool,
) -> Run:
    """A run of the prompts as it would be if every site held its group's mean.

    Parameters
    ----------
    model, tokens
        The model and the prompts that the means are for.
    reference
        A run of the reference prompts; its sites are averaged.
    groups, over_groups
        One label per prompt, and one per reference prompt.
    per_position
        Average each position by itself.

    Raises
    ------
    TokensError
        For a wrong number of labels, a label that no reference prompt has, or a position that none of them reaches.
    """
    for what, labels, many in (("groups", groups, tokens), ("over_groups", over_groups, reference.tokens)):
        if len(labels) != len(many):
            raise TokensError(f"{len(labels)} labels in {what} for {len(many)} prompts: give one per prompt")
    known = {label: i for i, label in enumerate(dict.fromkeys(over_groups))}
    lone = next((label for label in groups if label not in known), None)
    if lone is not None:
        raise TokensError(f"no reference prompt has the label {lone!r}: they have {', '.join(map(repr, known))}")
    theirs = torch.tensor([known[label] for label in over_groups])
    mine = torch.tensor([known[label] for label in groups])
    ref_example, ref_token, ref_column = _real(reference.tokens)
    example, token, column = _real(tokens)
    # one cell per label, or per label and position; tokens of the reference are summed into theirs
    cells = (len(known), int(ref_token.max()) + 1 if per_position else 1)
    into = theirs[ref_example] * cells[1] + (ref_token if per_position else 0)
    count = torch.zeros(cells[0] * cells[1]).index_add(0, into, torch.ones(len(into)))
    at = mine[example] * cells[1] + (token if per_position else 0)
    past = (token >= cells[1]) if per_position else torch.zeros_like(token, dtype=torch.bool)
    past |= count[at.clamp_max(len(count) - 1)] == 0
    if bool(past.any()):
        i = int(past.int().argmax())
        raise TokensError(
            f"prompt {int(example[i])} has a position {int(token[i])}, and no reference prompt labeled "
            f"{groups[int(example[i])]!r} is that long: give longer ones, or average over positions too"
        )
    acts = {}
    for site in reference.sites:
        x: Tensor = reference[site]
        sums = x.new_zeros(len(count), *x.shape[2:]).index_add(0, into.to(x.device), x[ref_example, ref_column])
        means = sums / count.clamp_min(1).to(x).view(-1, *[1] * (x.ndim - 2))
        filled = x.new_zeros(*tokens.shape, *x.shape[2:])
        filled[example, column] = means[at.to(x.device)]
        acts[site] = filled
    return Run(model.anatomy, tokens, acts, None, edited=True)


def _real(tokens: Tokens) -> tuple[Tensor, Tensor, Tensor]:
    """Prompt, position and padded column of every real token."""
    example, column = tokens.mask.cpu().nonzero().unbind(-1)
    return example, column - tokens.first.cpu()[example], column
