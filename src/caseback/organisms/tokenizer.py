"""A byte-level BPE tokenizer for the closed world.

Like GPT-2's: any text decodes back to itself and ``Ġ`` stands for a leading space. Digits are cut in pairs from the
left (``1732`` is ``17`` ``32``), so that a year is a century and a year within it. ``<|endoftext|>`` opens every text,
as it opens every training text.
"""

from __future__ import annotations

import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from caseback.errors import CasebackError
from caseback.organisms.prose import text, world

END = "<|endoftext|>"
PIECES = r"'(?:s|t|re|ve|m|ll|d)| ?\d{1,2}| ?\p{L}+| ?[^\s\p{L}\d]+|\s+(?!\S)|\s+"
CONTEXT = 128
TEXTS = 20_000  # that merges are learned from


def end_of_text(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id of ``<|endoftext|>``."""
    return tokenizer.get_vocab()[END]


def whole_tokens() -> list[str]:
    """Every string that must be one token: words of the world with their space, pairs of digits."""
    figures = [f"{n:02}" for n in range(100)] + [f" {n}" for n in range(100)] + list("0123456789")
    return [f" {word}" for word in world.WHOLE_WORDS] + list(world.OPENING_WORDS) + figures


def train_tokenizer(size: int = 2560, seed: int = 0) -> PreTrainedTokenizerFast:
    """Learn the merges from generated text.

    Parameters
    ----------
    size
        The number of pieces, including the 256 bytes and ``<|endoftext|>``.
    seed
        Same seed, same result. Draws the text that the merges are learned from.

    Raises
    ------
    CasebackError
        If ``size`` is too small for all of ``whole_tokens`` to be single tokens.
    """
    rng = random.Random(seed)
    documents = [text.document(rng).text for _ in range(TEXTS)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Even rare words must be merged before the vocabulary is full, hence the repetition.
    tokenizer.train_from_iterator(documents + whole_tokens() * 200, trainer)
    split = [piece for piece in whole_tokens() if len(tokenizer.encode(piece).ids) != 1]
    if split:
        raise CasebackError(
            f"{len(split)} words of the world are not single tokens with {size} pieces, among them "
            f"{split[:5]}: give the tokenizer a larger size."
        )
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END} $A", pair=f"{END} $A $B", special_tokens=[(END, end)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=END,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
