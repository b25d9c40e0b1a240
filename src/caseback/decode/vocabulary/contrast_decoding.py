"""Decoding by contrast: what a model says beyond what an earlier layer, or a weaker model, says too (PRIMER 4.3.18).

    score(v) = log p_strong(v) - log p_weak(v)    for v in V = {v : p_strong(v) >= alpha max p_strong},  -inf elsewhere

DoLa (Chuang et al. 2024) takes as the weak one the logit lens of the candidate layer that is furthest from the output
in Jensen-Shannon divergence, chosen anew at each step; the penalty of repeated words comes after the contrast. Their
code's lens leaves the final norm out (``norm=False``).
Contrastive decoding (Li et al. 2023) takes another, smaller model, and weighs: (1 + beta) log p_strong - beta
log p_weak. Each is a logits processor of transformers' own ``generate``, so sampling, beams and stopping work as ever,
and the model stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from caseback.errors import CasebackError, OutOfRange
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.running.generate import generate
from caseback.model.running.model import Model
from caseback.model.running.passing import Hooks
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.model.running.verify import unembed, unembed_normed


@technique(
    role="decoding",
    entry=("4.3.18",),
    citation="Chuang et al. 2024",
    cost="a generation + candidates x unembedding per step",
)
def dola(
    model: Model,
    tokens: PromptsLike,
    *,
    layers: str | Sequence[int] = "low",
    alpha: float = 0.1,
    norm: bool = True,
    repetition_penalty: float = 1.2,
    max_new_tokens: int = 20,
    seed: int | None = None,
    **options: Any,
) -> Tokens:
    """Generate with the last layer contrasted with the earlier one that differs from it most.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    layers
        Candidates: the stream after each of these layers is read by the logit lens; -1 is the embedding. Or a published
        bucket: ``"low"`` is every second depth of the model's lower half, for tasks of reasoning, ``"high"`` of the
        upper half, for short factual answers, each at most 20 layers long. The low one begins with the embedding,
        or, where that is tied to the unembedding and so predicts the word itself, two depths later.
    alpha
        Tokens with less than this share of the likeliest token's probability are never generated; 0.1 as published.
    norm
        Read candidates through the final norm, as the logit lens does. False reads them by the unembedding alone, as
        the authors' code and that of transformers do.
    repetition_penalty
        Of transformers; 1.2 as published, since contrast makes repetition likelier. It changes the contrasted scores.
    max_new_tokens, seed, **options
        As for ``Model.generate``. Processors of your own see the contrasted scores; what transformers makes of other
        options, such as ``no_repeat_ngram_size``, comes before the contrast, except for sampling.

    Returns
    -------
    Tokens
        The prompts with their continuations.

    Raises
    ------
    OutOfRange
        For layers that the model does not have, or an alpha outside (0, 1].

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> continued = dola(model, "The capital of France is", max_new_tokens=2)
    >>> continued.shape[1] - model.tokens("The capital of France is").shape[1]
    2
    """
    candidates = _bucket(model, layers) if isinstance(layers, str) else list(layers)
    if not candidates or not all(-1 <= layer < model.n_layers for layer in candidates):
        raise OutOfRange(f"candidate layers {candidates}: expected some of -1 to {model.n_layers - 1}")
    if repetition_penalty <= 0:
        raise OutOfRange(f"repetition_penalty={repetition_penalty}: expected a number above 0; 1 is none")
    tokens = model.tokens(tokens)
    states = _LastStates(model, candidates)
    contrast = _Contrast(alpha, lambda ids, log_p: _furthest(model, states.held, log_p, norm))
    penalty = [] if repetition_penalty == 1.0 else [RepetitionPenaltyLogitsProcessor(repetition_penalty)]
    own = options.pop("logits_processor", None) or []
    options["logits_processor"] = LogitsProcessorList([contrast, *penalty, *own])
    options |= {"max_new_tokens": max_new_tokens, "seed": seed, "repetition_penalty": 1.0}
    return generate(model.anatomy, tokens, model.tokenizer, watch=states.watch, **options)[0]


def _bucket(model: Model, name: str) -> list[int]:
    """A published bucket, as layers whose output is read; published are hidden states, the embedding being 0."""
    n = model.n_layers
    if name == "high":
        return [depth - 1 for depth in range(max(n // 2, n - 20), n, 2)]
    if name != "low":
        raise OutOfRange(f"candidate layers {name!r}: expected 'low', 'high' or numbers of layers")
    first = 0 if not model.hf.config.get_text_config().tie_word_embeddings else min(2, max(n - 1, 0))
    return [depth - 1 for depth in range(first, min(max(n // 2, first + 1), 20), 2)]


@technique(role="decoding", entry=("4.3.18",), citation="Li et al. 2023", cost="generations of both models")
def contrastive_decoding(
    model: Model,
    weaker: Model,
    tokens: PromptsLike,
    *,
    alpha: float = 0.1,
    beta: float | None = None,
    max_new_tokens: int = 20,
    seed: int | None = None,
    **options: Any,
) -> Tokens:
    """Generate with a model contrasted with a weaker one of the same vocabulary.

    Parameters
    ----------
    model, weaker
        The expert and the amateur.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    alpha
        As for ``dola``.
    beta
        None for log p_strong - log p_weak (Li et al.); a number for (1 + beta) log p_strong - beta log p_weak
        (O'Brien and Lewis 2023), which is the model itself at 0.
    max_new_tokens, seed, **options
        As for ``Model.generate``.

    Returns
    -------
    Tokens
        The prompts with their continuations.

    Raises
    ------
    CasebackError
        Where the vocabularies differ in size.
    OutOfRange
        For an alpha outside (0, 1].

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> prompt = "The capital of France is"
    >>> plain = model.generate(prompt, max_new_tokens=2)
    >>> bool((contrastive_decoding(model, model, prompt, beta=0.5, max_new_tokens=2).ids == plain.ids).all())
    True
    """
    expect_tokens_out(model.anatomy, "generating")
    expect_tokens_out(weaker.anatomy, "contrast")
    if model.d_vocab != weaker.d_vocab:
        raise CasebackError(
            f"{model.name!r} has {model.d_vocab} tokens and {weaker.name!r} {weaker.d_vocab}: contrast needs one "
            "vocabulary"
        )

    def weak(ids: Int[Tensor, "batch pos"], log_p: Tensor) -> Tensor:
        mask = torch.ones_like(ids, dtype=torch.bool)
        mask[:, : padding.shape[1]] = padding.repeat_interleave(len(ids) // len(padding), 0)
        text = [[""] * int(row.sum()) for row in mask]
        logits = weaker.run(Tokens(ids, mask, text)).logits[:, -1]
        return at_least_float32(logits).log_softmax(-1).to(log_p)

    given = model.tokens(tokens)
    padding = given.padded_on("left", 0).mask
    options["logits_processor"] = LogitsProcessorList([_Contrast(alpha, weak, beta)])
    return model.generate(given, max_new_tokens=max_new_tokens, seed=seed, **options)


class _Contrast(LogitsProcessor):
    """Scores of plausible words by contrast, minus infinity for the others."""

    def __init__(self, alpha: float, weak: Callable[[Tensor, Tensor], Tensor], beta: float | None = None):
        if not 0 < alpha <= 1:
            raise OutOfRange(f"alpha is {alpha}: expected above 0 and at most 1")
        self.alpha, self.weak, self.beta = alpha, weak, beta

    def __call__(self, input_ids: Tensor, scores: Float[Tensor, "batch vocab"]) -> Float[Tensor, "batch vocab"]:
        log_p = at_least_float32(scores).log_softmax(-1)
        weak = self.weak(input_ids, log_p)
        contrast = log_p - weak if self.beta is None else (1 + self.beta) * log_p - self.beta * weak
        least = log_p.max(-1, keepdim=True).values + torch.log(torch.tensor(self.alpha))
        return contrast.masked_fill(log_p < least, -torch.inf).to(scores)


def _furthest(
    model: Model, states: Float[Tensor, "layer batch d_model"], log_p: Float[Tensor, "batch vocab"], norm: bool
) -> Float[Tensor, "batch vocab"]:
    """The candidate layer's log probabilities with the largest Jensen-Shannon divergence, for each prompt."""
    logits = unembed(model.anatomy, states) if norm else unembed_normed(model.anatomy, states)
    log_q = at_least_float32(logits).log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    entropy = lambda x: torch.special.entr(x).sum(-1)  # noqa: E731
    js = entropy((p + q) / 2) - (entropy(p) + entropy(q)) / 2
    return log_q[js.argmax(0), torch.arange(log_q.shape[1], device=log_q.device)]


class _LastStates:
    """The stream of the last column after some layers (-1: before the first), in every step of decoding."""

    def __init__(self, model: Model, layers: Sequence[int]):
        self.model, self.layers = model, layers
        self.states: dict[int, Tensor] = {}

    @property
    def held(self) -> Float[Tensor, "layer batch d_model"]:
        return torch.stack([self.states[layer] for layer in self.layers])

    def watch(self, hooks: Hooks) -> None:
        blocks = [part.layer for part in self.model.anatomy.layers]

        def keep(layer: int) -> Callable[[Tensor], Tensor]:
            def hook(x: Tensor) -> Tensor:
                self.states[layer] = x[:, -1].detach()
                return x

            return hook

        for layer in self.layers:
            if layer == -1:
                hooks.on_input(blocks[0], keep(layer))
            else:
                hooks.on_output(blocks[layer], keep(layer))
