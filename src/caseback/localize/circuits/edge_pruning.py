"""Circuits by learned gates: edge pruning with a target sparsity, and subnetwork probing (PRIMER 3.2.27).

    edge pruning          min over gates, max over multipliers:   E loss + l1 (s - t) + l2 (s - t)^2
    subnetwork probing    min over gates:                         E loss + l  mean P(z > 0)

s is the expected share of edges whose gate is shut and t the target, which rises from 0 during a warm-up. The loss is
how far the gated model is from the whole one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.localize.circuits.machinery.circuit_runs import CircuitRuns
from caseback.localize.circuits.machinery.gates import Gates, log_odds, open_probability
from caseback.localize.circuits.selecting import scores_of, select_mask
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from caseback.model.prompts.pairs import pairs
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric, kl
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    role="circuit",
    entry=("3.2.27", "B.8"),
    citation="Bhaskar et al. 2024",
    cost="3 forwards + backwards per step, thousands of steps",
)
def edge_pruning(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    loss: Metric | None = None,
    *,
    sparsity: float = 0.95,
    steps: int = 3000,
    warmup: int | None = None,
    lr: float = 0.8,
    multiplier_lr: float = 0.8,
    nodes: bool = True,
    ablation: str | Float[Tensor, "writer d_model"] = "resample",
    over: PromptsLike | None = None,
    inputs: tuple[str, ...] = ("embed",),
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> Circuit:
    """Find a circuit of a given size by gradient descent on hard-concrete gates of edges.

    Parameters
    ----------
    model
        The model. Its weights stay as they are.
    clean, corrupt
        Prompts and their counterfactuals, token-aligned.
    loss
        What is minimized, on average over prompts. None: the KL divergence from the model's own
        next-token distribution, the paper's choice.
    sparsity
        The share of edges to be shut.
    steps, warmup
        Of Adam (the paper takes 3000), and how many of them the target takes to rise; five sixths by default.
    lr, multiplier_lr
        Adam's rates, of the gates' log odds and of the Lagrange multipliers; the paper's.
    nodes
        Give each writer a gate too, which multiplies those of its edges.
    ablation, over, inputs
        What shut edges carry; as for ``run_circuit``.
    batch_size
        Prompts per step, drawn anew for each.
    seed
        Same seed, same result. It draws the prompts and the gates of each step.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption. It then ends in the same
        circuit.

    Returns
    -------
    Circuit
        The ``1 - sparsity`` of all edges that are the likeliest to be open, without those on no path from an input to
        the logits (all of them, where the fit was too short to leave a path). ``scores`` are the probabilities of being
        open; ``about`` has the loss of the circuit, cut sharply, and the sparsity that the gates came to.

    Raises
    ------
    OutOfRange
        For a sparsity that leaves no edge or cuts none, and for steps or rates that are not positive.
    CasebackError
        For a loss without gradient, a checkpoint of another call.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("grokking")
    >>> circuit = edge_pruning(model, ["3 4 =", "7 1 ="], ["3 9 =", "2 5 ="], sparsity=0.5, steps=40)
    >>> 0 < len(circuit) <= 20, all(0 <= score <= 1 for score in circuit.scores.values())
    (True, True)
    """
    graph = Graph.of(model.anatomy, inputs)
    count = round((1 - sparsity) * len(graph.edges)) if 0 < sparsity < 1 else 0
    if count < 1:
        raise OutOfRange(f"sparsity={sparsity}: expected a share between 0 and 1 that leaves one edge at least")
    rising = steps * 5 // 6 if warmup is None else warmup
    runs = _runs(model, graph, clean, corrupt, loss, ablation, over)
    about = _provenance("edge_pruning", ablation, sparsity=sparsity, steps=steps, warmup=rising, lr=lr, seed=seed)
    gates = Gates(
        runs,
        frozenset({"edges", "nodes"} if nodes else {"edges"}),
        start=10.0,
        lr=lr,
        multiplier_lr=multiplier_lr,
        batch_size=batch_size,
        seed=seed,
        checkpoint=checkpoint,
        about={**about, "nodes": nodes, "multiplier_lr": multiplier_lr, "batch_size": batch_size},
    )
    total = int(graph.exists.sum())

    def penalty(step: int) -> Tensor:
        shut = 1 - gates.open().sum() / total
        gap = shut - sparsity * min(1.0, (step + 1) / max(1, rising))
        return gates.multipliers[0] * gap + gates.multipliers[1] * gap**2

    gates.fit(steps, penalty, progress=progress)
    table = _edge_scores(gates)
    reached = 1 - float(gates.open().detach().sum()) / total
    return _circuit(model, graph, gates, table, select_mask(graph, table, count), {**about, "reached": reached})


@technique(
    role="circuit",
    entry=("3.2.27",),
    citation="Cao et al. 2021, Conmy et al. 2023",
    cost="3 forwards + backwards per step, 3000 steps",
)
def subnetwork_probing(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    loss: Metric | None = None,
    *,
    penalty: float = 50.0,
    of: str = "nodes",
    steps: int = 3000,
    lr: float = 1e-3,
    start: float = 0.9,
    ablation: str | Float[Tensor, "writer d_model"] = "resample",
    over: PromptsLike | None = None,
    inputs: tuple[str, ...] = ("embed",),
    batch_size: int = 32,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> Circuit:
    """Find a circuit by gradient descent on hard-concrete gates, each open one costing something.

    Parameters
    ----------
    model, clean, corrupt, loss
        As for ``edge_pruning``.
    penalty
        What it costs if all gates are open, λ; the published code takes 50.
    of
        ``"nodes"``: a gate for what each head and MLP writes, the original; or ``"edges"``.
    steps, lr, start
        Of Adam, its rate, and how likely gates are to be open at the start; the published code's.
    ablation, over, inputs, batch_size, seed, progress, checkpoint
        As for ``edge_pruning``.

    Returns
    -------
    Circuit
        The edges whose gates are likelier open than shut: of nodes all edges between those, the inputs and the logits.
        Without those on no path from an input to the logits. ``scores`` are the probabilities, of nodes or of edges.

    Raises
    ------
    OutOfRange
        For a negative penalty, steps or rates that are not positive.
    CasebackError
        As for ``edge_pruning``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("grokking")
    >>> pair = ["3 4 =", "7 1 ="], ["3 9 =", "2 5 ="]
    >>> whole = subnetwork_probing(model, *pair, penalty=0.0, steps=20)
    >>> len(whole) == len(Graph.of(model.anatomy).edges)
    True
    """
    if of not in ("nodes", "edges"):
        raise CasebackError(f"of {of!r} is unknown. {did_you_mean(of, ('nodes', 'edges'))}")
    if not penalty >= 0 or not 0 < start < 1:
        raise OutOfRange(f"penalty={penalty}, start={start}: expected at least 0, and a probability")
    graph = Graph.of(model.anatomy, inputs)
    runs = _runs(model, graph, clean, corrupt, loss, ablation, over)
    about = _provenance("subnetwork_probing", ablation, penalty=penalty, of=of, steps=steps, lr=lr, seed=seed)
    gates = Gates(
        runs,
        frozenset({of}),
        start=log_odds(start),
        lr=lr,
        multiplier_lr=0.0,
        batch_size=batch_size,
        seed=seed,
        checkpoint=checkpoint,
        about={**about, "start": start, "batch_size": batch_size},
    )
    gates.fit(steps, lambda _: penalty * gates.share_open(of), progress=progress)
    chances = open_probability(gates.gates[of]).detach().cpu().double()
    if of == "edges":
        table = torch.where(graph.exists, chances, torch.nan)
        return _circuit(model, graph, gates, table, graph.connected((table > 0.5) & graph.exists), about)
    open_nodes = [node for node, chance in zip(graph.writers, chances.tolist(), strict=True) if chance > 0.5]
    circuit = _circuit(model, graph, gates, _edge_scores(gates), graph.connected(graph.between(open_nodes)), about)
    return Circuit(circuit.edges, scores=dict(zip(graph.writers, chances.tolist(), strict=True)), about=circuit.about)


def _runs(
    model: Model,
    graph: Graph,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    loss: Metric | None,
    ablation: str | Tensor,
    over: PromptsLike | None,
) -> CircuitRuns:
    if isinstance(ablation, str) and ablation == "optimal":
        raise CasebackError(
            "gates are learned against given values: resample, mean, mean_by_position, zero or constants"
        )
    tokens, other = model.tokens(clean), corrupt
    if corrupt is not None:
        tokens, other = pairs(model, tokens, corrupt)
    objective = kl(model.run(tokens)) if loss is None else loss
    return CircuitRuns(model, graph, tokens, other, objective, ablation=ablation, over=over)


def _provenance(method: str, ablation: str | Tensor, **options: Any) -> dict[str, Any]:
    """How a circuit was found, for its ``about``."""
    kind = ablation if isinstance(ablation, str) else "constants"
    return {"method": method, "entry": "3.2.27", "ablation": kind, **options}


def _edge_scores(gates: Gates) -> Float[Tensor, "writer reader"]:
    return torch.where(gates.runs.graph.exists, gates.open().detach().cpu().double(), torch.nan)


def _circuit(model: Model, graph: Graph, gates: Gates, table: Tensor, mask: Tensor, about: dict[str, Any]) -> Circuit:
    """The circuit of a mask, with what it loses when it is cut sharply."""
    lost = float(gates.runs.metrics(mask[None]).mean())
    about = {**about, "model": model.name, "metric": gates.runs.metric.name, "objective": lost}
    return Circuit(graph.circuit(mask).edges, scores={**scores_of(graph, table)}, about=about)
