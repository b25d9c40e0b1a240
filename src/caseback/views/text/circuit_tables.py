"""Tables of circuits as Markdown, which reads well in a terminal too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from caseback.errors import CasebackError
from caseback.reports.document import checked, drawn_from
from caseback.reports.tables.frontier import SHARES, WANTED

__all__ = ["frontier_markdown", "markdown", "organisms_markdown", "transfer_markdown"]

_WITHIN = 0.1


@checked
@drawn_from("a row of circuits", "on_organisms")
def organisms_markdown(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The AUROC of each method against the true edges of organisms, one a row.

    Examples
    --------
    >>> row = {"name": "recall", "true_edges": 4, "edges": 13, "auroc": {"exact": 1.0}}
    >>> print(organisms_markdown([row], ["exact"]))
    | organism | true edges | exact |
    |----------|-----------:|------:|
    | recall   | 4/13       | 1.000 |
    """
    unknown = [name for name in columns if any(name not in row["auroc"] for row in rows)]
    if unknown:
        raise CasebackError(f"no method is called {unknown[0]!r} in these rows")
    cells = [
        [row["name"], f"{row['true_edges']}/{row['edges']}", *(f"{row['auroc'][name]:.3f}" for name in columns)]
        for row in rows
    ]
    return "\n".join(markdown(["organism", "true edges", *columns], cells))


@checked
@drawn_from("a table of circuits", "frontier_table")
def frontier_markdown(table: Mapping[str, Any]) -> str:
    """What each method's best edges recover, task by task, and the heads of the smallest IOI circuit.

    Parameters
    ----------
    table
        What ``frontier_table`` gave.
    """
    lines = []
    for task in table["tables"]:
        measure = f"{task['measure']}: {task['whole']:.2f} for the model, {task['empty']:.2f} with every edge cut"
        head = ["method", *(f"{share:.0%}" for share in SHARES), f"edges for {WANTED}"]
        lines += [f"**{task['task']}** ({measure})", ""]
        lines += markdown(head, [_row(row, task["edges"]) for row in task["rows"]])
        lines += ["", _fewest(task["fewest"], task["edges"]), ""]
    if table["ioi_heads"]:
        lines += [f"**Heads of the smallest IOI circuit that recovers {WANTED}**, with what they look at and do", ""]
        orders = list(table["ioi_heads"][0]["total"])
        cells = [
            [
                head["head"],
                head["role"] or "·",
                *(f"{head['total'][order]:+.2f}" for order in orders),
                *(head["looks"][order] or "·" for order in orders),
            ]
            for head in table["ioi_heads"]
        ]
        columns = [f"{what} {order}" for what in ("effect", "looks") for order in orders]
        lines += ["ABBA: IO is said before S; BABA: after it.", ""]
        lines += markdown(["head", "role", *columns], cells)
    return "\n".join(lines).rstrip()


@checked
@drawn_from("a table of circuits", "transfer_table")
def transfer_markdown(table: Mapping[str, Any]) -> str:
    """What each task's circuit recovers of every task, with what stands beside it.

    Parameters
    ----------
    table
        What ``transfer_table`` gave.
    """
    tasks = table["tasks"]
    head = ["circuit of", "edges", *(task["name"] for task in tasks)]
    total = table["total"]

    def rows(cell: Callable[[Mapping[str, Any]], str]) -> list[list[str]]:
        return [[task["name"], f"{task['edges']}/{total}", *map(cell, task["on"])] for task in tasks]

    parts = {
        f"Recovered of each task, by {table['method']}, cut edges {table['ablation']} (95 % interval)": rows(
            lambda on: f"{on['recovered']:.2f} ({on['recovered_low']:.2f} to {on['recovered_high']:.2f})"
        ),
        "By as many random edges that lead to the logits: mean, 95 % quantile": rows(
            lambda on: f"{on['random']:.2f}, {on['band']:.2f}"
        ),
        "By all heads and MLPs of its layers": [
            [task["name"], f"{task['edges_of_layers']}/{total}", *(f"{on['same_layers']:.2f}" for on in task["on"])]
            for task in tasks
        ],
        "Edges shared, as IoU (95 % quantile of random edges); nodes": rows(
            lambda on: f"{on['iou_edges']:.2f} ({on['iou_band']:.2f}); {on['iou_nodes']:.2f}"
        ),
    }
    lines = []
    for title, cells in parts.items():
        lines += [f"**{title}**", "", *markdown(head, cells), ""]
    ends = (f"{t['name']} {t['measure']}: {t['whole']:.2f}, cut {t['empty']:.2f}" for t in tasks)
    return "\n".join([*lines, f"In the whole model, and with every edge cut: {'; '.join(ends)}."])


@checked
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
    if any(len(row) != len(head) for row in rows):
        raise CasebackError(f"rows of {sorted({len(row) for row in rows})} cells under a head of {len(head)}")
    columns = list(zip(head, *rows, strict=True))
    numeric = [all(cell[:1] in "0123456789+-·" for cell in column[1:]) for column in columns]
    widths = [max(map(len, column)) for column in columns]
    rule = "|".join("-" * (w + 1) + (":" if right else "-") for w, right in zip(widths, numeric, strict=True))
    lines = [f"| {' | '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))} |" for row in [head, *rows]]
    return [lines[0], f"|{rule}|", *lines[1:]]


def _row(row: Mapping[str, Any], total: int) -> list[str]:
    if row["point"] is not None:
        edges, recovered = row["point"]
        needed = f"{recovered:.2f} by {edges} ({edges / total:.1%})"
    else:
        needed = "none" if row["needed"] is None else f"{row['needed']} ({row['needed'] / total:.1%})"
    return [row["method"], *("·" if value is None else f"{value:.2f}" for value in row["at"]), needed]


def _fewest(reached: tuple[int, str] | None, total: int) -> str:
    if reached is None:
        return f"No number of edges that was measured recovers {WANTED} to {2 - WANTED:.1f}."
    fewest, method = reached
    if fewest <= _WITHIN * total:
        share = f"{fewest / total:.1%}"
        return f"{WANTED} to {2 - WANTED:.1f} is recovered by {fewest} of {total} edges ({share}): {method}."
    return (
        f"Within {_WITHIN:.0%} of the edges less than {WANTED} is recovered; the fewest that do are {fewest}: {method}."
    )
