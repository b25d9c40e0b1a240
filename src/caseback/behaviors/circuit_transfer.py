"""What one task's circuit does of another task, beside what circuits as large do by chance (PRIMER 5.4.18).

    recovered_ij = (m_j(C_i) - m_j(empty)) / (m_j(M) - m_j(empty))       C_i found on task i, m_j on prompts of task j
    iou_ij       = |C_i and C_j| / |C_i or C_j|,                          of edges, and of nodes

A circuit that transfers recovers more of another task than as many random edges that lead to the logits. Whether that
is more than any circuit there would, the row beside says: all heads and MLPs of the layers that it has heads and MLPs
in, with all edges between them. Circuits are found on half of each task's prompts, and judged on the other half.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from caseback.behaviors.mechanisms.overlap import random_overlap
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.circuits.faithfulness import faithfulness
from caseback.localize.circuits.machinery.masks import masks_of
from caseback.localize.circuits.methods import find_circuit
from caseback.localize.circuits.selecting import select_mask
from caseback.model.circuit import Circuit, Node
from caseback.model.graph.graph import Graph
from caseback.model.registry import technique
from caseback.model.results import labelled_set
from caseback.model.running.model import Model
from caseback.tasks.prompts import Prompts


@technique(
    entry=("5.4.18",),
    citation="Hanna et al. 2024, Merullo et al. 2024",
    cost="for each task: a circuit found, and tasks x (2 + draws) circuit runs",
    dims=("circuit", "task"),
)
def circuit_transfer(
    model: Model,
    tasks: Mapping[str, Prompts],
    *,
    method: str = "eap-ig",
    edges: int | float = 0.1,
    ablation: str = "resample",
    draws: int = 20,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Find each task's circuit, and run it on the other tasks.

    Parameters
    ----------
    model
        The model.
    tasks
        Prompts by a task's name, two tasks or more, each of four prompts or more with counterfactuals.
    method, edges, ablation
        As for ``find_circuit``: a tenth of the edges by default.
    draws
        Random circuits for each circuit: as many edges, chosen as ``select(how="greedy")`` does, by random scores.
    seed
        Same seed, same result. It draws the random circuits.
    progress
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        By (circuit, task): ``recovered``, of the task by the circuit, with its bootstrap interval ``recovered_low`` and
        ``recovered_high``; ``random`` and ``band``, the mean and the 95 % quantile of random circuits; ``same_layers``,
        what all heads and MLPs of the circuit's layers recover; ``iou_edges`` and ``iou_nodes`` with the circuit of
        that task, ``iou_chance`` and ``iou_band``, the mean and the 95 % quantile of random edges' ``iou_edges``. By
        circuit ``edges`` and ``edges_of_layers``. By task ``whole`` and ``empty``, its metric in the model and with
        every edge cut.

    Raises
    ------
    CasebackError
        For fewer than two tasks, and for a task of which the model does nothing, so that nothing can be recovered.
    OutOfRange
        For fewer than four prompts, or fewer than one draw.

    Notes
    -----
    Entry 5.4.18: Hanna et al. 2024 report that transfer between most pairs of tasks is near zero in GPT-2 small.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> tasks = {name: cb.tasks.get(name).prompts(model, 8) for name in ("ioi", "agreement")}
    >>> table = circuit_transfer(model, tasks, method="eap", draws=4)
    >>> table.recovered.dims, table.iou_edges.sel(circuit="ioi", task="ioi").item()
    (('circuit', 'task'), 1.0)
    """
    if len(tasks) < 2:
        raise CasebackError(f"{len(tasks)} tasks: expected two or more, each of whose circuits is run on the others")
    if draws < 1:
        raise OutOfRange(f"draws={draws}: expected 1 or more")
    halves = {}
    for name, prompts in tasks.items():
        if len(prompts) < 4:
            raise OutOfRange(f"{len(prompts)} prompts of {name}: expected 4 or more, half of them to judge circuits on")
        halves[name] = prompts[: len(prompts) // 2], prompts[len(prompts) // 2 :]
    graph = Graph.of(model.anatomy)
    how = {"method": method, "edges": edges, "ablation": ablation, "progress": progress}
    circuits = [find_circuit(model, one.clean, one.corrupt, one.metric, **how) for one, _ in halves.values()]
    own = masks_of(graph, circuits)[:, 0]
    layers = torch.stack([_same_layers(graph, circuit) for circuit in circuits])
    rng = torch.Generator().manual_seed(seed)
    sizes, n = own.sum((1, 2)).tolist(), len(tasks)
    drawn = [torch.rand(graph.exists.shape, generator=rng) for _ in range(n * draws)]
    random = [select_mask(graph, scores, sizes[i // draws], how="greedy") for i, scores in enumerate(drawn)]
    variants = torch.cat([own, layers, torch.stack(random)])
    columns: dict[str, list[np.ndarray]] = {}
    ends: dict[str, list[float]] = {"whole": [], "empty": []}
    for name, (_, judging) in halves.items():
        try:
            measured = faithfulness(
                *(model, judging.clean, judging.corrupt, judging.metric, variants),
                ablations=ablation,
                seed=seed,
                progress=progress,
            )
        except CasebackError as error:
            raise CasebackError(f"task {name}: {error}") from error
        of_draws = measured.recovered.values[2 * n :].reshape(n, draws)
        column = {key: measured[key].values[:n] for key in ("recovered", "recovered_low", "recovered_high")}
        column |= {"same_layers": measured.recovered.values[n : 2 * n]}
        column |= {"random": of_draws.mean(1), "band": np.quantile(of_draws, 0.95, axis=1)}
        for key, values in column.items():
            columns.setdefault(key, []).append(values)
        ends["whole"].append(float(measured.whole.mean()))
        ends["empty"].append(float(measured["empty"][0].mean()))
    by_pair = {key: np.stack(values, 1) for key, values in columns.items()}
    for of in ("edges", "nodes"):
        by_pair[f"iou_{of}"] = np.array([[one.iou(other, of) for other in circuits] for one in circuits])
    total = int(graph.exists.sum())
    chance = np.array([[random_overlap(total, a, b, 0)[:2] for b in sizes] for a in sizes], dtype=float)
    by_pair |= {"iou_chance": chance[..., 0], "iou_band": chance[..., 1]}
    arrays = {key: (values, ["circuit", "task"]) for key, values in by_pair.items()}
    arrays |= {"edges": (sizes, ["circuit"]), "edges_of_layers": (layers.sum((1, 2)), ["circuit"])}
    arrays |= {key: (values, ["task"]) for key, values in ends.items()}
    names = list(tasks)
    attrs = {"method": method, "ablation": ablation, "draws": draws, "seed": seed, "total": total}
    coords = {"circuit": names, "task": names}
    return labelled_set(arrays, coords, technique=circuit_transfer, model=model, **attrs)


def _same_layers(graph: Graph, circuit: Circuit) -> Bool[Tensor, "writer reader"]:
    """All edges between all heads and MLPs of the layers that a circuit has heads and MLPs in."""
    used = {_kind(node) for node in circuit.nodes}
    return graph.between(node for node in graph.writers if _kind(node) in used)


def _kind(node: Node) -> tuple[str, int]:
    """A head's or an MLP's layer; keys and values that heads share belong to the heads."""
    return node.kind.removeprefix("kv_"), node.layer
