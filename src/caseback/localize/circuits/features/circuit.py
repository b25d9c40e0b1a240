"""Sparse feature circuits: the nodes of large effect, and the direct edges between them (PRIMER 3.2.29).

nodes   |IE| > T_N    at each position of each prompt, before any sum
edges   |E(u -> d)| > T_E, likewise, between nodes that passed
then    scores: summed (or the largest) over positions, averaged over prompts
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.localize.circuits.features.cut_run import SLOTS
from caseback.localize.circuits.features.edges import WHOLE, EdgeFinder, Edges
from caseback.localize.circuits.features.effects import batches, expect_method, measured_effects
from caseback.localize.circuits.features.entries import Entries, names_of, reduced
from caseback.localize.circuits.features.places import Place, gaps_of, places_of
from caseback.localize.circuits.features.two_runs import TwoRuns
from caseback.model.anatomy.sites import Site
from caseback.model.circuit import Circuit, Edge, Node
from caseback.model.prompts.per_token import expect_metric
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    role="circuit",
    entry=("3.2.29", "3.2.22"),
    citation="Marks et al. 2024",
    cost="as feature_effects, and 1 forward + 1 backward of a copy of the prompt for each downstream node",
)
def feature_circuit(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    *,
    sites: str | Sequence[Any] = ("feature", "feature_error"),
    method: str = "integrated_gradients",
    steps: int = 10,
    rule: str = "riemann_left",
    direction: str = "noising",
    node_threshold: float = 0.1,
    edge_threshold: float = 0.01,
    aggregation: str = "sum",
    top: int | None = None,
    edges: bool = True,
    batch_size: int | None = None,
    progress: bool = False,
) -> Circuit:
    """The circuit of features, errors, neurons or heads that a metric needs.

    Parameters
    ----------
    model, clean, corrupt, metric, sites, steps, rule, direction, batch_size
        As for ``feature_effects``.
    method
        How nodes' effects are found, as there. With ``"exact"`` edges take the gradients of the base run.
    node_threshold, edge_threshold
        In the metric's unit, for each position of each prompt; those of the paper's code. 0 keeps all that is not 0.
    aggregation
        Over positions: ``"sum"``, ``"max"`` (in size, with its sign), or ``"none"``, where every position has nodes of
        its own (``L3F7@2``), which asks for prompts of one template. Over prompts scores are averaged.
    top
        Keep so many nodes of those that passed, by their averaged scores.
    edges
        Whether edges are found; else the circuit has nodes alone.
    progress
        Show a progress bar.

    Returns
    -------
    Circuit
        Nodes and edges with scores: what the metric would change by, on average, if they carried the other run's value
        (an edge: through this edge alone). Edges into ``logits`` are those into the metric, past every other place. An
        edge into a head goes through its q, k or v.

    Raises
    ------
    CasebackError
        Where no node is left, saying how large the largest effect was; and as for ``feature_effects``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> pair = "The key to the doors", "The keys to the doors"
    >>> circuit = feature_circuit(model, *pair, cb.logit_diff(" is", " are"), sites=["z", "mlp_post"], top=20)
    >>> len(circuit.nodes), len(circuit.edges) > 5
    (21, True)
    """
    metric = expect_metric(metric)
    expect_method(method, steps, rule)
    Entries.none().aggregated(aggregation)
    for name, value in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
        if value < 0:
            raise OutOfRange(f"{name}={value}: expected 0 or more")
    if top is not None and top < 1:
        raise OutOfRange(f"top={top}: expected at least 1")
    places = places_of(model, sites)

    def effects() -> Iterator[tuple[TwoRuns, Entries, dict[Site, Tensor]]]:
        for _, runs in batches(model, clean, corrupt, metric, places, method, direction, batch_size, progress):
            entries, _, _, gradients = measured_effects(runs, method, steps, rule, 0.0)
            yield runs, entries, gradients or (runs.gradients() if edges else {})

    members = _Members(places, aggregation, node_threshold)
    if top is not None:
        for runs, entries, _ in effects():
            members.add(entries, len(runs.tokens))
        members = _Members(places, aggregation, node_threshold, members.strongest(top))
    carried = _Sums()
    for runs, entries, gradients in effects():
        passed = members.add(entries, len(runs.tokens))
        if edges and len(passed):
            at = EdgeFinder(runs, passed, gradients).edges(edge_threshold, progress=progress)
            carried.add(*_edges_by_name(places, passed, at, aggregation))
    if not members.sums.of:
        raise CasebackError(
            f"no node's effect is larger than {node_threshold}: the largest is {members.largest[1]:.3g}, of "
            f"{members.largest[0] or 'none'}; lower node_threshold"
        )
    scores: dict[Node | Edge, float] = {
        Node.parse(name): total / members.n_prompts for name, total in members.sums.of.items()
    }
    between = {Edge.parse(name): total / members.n_prompts for name, total in carried.of.items()}
    return Circuit(
        frozenset(between),
        frozenset(node for node in scores if isinstance(node, Node)),
        scores | between,
        about={
            "method": method,
            **({"steps": steps, "rule": rule} if method == "integrated_gradients" else {}),
            "sites": [str(place.site) for place in places],
            "direction": direction,
            "patch": "zero" if corrupt is None else "resample",
            "metric": metric.name,
            "node_threshold": node_threshold,
            "edge_threshold": edge_threshold,
            "aggregation": aggregation,
            "prompts": members.n_prompts,
            "uncovered": gaps_of(places),
            "citation": "Marks et al. 2024",
        },
    )


@dataclass
class _Sums:
    """Totals by name."""

    of: dict[str, float] = field(default_factory=dict)

    def add(self, names: Sequence[str], values: Tensor) -> None:
        for name, value in zip(names, values.tolist(), strict=True):
            self.of[name] = self.of.get(name, 0.0) + value


@dataclass
class _Members:
    """The nodes that passed, over all prompts seen so far; of some nodes alone where ``only`` names them."""

    places: Sequence[Place]
    aggregation: str
    threshold: float
    only: frozenset[str] | None = None
    sums: _Sums = field(default_factory=_Sums)
    largest: tuple[str, float] = ("", 0.0)
    n_prompts: int = 0

    def add(self, entries: Entries, n_prompts: int) -> Entries:
        """Take what passed of some prompts' effects, and give it back."""
        self.n_prompts += n_prompts
        if len(entries):
            first = entries.strongest(1)
            size = float(first.effect.abs())
            self.largest = max(self.largest, (names_of(self.places, first)[0], size), key=lambda pair: pair[1])
        passed = entries.only(entries.effect.abs() > self.threshold)
        if self.only is not None:
            named = [name in self.only for name in self._names(passed)]
            passed = passed.only(torch.tensor(named, dtype=torch.bool))
        whole = passed.aggregated(self.aggregation)
        self.sums.add(names_of(self.places, whole), whole.effect)
        return passed

    def _names(self, entries: Entries) -> list[str]:
        if self.aggregation != "none":
            entries = replace(entries, pos=torch.full_like(entries.pos, -1))
        return names_of(self.places, entries)

    def strongest(self, count: int) -> frozenset[str]:
        """The names of so many nodes of largest total."""
        return frozenset(sorted(self.sums.of, key=lambda name: (-abs(self.sums.of[name]), name))[:count])


def _edges_by_name(
    places: Sequence[Place], entries: Entries, edges: Edges, aggregation: str
) -> tuple[list[str], Tensor]:
    """Edges between nodes by name, each prompt's reduced over positions; a name for each prompt that has the edge."""
    named = entries if aggregation == "none" else replace(entries, pos=torch.full_like(entries.pos, -1))
    columns = torch.stack([named.place, named.unit, named.pos], 1)
    nodes, at = columns.unique(dim=0, return_inverse=True)
    into = torch.where(edges.downstream == WHOLE, WHOLE, at[edges.downstream]) if len(at) else edges.downstream
    keys = torch.stack([entries.prompt[edges.upstream], at[edges.upstream], into, edges.slot], 1)
    groups, effect = reduced(keys, edges.effect, aggregation)
    one_each = Entries(nodes[:, 0], nodes[:, 0], nodes[:, 2], nodes[:, 1], nodes[:, 0].double())
    names = names_of(places, one_each)
    listed = []
    for _, source, target, slot in groups.tolist():
        name, _, pos = ("logits" if target == WHOLE else names[target]).partition("@")
        end = f".{SLOTS[slot]}" if slot != WHOLE else ""
        listed.append(f"{names[source]} -> {name}{end}{'@' + pos if pos else ''}")
    return listed, effect
