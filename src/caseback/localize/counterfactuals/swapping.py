"""Two words of a prompt exchanged, as a person says it: ``Mary:John``.

Where the prompt has both, each stands where the other stood; where it has the first alone, the second takes its place.
"""

from __future__ import annotations

import numpy as np
import torch

from caseback.errors import TokensError, did_you_mean
from caseback.localize.counterfactuals.words import Word, words_of
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens


@checked
def swapped(model: Model, prompt: PromptsLike, swap: str) -> Tokens:
    """A prompt with two words exchanged, token against token.

    Parameters
    ----------
    model
        The model; its tokenizer cuts the words.
    prompt
        One prompt.
    swap
        ``"Mary:John"``: two words of as many tokens.

    Returns
    -------
    Tokens
        (1, pos), with the same positions.

    Raises
    ------
    TokensError
        For several prompts, a swap without a colon, a first word that the prompt lacks, or words of different length.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> "".join(swapped(model, "Then John saw Mary and John ran", "Mary:John").text[0][1:])
    'Then Mary saw John and Mary ran'
    """
    tokens = one_prompt(model, prompt)
    old, colon, new = (part.strip() for part in swap.partition(":"))
    if not (old and colon and new) or old == new:
        raise TokensError(f"swap {swap!r}: expected two words with a colon between them, such as 'Mary:John'")
    words = words_of(model, tokens)
    places = {bare: [word for word in words if word.text.strip() == bare] for bare in (old, new)}
    if not places[old]:
        listed = [word.text.strip() for word in words if word.content]
        raise TokensError(f"swap {swap!r}: the prompt does not say {old!r}. {did_you_mean(old, listed)}")
    put = [(word, _as(model, word, new)) for word in places[old]]
    put += [(word, _as(model, word, old)) for word in places[new]]
    ids = tokens.ids[0][tokens.mask[0]].cpu().numpy().copy()
    for word, pieces in put:
        if len(pieces) != len(word.ids):
            raise TokensError(
                f"swap {swap!r}: {word.text!r} is {len(word.ids)} tokens and what is to stand there {len(pieces)}: "
                "take words of one length, or give the whole counterfactual with --corrupt"
            )
        ids[list(word.pos)] = pieces
    return rows_of(model, ids[None])


def _as(model: Model, place: Word, bare: str) -> list[int]:
    """A word's tokens where another stood, with that one's white space before it."""
    space, tokenizer = place.shape[2], model.tokenizer
    if tokenizer is None:
        if not bare.isdigit() or int(bare) >= model.d_vocab:
            raise TokensError(f"{bare!r}: this model has no tokenizer, give token ids, such as 5:7")
        return [int(bare)]
    if not space:
        return tokenizer(bare, add_special_tokens=False)["input_ids"]
    start = tokenizer(place.text.strip(), add_special_tokens=False)["input_ids"]
    return tokenizer(place.text.strip() + space + bare, add_special_tokens=False)["input_ids"][len(start) :]


def one_prompt(model: Model, prompt: PromptsLike) -> Tokens:
    """One prompt from column 0 on.

    Raises
    ------
    TokensError
        For several.
    """
    tokens = model.tokens(prompt)
    if len(tokens) != 1:
        raise TokensError(f"{len(tokens)} prompts given: expected one, whose words are replaced")
    return tokens.padded_on("right") if tokens.padded else tokens


def rows_of(model: Model, rows: np.ndarray) -> Tokens:
    """Rows of token ids, special ones among them, as prompts of one length."""
    ids = torch.from_numpy(np.ascontiguousarray(rows)).to(model.device)
    texts = {i: model.token_text(i) for i in np.unique(rows).tolist()}
    return Tokens(ids, torch.ones_like(ids, dtype=torch.bool), [[texts[i] for i in row] for row in rows.tolist()])
