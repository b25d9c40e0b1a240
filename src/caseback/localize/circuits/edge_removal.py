"""ACDC: remove every edge that the objective hardly notices, from the logits backwards (PRIMER 3.2.24).

    for readers from the last to the first, for writers from the latest to the earliest:
        remove (u -> v)  if  objective(without it) - objective(with it) < threshold

Each edge is tested against the graph as pruned so far. Most tests end in a removal, so a batch of circuits is run in
which each has lost one edge more than the one before; from the first that costs too much on, the rest are run again.
The circuit is the one that testing edge by edge gives.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.machinery.circuit_runs import CircuitRuns
from caseback.model.circuit import Circuit, Edge
from caseback.model.graph.graph import Graph
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric, kl
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(role="circuit finder", entry=("3.2.24",), citation="Conmy et al. 2023", cost="about 1 forward per edge")
def acdc(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric | None = None,
    *,
    threshold: float,
    ablation: str = "resample",
    over: PromptsLike | None = None,
    inputs: tuple[str, ...] = ("embed",),
    at_once: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> Circuit:
    """Find a circuit by testing edges one after the other, from the logits back to the input.

    Whether an edge is removed depends on those removed before it, so the search is one sequence of steps that workers
    cannot share: it goes on from a checkpoint, and is no job of shards.

    Parameters
    ----------
    model
        The model.
    clean, corrupt
        Prompts and their counterfactuals, token-aligned.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. The circuit must keep it: the objective
        is how far the metric's mean falls. None: the KL divergence of the circuit's next-token distribution from the
        model's own, the paper's choice.
    threshold
        How much the objective may grow for an edge to be removed, τ. The paper sweeps 0.001 to 1; for IOI with KL it
        shows 0.0575.
    ablation, over, inputs
        What a removed edge carries; as for ``run_circuit``.
    at_once
        The most edges that are tried in one batch; it changes the speed, not the circuit.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    Circuit
        The edges that stay, without those that are on no path from input to logits. ``scores`` holds, for each edge
        tested, what its removal cost; ``about`` has the objective of the circuit and how many edges stayed.

    Raises
    ------
    OutOfRange
        For a threshold or a batch that is not positive.
    LoadError
        For a checkpoint of another call, or a damaged one.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("grokking")
    >>> circuit = acdc(model, "3 4 =", "3 9 =", threshold=0.5)
    >>> 0 < len(circuit) < 40, "MLP 0 -> logits" in circuit
    (True, True)
    """
    at_once = limit("pruned_circuits", given=at_once)
    if not threshold > 0 or at_once < 1:
        raise OutOfRange(f"threshold={threshold}, at_once={at_once}: expected a positive number and at least 1")
    graph = Graph.of(model.anatomy, inputs)
    tokens = model.tokens(clean)
    objective = kl(model.run(tokens)) if metric is None else metric
    runs = CircuitRuns(model, graph, tokens, corrupt, objective, ablation=ablation, over=over)
    sign = 1.0 if metric is None else -1.0
    job = {} if checkpoint is None else {**runs.job(), "options": ["acdc", threshold]}
    file = Checkpoint(checkpoint, job, what="checkpoint of a search", other="was written by another call")
    search = _Search(graph, runs, sign, threshold, file)
    with progress_bar(total=len(search.order), what="edges", show=progress, initial=search.at) as bar:
        while search.at < len(search.order):
            bar.update(search.step(at_once))
    mask = graph.connected(search.mask)
    return Circuit(
        graph.circuit(mask).edges,
        scores=dict(zip(search.edges, search.costs.tolist(), strict=True)),
        about={
            "method": "acdc",
            "entry": "3.2.24",
            "citation": "Conmy et al. 2023",
            "model": model.name,
            "metric": objective.name,
            "threshold": threshold,
            "ablation": ablation,
            "objective": sign * float(runs.metrics(mask[None]).mean()),
            "kept_before_pruning": int(search.mask.sum()),
        },
    )


class _Search:
    """The state of a search: which edges are left, which were tested, what each cost."""

    def __init__(self, graph: Graph, runs: CircuitRuns, sign: float, threshold: float, file: Checkpoint):
        self.runs, self.sign, self.threshold, self.file = runs, sign, threshold, file
        self.order = [
            (w, r)
            for r in reversed(range(len(graph.readers)))
            for w in reversed(graph.exists[:, r].nonzero()[:, 0].tolist())
        ]
        self.edges = [Edge(graph.writers[w], *graph.readers[r]) for w, r in self.order]
        self.ahead = 1
        if (saved := file.read()) is not None:
            self.mask, self.costs = saved.tensors["mask"].to(graph.exists), saved.tensors["costs"]
            self.at, self.now = saved.state["at"], saved.state["now"]
            return
        self.mask, self.at = graph.exists.clone(), 0
        self.costs = torch.full((len(self.order),), torch.nan, dtype=torch.float64)
        self.now = self.objectives(self.mask[None])[0].item()

    def objectives(self, masks: Bool[Tensor, "variant writer reader"]) -> Float[Tensor, " variant"]:
        return self.sign * self.runs.metrics(masks).mean(-1)

    def step(self, at_once: int) -> int:
        """Decide at least one edge, at most ``at_once``; returns how many.

        It looks further ahead while removals succeed, and less far after an edge that stays.
        """
        trial = self.order[self.at : self.at + min(self.ahead, at_once)]
        self.ahead = min(2 * self.ahead, at_once)
        masks = self.mask.repeat(len(trial), 1, 1)
        for i, (w, r) in enumerate(trial):
            masks[i:, w, r] = False
        decided = 0
        for i, value in enumerate(self.objectives(masks).tolist()):
            cost = value - self.now
            self.costs[self.at + i] = cost
            decided += 1
            if cost >= self.threshold:
                # this edge stays, so the circuits after it, which lack it, were the wrong ones to try
                self.ahead = max(1, decided // 2)
                break
            self.mask, self.now = masks[i], value
        self.at += decided
        self.file.write({"mask": self.mask, "costs": self.costs}, at=self.at, now=self.now)
        return decided
