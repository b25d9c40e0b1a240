"""A circuit's judgement in one piece, with what stands against it (PRIMER 3.2.21, 3.2.37).

The shortcomings of circuit analysis that the Primer lists, each as a number where there is one: what the choice of
counterfactuals and of the prompts' templates does to the answer, which parts a person named, what takes over when a
part goes (second-order repair), and what the search and the judging cost.

Judging costs far more than finding: faithfulness is two runs of circuits, minimality (sets + 1) x (nodes + 1) of them.
So it goes in steps, the cheapest and most telling first, and each step that is done stands by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.jobs.steps import Step, Steps
from caseback.localize.circuits.completeness import completeness
from caseback.localize.circuits.faithfulness import faithfulness
from caseback.localize.circuits.machinery.masks import places_of
from caseback.localize.circuits.machinery.optimal_writes import STEPS
from caseback.localize.circuits.machinery.sizes import circuit_size, inputs_of
from caseback.localize.circuits.minimality import minimality
from caseback.model.circuit import Circuit
from caseback.model.display import Displayed
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@dataclass(frozen=True, eq=False)
class Judgement(Displayed):
    """What is known of a circuit.

    Attributes
    ----------
    size
        As ``circuit_size`` counts.
    faithfulness
        One variant per ablation.
    completeness, minimality
        Their datasets; None where the circuit has no heads or MLPs to take away, or names positions.
    groups
        The share recovered by group of prompts, such as templates.
    caveats
        What speaks against the numbers, in sentences.
    left_out
        What was not judged, by name, and why: how long it would take, or ``"interrupted"``.
    """

    size: dict[str, float]
    faithfulness: xr.Dataset
    completeness: xr.Dataset | None
    minimality: xr.Dataset | None
    groups: dict[str, float]
    caveats: list[str]
    left_out: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Judgement({self.size['edges']:.0f} edges, {len(self.caveats)} caveats)"

    def to_json(self) -> dict[str, Any]:
        """The main numbers as plain data.

        Examples
        --------
        ::

            json.dumps(judge(model, clean, corrupt, metric, circuit).to_json())
        """
        measured = self.faithfulness
        numbers = [str(name) for name in measured.data_vars if measured[name].dims == ("variant",)]
        rows = [
            {
                "ablation": str(measured.ablation.values[i]),
                **{name: float(measured[name].values[i]) for name in numbers},
            }
            for i in range(measured.sizes["variant"])
        ]
        data: dict[str, Any] = {"size": self.size, "faithfulness": rows, "groups": self.groups, "caveats": self.caveats}
        data["left_out"] = self.left_out
        if self.completeness is not None:
            data["completeness"] = {key: self.completeness.attrs[key] for key in ("worst", "worst_share", "worst_set")}
        if self.minimality is not None:
            least = {key: self.minimality.attrs[key] for key in ("least", "least_part")}
            shares = zip(self.minimality.component.values, self.minimality.share.values, strict=True)
            data["minimality"] = least | {"share": {str(name): float(share) for name, share in shares}}
        return data


@technique(
    role="judgement",
    entry=("3.2.21", "3.2.37"),
    citation="Wang et al. 2023, Miller et al. 2024",
    cost="one circuit run per ablation, and 2 x sets + (sets + 1) x nodes more",
)
def judge(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    circuit: Circuit,
    *,
    ablations: Sequence[str] = ("resample", "mean", "zero"),
    groups: Sequence[str] | None = None,
    sets: int = 10,
    over: PromptsLike | None = None,
    positions: Mapping[str, Any] | None = None,
    inputs: tuple[str, ...] | None = None,
    seed: int = 0,
    within: float | None = None,
    report: Callable[[Judgement], None] | None = None,
    progress: bool = False,
) -> Judgement:
    """Judge a circuit by all criteria, or by as many as a time allows, and list what speaks against the verdict.

    The first judgement, faithfulness under the first ablation, is always made and costs two runs of circuits; the
    others follow in the order of ``ablations``, completeness, minimality. An interrupt (Ctrl-C) after the first ends
    the judging, and what was judged so far is returned.

    Parameters
    ----------
    model, clean, corrupt, metric, circuit
        As for ``faithfulness``; prompts that the circuit was not found on make it a test.
    ablations
        What edges outside carry; completeness and minimality take the first.
    groups
        Each prompt's template or condition, as ``Prompts.groups``.
    sets
        Random sets of parts for completeness and for minimality.
    over, positions, seed, progress
        As for ``faithfulness``. A circuit that names positions is not taken apart.
    inputs
        By default as the circuit names them.
    within
        Seconds that judging may take; a criterion that would not be done by then, as the runs before show, is left
        out. None for all of them, 0 for faithfulness under the first ablation alone.
    report
        Called with the judgement so far whenever a criterion is done.

    Returns
    -------
    Judgement
        With ``caveats``: sentences on what the entry 3.2.37 warns of, where it shows.

    Raises
    ------
    CasebackError
        As ``faithfulness``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> ioi = cb.tasks.ioi().prompts(model, 8)
    >>> scores = cb.localize.circuits.edge_attribution(model, ioi.clean, ioi.corrupt, ioi.metric)
    >>> circuit = cb.localize.circuits.select(model, scores, 60)
    >>> judgement = judge(model, ioi.clean, ioi.corrupt, ioi.metric, circuit, sets=2)
    >>> judgement.size["edges"] <= 60, sorted(judgement.to_json())[:3]
    (True, ['caveats', 'completeness', 'faithfulness'])
    """
    steps = Steps(
        judging_steps(
            *(model, clean, corrupt, metric, circuit),
            ablations=ablations,
            sets=sets,
            over=over,
            positions=positions,
            inputs=inputs,
            seed=seed,
            progress=progress,
        ),
        within,
    )
    for _ in steps.run():
        if report is not None:
            report(judgement_of(model, circuit, steps, groups=groups, inputs=inputs))
    return judgement_of(model, circuit, steps, groups=groups, inputs=inputs)


def judging_steps(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    circuit: Circuit,
    *,
    ablations: Sequence[str],
    sets: int,
    over: PromptsLike | None = None,
    positions: Mapping[str, Any] | None = None,
    inputs: tuple[str, ...] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> list[Step]:
    """What ``judge`` does, in steps whose units are runs of one circuit on the prompts."""
    inputs = inputs or inputs_of(circuit)
    test = model, clean, corrupt, metric, circuit
    shared: dict[str, Any] = {"over": over, "inputs": inputs, "seed": seed, "progress": progress}

    def faithful(ablation: str) -> xr.Dataset:
        return faithfulness(*test, ablations=[ablation], positions=positions, **shared)

    # the circuit, and the model with every edge cut; a step of the fit of the best constants is a run there and back
    runs = {name: 2 * (3 * STEPS if name == "optimal" else 1) for name in ablations}
    steps = [Step(f"{name} ablation", units, partial(faithful, name)) for name, units in runs.items()]
    size = circuit_size(model, circuit, inputs)
    nodes = size["heads"] + size["mlps"]
    if nodes and circuit.edges and not places_of(circuit):
        parts = {**shared, "ablation": ablations[0], "count": sets}
        steps.append(Step("completeness", 2 * sets + 1, lambda: completeness(*test, **parts)))
        steps.append(Step("minimality", (sets + 1) * (nodes + 1), lambda: minimality(*test, **parts)))
    return steps


def judgement_of(
    model: Model,
    circuit: Circuit,
    steps: Steps,
    *,
    groups: Sequence[str] | None = None,
    inputs: tuple[str, ...] | None = None,
) -> Judgement:
    """The judgement that the steps done so far make."""
    by_ablation: list[xr.Dataset] = [part for name, part in steps.results.items() if name.endswith(" ablation")]
    faithful = by_ablation[0] if len(by_ablation) == 1 else xr.concat(by_ablation, "variant", combine_attrs="override")
    size = circuit_size(model, circuit, inputs or inputs_of(circuit))
    complete, minimal = (steps.results.get(name) for name in ("completeness", "minimality"))
    by_group = _by_group(faithful, groups)
    caveats = list(_caveats(faithful, size, complete, minimal, by_group, circuit))
    return Judgement(size, faithful, complete, minimal, by_group, caveats, dict(steps.left_out))


def _by_group(faithful: xr.Dataset, groups: Sequence[str] | None) -> dict[str, float]:
    """The share recovered under the first ablation, group by group."""
    if groups is None:
        return {}
    if len(groups) != len(faithful.whole):
        raise CasebackError(f"{len(groups)} groups for {len(faithful.whole)} prompts: expected one for each")
    listed = np.asarray(groups)
    metric, empty, whole = faithful.metric.values[0], faithful.empty.values[0], faithful.whole.values
    shares = {}
    for group in dict.fromkeys(groups):
        mine = listed == group
        gap = float(whole[mine].mean() - empty[mine].mean())
        if gap:
            shares[str(group)] = float(metric[mine].mean() - empty[mine].mean()) / gap
    return shares


def _caveats(
    faithful: xr.Dataset,
    size: dict[str, float],
    complete: xr.Dataset | None,
    minimal: xr.Dataset | None,
    groups: dict[str, float],
    circuit: Circuit,
) -> Iterator[str]:
    shares = dict(zip(faithful.ablation.values.tolist(), faithful.recovered.values.tolist(), strict=True))
    low, high = min(shares, key=shares.__getitem__), max(shares, key=shares.__getitem__)
    if shares[high] - shares[low] > 0.1:
        yield (
            f"What is cut matters: {shares[low]:.0%} is recovered with {low} ablation, {shares[high]:.0%} with {high}."
        )
    if groups and max(groups.values()) - min(groups.values()) > 0.2:
        worst = min(groups, key=groups.__getitem__)
        yield (
            f"Templates differ: from {min(groups.values()):.0%} recovered (group {worst!r}) to "
            f"{max(groups.values()):.0%}."
        )
    width = float(faithful.recovered_high[0] - faithful.recovered_low[0])
    if width > 0.2:
        yield f"The prompts are few: the interval of the share recovered is {width:.2f} wide."
    if float(faithful.recovered[0]) > 1.1:
        yield "More than the whole is recovered: the circuit leaves out parts that work against the answer."
    if complete is not None and complete.attrs["worst_share"] > 0.2:
        yield (
            f"Something outside takes over: without {complete.attrs['worst_set']}, circuit and model differ by "
            f"{complete.attrs['worst_share']:.0%} of the whole effect."
        )
    if minimal is not None:
        idle = [
            str(name)
            for name, share in zip(minimal.component.values, minimal.share.values, strict=True)
            if share < 0.01
        ]
        if idle:
            yield f"{len(idle)} nodes change the metric by less than 1 % whatever else is gone: {', '.join(idle[:6])}."
    if size["dangling"]:
        yield f"{size['dangling']} edges lie on no path from an input to the logits; they were left out of the runs."
    if circuit.roles:
        yield f"The roles of {len(circuit.roles)} nodes were given by hand or by looks; no number here tests them."
