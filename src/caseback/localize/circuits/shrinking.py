"""Shrink a circuit while it stays faithful: edges go, the least first, as long as none is missed (PRIMER 3.2.24).

    for edges from the lowest score to the highest:   remove it  if  recovered(what is left) stays within the bounds

ACDC's removals with another rule: it bounds what each removal costs, this what all removals together cost, so that the
circuit that is left has the faithfulness that was asked for. As there, many removals are tried in one batch.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.faithfulness import recovered
from caseback.localize.circuits.machinery.circuit_runs import CircuitRuns
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    role="circuit",
    entry=("3.2.21", "3.2.24"),
    citation="after Conmy et al. 2023",
    cost="about 1 circuit run per edge of the circuit",
)
def shrink(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    circuit: Circuit,
    *,
    least: float = 0.9,
    most: float = 1.1,
    ablation: str = "resample",
    over: PromptsLike | None = None,
    inputs: tuple[str, ...] = ("embed",),
    at_once: int | None = None,
    progress: bool = False,
) -> Circuit:
    """Remove edges of a circuit, from the lowest score on, while it recovers enough of the model.

    Parameters
    ----------
    model, clean, corrupt, metric
        As for ``faithfulness``.
    circuit
        Where to begin, with scores of its edges.
    least, most
        What must be recovered, at least and at most. Judge the result on other prompts.
    ablation, over, inputs
        As for ``faithfulness``.
    at_once
        The most removals tried in one batch; it changes the speed, not the circuit.
    progress
        Show a progress bar.

    Returns
    -------
    Circuit
        What is left, pruned to paths from the inputs to the logits, with the scores that were given.

    Raises
    ------
    OutOfRange
        For bounds or a batch out of order.
    CasebackError
        Where the circuit does not recover as much to begin with.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.circuits import edge_attribution, select
    >>> model = cb.load("meadow")
    >>> ioi = cb.tasks.ioi().prompts(model, 4)
    >>> task = ioi.clean, ioi.corrupt, ioi.metric
    >>> circuit = select(model, edge_attribution(model, *task, steps=5), 60)
    >>> 0 < len(shrink(model, *task, circuit, least=0.5, most=5.0)) < len(circuit)
    True
    """
    at_once = limit("pruned_circuits", given=at_once)
    if not least < most or at_once < 1:
        raise OutOfRange(f"least={least}, most={most}, at_once={at_once}: expected least below most, and at least 1")
    graph = Graph.of(model.anatomy, inputs)
    mask = graph.connected(graph.mask(circuit))
    runs = CircuitRuns(model, graph, clean, corrupt, metric, ablation=ablation, over=over)
    empty = float(runs.empty.mean())
    start = float(_shares(runs, mask[None], empty)[0])
    if not least <= start <= most:
        raise CasebackError(
            f"the circuit recovers {start:.3f} to begin with: expected {least} to {most}; give a larger one"
        )
    sizes = {edge: abs(circuit.scores.get(edge, 0.0)) for edge in circuit.edges}
    writers, readers = ({node: i for i, node in enumerate(listed)} for listed in (graph.writers, graph.readers))
    ranked = sorted(circuit.edges, key=lambda edge: (sizes[edge], str(edge)))
    order = [(writers[edge.source], readers[edge.target, edge.slot]) for edge in ranked]
    at, ahead = 0, 1
    with progress_bar(total=len(order), what="edges", show=progress) as bar:
        while at < len(order):
            trial = order[at : at + ahead]
            masks = mask.repeat(len(trial), 1, 1)
            for i, (w, r) in enumerate(trial):
                masks[i:, w, r] = False
            shares = _shares(runs, masks, empty)
            failed = ((shares < least) | (shares > most)).nonzero()
            done = len(trial) if not len(failed) else int(failed[0])
            mask = masks[done - 1] if done else mask
            # the first that fails stays, and those after it are tried again without its removal
            at += done + bool(len(failed))
            ahead = min(2 * ahead, at_once) if not len(failed) else max(1, done)
            bar.update(done + bool(len(failed)))
    left = graph.circuit(graph.connected(mask))
    return Circuit(left.edges, scores=dict(circuit.scores), about={**circuit.about, "shrunk_to": least})


def _shares(runs: CircuitRuns, masks: Bool[Tensor, "variant writer reader"], empty: float) -> Float[Tensor, " variant"]:
    means = runs.metrics(masks).mean(-1).numpy()
    return torch.tensor(recovered(means, np.asarray(empty), runs.whole.mean().numpy()))
