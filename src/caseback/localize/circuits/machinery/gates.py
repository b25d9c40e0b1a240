"""Gates that are learned: hard-concrete masks on edges or nodes, fitted by running soft circuits (PRIMER 3.2.27).

    s = sigmoid((log u - log(1 - u) + a) / beta),  u uniform,    z = clip(s (zeta - gamma) + gamma, 0, 1)
    P(z > 0) = sigmoid(a - beta log(-gamma / zeta)),             beta = 2/3, gamma = -0.1, zeta = 1.1  (Louizos et al.)

z is 0 or 1 with positive probability and yet has a gradient. An edge carries z u + (1 - z) other_u; a node's gate
multiplies those of all its edges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.machinery.circuit_runs import CircuitRuns
from caseback.localize.circuits.machinery.cutting import Cuts
from caseback.model.running.measure import measured

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
KEEP_EVERY = 50
"""Steps between two writings of a checkpoint."""


def hard_concrete(a: Float[Tensor, " *gate"], u: Float[Tensor, " *gate"]) -> Float[Tensor, " *gate"]:
    """Gates drawn with log odds ``a`` from uniform numbers."""
    s = torch.sigmoid((torch.log(u) - torch.log1p(-u) + a) / BETA)
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def open_probability(a: Float[Tensor, " *gate"]) -> Float[Tensor, " *gate"]:
    """How likely a gate is not 0.

    Examples
    --------
    >>> u = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    >>> share = (hard_concrete(torch.full_like(u, 0.3), u) > 0).float().mean()
    >>> bool(abs(share - open_probability(torch.tensor(0.3))) < 0.01)
    True
    """
    return torch.sigmoid(a - BETA * math.log(-GAMMA / ZETA))


def log_odds(probability: float) -> float:
    """The log odds at which a gate is open with this probability."""
    return math.log(probability / (1 - probability)) + BETA * math.log(-GAMMA / ZETA)


class Gates:
    """Gates of a graph with their optimizer, step by step, and a file that keeps them.

    Parameters
    ----------
    runs
        The prompts, what cut edges carry, and the metric that is minimized beside the penalty.
    of
        Which have gates: ``"edges"``, ``"nodes"`` or both.
    start
        Log odds to begin with.
    lr, multiplier_lr
        Adam's rates, of gates and of the penalty's multipliers (0 where there are none).
    batch_size
        Prompts per step.
    seed
        Same seed, same result. It draws the prompts and the gates of each step.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.
    about
        What a checkpoint must agree with.
    """

    def __init__(
        self,
        runs: CircuitRuns,
        of: frozenset[str],
        *,
        start: float,
        lr: float,
        multiplier_lr: float,
        batch_size: int,
        seed: int,
        checkpoint: str | Path | None,
        about: dict[str, Any],
    ):
        if not lr > 0 or batch_size < 1:
            raise OutOfRange(f"lr={lr}, batch_size={batch_size}: expected a positive number and at least 1")
        self.runs, self.seed, self.batch_size = runs, seed, batch_size
        graph = runs.graph
        dtype, device = torch.promote_types(runs.model.dtype, torch.float32), runs.model.device
        self.exists = graph.exists.to(device)
        sizes = {"edges": graph.exists.shape, "nodes": (len(graph.writers),)}
        self.gates = {
            name: torch.full(size, start, dtype=dtype, device=device, requires_grad=True)
            for name, size in sizes.items()
            if name in of
        }
        self.multipliers = torch.zeros(2, dtype=dtype, device=device, requires_grad=True)
        groups: list[dict[str, Any]] = [{"params": list(self.gates.values()), "lr": lr}]
        if multiplier_lr > 0:
            groups.append({"params": [self.multipliers], "lr": multiplier_lr, "maximize": True})
        self.adam = torch.optim.Adam(groups)
        self.at = 0
        self.losses: list[float] = []
        job = {} if checkpoint is None else {**runs.job(), "options": about}
        self.file = Checkpoint(checkpoint, job, what="checkpoint of gates", other="was written by another call")
        self._read()

    def open(self) -> Float[Tensor, "writer reader"]:
        """How likely each edge is to carry anything; 0 where there is no edge."""
        chance = self.exists.to(self.multipliers.dtype)
        if "edges" in self.gates:
            chance = chance * open_probability(self.gates["edges"])
        return chance * open_probability(self.gates["nodes"])[:, None] if "nodes" in self.gates else chance

    def share_open(self, name: str) -> Float[Tensor, ""]:
        """How many of the edges or nodes are open, of all and on average."""
        chances = open_probability(self.gates[name])
        return chances[self.exists].mean() if name == "edges" else chances.mean()

    def fit(self, steps: int, penalty: Callable[[int], Tensor], *, progress: bool = False) -> None:
        """Take steps up to that number; ``penalty`` gives what is added to the loss at each."""
        if steps < 1:
            raise OutOfRange(f"steps={steps}: expected at least 1")
        for step in progress_bar(range(self.at, steps), "gates", initial=self.at, total=steps, show=progress):
            self._step(step, penalty)
            self.at = step + 1
            if self.at % KEEP_EVERY == 0 or self.at == steps:
                self._write()

    def _step(self, step: int, penalty: Callable[[int], Tensor]) -> None:
        # drawn from the step's own number, so that a fit that was interrupted goes on as if it had not been
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        rows = torch.randperm(len(self.runs.tokens), generator=generator)[: self.batch_size].sort().values
        mask = self.exists.to(self.multipliers.dtype)
        for name, a in self.gates.items():
            u = torch.rand(a.shape, generator=generator, dtype=torch.float64).clamp(1e-6, 1 - 1e-6).to(a)
            z = hard_concrete(a, u)
            mask = mask * (z if name == "edges" else z[:, None])
        losses = self._losses(mask, rows)
        if not losses.requires_grad:
            raise CasebackError(f"metric {self.runs.metric.name!r} has no gradient: gates cannot be learned with it")
        parameters = [p for group in self.adam.param_groups for p in group["params"]]
        value = losses.mean() + penalty(step)
        slopes = torch.autograd.grad(value, parameters, allow_unused=True)
        for parameter, slope in zip(parameters, slopes, strict=True):
            parameter.grad = torch.zeros_like(parameter) if slope is None else slope
        self.adam.step()
        self.losses.append(float(losses.detach().mean()))

    def _losses(self, mask: Tensor, rows: Tensor) -> Float[Tensor, " batch"]:
        """The loss of a soft circuit on some prompts, with its graph."""
        runs, tokens = self.runs, self.runs.tokens
        chosen = rows.tolist()
        some = tokens[rows]
        starts = [0, *tokens.lengths.cumsum(0).tolist()]
        own = torch.cat([torch.arange(starts[i], starts[i + 1]) for i in chosen])
        cut = runs.cut if runs.cut.ndim == 0 else runs.cut[:, own.to(runs.cut.device)]
        cuts = Cuts(runs.model, runs.graph, mask[None, None], cut)
        loss = runs.metric.of_rows(tokens, chosen)
        return measured(runs.model.anatomy, some, loss, edits=cuts.edits(), grad=True)[1]

    def _tensors(self) -> dict[str, Tensor]:
        return {**self.gates, "multipliers": self.multipliers}

    def _write(self) -> None:
        tensors = dict(self._tensors())
        for name, tensor in self._tensors().items():
            tensors |= {f"{name}.{key}": value for key, value in self.adam.state.get(tensor, {}).items()}
        self.file.write(tensors, at=self.at, losses=self.losses)

    def _read(self) -> None:
        if (saved := self.file.read()) is None:
            return
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(saved.tensors[name])
                keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}.{key}" in saved.tensors]
                if keys:
                    # Adam counts its steps on the CPU
                    state = {key: saved.tensors[f"{name}.{key}"] for key in keys}
                    self.adam.state[tensor] = {k: v if k == "step" else v.to(tensor) for k, v in state.items()}
        self.at, self.losses = saved.state["at"], list(saved.state["losses"])
