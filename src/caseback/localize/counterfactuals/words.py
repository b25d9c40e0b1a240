"""The words of a prompt: tokens that stand for one thing, and of which kind it is.

    special   what the tokenizer puts in         sign     no letter, no digit
    number    digits                             name     its first letter is a capital
    word      the rest                           id       any token, where there is no tokenizer

Two words are alike if they are of one kind, have as many tokens and the same white space before them: one then fits in
the other's place. Where the text is English, words that only join others (``the``, ``of``) are not content.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens, piece

JOINING = frozenset(
    "a an the this that these those and or but nor so yet if then than as at by for from in into of off on onto out "
    "over to up with without about after before under between during through is are was were be been being am do does "
    "did has have had will would can could shall should may might must not no it its i me my we us our you your he him "
    "his she her hers they them their there here when while where who whom whose which what why how all any both each "
    "some such only own same too very just because until again once that's".split()
)
_TRUNK = "'’-_"


@dataclass(frozen=True)
class Word:
    """A word in its places.

    Attributes
    ----------
    pos
        Its positions, one after another.
    ids
        Its tokens.
    text
        Its text, with the white space before it.
    kind
        What it is; see above.
    content
        Whether a change of it is a change of what is bare.
    """

    pos: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    kind: str
    content: bool

    def like(self, other: Word) -> bool:
        """Whether the other fits in this one's place and is another."""
        return self.ids != other.ids and self.shape == other.shape

    @property
    def shape(self) -> tuple[str, int, str]:
        """What words have in common that may stand for each other."""
        return self.kind, len(self.ids), self.text[: len(self.text) - len(self.text.lstrip())]


@checked
def words_of(model: Model, tokens: Tokens) -> list[Word]:
    """The words of one prompt, in order; together they have all of its tokens.

    Parameters
    ----------
    model
        The model, whose tokenizer says what is text and what is special.
    tokens
        One prompt.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> [word.text for word in words_of(model, model.tokens("Mary saw 1732 ships.")) if word.content]
    ['Mary', ' saw', ' 1732', ' ships']
    """
    ids, text = tokens.ids[0][tokens.mask[0]].tolist(), tokens.text[0]
    tokenizer = model.tokenizer
    if tokenizer is None:
        return [Word((p,), (i,), str(i), "id", True) for p, i in enumerate(ids)]
    special = set(tokenizer.all_special_ids)
    whole = _of_whole_words(tokenizer, ids, text)
    words: list[Word] = []
    for p, (i, bare) in enumerate(zip(ids, text, strict=True)):
        kind = "special" if i in special else kind_of(bare)
        before = words[-1] if words else None
        if before is not None and not whole and _continues(before, bare, kind):
            joined = before.text + bare
            words[-1] = Word((*before.pos, p), (*before.ids, i), joined, kind_of(joined), True)
        else:
            words.append(Word((p,), (i,), bare, kind, True))
    letters = [word.text.strip() for word in words if word.kind in ("word", "name")]
    # where most words are single letters, these are no articles
    joins = JOINING if sum(len(word) == 1 for word in letters) * 2 < len(letters) else frozenset()
    return [replace(word, content=_is_content(word, joins)) for word in words]


def kind_of(text: str) -> str:
    """The kind of a piece of text.

    Examples
    --------
    >>> [kind_of(text) for text in (" Mary", " key", " 1732", ".")]
    ['name', 'word', 'number', 'sign']
    """
    bare = text.strip()
    if not any(letter.isalnum() for letter in bare):
        return "sign"
    if bare.isdigit():
        return "number"
    first = next(letter for letter in bare if letter.isalnum())
    return "name" if first.isupper() else "word"


def is_piece(text: str) -> bool:
    """Whether a token's text goes on a word rather than beginning one.

    Examples
    --------
    >>> is_piece("ing"), is_piece(" ing"), is_piece(".")
    (True, False, False)
    """
    return bool(text) and all(letter.isalnum() or letter in _TRUNK for letter in text)


def _continues(before: Word, text: str, kind: str) -> bool:
    if kind in ("special", "sign") or before.kind in ("special", "sign") or not is_piece(text):
        return False
    # letters after a number, or digits after letters, begin something else: x1 and 3rd are rare, 1732 is not
    return (kind == "number") == (before.kind == "number")


def _is_content(word: Word, joins: frozenset[str]) -> bool:
    return word.kind not in ("special", "sign") and word.text.strip().lower() not in joins


def _of_whole_words(tokenizer, ids: Sequence[int], text: Sequence[str]) -> bool:
    """Whether every token is a word, which the tokenizer sets apart when it writes them."""
    spaces = sum(any(c.isspace() for c in bare) for bare in text)
    return len(ids) > 1 and not spaces and " " in tokenizer.decode(list(ids), skip_special_tokens=True).strip()


def texts_of(model: Model) -> Callable[[int], str]:
    """A token's text, as prompts have it."""
    return lambda i: piece(model.tokenizer, i)
