"""How every part's direct effect answers when one component is ablated: the work behind self-repair and erasure.

    metric(x') - metric(x) = -direct(c) + sum_d change(d) + norm

x' is the ablated run. ``change(d)`` is by how much d's share grows, the final norm held at its denominator in the clean
run; ``norm`` is what the metric of x' gains by having its own; ``direct(c)`` is what c's own write loses. Behind a
norm of the branch (Gemma-2) c's write is counted at the clean run's denominator there, and what that norm then does to
it and its neighbors are changes like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.model.algebra.decompose import Row, write_sites
from caseback.model.algebra.direct import (
    Direction,
    direct_effects,
    row_of,
    shares_of,
    writes_run,
)
from caseback.model.graph.units import Component, site_of
from caseback.model.running.edits import Edit
from caseback.model.running.tokens import Tokens
from caseback.model.sweeping.side_by_side import side_by_side


@dataclass(frozen=True)
class Answers:
    """What the ablations of some components did.

    Attributes
    ----------
    paths
        The parts whose shares are given, in the order of the computation.
    shares
        Theirs in the clean run.
    direct, change, norm
        The terms above, for each ablated component.
    effect
        The metric lost, measured: by the model's own modules before any soft-cap.
    metric
        The clean run's metric, likewise.
    """

    paths: list[Row]
    shares: Float[Tensor, "path batch"]
    direct: Float[Tensor, "component batch"]
    change: Float[Tensor, "component path batch"]
    norm: Float[Tensor, "component batch"]
    effect: Float[Tensor, "component batch"]
    metric: Float[Tensor, " batch"]


def answers(direction: Direction, chosen: Sequence[Component], edits: Sequence[Edit], tokens: Tokens) -> Answers:
    """Ablate each component with its edit and read what every other one does about it; one whole run per edit."""
    model, batch = direction.model, len(tokens)
    clean = writes_run(model, tokens, [site_of(c) for c in chosen])
    stream = direction.stream(clean)
    reading = direction.reading(stream)
    paths, shares = shares_of(direction, clean, reading)
    direct = direct_effects(direction, clean, reading, chosen, edits)
    clean_metric = direction.measured(stream).to(shares)
    change, norm, effect = [], [], []
    for which, run in side_by_side(model.anatomy, tokens, edits, write_sites(model)):
        many = direction.repeated(len(which))
        held = many.reading(stream.repeat(len(which), 1))
        ablated = many.stream(run)
        ablated_shares = shares_of(many, run, held)[1].unflatten(1, (len(which), batch)).transpose(0, 1)
        change.append(ablated_shares - shares)
        freed = many.reading(ablated).of(ablated) - held.of(ablated)
        norm.append(freed.view(len(which), batch))
        effect.append(clean_metric - direction.measured(ablated).to(shares).view(len(which), batch))
    changes = torch.cat(change)
    own = torch.tensor([row_of(c, paths) for c in chosen], device=changes.device)
    # what a component's own write loses is the direct effect, not an answer to it
    changes[torch.arange(len(chosen), device=own.device), own] += direct
    return Answers(paths, shares, direct, changes, torch.cat(norm), torch.cat(effect), clean_metric)
