"""Two prompts of unlike length aligned: the shorter of two words that stand for each other is cut into more tokens.

    ' John'  ' ran'            ' J'   'ohn'  ' ran'
    ' Eliz'  'abeth'  ' ran'   ' Eliz' 'abeth' ' ran'

The text stays, its tokens do not, and a model reads a word that is cut otherwise less well: whoever aligns prompts so
measures what became of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from caseback.localize.counterfactuals.swapping import one_prompt
from caseback.localize.counterfactuals.words import Word, words_of
from caseback.model.arguments import checked
from caseback.model.prompts.pairs import counterfactuals
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens

__all__ = ["Cut", "cut_alike"]


@dataclass(frozen=True)
class Cut:
    """A word that was cut into more tokens.

    Attributes
    ----------
    text
        The word.
    pieces
        The texts of its tokens now.
    clean
        Whether it is the prompt's, and not the counterfactual's.
    """

    text: str
    pieces: tuple[str, ...]
    clean: bool


@checked
def cut_alike(model: Model, prompt: PromptsLike, corrupt: PromptsLike) -> tuple[Tokens, Tokens, list[Cut]]:
    """A prompt and its counterfactual with as many tokens in every word, and what was cut for it.

    Parameters
    ----------
    model
        The model, whose tokenizer cuts words.
    prompt, corrupt
        One prompt each. Those of one length are left as they are.

    Returns
    -------
    tuple
        Both prompts, and the words that were cut: each into as many of the vocabulary's tokens as its counterpart has,
        the shortest of them as long as possible.

    Raises
    ------
    TokensError
        For prompts with unlike numbers of words, or a word that no such tokens spell; both tokenizations are shown.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> clean, corrupt, cuts = cut_alike(model, "Mary gave a drink to", "Mary gave a present to")
    >>> clean.ids.shape == corrupt.ids.shape, cuts[0].text, len(cuts[0].pieces)
    (True, ' drink', 3)
    """
    tokens, other = one_prompt(model, prompt), one_prompt(model, corrupt)
    if tokens.ids.shape == other.ids.shape or model.tokenizer is None:
        return tokens, counterfactuals(model, tokens, other), []
    ours, theirs = words_of(model, tokens), words_of(model, other)
    rows: tuple[list[int], list[int]] = ([], [])
    cuts = []
    for a, b in zip(ours, theirs, strict=False):
        for row, word, length, clean in ((rows[0], a, len(b.ids), True), (rows[1], b, len(a.ids), False)):
            ids = word.ids if length <= len(word.ids) else _cut(model, word, length)
            if ids is None:
                return tokens, counterfactuals(model, tokens, other), []  # refused there, with both tokenizations
            if ids != word.ids:
                cuts.append(Cut(word.text, tuple(map(model.token_text, ids)), clean))
            row += ids
    if len(ours) != len(theirs):
        return tokens, counterfactuals(model, tokens, other), []
    return model.tokens([rows[0]]), model.tokens([rows[1]]), cuts


def _cut(model: Model, word: Word, count: int) -> tuple[int, ...] | None:
    """So many tokens that spell a word, the shortest as long as possible; None where there are none."""
    known: dict[str, int] = model.tokenizer.get_vocab()
    spelt = "".join(model.tokenizer.convert_ids_to_tokens(list(word.ids)))

    @cache
    def best(start: int, left: int) -> tuple[int, tuple[int, ...]] | None:
        if left == 1:
            rest = spelt[start:]
            return (len(rest), (known[rest],)) if rest in known else None
        options = []
        for end in range(start + 1, len(spelt) - left + 2):
            if spelt[start:end] in known and (after := best(end, left - 1)) is not None:
                options.append((min(end - start, after[0]), (known[spelt[start:end]], *after[1])))
        return max(options, key=lambda option: option[0], default=None)

    longest = best(0, count) if len(spelt) >= count else None
    return None if longest is None else longest[1]
