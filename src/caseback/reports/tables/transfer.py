"""What each task's circuit does of the others, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caseback.behaviors.circuit_transfer import circuit_transfer
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.tasks import get

__all__ = ["transfer_table"]


@checked
def transfer_table(
    model: Model,
    names: Sequence[str],
    count: int,
    *,
    method: str = "eap-ig",
    edges: int | float = 0.1,
    ablation: str = "resample",
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Find each task's circuit, and run it on the others.

    Parameters
    ----------
    model, method, edges, ablation, seed, progress
        As for ``circuit_transfer``.
    names
        Tasks.
    count
        Prompts of each to find circuits on, and as many to judge them on.

    Returns
    -------
    dict
        ``model``, ``method``, ``ablation``, the ``total`` of edges, and as ``tasks`` each one's ``name``, ``measure``,
        its metric ``whole`` and ``empty``, how many ``edges`` its circuit has and all of its layers, and in ``on`` what
        its circuit does of every task.

    Examples
    --------
    ::

        transfer_table(cb.load("meadow"), ["ioi", "agreement"], 16)["tasks"][0]["on"][1]["recovered"]
    """
    prompts = {name: get(name).prompts(model, 2 * count, seed=seed) for name in dict.fromkeys(names)}
    options = {"method": method, "edges": edges, "ablation": ablation, "seed": seed, "progress": progress}
    table = circuit_transfer(model, prompts, **options)
    pairs = [name for name, values in table.items() if values.dims == ("circuit", "task")]
    return {
        "model": model.name,
        "method": method,
        "ablation": ablation,
        "total": int(table.attrs["total"]),
        "tasks": [
            {
                "name": name,
                "measure": prompts[name].measure,
                **{end: float(table[end].sel(task=name)) for end in ("whole", "empty")},
                **{size: int(table[size].sel(circuit=name)) for size in ("edges", "edges_of_layers")},
                "on": [
                    {"task": task, **{pair: float(table[pair].sel(circuit=name, task=task)) for pair in pairs}}
                    for task in prompts
                ],
            }
            for name in prompts
        ],
    }
