"""A figure: one drawing that stands in a notebook's cell, on a page and in a file, and the data that it shows.

As HTML it brings its style and a small script with it, and loads nothing. Its style names nothing outside of it, and
what surrounds it cannot reach into it. Without the script it shows all but what a pointer asks for.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from caseback.errors import CasebackError
from caseback.jobs.whole_file import expect_writable, whole_file
from caseback.reports.document import checked
from caseback.views.figure.svg import element
from caseback.views.page.data import embedded_json
from caseback.views.page.page import static

__all__ = ["Figure"]

SUFFIXES = (".html", ".svg", ".png")


@checked
@dataclass(frozen=True, eq=False)
class Figure:
    """A drawing with its data.

    Attributes
    ----------
    drawn
        The inside of its SVG element.
    width, height
        Its size in pixels.
    title
        What stands above it, as text; empty for none.
    data
        What it was drawn from.
    maps
        Its maps as the script reads them: where they are, what their cells hold.
    modes
        Names of what its maps can be colored by; the first is shown.
    caption
        How to read it, as text.
    question
        What it answers, for the heading of its page.

    Examples
    --------
    >>> figure = Figure("<rect width='9' height='9'/>", 9, 9, title="a square")
    >>> figure.svg.startswith("<svg"), "<script>" in figure.html
    (True, True)
    """

    drawn: str
    width: float
    height: float
    title: str = ""
    data: Any = None
    maps: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    modes: Sequence[str] = ()
    caption: str = ""
    question: str = ""

    def __repr__(self) -> str:
        about = f" {self.title!r}" if self.title else ""
        return f"Figure({round(self.width)} × {round(self.height)}{about}; .save('figure.html'), .svg, .data)"

    @property
    def html(self) -> str:
        """The figure as an element that brings all that it needs, for any page or cell."""
        parts = (self.body, element("style", static("figure.css")), f"<script>{static('figure.js')}</script>")
        return self.within("".join(parts))

    @property
    def body(self) -> str:
        """The figure without style and script, for a page that has both."""
        title = f"<p class='cb-title'>{html.escape(self.title)}</p>" if self.title else ""
        caption = f"<p class='cb-caption'>{html.escape(self.caption)}</p>" if self.caption else ""
        data = embedded_json({"maps": list(self.maps), "modes": list(self.modes)})
        script = f"<script type='application/json'>{data}</script>" if self.maps or self.modes else ""
        return f"{title}<div class='cb-scroll'>{self._svg()}</div>{caption}{script}"

    @staticmethod
    def within(inside: str) -> str:
        """The element that style and script know a figure by."""
        return f"<div class='cb-fig'>{inside}</div>"

    @property
    def svg(self) -> str:
        """The drawing by itself, in the colors of the reader's setting."""
        return self._svg(f"<style>{static('figure.css')}</style>")

    def png(self, scale: float = 2.0) -> bytes:
        """The drawing as an image in light colors.

        Parameters
        ----------
        scale
            Pixels of the image to one of the drawing.

        Raises
        ------
        CasebackError
            Where the package that draws it is not installed.
        """
        try:
            import resvg_py
        except ImportError:
            raise CasebackError(
                "a PNG is drawn by the package resvg_py, which is not installed: pip install 'caseback[png]', or save "
                "the figure as .svg or .html"
            ) from None
        if not 0.1 <= scale <= 10:
            raise CasebackError(f"scale={scale}: expected 0.1 to 10 pixels of the image to one of the drawing")
        return bytes(resvg_py.svg_to_bytes(svg_string=_in_light(self.svg), zoom=scale, background="#fbfaf8"))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it to a file, as its name's end says: ``.html``, ``.svg`` or ``.png``.

        Raises
        ------
        CasebackError
            For another end, a folder that is missing or cannot be written to, and as ``png``.

        Examples
        --------
        ::

            figure.save("map.html")
        """
        path = Path(path)
        if path.suffix.lower() not in SUFFIXES:
            raise CasebackError(f"{path}: a figure is saved as {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
        expect_writable(path)
        if path.suffix.lower() == ".png":
            content = self.png()
        elif path.suffix.lower() == ".svg":
            content = self.svg.encode("utf-8")
        else:
            from caseback.views.figure.page import figure_html

            content = figure_html(self).encode("utf-8")
        with whole_file(path) as draft:
            draft.write_bytes(content)
        return path

    def titled(self, title: str) -> Figure:
        """The same figure under another title; an empty one takes it away."""
        return replace(self, title=title)

    def _repr_html_(self) -> str:
        return self.html

    def _svg(self, before: str = "") -> str:
        size: dict[str, object] = {
            "width": self.width,
            "height": self.height,
            "viewBox": f"0 0 {self.width:g} {self.height:g}",
        }
        named = html.escape(self.title or self.caption or "figure")
        return element(
            "svg",
            before,
            self.drawn,
            xmlns="http://www.w3.org/2000/svg",
            class_="cb-svg",
            role="img",
            aria_label=named,
            **size,
        )


@checked
def of_prompts(batch: int, n_prompts: int) -> str:
    """What a figure of one prompt says where there are several.

    Examples
    --------
    >>> of_prompts(0, 2), of_prompts(0, 1)
    ('Prompt 0 of 2.', '')
    """
    return f"Prompt {batch} of {n_prompts}." if n_prompts > 1 else ""


def _in_light(svg: str) -> str:
    """The drawing with its variables replaced by their light values, for a program that knows neither."""
    light = dict(re.findall(r"(--[\w-]+):\s*(#[0-9a-f]{3,6})", svg.partition("@")[0]))
    return re.sub(r"var\((--[\w-]+)\)", lambda name: light.get(name[1], "#1a1e22"), svg)
