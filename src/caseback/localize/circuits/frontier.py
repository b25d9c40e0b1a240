"""How few edges do how much of a task: every method's frontier, on prompts that its edges were not chosen on (3.2.21).

    f_method(k) = share recovered by the k edges that the method ranks first, measured on held-out prompts

Beside the rankings stands the circuit that is left when the last of them is shrunk on the prompts it was found on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from caseback.localize.circuits.curve import faithfulness_curve
from caseback.localize.circuits.faithfulness import faithfulness
from caseback.localize.circuits.methods import find_circuit
from caseback.localize.circuits.selecting import select
from caseback.localize.circuits.shrinking import shrink
from caseback.model.circuit import Circuit
from caseback.model.graph.graph import Graph
from caseback.model.running.model import Model
from caseback.tasks.prompts import Prompts

RANKINGS = ("eap", "eap-ig", "eap-ig-activations")


@dataclass(frozen=True)
class Frontier:
    """What one method's circuits recover, size by size.

    Attributes
    ----------
    method
        The method's name.
    total
        The model's edges.
    edges, recovered
        Sizes and shares recovered, from small to large.
    whole, empty
        The metric of the model and with every edge cut.
    circuit
        The smallest circuit that recovers the share that was wanted, if one does.
    """

    method: str
    total: int
    edges: list[int]
    recovered: list[float]
    whole: float
    empty: float
    circuit: Circuit | None = field(default=None, compare=False, repr=False)

    def edges_for(self, wanted: float) -> int | None:
        """The smallest size measured whose share recovered is within ``1 - wanted`` of 1, on either side."""
        good = [n for n, f in zip(self.edges, self.recovered, strict=True) if abs(1 - f) <= 1 - wanted + 1e-9]
        return min(good) if good else None

    def at(self, share: float) -> float | None:
        """What is recovered at a share of the edges, where that was measured."""
        count = int(share * self.total)
        return dict(zip(self.edges, self.recovered, strict=True)).get(count)

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Examples
        --------
        >>> Frontier("eap", 10, [1, 10], [0.5, 1.0], 3.0, 0.0).to_json()["recovered"]
        [0.5, 1.0]
        """
        data = asdict(self)
        data.pop("circuit")
        return data


def frontier(
    model: Model,
    finding: Prompts,
    judging: Prompts,
    shares: Sequence[float],
    *,
    rankings: Sequence[str] = RANKINGS,
    wanted: float = 0.9,
    ablation: str = "resample",
    progress: bool = False,
) -> list[Frontier]:
    """Measure what each method's best edges recover.

    Parameters
    ----------
    model
        The model.
    finding, judging
        ``Prompts`` of a task to find circuits on, and others to judge them on.
    shares
        Shares of the edges that must be among the sizes measured; between them there are others.
    rankings
        Methods that score edges, as ``find_circuit`` knows them. The circuit of the last one is shrunk besides.
    wanted
        What the shrunk circuit must recover on the prompts it is found on, and a little more.
    ablation
        As for ``faithfulness``.
    progress
        Show a progress bar.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> drawn = cb.tasks.get("relation").prompts(model, 8)
    >>> frontiers = frontier(model, drawn[:4], drawn[4:], [0.1], rankings=["eap"])
    >>> [one.method for one in frontiers], frontiers[0].total
    (['eap', 'eap, shrunk'], 685)
    """
    graph = Graph.of(model.anatomy)
    total = len(graph.edges)
    steps = {int(n) for n in np.geomspace(max(3, total // 200), total, 16)}
    sizes = sorted({int(share * total) for share in shares if int(share * total)} | steps)
    pairs, test = ((p.clean, p.corrupt, p.metric) for p in (finding, judging))
    frontiers, scored = [], Circuit()
    for name in rankings:
        scored = find_circuit(model, *pairs, method=name, edges=total, progress=progress)
        curve = faithfulness_curve(model, *test, scored, sizes=sizes, ablation=ablation, progress=progress)
        whole, empty = curve.attrs["whole"], curve.attrs["empty"]
        measured = Frontier(name, total, curve.edges.values.tolist(), curve.recovered.values.tolist(), whole, empty)
        needed = measured.edges_for(wanted)
        circuit = None if needed is None else select(graph, scored, needed)
        frontiers.append(Frontier(name, total, measured.edges, measured.recovered, whole, empty, circuit))
    margin = (1 - wanted) / 2
    # shrinking begins at the smallest size, of at least a tenth of the edges, that recovers enough
    for count in [n for n in sizes if n >= total // 10]:
        begin = select(graph, scored, count)
        share = float(faithfulness(model, *pairs, begin, ablations=ablation, resamples=1).recovered[0])
        if abs(1 - share) <= margin:
            least = wanted + margin
            small = shrink(model, *pairs, begin, ablation=ablation, progress=progress, least=least, most=2 - least)
            share = float(faithfulness(model, *test, small, ablations=ablation, resamples=1).recovered[0])
            name = f"{rankings[-1]}, shrunk"
            held = abs(1 - share) <= 1 - wanted
            last = frontiers[-1]
            frontiers.append(
                Frontier(name, total, [len(small)], [share], last.whole, last.empty, small if held else None)
            )
            break
    return frontiers
