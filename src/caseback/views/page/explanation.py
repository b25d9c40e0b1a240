"""One explanation as one HTML page that opens offline: template, style, script and data in a single file.

The page may load nothing: its content security policy names the hash of the one script and of the one style
sheet that it holds, and forbids everything else. Text from the model never becomes markup: the data is JSON
without ``<``, and the script writes it as text nodes only.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from caseback.errors import CasebackError
from caseback.jobs.whole_file import whole_file
from caseback.reports.explain_document import check_explanation
from caseback.reports.tokens_text import visible
from caseback.views.page.explanation_tables import static_tables
from caseback.views.page.page_data import embedded_json, page_data

__all__ = ["page_html", "report_html", "write_page", "write_report"]


def report_html(explanation: Mapping[str, Any]) -> str:
    """The explanation as one self-contained HTML page.

    Parameters
    ----------
    explanation
        An explanation document: what ``caseback.reports.explain.explain`` returns, or the same read from JSON.

    Returns
    -------
    str
        The page. Without JavaScript it still shows the main numbers as tables.

    Raises
    ------
    CasebackError
        Where the document is not one, or not one that can be drawn truthfully; the message names the place.

    Examples
    --------
    ::

        page = report_html(explain(model, "The Eiffel Tower is in", target=" Paris", foil=" Rome"))
    """
    check_explanation(explanation)
    target, foil = (visible(explanation[key]["text"]) for key in ("target", "foil"))
    model = visible(explanation["model"]["name"])
    title = f"Why {target} and not {foil}? · {model} · caseback"
    return page_html(title, static_tables(explanation), page_data(explanation))


def page_html(title: str, tables: str, data: Any) -> str:
    """A page of the program that is bundled with the package, which draws what it is given.

    Parameters
    ----------
    title
        Text.
    tables
        HTML for readers without JavaScript, every text of the document in it escaped.
    data
        Plain data, of which the program reads ``kind``.
    """
    static = files("caseback.views") / "static"
    template, script, style = (
        (static / name).read_text(encoding="utf-8") for name in ("report.html", "report.js", "report.css")
    )
    return Template(template).substitute(
        title=html.escape(title),
        script_hash=content_hash(script),
        style_hash=content_hash(style),
        style=style,
        tables=tables,
        data=embedded_json(data),
        script=script,
    )


def write_report(explanation: Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the page to a file, whole or not at all.

    Parameters
    ----------
    explanation
        An explanation document.
    path
        Where the page goes; its folder must exist. A page that is there already is replaced.

    Returns
    -------
    Path
        The path written.

    Raises
    ------
    CasebackError
        Where the folder is missing or cannot be written to, the path is a folder, or the document is unfit.

    Examples
    --------
    ::

        write_report(explanation, "report.html")
    """
    return write_page(lambda: report_html(explanation), path)


def write_page(page: Callable[[], str], path: str | os.PathLike[str]) -> Path:
    """Write a page to a file, whole or not at all; it is made once the path is known to be good.

    Raises
    ------
    CasebackError
        Where the folder is missing or cannot be written to, or the path is a folder.
    """
    path = Path(path)
    folder = path.parent
    if not folder.is_dir():
        raise CasebackError(
            f"cannot write the report to {path}: there is no folder {folder}; make it first, or choose another path"
        )
    if path.is_dir():
        raise CasebackError(f"cannot write the report to {path}: it is a folder; add a file name, such as report.html")
    text = page()
    try:
        with whole_file(path) as draft:
            draft.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        reason = error.strerror or error
        raise CasebackError(
            f"cannot write the report to {path}: {reason}; check the folder's permissions and free space"
        ) from error
    return path


def content_hash(text: str) -> str:
    """What a content security policy calls a script or a style sheet."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
