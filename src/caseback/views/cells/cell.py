"""A summary in a notebook's cell, on a page or in the terminal: the same words in all three."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from caseback.errors import CasebackError
from caseback.jobs.whole_file import expect_writable, whole_file
from caseback.reports.document import checked
from caseback.reports.summaries.summary import Summary
from caseback.views.figure.figure import Figure
from caseback.views.figure.svg import element
from caseback.views.page.page import shell, static

__all__ = ["Cell"]


@checked
@dataclass(frozen=True, eq=False)
class Cell:
    """What is shown of an object.

    Attributes
    ----------
    summary
        What it is.
    data
        The object.

    Examples
    --------
    >>> cell = Cell(Summary("Tokens", "2 prompts"), None)
    >>> "<p class='cb-head'>Tokens</p>" in cell.html
    True
    """

    summary: Summary
    data: Any = None

    def __repr__(self) -> str:
        return f"Cell({self.summary.title!r}; .html, .save('cell.html'), .data)"

    @property
    def html(self) -> str:
        """The summary as an element that brings its style with it."""
        return Figure.within(self._body() + element("style", static("figure.css")))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a file that ends in ``.html``, as a page.

        Raises
        ------
        CasebackError
            For another end, or a folder that is missing or cannot be written to.
        """
        path = Path(path)
        if path.suffix.lower() != ".html":
            raise CasebackError(f"{path}: {self.summary.title} is shown in words, which are saved as .html")
        expect_writable(path)
        body = f"<main class='page'>{Figure.within(self._body())}</main>"
        text = shell(self.summary.title, body, style=static("page.css") + static("figure.css"))
        with whole_file(path) as draft:
            draft.write_text(text, encoding="utf-8", errors="replace", newline="\n")
        return path

    def _repr_html_(self) -> str:
        return self.html

    def _body(self) -> str:
        one = self.summary
        parts = [f"<p class='cb-head'>{html.escape(one.title)}</p>"]
        if one.about:
            parts.append(f"<p class='cb-about'>{html.escape(one.about)}</p>")
        if one.facts:
            rows = "".join(
                f"<tr><th scope='row'>{html.escape(name)}</th><td class='cb-text'>{html.escape(value)}</td></tr>"
                for name, value in one.facts.items()
            )
            parts.append(f"<div class='cb-wide'><table><tbody>{rows}</tbody></table></div>")
        if one.rows:
            parts.append(self._table())
        if one.left_out:
            parts.append(f"<p class='cb-more'>and {one.left_out:,} more</p>")
        if one.more:
            parts.append(f"<p class='cb-more cb-mono'>{html.escape(one.more)}</p>")
        return "".join(parts)

    def _table(self) -> str:
        one = self.summary
        kinds = ["cb-num" if head.startswith("#") else "cb-text" for head in one.heads]
        heads = "".join(
            f"<th scope='col' class='{kind}'>{html.escape(head.removeprefix('#'))}</th>"
            for head, kind in zip(one.heads, kinds, strict=True)
        )
        rows = "".join(
            "<tr>"
            + "".join(f"<td class='{kind}'>{html.escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True))
            + "</tr>"
            for row in one.rows
        )
        table = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        return f"<div class='cb-wide'>{table}</div>"

    def __rich__(self) -> Group:
        one = self.summary
        parts: list[Any] = [Text(one.title, style="bold")]
        if one.about:
            parts.append(Text(one.about))
        if one.facts:
            facts = Table.grid(padding=(0, 2))
            for name, value in one.facts.items():
                facts.add_row(Text(name, style="dim"), Text(value))
            parts.append(facts)
        if one.rows:
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
            for head in one.heads:
                table.add_column(Text(head.removeprefix("#")), justify="right" if head.startswith("#") else "left")
            for row in one.rows:
                table.add_row(*map(Text, row))
            parts.append(table)
        if one.left_out:
            parts.append(Text(f"and {one.left_out:,} more", style="dim"))
        if one.more:
            parts.append(Text(one.more, style="dim"))
        return Group(*parts)
