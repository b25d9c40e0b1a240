"""A document in a notebook's cell: its whole page in a frame of its own, in which neither's style reaches the other."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caseback.reports.document import Document, checked
from caseback.views.page.kinds import page_html, write_page

__all__ = ["DocumentCell"]


@checked
@dataclass(frozen=True, eq=False)
class DocumentCell:
    """A report of ``caseback.reports`` as a notebook shows it.

    Attributes
    ----------
    data
        The document.
    height
        Of the frame, in pixels; what is longer scrolls in it.
    """

    data: Document
    height: int = 640

    def __repr__(self) -> str:
        kind = self.data.get("kind") if isinstance(self.data, Mapping) else None
        return f"DocumentCell({kind!r}; .html, .save('page.html'), .data)"

    @property
    def html(self) -> str:
        """A frame with the page in it.

        Raises
        ------
        CasebackError
            If no page draws the document, or it cannot be drawn truthfully.
        """
        page = html.escape(page_html(self.data), quote=True)
        return f'<iframe srcdoc="{page}" width="100%" height="{self.height}" frameborder="0" title="caseback"></iframe>'

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to a file.

        Raises
        ------
        CasebackError
            As ``write_page``.
        """
        return write_page(self.data, path)

    def _repr_html_(self) -> str:
        return self.html

    def __rich__(self) -> Any:
        return repr(self)
