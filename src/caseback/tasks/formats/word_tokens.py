"""Which tokens cover each word of a treebank's sentence.

A word's tokens are those that share a character with it. A token may be part of a word, and two words that are written
together (``did`` and ``n't``) may share a token.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from caseback.errors import TokensError
from caseback.model.arguments import checked
from caseback.model.running.tokens import Tokens, expect_characters, tokenize
from caseback.tasks.align import tokenizer_of
from caseback.tasks.formats.treebank import UNIVERSAL_POS, Sentence
from caseback.tasks.prompts import LabeledRow


@dataclass(frozen=True, eq=False)
class WordTokens:
    """Sentences as tokens, with the place of every word.

    Attributes
    ----------
    tokens
        The sentences.
    spans
        One (word, 2) tensor per sentence: the first and the last position of each word's tokens. A mean over a word is
        a mean over ``first … last``; at its last token the model has seen the whole word.
    sentences
        The sentences that ``tokens`` holds.
    dropped
        How many sentences were left out, by reason.
    """

    tokens: Tokens
    spans: list[Int[Tensor, "word 2"]]
    sentences: list[Sentence]
    dropped: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return len(self.sentences)

    @checked
    def documents(self, features: Mapping[str, Sequence[str]] | None = None) -> list[LabeledRow]:
        """The sentences as a corpus: token ids, with labels at each word's last token and -1 at all others.

        Parameters
        ----------
        features
            By name the values of morphological features that become labels too: ``{"Number": ("Sing", "Plur")}``.

        Returns
        -------
        list
            Of each sentence (ids, labels), as ``caseback.stream.collect`` takes them: ``pos`` is an index of
            ``UNIVERSAL_POS``, a feature one of its values.
        """
        documents = []
        for ids, mask, spans, sentence in zip(
            self.tokens.ids, self.tokens.mask, self.spans, self.sentences, strict=True
        ):
            row = ids[mask].tolist()
            labels = {name: [-1] * len(row) for name in ("pos", *(features or {}))}
            for place, pos, own in zip(spans[:, 1].tolist(), sentence.pos, sentence.features, strict=True):
                if pos in UNIVERSAL_POS:
                    labels["pos"][place] = UNIVERSAL_POS.index(pos)
                for name, values in (features or {}).items():
                    if own.get(name) in values:
                        labels[name][place] = values.index(own[name])
            documents.append((row, labels))
        return documents


@checked
def word_tokens(
    sentences: Sequence[Sentence], model: Any, *, padding: str = "right", bos: bool | None = None
) -> WordTokens:
    """Tokenize sentences and find the tokens of every word.

    Parameters
    ----------
    sentences
        What ``conllu`` gives.
    model
        A ``Model``, or a fast tokenizer alone.
    padding
        The side that shorter sentences are padded on.
    bos
        Special tokens: None leaves them to the tokenizer, True adds them, False leaves them out.

    Raises
    ------
    TokensError
        For a tokenizer that does not say which characters a token covers, or if no sentence is left, with the reasons.

    Examples
    --------
    >>> import caseback as cb
    >>> rest = [("_", "_")] * 3 + [({}, {})]
    >>> sentence = Sentence("Dogs ran", ("Dogs", "ran"), ((0, 4), (5, 8)), (1, -1), ("nsubj", "root"), *rest)
    >>> words = word_tokens([sentence], cb.load("meadow"), bos=False)
    >>> first, last = words.spans[0][1].tolist()
    >>> "".join(words.tokens.text[0][first : last + 1]).strip()
    'ran'
    """
    if not sentences:
        raise TokensError("no sentence given: expected what conllu() gives")
    tokenizer = tokenizer_of(model)
    if not getattr(tokenizer, "is_fast", False):
        raise TokensError(
            f"{type(tokenizer).__name__} cannot tell which characters a token covers: use the fast tokenizer"
        )
    texts = [sentence.text for sentence in sentences]
    for text in texts:
        expect_characters(text, repr(text)[:40], TokensError)
    encoding = tokenizer(texts, add_special_tokens=bos is not False, return_offsets_mapping=True)
    start = getattr(tokenizer, "bos_token_id", None)
    context, d_vocab = getattr(model, "context", None), getattr(model, "d_vocab", None) or len(tokenizer)
    fitting, rows, spans, dropped = [], [], [], Counter()
    for sentence, ids, offsets in zip(sentences, encoding["input_ids"], encoding["offset_mapping"], strict=True):
        if bos and start is not None and ids[:1] != [start]:
            ids, offsets = [start, *ids], [(0, 0), *offsets]
        places = _covering(sentence.spans, offsets)
        if context is not None and len(ids) > context:
            dropped["longer than the model's context"] += 1
        elif places is None:
            dropped["a word without a token"] += 1
        else:
            fitting.append(sentence)
            rows.append(ids)
            spans.append(places)
    if not fitting:
        raise TokensError(f"no sentence fits this model ({'; '.join(f'{n}: {why}' for why, n in dropped.items())})")
    tokens = tokenize(rows, tokenizer, d_vocab=d_vocab, context=context, padding=padding)
    device = getattr(model, "device", None)
    return WordTokens(tokens if device is None else tokens.to(device), spans, fitting, dropped)


def _covering(words: Sequence[tuple[int, int]], offsets: Sequence[tuple[int, int]]) -> Int[Tensor, "word 2"] | None:
    """The first and last token that overlap each word; None where a word has none."""
    starts, ends = np.array(offsets).T
    # Special tokens cover no characters; without them starts and ends only grow, which searchsorted needs.
    real = np.flatnonzero(ends > starts)
    if not len(real):
        return None
    begin, stop = np.array(words).T
    first = np.searchsorted(ends[real], begin, side="right")
    last = np.searchsorted(starts[real], stop, side="left") - 1
    if bool((first > last).any()):
        return None
    return torch.from_numpy(np.stack([real[first], real[last]], axis=-1))
