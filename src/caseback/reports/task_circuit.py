"""The circuit of a task: found on some of its prompts, judged on others, with all that its document needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from caseback.jobs.steps import Step, Steps
from caseback.localize.circuits import faithfulness_curve, find_circuit
from caseback.localize.circuits.curve import FRACTIONS
from caseback.localize.circuits.judging import Judgement, judgement_of, judging_steps
from caseback.localize.circuits.machinery.sizes import inputs_of
from caseback.model.arguments import checked
from caseback.model.circuit import Circuit, Edge
from caseback.model.graph.graph import Graph
from caseback.model.running.model import Model
from caseback.reports.circuit import circuit_document
from caseback.tasks import get
from caseback.tasks.prompts import Prompts

__all__ = ["TaskCircuit", "task_circuit"]


class TaskCircuit(NamedTuple):
    """A circuit, its document, the prompt that the document shows, and whether judging was interrupted."""

    circuit: Circuit
    document: dict[str, Any]
    example: Prompts
    interrupted: bool


@checked
def task_circuit(
    model: Model,
    task: str | Prompts,
    *,
    method: str = "eap-ig",
    edges: int | float | None = None,
    threshold: float | None = None,
    how: str = "top",
    ablation: str = "resample",
    count: int = 40,
    sets: int = 5,
    seed: int = 0,
    circuit: Circuit | None = None,
    other: Circuit | None = None,
    other_name: str = "",
    within: float | None = 0,
    before_judging: Callable[[Circuit], None] | None = None,
    report: Callable[[Judgement], None] | None = None,
    progress: bool = False,
    checkpoint: Path | None = None,
) -> TaskCircuit:
    """Find the circuit of a task, and judge it on as many other prompts.

    Parameters
    ----------
    model, task
        The model, and the task's name; or prompts that are drawn already (``fresh_prompts`` makes such of one), of
        which it is found on the first half.
    method, edges, threshold, how, checkpoint
        As for ``find_circuit``.
    ablation
        What cut edges carry, in finding, judging and the curve; ``"optimal"`` is for judging alone.
    count
        Prompts of a named task to find it on, and as many to judge it on.
    sets
        Random sets for completeness and minimality.
    seed
        Of prompts and sets.
    circuit
        One that is there already: it is judged, and none is found.
    other, other_name
        A circuit to compare with, and what it is called.
    within
        Seconds that judging may take: 0 for faithfulness under ``ablation`` alone, None for all criteria and the curve.
    before_judging
        Called with the circuit before it is judged, so that it is not lost with the judging.
    report
        As for ``judge``.
    progress
        Show progress bars.

    Examples
    --------
    ::

        task_circuit(cb.load("meadow"), "ioi", edges=60).document["size"]
    """
    drawn = task if isinstance(task, Prompts) else get(task).prompts(model, 2 * count, seed=seed)
    name, count = drawn.task, len(drawn) // 2
    finding, judging = drawn[:count], drawn[count:]
    if circuit is None:
        circuit = find_circuit(
            model,
            finding.clean,
            finding.corrupt,
            finding.metric,
            method=method,
            edges=edges,
            threshold=threshold,
            how=how,
            ablation="resample" if ablation == "optimal" else ablation,
            progress=progress,
            checkpoint=checkpoint,
        )
    circuit = replace(circuit, about={**circuit.about, "task": name, "prompts": count, "seed": seed})
    if before_judging is not None:
        before_judging(circuit)
    test = judging.clean, judging.corrupt, judging.metric
    steps = judging_steps(
        *(model, *test, circuit),
        ablations=(ablation, "resample", "mean", "zero"),
        sets=sets,
        seed=seed,
        progress=progress,
    )
    graph = Graph.of(model.anatomy, inputs_of(circuit))
    scored = sum(isinstance(part, Edge) for part in circuit.scores) == len(graph.edges)
    if scored and circuit.about.get("method") != "acdc":
        drawn_as = {"ablation": ablation, "inputs": graph.inputs, "how": how, "progress": progress}
        curve = Step("curve", len(FRACTIONS) + 1, lambda: faithfulness_curve(model, *test, circuit, **drawn_as))
        # minimality, the last, takes longer than all others together
        steps.insert(len(steps) - any(step.name == "minimality" for step in steps), curve)
    judged = Steps(steps, within)
    for step in judged.run():
        if report is not None and step.name != "curve":
            report(judgement_of(model, circuit, judged, groups=judging.groups))
    curves = {}
    if "curve" in judged.results:
        curves[str(circuit.about.get("found_by", method))] = judged.results["curve"]
    document = circuit_document(
        model,
        judging.clean[:1],
        circuit,
        counterfactual=judging.corrupt[:1],
        task=name,
        curves=curves,
        judgement=judgement_of(model, circuit, judged, groups=judging.groups),
        other=other,
        other_name=other_name,
    )
    return TaskCircuit(circuit, document, judging[:1], judged.interrupted)
