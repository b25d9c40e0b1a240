"""A passage: a context, the current text after it, and what the model goes on to write (PRIMER 3.1.23).

    [special] [context] [current] [generation]        with the context
    [special]           [current] [generation]        without it

Token by token both are the same but for the context, so that each generated token has a prediction with the context
and one without.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import TargetError, TokensError
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.model import Model
from caseback.model.running.run import execute

Text = str | Sequence[int]
"""A part of a passage: text, or token ids."""


@dataclass(frozen=True)
class Passage:
    """Token ids of the parts of a passage.

    Attributes
    ----------
    special
        What the tokenizer puts before any text, such as a beginning-of-text token.
    context, current, generated
        The parts.
    """

    special: list[int]
    context: list[int]
    current: list[int]
    generated: list[int]

    def prompt(self, *, context: bool = True, generated: int | None = None) -> list[int]:
        """The ids up to a generated token (not included), with the context or without it."""
        return [*self.special, *(self.context if context else []), *self.current, *self.generated[:generated]]

    def positions(self, token: int | str, model: Model) -> list[int]:
        """Where in the generation a token occurs.

        Raises
        ------
        TargetError
            Where it does not, with what the generation is.
        """
        wanted = model.token_id(token)
        positions = [t for t, one in enumerate(self.generated) if one == wanted]
        if not positions:
            written = [model.token_text(t) for t in self.generated]
            raise TargetError(
                f"target {token!r} does not occur in the generation {written}: name one of its tokens, or leave "
                "target out to have the sensitive ones found"
            )
        return positions


def passage_of(
    model: Model, context: Text, current: Text, generation: Text | None, max_new_tokens: int, **options: Any
) -> Passage:
    """Tokenize a passage, writing its generation where none is given.

    Parameters
    ----------
    model
        The model.
    context, current
        Text, or token ids. As text they are tokenized together, so a space between them belongs to one of them.
    generation
        What the model wrote, as text or ids; None has it written, greedily unless ``options`` say otherwise.
    max_new_tokens, **options
        For ``Model.generate``.

    Raises
    ------
    TokensError
        For an empty current text or generation, parts of which some are text and others ids, or text whose tokens
        run across the border between its parts.
    """
    parts = [context, current, *([] if generation is None else [generation])]
    texts = [part for part in parts if isinstance(part, str)]
    if 0 < len(texts) < len(parts):
        raise TokensError("context, current text and generation should all be text, or all token ids")
    if texts:
        special, ids = _ids_of_texts(model, texts)
    else:
        ids = [[int(i) for i in part] for part in parts]
        # a beginning-of-text token in front is not part of the context
        begins = getattr(model.tokenizer, "bos_token_id", None)
        first = next((part for part in ids if part), [])
        special = [first.pop(0)] if first and begins is not None and first[0] == begins else []
    if not ids[1]:
        raise TokensError("the current text is empty: expected at least one token that the generation follows")
    if generation is None:
        prompt = model.tokens([[*special, *ids[0], *ids[1]]])
        whole = model.generate(prompt, max_new_tokens=max_new_tokens, **options)
        ids.append(whole.ids[0][whole.mask[0]][int(prompt.lengths[0]) :].tolist())
    if not ids[2]:
        raise TokensError("the generation is empty: expected at least one token")
    return Passage(special, ids[0], ids[1], ids[2])


def _ids_of_texts(model: Model, texts: list[str]) -> tuple[list[int], list[list[int]]]:
    """Texts tokenized as one and cut at their borders; first what the tokenizer puts before."""
    if not "".join(texts[1:2]).strip():
        raise TokensError(f"the current text is empty ({texts[1]!r}): expected some text that the generation follows")
    whole = _plain(model, "".join(texts), None)
    bare = _plain(model, "".join(texts), False)
    special = whole[: len(whole) - len(bare)]
    if whole[len(special) :] != bare:
        raise TokensError(
            "this tokenizer puts special tokens behind a text, where a generation should follow: give ids"
        )
    cuts = [0]
    for n in range(1, len(texts)):
        before = "".join(texts[:n])
        ids = _plain(model, before, False) if before.strip() else []
        if before and not ids:
            raise TokensError(f"the context {before!r} is only space: leave it empty, or give some text")
        if bare[: len(ids)] != ids:
            near = [model.token_text(i) for i in bare[max(0, len(ids) - 2) : len(ids) + 1]]
            raise TokensError(
                f"a token runs across the end of {before[-20:]!r} (near {near}): let the next part begin with its "
                "space, or give token ids"
            )
        cuts.append(len(ids))
    cuts.append(len(bare))
    return special, [bare[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]


def _plain(model: Model, text: str, bos: bool | None) -> list[int]:
    tokens = model.tokens(text, bos=bos)
    return tokens.ids[0][tokens.mask[0]].tolist()


def predictions(model: Model, passage: Passage) -> Float[Tensor, "context token vocab"]:
    """Log probabilities before each generated token: row 0 with the context, row 1 without it; one padded pass."""
    prompts = model.tokens([passage.prompt(context=c, generated=-1) for c in (True, False)])
    expect_tokens_out(model.anatomy, "a passage and its continuation")
    logits = execute(model.anatomy, prompts).logits
    n = len(passage.generated)
    ends = (prompts.first + prompts.lengths).tolist()
    rows = [at_least_float32(logits[row, end - n : end]) for row, end in enumerate(ends)]
    return torch.stack(rows).log_softmax(-1)
