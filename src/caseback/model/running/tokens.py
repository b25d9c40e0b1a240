"""Tokenized prompts: ids with a mask, padded on either side.

Positions everywhere in caseback count a prompt's own tokens from 0, negative ones from its end, so padding never
moves them. ``column`` turns a position into an index of the padded batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, TargetError, TokensError
from caseback.model.anatomy.byte_pieces import entry_of, escaped
from caseback.model.anatomy.classes import Classes
from caseback.model.anatomy.coerce import as_device, as_integer, as_positions
from caseback.model.argument_kinds import JUDGED_BY_THE_FUNCTION
from caseback.model.arguments import checked
from caseback.model.display import Displayed


@dataclass(frozen=True, eq=False)
class Tokens(Displayed):
    """A batch of prompts as token ids.

    Attributes
    ----------
    ids
        (batch, pos), padded.
    mask
        (batch, pos), True at real tokens; these are contiguous in each row.
    text
        Each token as text, without padding, one list per prompt (ids as text where there is no tokenizer).
    """

    ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    text: list[list[str]] = field(repr=False)

    def __post_init__(self) -> None:
        if self.ids.ndim != 2 or self.ids.shape != self.mask.shape:
            raise TokensError(
                f"ids {tuple(self.ids.shape)} and mask {tuple(self.mask.shape)} must both be (batch, pos)"
            )
        if self.mask.dtype != torch.bool:
            if bool(((self.mask != 0) & (self.mask != 1)).any()):
                raise TokensError("the mask has other numbers than 0 and 1: expected True at real tokens")
            object.__setattr__(self, "mask", self.mask.bool())
        if self.ids.dtype == torch.bool or self.ids.is_floating_point() or self.ids.is_complex():
            raise TokensError(f"ids are {self.ids.dtype}: expected whole numbers")
        if self.ids.shape[0] == 0 or not bool(self.mask.any(-1).all()):
            raise TokensError("a prompt is empty: give at least one token per prompt")
        steps = self.mask.int().diff(dim=-1)
        if bool(((steps == 1).sum(-1) + self.mask[:, 0].int() > 1).any()):
            raise TokensError("padding inside a prompt: real tokens must be contiguous in each row of the mask")

    def __len__(self) -> int:
        return self.ids.shape[0]

    def fingerprint_parts(self) -> tuple[Tensor, Tensor]:
        """The ids and the mask, for ``jobs.fingerprint``."""
        return self.ids, self.mask

    @property
    def shape(self) -> tuple[int, int]:
        """(batch, padded pos)."""
        return self.ids.shape[0], self.ids.shape[1]

    @property
    def padded(self) -> bool:
        return any(length < self.shape[1] for _, length in self.extents)

    @cached_property
    def extents(self) -> list[tuple[int, int]]:
        """The column of each prompt's first token and its length, read from the device once."""
        mask = self.mask.cpu().numpy()
        return list(zip(mask.argmax(-1).tolist(), mask.sum(-1).tolist(), strict=True))

    @cached_property
    def host_ids(self) -> list[Int[np.ndarray, " pos"]]:
        """Each prompt's own ids, without padding, read from the device once."""
        ids = self.ids.cpu().numpy().copy()  # a tensor that is sent to another process moves its memory
        return [row[start : start + n] for row, (start, n) in zip(ids, self.extents, strict=True)]

    @cached_property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Real tokens in each prompt."""
        return self.mask.sum(-1)

    @cached_property
    def first(self) -> Int[Tensor, " batch"]:
        """The column of each prompt's first token (0 unless padded on the left)."""
        return self.mask.int().argmax(-1)

    @property
    def position_ids(self) -> Int[Tensor, "batch pos"]:
        """Positions as the model gets them; 0 for padding."""
        return (self.mask.long().cumsum(-1) - 1).clamp_min(0)

    @checked
    def column(self, position: int | Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """The padded column of a position in each prompt.

        Raises
        ------
        OutOfRange
            If a prompt has no such position.
        """
        position = as_positions(position, "position", TokensError)
        given = position.reshape(-1).tolist() if isinstance(position, Tensor) else position
        given = given if isinstance(given, list) else [given]
        if not all(isinstance(one, int) for one in given):
            raise TokensError(f"position {position}: expected one, or one per prompt")
        if len(given) not in (1, len(self)):
            raise TokensError(f"{len(given)} positions for {len(self)} prompts: give one, or one per prompt")
        columns = []
        for row, (first, length) in enumerate(self.extents):
            wanted = given[row % len(given)]
            if not -length <= wanted < length:
                raise OutOfRange(
                    f"position {wanted} is out of range: prompt {row} has {length} tokens, so positions go from "
                    f"{-length} to {length - 1}"
                )
            columns.append(first + wanted % length)
        return torch.tensor(columns, device=self.ids.device)

    @checked
    def to(self, device: torch.device | str) -> Tokens:
        """The same tokens on another device.

        Raises
        ------
        TokensError
            For a device that torch does not know or this machine does not have.
        """
        device = as_device(device, TokensError)
        if self.ids.device == device == self.mask.device:
            return self
        return Tokens(self.ids.to(device), self.mask.to(device), self.text)

    @checked
    def padded_on(self, side: str, pad_id: int = 0) -> Tokens:
        """The same prompts with the padding moved to one side."""
        rows = [ids[mask] for ids, mask in zip(self.ids, self.mask, strict=True)]
        return _pad(rows, self.text, side, pad_id)

    def __getitem__(self, index: int | slice | Sequence[int] | Tensor) -> Tokens:
        """Some of the prompts, in any order and as often as they are named; padding that all of them share stays."""
        if isinstance(index, Tensor):
            chosen = index.cpu().numpy()
        elif isinstance(index, slice):
            chosen = index
        else:
            chosen = [index] if isinstance(index, int) else list(index)
        rows = torch.from_numpy(np.arange(len(self))[chosen].copy())
        at = rows.to(self.ids.device)
        return Tokens(self.ids[at], self.mask[at], [self.text[i] for i in rows.tolist()])


PromptsLike = Annotated[
    str | Tensor | Tokens | Mapping[str, Any] | Sequence[int] | Sequence[str | Sequence[int] | Tensor | Any],
    JUDGED_BY_THE_FUNCTION,
]
"""What ``Model.tokens`` takes, and so every technique: one prompt or several, as text or ids, ``Tokens``, what a
tokenizer returns, or chat messages."""


def _pad(rows: Sequence[Tensor], text: list[list[str]], side: str, pad_id: int) -> Tokens:
    if side not in ("left", "right"):
        raise TokensError(f"padding {side!r} is neither 'left' nor 'right'")
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long, device=rows[0].device)
    mask = torch.zeros(len(rows), width, dtype=torch.bool, device=rows[0].device)
    for i, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[i, place], mask[i, place] = row, True
    return Tokens(ids, mask, text)


def tokenize(
    prompts: PromptsLike,
    tokenizer: Any,
    *,
    d_vocab: int,
    context: int | None,
    padding: str = "right",
    bos: bool | None = None,
) -> Tokens:
    """Make ``Tokens`` from text, from lists of texts or ids, or from an id tensor.

    Parameters
    ----------
    prompts
        One prompt or several: text, a list of ids, a tensor or an array (pos,) or (batch, pos), what a tokenizer
        returned (``input_ids`` and ``attention_mask``), or a conversation, a list of messages with ``role`` and
        ``content``, which the tokenizer's chat template writes out; it ends where the assistant is to answer.
    tokenizer
        The model's tokenizer; may be None for ids.
    d_vocab, context
        Sizes that ids and lengths are checked against (``context`` None: unlimited).
    padding
        The side that shorter prompts are padded on.
    bos
        Whether each text begins with a beginning-of-text token; None leaves special tokens to the tokenizer. A text
        that begins with it as it is written gets no second one.

    Raises
    ------
    TokensError
        For an empty prompt, an id outside the vocabulary, a prompt past the context, text without a tokenizer.
    """
    if isinstance(prompts, Tokens):
        expect_fits(prompts, d_vocab, context)
        return prompts
    rows = [_row(p, i, tokenizer, bos) for i, p in enumerate(_each(prompts))]
    for i, row in enumerate(rows):
        if len(row) == 0:
            raise TokensError(f"prompt {i} is empty: expected at least one token")
    pad_id = getattr(tokenizer, "pad_token_id", None)
    if not rows:
        raise TokensError("no prompt given: expected one at least")
    tokens = _pad(rows, [], padding, 0 if pad_id is None or pad_id >= d_vocab else pad_id)
    expect_fits(tokens, d_vocab, context)
    known = {t: piece(tokenizer, t) for t in {int(t) for row in rows for t in row}}
    return Tokens(tokens.ids, tokens.mask, [[known[t] for t in row.tolist()] for row in rows])


def expect_fits(tokens: Tokens, d_vocab: int, context: int | None) -> None:
    """Refuse prompts that a model cannot run, in whatever form they came.

    Raises
    ------
    TokensError
        For an id outside the vocabulary, or a prompt past the context.
    """
    outside = tokens.mask & ((tokens.ids < 0) | (tokens.ids >= d_vocab))
    if bool(outside.any()):
        row, column = outside.nonzero()[0].tolist()
        raise TokensError(f"prompt {row} has token id {int(tokens.ids[row, column])}: expected 0 to {d_vocab - 1}")
    if context is not None and tokens.shape[1] > context:
        row = int(tokens.lengths.argmax())
        length = int(tokens.lengths[row])
        if length > context:
            raise TokensError(f"prompt {row} has {length} tokens, the model's context is {context}: shorten the prompt")


def expect_unstretched(tokens: Tokens, after: int | None, *, growth: int = 0) -> None:
    """Refuse a batch in which one prompt's length would change the rotations of another (dynamic NTK, LongRoPE).

    Raises
    ------
    TokensError
        Where prompts differ in length and one is longer than ``after``, or becomes so by ``growth`` tokens.
    """
    if after is None or not tokens.padded:
        return
    shortest, longest = int(tokens.lengths.min()), int(tokens.lengths.max())
    if shortest == longest or longest + growth <= after:
        return
    grown = f" with {growth} more each" if growth and longest <= after else ""
    raise TokensError(
        f"prompts of {shortest} to {longest} tokens in one batch{grown}: past {after} this model's rotations depend on "
        "the longest, so run prompts of different lengths one at a time"
    )


def _each(prompts: Any) -> list[Any]:
    """One prompt or several as a list of prompts."""
    if isinstance(prompts, Mapping) and "input_ids" in prompts:
        return _unpadded(prompts)
    if isinstance(prompts, str) or _is_conversation(prompts):
        return [prompts]
    if isinstance(prompts, Tensor | np.ndarray):
        if prompts.ndim not in (1, 2):
            raise TokensError(f"prompts of shape {tuple(prompts.shape)}: expected (pos,) or (batch, pos)")
        return [prompts] if prompts.ndim == 1 else list(prompts)
    if isinstance(prompts, bytes | bytearray | Mapping) or not isinstance(prompts, Iterable):
        raise TokensError(f"prompts are a {type(prompts).__name__}: expected text, a list of texts, or token ids")
    several = list(prompts)
    if not several:
        raise TokensError("no prompt given: expected text, a list of texts, or token ids")
    numbers = all(isinstance(p, int | np.integer) or (isinstance(p, Tensor) and p.ndim == 0) for p in several)
    return [several] if numbers else several


def _unpadded(encoded: Mapping[str, Any]) -> list[Any]:
    """The prompts of what a tokenizer returned, without their padding."""
    rows = _each(encoded["input_ids"])
    if encoded.get("attention_mask") is None:
        return rows
    masks = _each(encoded["attention_mask"])
    if [len(row) for row in rows] != [len(mask) for mask in masks]:
        raise TokensError("input_ids and attention_mask are of different shapes")
    each = [_ids(row, i) for i, row in enumerate(rows)]
    return [ids[torch.as_tensor(mask, device=ids.device).bool()] for ids, mask in zip(each, masks, strict=True)]


def _is_conversation(prompt: Any) -> bool:
    """Whether these are messages of a chat."""
    return (
        isinstance(prompt, list | tuple)
        and len(prompt) > 0
        and all(isinstance(message, Mapping) and "role" in message for message in prompt)
    )


def expect_characters(text: str, what: str, error: type[CasebackError]) -> None:
    """Refuse half characters, of which no tokenizer makes anything."""
    try:
        text.encode()
    except UnicodeEncodeError as half:
        raise error(f"{what} holds half a character at {half.start}: {text[half.start]!r}") from None


def _row(prompt: Any, index: int, tokenizer: Any, bos: bool | None) -> Tensor:
    if _is_conversation(prompt):
        return _of_chat(prompt, index, tokenizer)
    if not isinstance(prompt, str):
        return _ids(prompt, index)
    if tokenizer is None:
        raise TokensError("this model has no tokenizer: give token ids, or load it with tokenizer=")
    if not prompt.strip():
        raise TokensError(f"prompt {index} is empty ({prompt!r}): expected some text")
    expect_characters(prompt, f"prompt {index}", TokensError)
    ids = tokenizer(prompt, add_special_tokens=bos is not False)["input_ids"]
    first = tokenizer.bos_token_id
    if bos and first is not None and ids[:1] != [first]:
        ids = [first, *ids]
    own = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    begins = ids[:1] if first is None else [first]
    if len(own) < len(ids) and own[:1] == begins == ids[1:2] == ids[:1]:
        ids = ids[1:]  # the text begins with that token already
    return torch.tensor(ids, dtype=torch.long)


def _ids(prompt: Any, index: int) -> Tensor:
    """Token ids as a tensor (pos,)."""
    try:
        row = prompt if isinstance(prompt, Tensor) else torch.as_tensor(prompt)
    except (TypeError, ValueError, RuntimeError):
        row = torch.empty(())  # no row of numbers
    if row.shape == (0,):
        return row.long()  # torch makes an empty list a float tensor
    numbers = not (row.dtype == torch.bool or row.is_floating_point() or row.is_complex())
    if row.ndim != 1 or not numbers or isinstance(prompt, bytes | bytearray):
        raise TokensError(f"prompt {index} is neither text nor a list of token ids: {str(prompt)[:80]!r}")
    return row.long()


def _of_chat(messages: Any, index: int, tokenizer: Any) -> Tensor:
    """A conversation as its tokenizer's template writes it, up to where the assistant is to answer."""
    if tokenizer is None or getattr(tokenizer, "chat_template", None) is None:
        raise TokensError(
            f"prompt {index} is a conversation, and the tokenizer has no chat template: give text (in commands, leave "
            "out --chat)"
        )
    answers = messages[-1].get("role") != "assistant"
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=answers)
    except Exception as error:  # templates raise what they like
        raise TokensError(f"prompt {index}: the chat template refuses this conversation: {error}") from error
    return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.long)


def piece(tokenizer: Any, token: int) -> str:
    r"""One token as text, with its leading space; the id where there is no tokenizer.

    A tokenizer that drops a word's leading space when the word stands alone (SentencePiece's do) is asked for the
    piece itself; of a piece that is only a part of a character its bytes are returned, such as ``\xe6``.
    """
    if tokenizer is None:
        return str(token)
    text = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    raw = tokenizer.convert_ids_to_tokens(token)
    if raw is None:
        return text
    if raw.startswith("▁") and not text.startswith(" "):
        return " " * (len(raw) - len(raw.lstrip("▁"))) + text.lstrip(" ")
    return escaped(raw, text) if "\ufffd" in text else text


def one_token(tokenizer: Any, word: str | int, d_vocab: int, what: str = "target") -> int:
    """The id of a word that is exactly one token.

    Raises
    ------
    TargetError
        Where it is not one token; the message shows its pieces.
    """
    if isinstance(tokenizer, Classes):
        return tokenizer.id_of(word, what)
    if not isinstance(word, str):
        word = as_integer(word, what, TargetError, "text of one token, or its id")
        if not 0 <= word < d_vocab:
            raise TargetError(f"{what} id {word} is outside the vocabulary: expected 0 to {d_vocab - 1}")
        return word
    if tokenizer is None:
        raise TargetError(f"{what} {word!r}: this model has no tokenizer, give the token's id")
    expect_characters(word, what, TargetError)
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    for candidate in (ids, _after_a_word(tokenizer, word)):
        if len(candidate) == 1 and piece(tokenizer, candidate[0]) == word:
            return int(candidate[0])
    if len(ids) == 1:
        return int(ids[0])
    for entry in (word, *([entry_of(word)] if "\\x" in word else ())):
        exact = tokenizer.convert_tokens_to_ids(entry)
        if isinstance(exact, int) and exact != tokenizer.unk_token_id and exact < d_vocab:
            return exact
    pieces = " + ".join(repr(piece(tokenizer, t)) for t in ids) or "nothing"
    is_one = not word.startswith(" ") and len(_after_a_word(tokenizer, f" {word}")) == 1
    hint = f"; did you mean {' ' + word!r}, with its leading space?" if is_one else ""
    raise TargetError(f"{what} {word!r} is {len(ids)} tokens, not one ({pieces}): choose a single token{hint}")


def _after_a_word(tokenizer: Any, word: str) -> list[int]:
    """The word's ids in running text: SentencePiece tokenizers add a space of their own to a text's first word."""
    try:
        with_word = tokenizer("a" + word, add_special_tokens=False)["input_ids"]
        alone = tokenizer("a", add_special_tokens=False)["input_ids"]
    except TokensError:  # a tokenizer of whole words, which has no such word
        return []
    return with_word[len(alone) :] if with_word[: len(alone)] == alone else []
