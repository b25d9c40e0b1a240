"""A page: one HTML file that opens offline, with its style, its script and its document in it.

A page may load nothing: its content security policy has the hashes of its one style sheet and its one script, and
forbids everything else. Text of the document never becomes markup: the data is JSON without ``<``, and the script
writes it only as text nodes. Without JavaScript a page still shows its main numbers as tables.

A page is drawn by a script of its own, or is written as HTML; of the latter kind are those with tables, texts and still
drawings. On both a script adds the contents and what can be saved.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from caseback.jobs.whole_file import expect_writable, whole_file
from caseback.reports.document import DocumentKind, checked
from caseback.views.page.data import embedded

__all__ = ["Page", "shell"]

_SHELL = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="caseback">
<meta http-equiv="Content-Security-Policy" content="$policy">
<title>$title</title>
<style>$style</style>
</head>
<body>
$body$script
</body>
</html>
""")
_DRAWN = Template("""<main id="page"></main>
<noscript>
$tables
</noscript>
""")
WRITTEN = "concept"
"""The script of pages that are written as HTML, and nothing else."""


@dataclass(frozen=True)
class Page:
    """How documents of one kind become a page.

    Attributes
    ----------
    document
        The kind that it draws.
    title
        A document's title, as text.
    tables
        A document's main numbers as HTML in which every text of the document is escaped: what readers without
        JavaScript see, and the page itself where no script draws it.
    styles
        Style sheets of ``views/static``, in order.
    script
        The script of ``views/static`` that draws the document; by default the one of pages of which ``tables`` is all.
    adds
        Whether a script of its own adds to ``tables``, in place of drawing all of the page.
    data
        What the script reads, and readers can save, as plain data.
    reaches
        What else the page may do, in its policy's words: nothing, but for the page of a server that asks that server.
    """

    document: DocumentKind
    title: Callable[[Mapping[str, Any]], str]
    tables: Callable[[Mapping[str, Any]], str]
    styles: tuple[str, ...] = ("page",)
    script: str = WRITTEN
    adds: bool = False
    data: Callable[[Mapping[str, Any]], Any] = dict
    reaches: str = ""

    def html(self, document: Mapping[str, Any]) -> str:
        """The document as one self-contained page.

        Raises
        ------
        CasebackError
            If it is not a document of this kind, or cannot be drawn truthfully; the message names the place.
        """
        style = "".join(static(f"{name}.css") for name in self.styles)
        with self.document.drawing(document):
            title, body = self.title(document), self.tables(document)
            data = embedded(self.data(document))
        if self.script != WRITTEN and not self.adds:
            body = _DRAWN.substitute(tables=body)
        script = static(f"{self.script}.js")
        return shell(f"{title} · caseback", body + data, style=style, script=script, reaches=self.reaches)

    def write(self, document: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
        """Write the page to a file, whole or not at all, and return its path; an existing file is replaced.

        Raises
        ------
        WriteError
            Where the folder is missing or cannot be written to, the path is a folder, or the document is unfit.
        """
        path = Path(path)
        expect_writable(path, "the page")
        text = self.html(document)
        with whole_file(path) as draft:
            draft.write_text(text, encoding="utf-8", newline="\n")
        return path


@checked
def shell(title: str, body: str, *, style: str, script: str = "", reaches: str = "") -> str:
    """A page that may load nothing and runs nothing but its one script.

    Parameters
    ----------
    title
        As text.
    body
        As HTML.
    style, script
        Its style sheet and the script at its end; none where that is empty.
    reaches
        More of its policy, as for ``Page``.

    Examples
    --------
    >>> "default-src 'none'" in shell("a", "<p>b</p>", style="")
    True
    """
    policy = f"default-src 'none'; style-src '{_hash(style)}'; img-src data:; base-uri 'none'; form-action 'none'"
    policy += reaches
    if script:
        policy += f"; script-src '{_hash(script)}'"
        script = f"\n<script>{script}</script>"
    return _SHELL.substitute(policy=policy, title=html.escape(title), style=style, body=body, script=script)


def static(name: str) -> str:
    """A file of ``views/static``, as text."""
    return (files("caseback.views") / "static" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The name of a script or a style sheet in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
