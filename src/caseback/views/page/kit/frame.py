"""A page around what it shows: whose window it is and into which model, a question, and where the numbers come from."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from caseback.reports.document import checked
from caseback.reports.tokens_text import visible

__all__ = ["cut", "end", "frame", "masthead"]

# A watch seen from behind, as frontend/src/kit/masthead.js draws it.
_NOTCHES = "".join(f"<line x1='16' y1='2.4' x2='16' y2='6' transform='rotate({60 * i} 16 16)'/>" for i in range(6))
_MARK = (
    "<svg class='mark-svg' viewBox='0 0 32 32' width='28' height='28' aria-hidden='true'>"
    f"<circle cx='16' cy='16' r='13.6'/>{_NOTCHES}<circle cx='16' cy='16' r='8'/>"
    "<circle class='pivot' cx='16' cy='16' r='2.4'/><path d='M16 16 L21 11'/></svg>"
)
_TOKENS = "␣ is a space, ↵ a newline, ⇥ a tab, ∅ no text; orange is for the target, blue for the foil."
_LONGEST = 300


@checked
def masthead(name: str, described: str = "") -> str:
    """The head of a page: the mark, and the model in short.

    Parameters
    ----------
    name
        The model's, as text; without one only the mark is there.
    described
        What else there is to say of it, as text.

    Examples
    --------
    >>> masthead("a<b", "4 layers").partition("<p class='model'>")[2]
    '<b>a&lt;b</b> · 4 layers</p></header>'
    """
    words = " · ".join(filter(None, (f"<b>{html.escape(name)}</b>", html.escape(described))))
    model = f"<p class='model'>{words}</p>" if name else ""
    return f"<header class='masthead'><div class='brand'>{_MARK}<span>caseback</span></div>{model}</header>"


@checked
def frame(document: Mapping[str, Any], question: str, concept: str, *parts: str) -> str:
    """A document's page: a question with ``{}`` where the concept's name goes, its parts, and its provenance.

    Parameters
    ----------
    document
        Gives the model's facts and, where it has it, ``provenance``.
    question, concept
        The heading, as text.
    *parts
        As HTML.

    Examples
    --------
    >>> document = {"model": {"name": "meadow", "n_layers": 4}, "provenance": {"dtype": "float32"}}
    >>> body = frame(document, "Is {} readable?", "a<b", "<p>Yes.</p>")
    >>> "<h1>Is <em>a&lt;b</em> readable?</h1><p>Yes.</p>" in body
    True
    """
    facts = document["model"]
    heading = html.escape(question).replace("{}", f"<em>{html.escape(concept)}</em>")
    return (
        f"<main class='concept'>{masthead(visible(str(facts['name'])), _described(facts))}"
        f"<h1>{heading}</h1>{''.join(parts)}{end(document.get('provenance') or {})}</main>"
    )


@checked
def end(provenance: Mapping[str, Any], prompt: str = "") -> str:
    """The foot of a page: how tokens are written, where the numbers come from, and the prompt as it was given.

    Examples
    --------
    >>> "<dt>dtype</dt><dd>float32</dd>" in end({"dtype": "float32"})
    True
    """
    rows = "".join(
        f"<dt>{html.escape(str(key))}</dt><dd>{html.escape(cut(str(value)))}</dd>"
        for key, value in provenance.items()
        if value not in ("", None)
    )
    given = f"<h3>Provenance</h3><dl class='provenance'>{rows}</dl>" if rows else ""
    if prompt:
        given += f"<h3>Prompt, verbatim</h3><pre class='verbatim' dir='auto' tabindex='0'>{html.escape(prompt)}</pre>"
    reading = f"<h3>How to read this page</h3><dl class='reading'><dt>Tokens</dt><dd>{_TOKENS}</dd></dl>"
    return f"<footer><div class='split even'><div>{reading}</div><div>{given}</div></div></footer>"


def _described(facts: Mapping[str, Any]) -> str:
    """Sizes and number type, as far as the document has them."""
    layers, heads = facts.get("n_layers", facts.get("layers")), facts.get("n_heads")
    sizes = [f"{count} {what}" for count, what in ((layers, "layers"), (heads, "heads")) if isinstance(count, int)]
    return " · ".join(filter(None, (" × ".join(sizes), str(facts.get("dtype") or ""))))


@checked
def cut(text: str) -> str:
    """The beginning of a text that is too long for a line.

    Examples
    --------
    >>> len(cut("a" * 999)), cut("short")
    (300, 'short')
    """
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
