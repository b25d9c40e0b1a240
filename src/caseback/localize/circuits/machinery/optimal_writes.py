"""Optimal ablation of a circuit: the constants that cut edges can carry at the least loss (Li and Janson 2024).

    a = argmin_a  E_x loss(x | every cut edge u -> v carries a_u)

One constant per writer, fitted with Adam from its mean on, in units of how far its write varies. What is lost with it
is due to the information that the cut edges carried, not to a value that the rest of the model has never met.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.errors import CasebackError
from caseback.localize.circuits.machinery.cutting import Cuts
from caseback.model.graph.graph import Graph
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

STEPS = 60
"""Steps of a fit, unless said otherwise."""


def optimal_writes(
    model: Model,
    graph: Graph,
    tokens: Tokens,
    loss: Metric,
    mask: Bool[Tensor, "place writer reader"],
    *,
    start: Float[Tensor, "writer d_model"],
    places: Int[Tensor, " token"] | None = None,
    steps: int = STEPS,
    lr: float = 0.1,
) -> Float[Tensor, "writer d_model"]:
    """Fit the constants of one circuit.

    Parameters
    ----------
    model, graph, tokens
        The model, its graph, and the prompts that the expectation is over.
    loss
        What is minimized, on average over prompts.
    mask
        The circuit's edges.
    start
        Where the fit begins, such as mean writes.
    places
        The place of each own token, where the mask has several.
    steps, lr
        Of Adam, the rate in units of the size of a writer's mean.

    Returns
    -------
    Tensor
        (writer, d_model). The best constants met, the start among them.

    Raises
    ------
    CasebackError
        For a loss without gradient.
    """
    unit = start.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(1e-6)
    theta = torch.zeros_like(start, requires_grad=True)
    adam = torch.optim.Adam([theta], lr=lr)
    count = int(tokens.lengths.sum())
    best, least = start, float("inf")
    for step in range(steps + 1):
        values = start + unit * theta
        cut = values[:, None].expand(-1, count, -1)
        cuts = Cuts(model, graph, mask[None], cut, None if len(mask) == 1 else places)
        losses = measured(model.anatomy, tokens, loss, edits=cuts.edits(), grad=True)[1]
        if not losses.requires_grad:
            raise CasebackError(f"the loss {loss.name!r} has no gradient: optimal constants need one")
        mean = losses.mean()
        if float(mean.detach()) < least:
            best, least = values.detach(), float(mean.detach())
        if step < steps:
            theta.grad = torch.autograd.grad(mean, theta, allow_unused=True)[0]
            adam.step()
    return best
