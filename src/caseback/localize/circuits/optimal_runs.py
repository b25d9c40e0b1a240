"""Circuits whose cut edges carry the constants with which the circuit does best (PRIMER 3.2.9, 3.2.21).

    a = argmin_a  mean over prompts of  loss(circuit with every cut edge (u -> v) carrying a_u)

One constant a writer, shared by its cut edges and by all positions. What such a circuit lacks is due to the information
outside it, not to a value that the model has never met. Fitted with Adam from the means on, in units of each write's
standard deviation, and afresh for each circuit.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from caseback.errors import CasebackError
from caseback.localize.circuits.running import CircuitRuns, Masks, _Cut
from caseback.model.graph import Graph
from caseback.model.measure import measured
from caseback.model.metrics import Metric, kl
from caseback.model.model import Model
from caseback.model.run import execute


class OptimalRuns(CircuitRuns):
    """As ``CircuitRuns``, what a cut edge carries being fitted to each circuit.

    Parameters
    ----------
    loss
        What the constants minimise, on average over the prompts; by default the KL divergence of the circuit's
        next-token distribution from the model's own.
    steps, lr
        Adam's steps and its rate, the latter in standard deviations of a writer's writes.
    over
        Prompts whose mean writes the fit starts from; the clean ones by default.
    """

    def __init__(
        self,
        model: Model,
        graph: Graph,
        clean: Any,
        corrupt: Any,
        metric: Metric,
        *,
        over: Any = None,
        loss: Metric | None = None,
        steps: int = 50,
        lr: float = 0.1,
    ):
        if steps < 1 or lr <= 0:
            raise CasebackError(f"steps={steps}, lr={lr}: expected positive numbers")
        super().__init__(model, graph, clean, corrupt, metric, ablation="mean", over=over)
        self.start = self.cut[:, :1].clone()
        own = self._written(execute(model.anatomy, self.tokens, read=self.reads, logits=False))
        spread = (own - own.mean(1, keepdim=True)).pow(2).mean((1, 2), keepdim=True).sqrt()
        self.scale = spread.clamp_min(1e-6)
        self.loss, self.steps, self.lr = loss or kl(model.run(self.tokens)), steps, lr

    def metrics(self, masks: Masks, *, progress: bool = False) -> Float[Tensor, "variant batch"]:
        """The metric of each circuit on each prompt, each with constants of its own."""
        made = []
        for mask in tqdm(masks, "circuits", disable=not progress):
            self.cut = self._spread(self.constants(mask))
            made.append(super().metrics(mask[None]))
        return torch.cat(made)

    def constants(self, mask: Bool[Tensor, "writer reader"]) -> Float[Tensor, "writer one d_model"]:
        """The fitted constants of one circuit; the means where the fit does no better on all prompts."""
        if not bool((self.graph.exists & ~mask).any()):
            return self.start  # nothing is cut
        theta = torch.zeros_like(self.start, requires_grad=True)
        adam = torch.optim.Adam([theta], lr=self.lr)
        best, least = self.start, float("inf")
        for step in range(self.steps + 1):
            values = (self.start + self.scale * theta).detach()
            loss = self._loss(mask, self.start + self.scale * theta)
            if float(loss.detach()) < least:
                best, least = values, float(loss.detach())
            if step == self.steps:
                break
            (theta.grad,) = torch.autograd.grad(loss, [theta])
            adam.step()
        return best

    def _loss(self, mask: Tensor, constants: Tensor) -> Tensor:
        edits = _Cut(self.model, self.graph, mask[None], self._spread(constants)).edits()
        run = measured(self.model.anatomy, self.tokens, self.loss, edits=edits, grad=True)
        return run[1].mean()

    def _spread(self, constants: Tensor) -> Tensor:
        return constants.expand(-1, int(self.tokens.lengths.sum()), -1)
