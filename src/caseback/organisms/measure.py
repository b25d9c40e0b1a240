"""How well a bundled model does what it was trained for, on what it was not trained on.

Two measures: how often the word asked for is the likeliest, and how often the next token of a repeated random span is,
over its second occurrence after the first two tokens.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from jaxtyping import Float
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from caseback.jobs.budget import limit
from caseback.organisms.prose import text
from caseback.organisms.prose.documents import Document


@dataclass(frozen=True)
class Score:
    """Results over ``count`` prompts.

    Attributes
    ----------
    top
        The share of prompts whose likeliest next token is the answer.
    over_foil
        The share of prompts whose answer is likelier than the foil; ``nan`` where there are no foils.
    probability
        The mean probability of the answer.
    """

    count: int
    top: float
    over_foil: float
    probability: float


@torch.no_grad()
def next_probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, prompts: list[str]
) -> Float[torch.Tensor, "prompt vocab"]:
    """Probabilities of the token after each prompt."""
    batch = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="right")
    last = batch["attention_mask"].sum(1) - 1
    logits = model(**batch).logits[torch.arange(len(prompts)), last]
    return logits.float().softmax(-1)


def asked(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    documents: list[Document],
    batch: int | None = None,
) -> Score:
    """Ask for the answer of each document, given its prompt.

    Examples
    --------
    >>> score = asked(model, tokenizer, text.documents("giving", 200, seed=1))  # doctest: +SKIP
    """
    top, over, probability = [], [], []
    batch = limit("organism_documents", given=batch)
    for start in range(0, len(documents), batch):
        chunk = documents[start : start + batch]
        probabilities = next_probabilities(model, tokenizer, [d.prompt for d in chunk])
        for row, document in zip(probabilities, chunk, strict=True):
            answer = _single(tokenizer, document.answer)
            top.append(row.argmax().item() == answer)
            probability.append(row[answer].item())
            if document.foil is not None:
                over.append((row[answer] > row[_single(tokenizer, document.foil)]).item())
    return Score(len(documents), _mean(top), _mean(over), _mean(probability))


@torch.no_grad()
def repeated(model: PreTrainedModel, vocab: int, special: int, span: int, count: int, seed: int) -> Score:
    """Random spans of ``span`` tokens after the special token, each repeated once.

    The tokens of the second occurrence are scored, after its first two.
    """
    rng = random.Random(seed)
    others = [token for token in range(vocab) if token != special]
    spans = torch.tensor([rng.choices(others, k=span) for _ in range(count)])
    ids = torch.cat([torch.full((count, 1), special), spans, spans], 1)
    mask = torch.ones_like(ids)
    probabilities = model(ids, attention_mask=mask).logits[:, span + 2 : -1].float().softmax(-1)
    truth = spans[:, 2:]
    hits = (probabilities.argmax(-1) == truth).float().mean().item()
    chance = probabilities.gather(-1, truth[..., None]).mean().item()
    return Score(truth.numel(), hits, float("nan"), chance)


@torch.no_grad()
def later_years(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, count: int, seed: int) -> Score:
    """Spans of years: is the likeliest year a later one, and how likely are all later ones?

    ``over_foil`` is the share of prompts where the later years together beat all others.
    """
    figures = [_single(tokenizer, f"{year:02}") for year in range(100)]
    documents = text.documents("years", count, seed)
    probabilities = next_probabilities(model, tokenizer, [d.prompt for d in documents])
    top, mass = [], []
    for row, document in zip(probabilities, documents, strict=True):
        start = first_year(document.prompt)
        later = set(figures[start + 1 :])
        top.append(row.argmax().item() in later)
        mass.append(sum(row[token].item() for token in later))
    return Score(count, _mean(top), _mean([m > 0.5 for m in mass]), _mean(mass))


def first_year(prompt: str) -> int:
    """The year within its century that a prompt of the kind ``years`` starts from."""
    return next(int(word[2:4]) for word in prompt.replace(",", "").split() if word.isdigit())


def _single(tokenizer: PreTrainedTokenizerFast, piece: str) -> int:
    (token,) = tokenizer(piece, add_special_tokens=False)["input_ids"]
    return token


def _mean(values: list) -> float:
    return sum(values) / len(values) if values else float("nan")
