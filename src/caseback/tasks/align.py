"""From text to tokens: pairs whose two prompts a tokenizer cuts alike.

A pair is kept where clean and corrupt have equally many tokens, every named word stands at the same positions in both
and shares no token with another named word, and every answer is one token. What is left out is counted by its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from caseback.errors import TokensError
from caseback.model.arguments import checked
from caseback.model.running.tokens import expect_characters, tokenize
from caseback.tasks.prompts import Answer, Pair, Prompts
from caseback.tasks.text import Text


@checked
def align(
    pairs: Sequence[Pair],
    model: Any,
    *,
    measure: str = "logit_diff",
    task: str = "",
    padding: str = "right",
    bos: bool | None = None,
    dropped: Mapping[str, int] | None = None,
) -> Prompts:
    """Tokenize pairs and keep those that are aligned.

    Parameters
    ----------
    pairs
        Examples as text.
    model
        A ``Model``, or a tokenizer alone.
    measure, task
        As in ``Prompts``.
    padding
        The side that shorter prompts are padded on.
    bos
        Special tokens: None leaves them to the tokenizer.
    dropped
        How many were left out before, by reason; the result's counts include these.

    Raises
    ------
    TokensError
        If no pair is left, with the reasons.
    """
    counts = Counter(dropped or {})
    encoded = aligned(pairs, tokenizer_in(model), bos=bos, dropped=counts)
    if not encoded:
        reasons = "; ".join(f"{count}: {reason}" for reason, count in counts.items()) or "no pair was given"
        raise TokensError(f"no example of {task or 'these pairs'} fits this tokenizer ({reasons})")
    return collect(encoded, model, measure=measure, task=task, padding=padding, dropped=counts)


@dataclass(frozen=True)
class Encoded:
    """A pair as token ids; ``spans`` holds the first and last token of each named word."""

    pair: Pair
    clean: list[int]
    corrupt: list[int]
    target: list[int]
    foil: list[int]
    corrupt_target: list[int]
    spans: dict[str, tuple[int, int]]


def collect(
    encoded: Sequence[Encoded], model: Any, *, measure: str, task: str, padding: str, dropped: Mapping[str, int]
) -> Prompts:
    """Put encoded pairs into one batch."""
    tokenizer = tokenizer_in(model)
    d_vocab, context = getattr(model, "d_vocab", None) or len(tokenizer), getattr(model, "context", None)
    sizes = {"d_vocab": d_vocab, "context": context, "padding": padding}
    clean, corrupt = (
        tokenize([getattr(e, side) for e in encoded], tokenizer, **sizes) for side in ("clean", "corrupt")
    )
    device = getattr(model, "device", None)
    if device is not None:
        clean, corrupt = clean.to(device), corrupt.to(device)
    names = [name for name in encoded[0].spans if all(name in e.spans for e in encoded)]
    return Prompts(
        clean,
        corrupt,
        [e.target for e in encoded],
        [e.foil for e in encoded],
        [e.corrupt_target for e in encoded],
        [e.pair for e in encoded],
        {name: torch.tensor([e.spans[name] for e in encoded]) for name in names},
        measure,
        task,
        dict(dropped),
    )


def tokenizer_in(model: Any) -> Any:
    """A model's tokenizer, or the tokenizer itself; None for a model without one."""
    return model if callable(getattr(model, "convert_ids_to_tokens", None)) else getattr(model, "tokenizer", None)


def tokenizer_of(model: Any) -> Any:
    """A model's tokenizer, or the tokenizer itself.

    Raises
    ------
    TokensError
        For a model without one.
    """
    tokenizer = tokenizer_in(model)
    if tokenizer is None:
        raise TokensError("this task is made of text: give a tokenizer, or load the model with tokenizer=")
    return tokenizer


def aligned(
    pairs: Sequence[Pair], tokenizer: Any, *, bos: bool | None = None, dropped: Counter[str] | None = None
) -> list[Encoded]:
    """The pairs that are token-aligned under a tokenizer; what is wrong with the others is counted in ``dropped``.

    The tokenizer may be None where every pair is given as ids.
    """
    dropped = Counter() if dropped is None else dropped
    clean, corrupt = (_encode(tokenizer, [getattr(pair, side) for pair in pairs], bos) for side in ("clean", "corrupt"))
    # Answers are looked up in batches: each call of a tokenizer costs far more than each text in it.
    answers = _Answers(lambda texts: [ids for ids, _ in _encode(tokenizer, [Text(t) for t in texts], bos)])
    asked = [(pair.clean.text, (*pair.target, *pair.foil)) for pair in pairs]
    answers.learn(asked + [(pair.corrupt.text, pair.corrupt_target) for pair in pairs])
    encoded = []
    for pair, (a, a_ends), (b, b_ends) in zip(pairs, clean, corrupt, strict=True):
        spans = _positions(pair.clean, a_ends, len(a))
        if len(a) != len(b):
            dropped["clean and corrupt differ in length"] += 1
        elif spans is None or _positions(pair.corrupt, b_ends, len(b)) != spans:
            dropped["named words share a token or stand elsewhere in the corrupt prompt"] += 1
        else:
            target, foil = answers.of(pair.clean.text, pair.target), answers.of(pair.clean.text, pair.foil)
            other = answers.of(pair.corrupt.text, pair.corrupt_target)
            if target is None or foil is None or other is None:
                dropped["an answer is not one token"] += 1
            elif set(target) & set(foil):
                dropped["target and foil are the same token"] += 1
            else:
                encoded.append(Encoded(pair, a, b, target, foil, other, spans))
    return encoded


def _encode(tokenizer: Any, texts: Sequence[Text], bos: bool | None) -> list[tuple[list[int], list[tuple[int, int]]]]:
    """Ids of each text, and the characters that each token covers (its place among the ids, where ids are given)."""
    written = [text.text for text in texts if text.ids is None]
    encodings = iter(_cut(tokenizer, written, bos))
    if len(written) == len(texts):
        return list(encodings)
    # Given ids are counted from 0 after the opening token, as ``Text.spans`` counts them; the opening token covers the
    # empty range (0, 0), so that no named word takes it in.
    opening = _opening(tokenizer, bos)
    ends = [(0, 0)] * len(opening)
    return [
        next(encodings)
        if text.ids is None
        else ([*opening, *text.ids], ends + [(i, i + 1) for i in range(len(text.ids))])
        for text in texts
    ]


def _cut(tokenizer: Any, texts: list[str], bos: bool | None) -> list[tuple[list[int], list[tuple[int, int]]]]:
    if not texts:
        return []
    if tokenizer is None:
        raise TokensError("these pairs are made of text: give a tokenizer, or load the model with tokenizer=")
    if not getattr(tokenizer, "is_fast", False):
        raise TokensError(
            f"{type(tokenizer).__name__} cannot tell which characters a token covers: use the fast tokenizer"
        )
    for text in texts:
        expect_characters(text, repr(text)[:40], TokensError)
    encoding = tokenizer(texts, add_special_tokens=bos is not False, return_offsets_mapping=True)
    first = tokenizer.bos_token_id if bos else None
    if first is None:
        return list(zip(encoding["input_ids"], encoding["offset_mapping"], strict=True))
    # bos=True promises the opening token, and not every tokenizer adds one by itself
    return [
        (ids, ends) if ids[:1] == [first] else ([first, *ids], [(0, 0), *ends])
        for ids, ends in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True)
    ]


def _opening(tokenizer: Any, bos: bool | None) -> list[int]:
    """The special token that opens every prompt, as a list of one; empty where there is none."""
    first = getattr(tokenizer, "bos_token_id", None)
    if first is None or bos is False:
        return []
    return [first] if bos or tokenizer("")["input_ids"][:1] == [first] else []


def _positions(text: Text, offsets: list[tuple[int, int]], length: int) -> dict[str, tuple[int, int]] | None:
    """First and last token of each named word; None where a word has no token or shares one with another word."""
    spans = {}
    for name, (start, stop) in text.spans.items():
        # Half-open ranges overlap exactly if each begins before the other ends.
        inside = [i for i, (a, b) in enumerate(offsets) if a < stop and b > start]
        if not inside:
            return None
        if any(first <= inside[-1] and inside[0] <= last for first, last in spans.values()):
            return None
        spans[name] = (inside[0], inside[-1])
    return {**spans, "end": (length - 1, length - 1)}


class _Answers:
    """Ids of answers, each found by tokenizing it after its prompt, since neighbors change how a word is cut.

    Tokenizers that cut text into words first look no further back than the prompt's last word, so only the prompt's
    tail is tokenized with the answer. An answer without a leading space may merge with the prompt's last word (``17``
    and ``32``); a model asked for the next token can still say it, so there the token that the answer is by itself
    counts. An answer that is given as an id is that token.
    """

    def __init__(self, encode: Callable[[list[str]], list[list[int]]]):
        self.encode, self.known = encode, {}

    def learn(self, asked: Iterable[tuple[str, tuple[Answer, ...]]]) -> None:
        """Tokenize what is not known yet; an answer that is not one token is known as None."""
        wanted = {(_tail(text), answer) for text, answers in asked for answer in answers if isinstance(answer, str)}
        wanted = sorted(wanted - self.known.keys())
        if not wanted:
            return
        tails = sorted({tail for tail, _ in wanted})
        before = dict(zip(tails, self.encode(tails), strict=True))
        for (tail, answer), ids in zip(wanted, self.encode([t + a for t, a in wanted]), strict=True):
            # One token, if the answer adds exactly one and leaves the tail's own tokens as they are.
            one_more = len(ids) == len(before[tail]) + 1 and ids[:-1] == before[tail]
            self.known[tail, answer] = ids[-1] if one_more else None
        merged = [key for key in wanted if self.known[key] is None and not key[1].startswith(" ")]
        # What the tokenizer puts before every text, an opening token for instance, is not part of the answer.
        (empty,) = self.encode([""])
        for key, ids in zip(merged, self.encode([answer for _, answer in merged]), strict=True):
            alone = ids[len(empty) :] if ids[: len(empty)] == empty else []
            self.known[key] = alone[0] if len(alone) == 1 else None

    def of(self, text: str, answers: tuple[Answer, ...]) -> list[int] | None:
        """Ids of a prompt's answers; None if one of them is not a single token."""
        ids = [answer if isinstance(answer, int) else self.known[_tail(text), answer] for answer in answers]
        return None if any(i is None for i in ids) else ids


def _tail(text: str) -> str:
    """The last two words of a text: two, so that the last one is cut as inside a text, with its space before it."""
    return " ".join(text.split(" ")[-2:])
