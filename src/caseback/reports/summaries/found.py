"""What was found: circuits, findings of one kind or of a whole model."""

from __future__ import annotations

from caseback.behaviors.atlas import Atlas
from caseback.localize.circuits.judging import Judgement
from caseback.model.circuit import Circuit
from caseback.model.findings import Finding, Findings
from caseback.reports.summaries.summary import MOST_ROWS, Summary, number_text

_HEADS = ("component", "kind", "grade", "#score", "#control", "#band", "effect")


def of_circuit(circuit: Circuit) -> Summary:
    """Its members, the strongest edges first."""
    scores = circuit.scores
    edges = sorted(circuit.edges, key=lambda edge: (-abs(scores.get(edge, 0.0)), str(edge)))
    rows = [
        (str(edge), number_text(scores.get(edge)), circuit.roles.get(edge.source, "")) for edge in edges[:MOST_ROWS]
    ]
    heads = ("edge", "#score", "its writer does")
    if not edges:
        nodes = sorted(circuit.nodes, key=lambda node: (node.depth, node))
        rows = [(str(node), number_text(scores.get(node)), circuit.roles.get(node, "")) for node in nodes[:MOST_ROWS]]
        heads = ("node", "#score", "it does")
    about = f"{len(circuit.nodes)} nodes, {len(edges)} edges"
    facts = {key: _short(value) for key, value in circuit.about.items() if isinstance(value, str | int | float)}
    left = max(0, len(edges or circuit.nodes) - MOST_ROWS)
    return Summary("Circuit", about, facts, heads, rows, left, "cb.views.graph(circuit)")


def of_finding(finding: Finding) -> Summary:
    """One component and its numbers."""
    return Summary(f"Finding {finding.component}", finding.kind, heads=_HEADS, rows=[_row(finding)])


def of_findings(findings: Findings) -> Summary:
    """Its findings in their order."""
    kinds = ", ".join(f"{len(findings.of(kind))} {kind}" for kind in findings.kinds[:6])
    about = f"{len(findings)} findings" + (f": {kinds}" if kinds else "")
    facts = {key: _short(value) for key, value in findings.about.items() if isinstance(value, str | int | float)}
    rows = [_row(one) for one in findings.findings[:MOST_ROWS]]
    return Summary("Findings", about, facts, _HEADS, rows, max(0, len(findings) - MOST_ROWS))


def of_atlas(atlas: Atlas) -> Summary:
    """How many units of each kind have its label, beside how many would have it on the control."""
    looked = [kind for kind in atlas.kinds if not kind.missing]
    rows = [
        (one.kind, one.sort, str(one.labelled), str(one.false_labels), str(one.units), one.experiment or "none")
        for one in looked[:MOST_ROWS]
    ]
    heads = ("kind", "of", "#labeled", "#on the control", "#units", "proof")
    name = atlas.about.get("model", "")
    about = f"{len(looked)} kinds were looked for, {len(atlas.kinds) - len(looked)} could not be"
    return Summary(f"Atlas {name}".strip(), about, {}, heads, rows, max(0, len(looked) - MOST_ROWS), "atlas.findings")


def of_judgement(judgement: Judgement) -> Summary:
    """How much of the behavior it has, by what cut edges carry, and each caveat."""
    measured = judgement.faithfulness
    facts = {"size": f"{judgement.size['edges']:.0f} edges, {100 * judgement.size['share']:.1f}% of the model's"}
    if judgement.completeness is not None:
        facts["largest gap, parts taken away"] = f"{100 * judgement.completeness.attrs['worst_share']:.1f}%"
    if judgement.minimality is not None:
        facts["least needed part"] = str(judgement.minimality.attrs["least_part"])
    facts |= {f"caveat {i}": caveat for i, caveat in enumerate(judgement.caveats, start=1)}
    facts |= {f"not judged: {name}": str(why) for name, why in judgement.left_out.items()}
    numbers = [measured[name].values for name in ("recovered", "recovered_low", "recovered_high")]
    rows = [
        (str(ablation), *map(number_text, row))
        for ablation, *row in zip(measured.ablation.values, *numbers, strict=True)
    ]
    heads = ("cut edges carry", "#recovered", "#low", "#high")
    return Summary("Judgement", "of a circuit", facts, heads, rows, more="judgement.caveats")


def _row(one: Finding) -> tuple[str, ...]:
    effect = "–" if one.effect is None else f"{number_text(one.effect)} {one.unit}".strip()
    return one.component, one.kind, one.grade, *map(number_text, (one.score, one.control, one.band)), effect


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
