r"""Tokens that are parts of a character: their bytes, as ``\xe6``, in place of the letters that stand for bytes.

Byte-level tokenizers write each byte as a printable character (Radford et al. 2019): a printable byte of Latin-1 as
itself, the others as the characters from 256 on, in order. So a vocabulary's " \xe6" is called "Ġæ", which looks like a
text that it is not.
"""

from __future__ import annotations

import re

_THEMSELVES = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [byte for byte in range(256) if byte not in _THEMSELVES]
_BYTE = {chr(byte): byte for byte in _THEMSELVES} | {chr(256 + i): byte for i, byte in enumerate(_OTHERS)}
_CHARACTER = {byte: character for character, byte in _BYTE.items()}


def escaped(raw: str, text: str) -> str:
    r"""A vocabulary entry with bytes that are no whole character escaped; as it is where no bytes stand in it.

    Parameters
    ----------
    raw
        The entry.
    text
        What the tokenizer decodes it to, with ``\ufffd`` for what is no whole character.

    Examples
    --------
    >>> escaped("Ġæ", " \ufffd"), escaped("<0xE6>", "\ufffd")
    (' \\xe6', '<0xE6>')
    """
    if not all(character in _BYTE for character in raw):
        return raw
    own = bytes(_BYTE[character] for character in raw)
    return own.decode("utf-8", "backslashreplace") if own.decode("utf-8", "replace") == text else raw


def entry_of(escaped_text: str) -> str:
    r"""The vocabulary entry of byte-level tokenizers for what ``escaped`` gave.

    Examples
    --------
    >>> entry_of(" \\xe6")
    'Ġæ'
    """
    parts = re.split(r"\\x([0-9a-f]{2})", escaped_text)
    own = b"".join(bytes.fromhex(part) if i % 2 else part.encode() for i, part in enumerate(parts))
    return "".join(_CHARACTER[byte] for byte in own)
