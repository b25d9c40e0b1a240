"""Samplers: what else could stand at a token's place (PRIMER 3.1.10).

    frequency   p_i(v) = how often v occurs: in texts that are given, or as the model expects over the prompt,
                         (1 / n) sum_j p(v | x_<=j)
    causal      p_i(v) = p(v | x_<i), by a causal language model
    masked      p_i(v) = p(v | all but x_i), by a masked language model

A sampler takes the model and its prompts and gives one distribution over the model's vocabulary for each position. A
language model with another tokenizer reads the prompt's text, and its tokens count for the model's of the same text;
what the model has no single token for is left out, and the rest scaled up to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.arguments import checked
from caseback.model.prompts.per_token import aligned
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens, piece

Sampler = Callable[[Model, Tokens], Float[Tensor, "batch pos vocab"]]


@checked
def frequency_sampler(texts: Sequence[Any] | None = None) -> Sampler:
    """Tokens as often as they occur, whatever stands around.

    Parameters
    ----------
    texts
        Texts, or lists of ids, to count tokens in; special tokens are left out. Without them a token is as frequent
        as the model expects it to be, on average over the prompt's positions: no corpus is needed.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> p = frequency_sampler(["the cat and the dog"])(model, model.tokens("a b"))
    >>> round(p[0, 0, model.token_id(" the")].item(), 3), round(p[0, 0].sum().item(), 3)
    (0.2, 1.0)
    """

    def sample(model: Model, tokens: Tokens) -> Tensor:
        if texts is None:
            expect_tokens_out(model.anatomy, "drawing replacements")
            logits = at_least_float32(model.run(tokens).logits)
            p = logits.softmax(-1) * tokens.mask[..., None]
            p = p.sum(1) / tokens.lengths[:, None]
        else:
            counted = [row for text in texts for row in model.tokens(text).ids.tolist()]
            p = torch.bincount(torch.tensor([t for row in counted for t in row]).long(), minlength=model.d_vocab)
            p = p.to(model.device, torch.float32).expand(len(tokens), -1).clone()
        p = _scaled(_without_special(p, model), "the texts' tokens")
        return p[:, None].expand(-1, tokens.ids.shape[1], -1)

    return sample


@checked
def causal_sampler(lm: Model) -> Sampler:
    """What a causal language model expects, given the tokens before; at the first token, its own frequencies.

    Parameters
    ----------
    lm
        A model of caseback's, such as the one that is explained.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> causal_sampler(model)(model, model.tokens("the cat")).shape[-1] == model.d_vocab
    True
    """

    def sample(model: Model, tokens: Tokens) -> Tensor:
        distributions = frequency_sampler()(model, tokens).clone()
        if lm is model or _same_vocabulary(lm, model):
            p = aligned(at_least_float32(lm.run(tokens).logits), tokens).softmax(-1)[:, :-1]
            places = [(b, i) for b, n in enumerate(tokens.lengths.tolist()) for i in range(1, n)]
            p = p[[b for b, _ in places], [i - 1 for _, i in places]]
        else:
            shown = _shown(model, tokens)
            prefixes = {(b, i): "".join(row[:i]) for b, row in enumerate(shown) for i in range(len(row))}
            places = [place for place, prefix in prefixes.items() if prefix.strip()]
            p = _by_text(lm.tokenizer, model, lm.d_vocab)(_of_parts(lambda part: _next(lm, part), prefixes, places))
        if places:
            p = _scaled(_without_special(p, model), "the sampler's tokens")
            distributions[[b for b, _ in places], [i for _, i in places]] = p.to(distributions)
        return distributions

    return sample


@checked
def masked_sampler(lm: Any, tokenizer: Any) -> Sampler:
    """What a masked language model expects at a token's place, given all others.

    Parameters
    ----------
    lm
        A masked language model of ``transformers``, such as RoBERTa (the paper's).
    tokenizer
        Its tokenizer, with a mask token.

    Raises
    ------
    CasebackError
        Where the tokenizer has no mask token.
    """
    if getattr(tokenizer, "mask_token_id", None) is None:
        raise CasebackError("this tokenizer has no mask token: a masked sampler needs one; use causal_sampler(model)")

    def sample(model: Model, tokens: Tokens) -> Tensor:
        map_to = _by_text(tokenizer, model, lm.config.vocab_size)
        masked = {
            (b, i): "".join(row[:i]) + tokenizer.mask_token + "".join(row[i + 1 :])
            for b, row in enumerate(_shown(model, tokens))
            for i in range(len(row))
        }
        p = map_to(_of_parts(lambda part: _at_the_mask(lm, tokenizer, part), masked, list(masked)))
        distributions = torch.zeros(*tokens.shape, model.d_vocab, dtype=p.dtype, device=p.device)
        distributions[[b for b, _ in masked], [i for _, i in masked]] = _scaled(
            _without_special(p, model), "the sampler's tokens"
        )
        return distributions.to(model.device)

    return sample


def _shown(model: Model, tokens: Tokens) -> list[list[str]]:
    """The prompts' tokens as text that another tokenizer can read: special ones are nothing."""
    special = set(getattr(model.tokenizer, "all_special_ids", ()))
    ids = [row[mask].tolist() for row, mask in zip(tokens.ids, tokens.mask, strict=True)]
    return [
        ["" if t in special else w for t, w in zip(*row, strict=True)] for row in zip(ids, tokens.text, strict=True)
    ]


def _of_parts(ask: Callable[[list[str]], Tensor], texts: dict[tuple[int, int], str], places: list) -> Tensor:
    """Distributions for the texts of some places, so many at once."""
    asked = [texts[place] for place in places]
    at_once = limit("sampler_texts")
    parts = [ask(asked[i : i + at_once]) for i in range(0, len(asked), at_once)]
    if not parts:
        raise CasebackError("the prompts hold no text that the sampler could read")
    return torch.cat(parts)


def _next(lm: Model, texts: list[str]) -> Float[Tensor, "text vocab"]:
    tokens = lm.tokens(texts)
    logits = lm.run(tokens).logits
    return at_least_float32(logits[torch.arange(len(tokens)), tokens.column(-1)]).softmax(-1)


@torch.no_grad()
def _at_the_mask(lm: Any, tokenizer: Any, texts: list[str]) -> Float[Tensor, "text vocab"]:
    given = tokenizer(texts, return_tensors="pt", padding=True).to(lm.device)
    logits = lm(**given).logits
    at = (given["input_ids"] == tokenizer.mask_token_id).int().argmax(-1)
    return at_least_float32(logits[torch.arange(len(texts), device=at.device), at]).softmax(-1)


def _same_vocabulary(a: Model, b: Model) -> bool:
    if a.d_vocab != b.d_vocab or (a.tokenizer is None) != (b.tokenizer is None):
        return False
    return a.tokenizer is None or a.tokenizer.get_vocab() == b.tokenizer.get_vocab()


def _by_text(tokenizer: Any, model: Model, size: int) -> Callable[[Float[Tensor, "text theirs"]], Tensor]:
    """A map from probabilities of another vocabulary to those of the model's tokens of the same text."""
    if tokenizer is None or model.tokenizer is None:
        raise CasebackError("a sampler with another vocabulary works by text: both models need a tokenizer")
    ours: dict[str, int] = {}
    for token in range(min(model.d_vocab, len(model.tokenizer))):
        ours.setdefault(piece(model.tokenizer, token), token)
    theirs = {token: word for word, token in tokenizer.get_vocab().items() if token < size}
    # vocabularies that mark a word's later pieces, with ##, leave out the space before the first
    marked = any(word.startswith("##") for word in theirs.values())
    special = set(tokenizer.all_special_ids)
    pairs = []
    for token, word in theirs.items():
        if token in special:
            continue
        text = (word[2:] if word.startswith("##") else " " + word) if marked else piece(tokenizer, token)
        if text in ours:
            pairs.append((token, ours[text]))
    if not pairs:
        raise CasebackError("the sampler's vocabulary and the model's have no token in common")
    source, target = torch.tensor(pairs).unbind(-1)

    def mapped(p: Tensor) -> Tensor:
        total = p.new_zeros(len(p), model.d_vocab)
        return total.index_add_(1, target.to(p.device), p[:, source.to(p.device)])

    return mapped


def _without_special(p: Float[Tensor, "row vocab"], model: Model) -> Tensor:
    special = [t for t in getattr(model.tokenizer, "all_special_ids", ()) if t < model.d_vocab]
    p = p.clone()
    p[:, special] = 0
    return p


def _scaled(p: Float[Tensor, "row vocab"], what: str) -> Tensor:
    total = p.sum(-1, keepdim=True)
    if bool((total <= 0).any()):
        raise CasebackError(f"{what} leave no token of the model's to draw: give others")
    return p / total
