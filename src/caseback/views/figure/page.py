"""The page of a figure: a question, the prompt, the drawing, and where its numbers come from."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caseback.jobs.whole_file import expect_writable, whole_file
from caseback.reports.document import checked
from caseback.views.figure.figure import Figure
from caseback.views.page.kit.frame import cut, end, masthead
from caseback.views.page.page import WRITTEN, shell, static

__all__ = ["figure_html", "write_figure"]

_MODEL = ("family", "dtype", "revision", "edits")


@checked
def figure_html(
    figure: Figure, *, question: str = "", prompt: str = "", provenance: Mapping[Any, Any] | None = None
) -> str:
    """A figure as one page that loads nothing.

    Parameters
    ----------
    figure
        The figure.
    question
        What it answers, for the page's heading; by default the figure's own.
    prompt
        The prompt that it is of, verbatim; by default none is shown.
    provenance
        How the numbers were made, as the attributes of a labeled result say it.

    Returns
    -------
    str
        The page.

    Examples
    --------
    >>> figure_html(Figure("", 9, 9), question="Which layer did it?").count("<h1>Which layer did it?</h1>")
    1
    """
    about = {str(key): str(value) for key, value in (provenance or {}).items()}
    name = about.pop("model", "")
    described = " · ".join(about[key] for key in _MODEL if about.get(key))
    question = question or figure.question or figure.title or figure.caption or "What does it look like?"
    drawn = Figure.within((figure.titled("") if figure.title == question else figure).body)
    lede = f"<p class='lede'>Prompt: <span class='chip'>{html.escape(cut(prompt))}</span></p>" if prompt else ""
    body = (
        f"<main class='page'>{masthead(name, described)}"
        f"<section class='question'><h1>{html.escape(question)}</h1>{lede}</section>"
        f"<section>{drawn}</section>{end(about, prompt)}</main>"
    )
    # half a surrogate pair is no character, and no file can hold one
    body = re.sub("[\ud800-\udfff]", "\ufffd", body)
    style = static("page.css") + static("figure.css")
    return shell(f"{question} · caseback", body, style=style, script=static("figure.js") + static(f"{WRITTEN}.js"))


@checked
def write_figure(
    figure: Figure,
    path: str | os.PathLike[str],
    *,
    question: str = "",
    prompt: str = "",
    provenance: Mapping[Any, Any] | None = None,
) -> Path:
    """Write a figure as one page that loads nothing, whole or not at all, and return its path.

    Parameters
    ----------
    figure, question, prompt, provenance
        As for ``figure_html``.
    path
        Where the page goes; its folder must exist, and an existing page is replaced.

    Raises
    ------
    CasebackError
        If the folder is missing or the file cannot be written.

    Examples
    --------
    ::

        write_figure(heatmap(patched.recovery, value="recovery"), "map.html", question="Where is the name carried?")
    """
    path = Path(path)
    expect_writable(path)
    text = figure_html(figure, question=question, prompt=prompt, provenance=provenance)
    with whole_file(path) as draft:
        draft.write_text(text, encoding="utf-8", newline="\n")
    return path
