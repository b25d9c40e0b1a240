"""A circuit as a graph: the embeddings at the bottom, the logits on top, edges as thick as their scores."""

from __future__ import annotations

import html

from caseback.errors import CasebackError
from caseback.reports.document import checked
from caseback.reports.figures.circuit_parts import circuit_parts
from caseback.views.figure.figure import Figure
from caseback.views.figure.svg import clipped, element, text, width_of
from caseback.views.numbers_text import signed

__all__ = ["graph"]

_ROW, _GAP, _HIGH, _MOST = 74.0, 22.0, 24.0, 400


@checked
def graph(circuit: object, *, title: str = "") -> Figure:
    """Draw a circuit's nodes and edges.

    Parameters
    ----------
    circuit
        The circuit, of at most 400 nodes. Larger ones have a page: ``caseback circuit --html``.
    title
        The figure's title; by default none.

    Returns
    -------
    Figure
        Orange edges support the answer, blue ones speak against it, gray ones have no score.

    Raises
    ------
    CasebackError
        For a circuit without a node, or with more than can be told apart.

    Examples
    --------
    >>> import caseback as cb
    >>> graph(cb.Circuit.of("embed -> L0H1.v", "L0H1 -> logits")).drawn.count("class='knot'")
    3
    """
    parts = circuit_parts(circuit)  # type: ignore[arg-type]  # a view imports no Circuit
    count = sum(map(len, parts.rows))
    if not 0 < count <= _MOST:
        raise CasebackError(f"a circuit of {count} nodes: a graph is drawn of 1 to {_MOST}, keep the strongest edges")
    widths = {name: max(width_of(_shown(name, parts.roles), 12) + 16, 44.0) for row in parts.rows for name in row}
    across = [sum(widths[name] for name in row) + _GAP * (len(row) - 1) for row in parts.rows]
    wide = max(*across, 220.0) + 16
    height = _ROW * (len(parts.rows) - 1) + _HIGH + 16
    at: dict[str, tuple[float, float]] = {}
    for i, row in enumerate(parts.rows):
        x, y = (wide - across[i]) / 2, height - 8 - _HIGH / 2 - _ROW * i
        for name in row:
            at[name] = x + widths[name] / 2, y
            x += widths[name] + _GAP
    most = max((abs(score) for *_, score in parts.edges if score is not None), default=1.0) or 1.0
    drawn = [_edge(edge, at, most) for edge in parts.edges]
    for name, (x, y) in at.items():
        box = {"x": x - widths[name] / 2, "y": y - _HIGH / 2, "width": widths[name], "height": _HIGH, "rx": 5}
        more = element("title", html.escape(f"{name} {parts.roles.get(name, '')}".strip()))
        drawn.append(element("rect", more, **box, class_="knot"))
        drawn.append(text(_shown(name, parts.roles), x, y + 4, class_="mono mid", pointer_events="none"))
    scored = any(score is not None for *_, score in parts.edges)
    caption = "Orange edges support the answer, blue ones speak against it." if scored else ""
    return Figure(
        "".join(drawn),
        wide,
        height,
        title,
        circuit,
        caption=caption,
        question="Which components are in it, along which edges?",
    )


def _edge(edge: tuple[str, str, str, float | None], at: dict[str, tuple[float, float]], most: float) -> str:
    source, target, slot, score = edge
    (x1, y1), (x2, y2) = at[source], at[target]
    y1, y2 = y1 - _HIGH / 2, y2 + _HIGH / 2
    kind = "plain" if score is None or score == 0 else "foil" if score < 0 else "target"
    thick = 1.2 if score is None else 0.6 + 4.4 * abs(score) / most
    shown = "" if score is None else f": {signed(score)}"
    more = element("title", html.escape(f"{source} -> {target}{'.' + slot if slot else ''}{shown}"))
    bend = (y1 - y2) * 0.45
    # past what stands between: a long edge bows out
    out = 26.0 if abs(x1 - x2) < 2 and y1 - y2 > _ROW else 0.0
    path = f"M{x1:.1f} {y1:.1f}C{x1 + out:.1f} {y1 - bend:.1f} {x2 + out:.1f} {y2 + bend:.1f} {x2:.1f} {y2:.1f}"
    return element("path", more, d=path, class_=f"link {kind}", stroke_width=f"{thick:.1f}")


def _shown(name: str, roles: dict[str, str]) -> str:
    return clipped(f"{name} · {roles[name]}" if name in roles else name, 30)
