"""Token text that a reader can see: the one place that decides how invisible characters look.

A token's text may be a space, a newline, half a character or nothing at all, and it may hold control sequences that
would act on a terminal or reorder a page. ``visible`` maps every such character to a mark or an escape, so that two
different tokens never look alike just because their difference cannot be seen.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from caseback.model.arguments import checked

__all__ = ["MARKS", "visible"]

MARKS = {" ": "␣", "\n": "↵", "\t": "⇥"}
EMPTY = "∅"

# Control, format (zero-width, bidirectional), surrogate, private, unassigned; separators of lines and words.
_ESCAPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})
_COMBINING = frozenset({"Mn", "Mc", "Me"})
# Letters and marks that draw nothing, although Unicode does not call them invisible.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")


@checked
@lru_cache(maxsize=1 << 16)  # a lens repeats a few thousand texts a million times
def visible(text: str) -> str:
    r"""The text with every invisible character made visible.

    Parameters
    ----------
    text
        A token's text as the tokenizer decodes it; may be empty.

    Returns
    -------
    str
        ``␣`` for a space, ``↵`` for a newline, ``⇥`` for a tab, ``∅`` for no text at all, ``\x1b``-style escapes for
        control, zero-width, bidirectional and other undrawn characters; a combining mark that would attach to what
        stands before the token gets a dotted circle to sit on. Everything else is unchanged.

    Examples
    --------
    >>> visible(" Mary"), visible("\n"), visible(""), visible("\u200b")
    ('␣Mary', '↵', '∅', '\\u200b')
    """
    if not text:
        return EMPTY
    drawn = "".join(_drawn(character) for character in text)
    return "◌" + drawn if unicodedata.category(drawn[0]) in _COMBINING else drawn


def _drawn(character: str) -> str:
    if character in MARKS:
        return MARKS[character]
    if character in _BLANK or unicodedata.category(character) in _ESCAPED_CATEGORIES:
        return _escape(ord(character))
    return character


def _escape(code: int) -> str:
    if code == 0x0D:
        return "\\r"
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
