"""Prompts whose words have names: a template filled in, with the place of every word put into it.

``fill("When {IO} and {S1} went, {S2} gave it to", IO="Mary", S1="John", S2="John")`` remembers where IO, S1 and S2
stand. A name may be followed by a note after a colon, which is not part of it: ``{S1:name}``. Prompts that are not text
(random tokens) are made by ``of_ids``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from string import Formatter

from caseback.errors import CasebackError
from caseback.model.arguments import checked


@dataclass(frozen=True)
class Text:
    """A text and the characters of its named words.

    Attributes
    ----------
    text
        The whole.
    spans
        (first character, one past the last) of each name; (first token, one past the last) where ``ids`` are given.
    ids
        The tokens themselves, without special ones, where the prompt is not text for a tokenizer to cut.
    """

    text: str
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    ids: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return self.text

    def then(self, more: str | Text) -> Text:
        """This text with another after it.

        Raises
        ------
        CasebackError
            For token ids after a text, or a text after token ids.
        """
        more = Text(more) if isinstance(more, str) else more
        if (self.ids is None) != (more.ids is None):
            raise CasebackError("text and token ids do not join: give both as text, or both by of_ids()")
        start = len(self.text) if self.ids is None else len(self.ids)
        moved = {name: (start + a, start + b) for name, (a, b) in more.spans.items()}
        spans = {**self.spans, **moved}
        if self.ids is None or more.ids is None:
            return Text(self.text + more.text, spans)
        return of_ids([*self.ids, *more.ids], **spans)


@checked
def of_ids(ids: Sequence[int], /, **spans: tuple[int, int]) -> Text:
    """A prompt of given tokens; special tokens are added by ``align``.

    Parameters
    ----------
    ids
        The tokens.
    **spans
        (first token, one past the last) of each name.

    Examples
    --------
    >>> of_ids([5, 9, 5], again=(2, 3)).text
    '5 9 5'
    """
    ids = tuple(int(i) for i in ids)
    return Text(" ".join(map(str, ids)), spans, ids)


@checked
def fill(template: str, /, **words: str) -> Text:
    """Fill a template in, and remember where each word went.

    Parameters
    ----------
    template
        Text with ``{name}`` where words go.
    **words
        A word for each name. A name that stands in the template again keeps its first place.

    Raises
    ------
    CasebackError
        For a name without a word.

    Examples
    --------
    >>> text = fill("{S1} saw {IO}.", S1="John", IO="Mary")
    >>> text.text, text.spans["IO"]
    ('John saw Mary.', (9, 13))
    """
    text, spans = "", {}
    for before, name, _, _ in Formatter().parse(template):
        text += before
        if name is None:
            continue
        if name not in words:
            raise CasebackError(f"the template {template!r} has no word for {{{name}}}: it was given {sorted(words)}")
        spans.setdefault(name, (len(text), len(text) + len(words[name])))
        text += words[name]
    return Text(text, spans)
