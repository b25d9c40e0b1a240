"""People's notes in the terminal: a line each, by unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from caseback.reports.document import checked, drawn_from
from caseback.reports.tokens_text import visible

__all__ = ["print_notes"]


@checked
@drawn_from("notes", "caseback label --json")
def print_notes(notes: Mapping[str, Any], console: Console | None = None) -> None:
    """Print notes.

    Parameters
    ----------
    notes
        What ``caseback label --json`` prints: ``model``, and ``notes`` with ``unit``, ``label``, ``text`` and ``by``.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    count = len(notes["notes"])
    lines = [Text(f"{count} {'note' if count == 1 else 'notes'} on {notes['model'] or 'no model in particular'}")]
    for one in notes["notes"]:
        by = f"  ({_words(one['by'])})" if one["by"] else ""
        lines.append(Text.assemble((f"{one['unit']:>18}", "bold"), f"  {_words(one['label'])}{by}"))
        if one["text"]:
            lines.append(Text(f"{'':18}  {_words(one['text'])}", style="dim"))
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def _words(text: str) -> str:
    """People's words on one line, with whatever cannot be seen written out."""
    return " ".join(visible(word) for word in text.split())
