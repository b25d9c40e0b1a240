"""One prompt of a quick document, and its tokens as plain data."""

from __future__ import annotations

from typing import Any

from caseback.errors import TokensError
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.reports.tokens_text import visible


def one_prompt(model: Model, prompt: PromptsLike, what: str) -> Tokens:
    """The tokens of one prompt.

    Raises
    ------
    TokensError
        For several.
    """
    tokens = model.tokens(prompt)
    if len(tokens) != 1:
        raise TokensError(f"{len(tokens)} prompts given: {what} takes one at a time")
    return tokens


def tokens_of(tokens: Tokens) -> list[dict[str, Any]]:
    """The tokens of a prompt: id, text, and the text with its spaces to be seen."""
    ids = tokens.ids[0][tokens.mask[0]].tolist()
    return [{"id": i, "text": text, "visible": visible(text)} for i, text in zip(ids, tokens.text[0], strict=True)]


def token_of(model: Model, id: int) -> dict[str, Any]:
    """One token of the vocabulary."""
    text = model.token_text(id)
    return {"id": id, "text": text, "visible": visible(text)}
