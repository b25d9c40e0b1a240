"""Tables of `caseback circuit`: methods on models whose circuits are known, and what ever more edges recover."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from caseback.cli.loading import quiet
from caseback.jobs.whole_file import whole_file

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
WANTED, WITHIN = 0.9, 0.1


def print_organisms(names: Sequence[str] | None, write: Path | None, as_json: bool) -> None:
    """Table the AUROC of each method against the true edges of compiled organisms."""
    with quiet():
        from caseback.localize.circuits.on_organisms import COLUMNS, on_organisms

        rows = on_organisms(names or None, progress=sys.stderr.isatty())
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = [
        [row["name"], f"{row['true_edges']}/{row['edges']}", *(f"{row['auroc'][name]:.3f}" for name in COLUMNS)]
        for row in rows
    ]
    lines = markdown(["organism", "true edges", *COLUMNS], table)
    _out(lines, write, "caseback circuit --organisms")


def print_frontier(
    tasks: Sequence[str], name: str, count: int, seed: int, ablation: str, write: Path | None, as_json: bool
) -> None:
    """Table what each method's best edges recover on prompts that they were not found on."""
    with quiet():
        from caseback import tasks as known
        from caseback.localize.circuits.frontier import frontier
        from caseback.model.running.load import load

        loaded, bar = load(name), sys.stderr.isatty()
        found = []
        for task in tasks:
            drawn = known.get(task).prompts(loaded, 2 * count, seed=seed)
            curves = frontier(loaded, drawn[:count], drawn[count:], SHARES, ablation=ablation, progress=bar)
            found.append((task, drawn, curves))
        heads = next((_heads(loaded, drawn[count:], curves) for task, drawn, curves in found if task == "ioi"), [])
    if as_json:
        told = {task: [curve.to_json() for curve in curves] for task, _, curves in found}
        typer.echo(json.dumps({"model": loaded.name, "tasks": told, "ioi_heads": heads}, allow_nan=False))
        return
    lines = []
    for task, drawn, curves in found:
        whole, empty = curves[0].whole, curves[0].empty
        measure = f"{drawn.measure}: {whole:.2f} for the model, {empty:.2f} with every edge cut"
        lines += [f"**{task}** ({measure})", ""]
        shares = [f"{share:.0%}" for share in SHARES]
        lines += markdown(["method", *shares, "edges for 0.9"], [_line(curve) for curve in curves])
        lines += ["", _best(curves), ""]
    if heads:
        lines += ["**Heads of the smallest IOI circuit that recovers 0.9**, with what they look at and do", ""]
        table = [[h["head"], h["role"] or "·", f"{h['total']:+.2f}", h["looks"] or "·"] for h in heads]
        lines += markdown(["head", "role", "effect", "looks"], table)
    said = f"caseback circuit {' '.join(tasks)} --frontier --model {name} --prompts {count} --seed {seed}"
    _out(lines, write, said)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table that reads well as text too.

    Examples
    --------
    >>> for line in markdown(["a", "b"], [["x", "10"]]):
    ...     print(line)
    | a | b  |
    |---|---:|
    | x | 10 |
    """
    columns = list(zip(head, *rows, strict=True))
    numeric = [all(cell[:1] in "0123456789+-·" for cell in column[1:]) for column in columns]
    widths = [max(map(len, column)) for column in columns]
    rule = "|".join("-" * (w + 1) + (":" if right else "-") for w, right in zip(widths, numeric, strict=True))
    lines = [f"| {' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))} |" for row in [head, *rows]]
    return [lines[0], f"|{rule}|", *lines[1:]]


def _line(curve: Any) -> list[str]:
    needed = curve.edges_for(WANTED)
    told = "none" if needed is None else f"{needed} ({needed / curve.total:.1%})"
    if len(curve.edges) == 1:
        told = f"{curve.recovered[0]:.2f} by {curve.edges[0]} ({curve.edges[0] / curve.total:.1%})"
    at = [curve.at(share) for share in SHARES]
    return [curve.method, *("·" if value is None else f"{value:.2f}" for value in at), told]


def _best(curves: Sequence[Any]) -> str:
    reached = [(curve.edges_for(WANTED), curve.method) for curve in curves if curve.edges_for(WANTED) is not None]
    fewest, method = min(reached)
    total = curves[0].total
    if fewest <= WITHIN * total:
        return (
            f"{WANTED} to {2 - WANTED:.1f} is recovered by {fewest} of {total} edges ({fewest / total:.1%}): {method}."
        )
    return (
        f"Within {WITHIN:.0%} of the edges less than {WANTED} is recovered; the fewest that do are {fewest}: {method}."
    )


def _heads(model: Any, prompts: Any, curves: Sequence[Any]) -> list[dict[str, Any]]:
    """The heads of the smallest faithful circuit: their roles by looks and effect, and where they look."""
    from caseback.behaviors.indirect_object import LOOKS, ioi_heads

    kept = [curve.circuit for curve in curves if curve.circuit is not None]
    if not kept:
        return []
    smallest = min(kept, key=len)
    inside = {str(edge.source) for edge in smallest.edges if edge.source.kind == "head"}
    means = ioi_heads(model, prompts).mean("batch", keep_attrs=True)
    rows = []
    for i, name in enumerate(means.component.values.tolist()):
        looks = {key: float(means[key][i]) for key in LOOKS}
        said = ", ".join(
            f"{query} at {key} {looks[look]:.0%}" for look, (query, key) in LOOKS.items() if looks[look] >= 0.1
        )
        row = {"head": name, "role": str(means.role.values[i]), "total": float(means.total[i]), "looks": said}
        rows += [row] if name in inside else []
    return sorted(rows, key=lambda row: -abs(row["total"]))


def _out(lines: list[str], write: Path | None, command: str) -> None:
    text = "\n".join(lines).rstrip() + "\n"
    if write is None:
        typer.echo(text)
        return
    with whole_file(write) as draft:
        draft.write_text(f"<!-- written by `{command} --write {write}` -->\n\n{text}", encoding="utf-8")
    typer.echo(f"written to {write}", err=True)
