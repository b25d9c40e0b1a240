"""Plain HTML tables, for readers and programs without JavaScript."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from caseback.errors import CasebackError
from caseback.reports.document import checked

__all__ = ["table"]


@checked
def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts, each escaped and written in its own direction.

    Examples
    --------
    >>> print(table("Sizes", ["name"], [["<a>"]]).partition("<tbody>")[2])
    <tr><td><bdi>&lt;a&gt;</bdi></td></tr></tbody></table>
    """
    head = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in header)
    rows = list(rows)
    if not all(isinstance(row, list | tuple) and all(isinstance(cell, str) for cell in row) for row in rows):
        raise CasebackError(f"the rows of {caption!r} are not lists of texts: expected a text for each cell")
    body = "".join(
        "<tr>" + "".join(f"<td><bdi>{html.escape(cell)}</bdi></td>" for cell in row) + "</tr>" for row in rows
    )
    caption = html.escape(caption)
    return f"<table><caption>{caption}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
