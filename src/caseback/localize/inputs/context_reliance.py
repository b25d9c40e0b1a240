"""PECoRe: which words of a context a generation relies on, and for which of its tokens (PRIMER 3.1.23).

    1. which tokens    m_t = KL( P(. | context, y_<t) || P(. | y_<t) ),    selected where m_t > mean(m) + k std(m)
    2. which cues      the attribution of f(y_t) - f(y'_t) to the context's tokens, y' the choice without the context

Both steps select what stands out by the same rule, and the pairs are the answer: this token of the context caused that
one of the text. Any attribution of the form ``method(model, tokens, metric)`` serves the second step. f are logits of
the run with the context. Where the choice is the same without it, y' is the choice's strongest rival there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.budget import limit
from caseback.jobs.warned import warn
from caseback.localize.inputs.gradients.gradients import gradient_norm
from caseback.localize.inputs.passages import Passage, Text, passage_of, predictions
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric, log_prob, logit_diff
from caseback.model.running.model import Model

Method = Callable[[Model, Any, Metric], xr.DataArray]
T = TypeVar("T")


def _kl(p: Tensor, q: Tensor, chosen: Tensor) -> Tensor:
    return (p.exp() * (p - q).nan_to_num(0.0)).sum(-1)


def _of_chosen(value: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda p, q, chosen: value(*(x.gather(-1, chosen[:, None])[:, 0] for x in (p, q)))


MEASURES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "kl": _kl,
    "pcxmi": _of_chosen(lambda p, q: (p - q) / float(np.log(2))),
    "likelihood_ratio": _of_chosen(lambda p, q: torch.sigmoid(p - q)),
    "prob_diff": _of_chosen(lambda p, q: p.exp() - q.exp()),
}
"""How much the context moved a prediction, from its log probabilities with the context and without, and the token
written: KL (nats), log2 of the quotient of the token's probabilities (P-CXMI, bits), P / (P + P'), P - P'."""


def standing_out(scores: Float[Tensor, " n"], std: float, top: int | None) -> list[int]:
    """Those above the mean by ``std`` standard deviations (n - 1 in the denominator), best first, ``top`` at most.

    Examples
    --------
    >>> standing_out(torch.tensor([0.0, 5.0, 0.0, 0.0, 9.0, 0.0]), std=0.5, top=None)
    [4, 1]
    >>> standing_out(torch.zeros(3), std=1.0, top=None)
    []
    """
    spread = scores.std() if len(scores) > 1 else 0.0
    above = (scores > scores.mean() + std * spread).nonzero()[:, 0].tolist() if len(scores) else []
    return sorted(above, key=lambda i: (-float(scores[i]), i))[:top]


@dataclass(frozen=True)
class Cue:
    """A token of the context that caused a token of the generation.

    Attributes
    ----------
    context_pos, context_token
        Which token of the context, counted from its first.
    generated_pos, generated_token
        Which token of the generation.
    without
        What would have been written there without the context.
    foil
        What the token was contrasted with: ``without``, or its strongest rival where the two are the same; empty where
        nothing was.
    score
        The attribution.
    """

    context_pos: int
    context_token: str
    generated_pos: int
    generated_token: str
    without: str
    foil: str
    score: float


@dataclass(frozen=True)
class ContextReliance:
    """What ``pecore`` found.

    Attributes
    ----------
    sensitivity
        (pos,) how much the context moved each generated token; ``selected`` beside it, 1 for those attributed.
    cues
        (query, key) attribution of each generated token to each of the context; NaN for those not attributed.
    pairs
        The cues that stand out, generated token by generated token, the strongest first.
    """

    sensitivity: xr.DataArray
    cues: xr.DataArray
    pairs: tuple[Cue, ...]

    def __str__(self) -> str:
        if not self.pairs:
            return "no token of the generation stands out as caused by one of the context"
        return "\n".join(
            f"{c.context_token!r} ({c.context_pos}) -> {c.generated_token!r} ({c.generated_pos}), "
            f"without the context {c.without!r}: {c.score:.3g}"
            for c in self.pairs
        )


@technique(
    role="input attribution of another kind",
    entry=("3.1.23",),
    citation="Sarti et al. 2024",
    cost="a generation + one forward",
)
def context_sensitivity(
    model: Model,
    context: Text,
    current: Text,
    generation: Text | None = None,
    *,
    measure: str = "kl",
    std: float = 1.0,
    top: int | None = None,
    max_new_tokens: int = 20,
    **options: Any,
) -> xr.DataArray:
    """How much a context moved the prediction of each generated token: PECoRe's first step.

    Parameters
    ----------
    model
        The model.
    context, current
        What comes before, and the text that is continued; text or token ids. An empty context moves nothing.
    generation
        The continuation, forced; written by the model, greedily, unless given.
    measure
        ``"kl"`` (P with the context against P without it), ``"pcxmi"``, ``"likelihood_ratio"`` or ``"prob_diff"``
        of the token written.
    std
        How many standard deviations above the mean a token must be to count as sensitive. Of one or two tokens none
        can be: there those count that would be other tokens without the context.
    top
        At most so many of these.
    max_new_tokens, **options
        For ``Model.generate``, where the generation is not given.

    Returns
    -------
    xr.DataArray
        (pos,) over the generated tokens, with their ``token``, ``without`` (the most likely token without the context)
        and ``selected`` (1 or 0). The attribute ``threshold`` is what the selected ones are above.

    Raises
    ------
    TokensError
        For an empty current text, or a token across the border of two parts.
    CasebackError
        For an unknown measure.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> sensitivity = context_sensitivity(model, "Mary and John went to the store.", " John gave a drink to", " Mary")
    >>> sensitivity.dims, sensitivity.token.values.tolist()
    (('pos',), [' Mary'])
    """
    _expect(measure, top)
    passage = passage_of(model, context, current, generation, max_new_tokens, **options)
    return _sensitivity(model, passage, predictions(model, passage).cpu(), measure, std, top)


def _expect(measure: str, top: int | None) -> None:
    if measure not in MEASURES:
        raise CasebackError(f"measure={measure!r} is unknown. {did_you_mean(str(measure), MEASURES)}")
    if top is not None and top < 1:
        raise OutOfRange(f"top={top}: expected at least 1, or None for all that stand out")


FEW = 2
"""Of so few tokens none can stand out above their mean: those that would be others without the context are selected."""


def _turned(passage: Passage, log_q: Tensor, scores: Tensor, top: int | None) -> list[int]:
    turned = (log_q.argmax(-1) != torch.tensor(passage.generated)).nonzero()[:, 0].tolist()
    return sorted(turned, key=lambda i: -float(scores[i]))[:top]


def _sensitivity(
    model: Model, passage: Passage, both: Tensor, measure: str, std: float, top: int | None
) -> xr.DataArray:
    log_p, log_q = both
    scores = MEASURES[measure](log_p, log_q, torch.tensor(passage.generated))
    if not passage.context:
        warn("the context is empty, so nothing can rely on it", stacklevel=3)
        chosen: list[int] = []
    else:
        chosen = standing_out(scores, std, top) if len(scores) > FEW else _turned(passage, log_q, scores, top)
    selected = torch.zeros(len(scores), dtype=torch.long)
    selected[chosen] = 1
    spread = float(scores.std()) if len(scores) > 1 else 0.0
    return labelled(
        scores,
        ["pos"],
        {
            "token": ("pos", [model.token_text(t) for t in passage.generated]),
            "without": ("pos", [model.token_text(t) for t in log_q.argmax(-1)]),
            "selected": ("pos", selected),
        },
        name="context_sensitivity",
        technique=context_sensitivity,
        model=model,
        measure=measure,
        std=float(std),
        top=top,
        threshold=float(scores.mean()) + std * spread if len(scores) > FEW else None,
    )


@technique(
    role="input attribution of another kind",
    entry=("3.1.23",),
    citation="Sarti et al. 2024",
    cost="a generation + one forward + one attribution per token",
)
def pecore(
    model: Model,
    context: Text,
    current: Text,
    generation: Text | None = None,
    *,
    method: Method = gradient_norm,
    target: str | int | None = None,
    kept: str = "rival",
    measure: str = "kl",
    std: float = 1.0,
    top: int | None = None,
    cue_std: float = 1.0,
    cue_top: int | None = None,
    max_new_tokens: int = 20,
    **options: Any,
) -> ContextReliance:
    """Which tokens of a context caused which tokens of a generation.

    Parameters
    ----------
    model
        The model.
    context, current
        What comes before, and the text that is continued; text or token ids. Text is tokenized as one, so a space
        between the two belongs to one of them. An empty context gives no pairs, and a warning.
    generation
        The continuation, forced; written by the model, greedily, unless given.
    method
        Attribution of the sensitive tokens, ``method(model, tokens, metric)``; the paper's contrastive gradient norm
        unless given. It is called with batches of prompts, one for each token to be attributed and 16 at most.
    target
        Attribute this token of the generation wherever it occurs, instead of those that stand out.
    kept
        What is attributed where the choice is the same without the context: the logit difference to its strongest
        ``"rival"`` there, or its ``"log_prob"``, which is its gain by the context up to a constant; a method that needs
        sums of logits cannot take that one.
    measure, std, top
        As for ``context_sensitivity``.
    cue_std, cue_top
        The same rule for the context's tokens, one generated token at a time.
    max_new_tokens, **options
        For ``Model.generate``, where the generation is not given.

    Returns
    -------
    ContextReliance

    Raises
    ------
    TargetError
        For a target that is not one token or does not occur in the generation.
    TokensError
        For an empty current text, or a token across the border of two parts.
    CasebackError
        For an unknown measure or ``kept``, or a method that gives anything but (batch, pos).

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> reliance = pecore(model, "Mary and John went to the store.", " John gave a drink to", " Mary", target=" Mary")
    >>> reliance.cues.dims, reliance.pairs[0].generated_token
    (('query', 'key'), ' Mary')
    """
    _expect(measure, top)
    _expect(measure, cue_top)
    if kept not in KEPT:
        raise CasebackError(f"kept={kept!r} is unknown. {did_you_mean(str(kept), KEPT)}")
    passage = passage_of(model, context, current, generation, max_new_tokens, **options)
    named = None if target is None else passage.positions(target, model)
    both = predictions(model, passage).cpu()
    sensitivity = _sensitivity(model, passage, both, measure, std, top)
    order = sensitivity.argsort().values[::-1].tolist()
    chosen = [t for t in order if sensitivity.selected.values[t]] if named is None else named
    if named is not None:
        sensitivity = sensitivity.assign_coords(selected=("pos", np.isin(np.arange(len(order)), named).astype(int)))
    without, foils = both[1].argmax(-1).tolist(), _foils(passage, both[1], kept)
    cues = torch.full((len(passage.generated), len(passage.context)), torch.nan, dtype=torch.float64)
    if passage.context:
        for t, scores in _cues(model, passage, method, chosen, foils).items():
            cues[t] = scores
    texts = [[model.token_text(i) for i in part] for part in (passage.context, passage.generated)]
    pairs = tuple(
        Cue(i, texts[0][i], t, texts[1][t], model.token_text(without[t]), _text(model, foils[t]), float(cues[t, i]))
        for t in chosen
        for i in standing_out(cues[t], cue_std, cue_top)
    )
    labelled_cues = labelled(
        cues,
        ["query", "key"],
        {"query_token": ("query", texts[1]), "key_token": ("key", texts[0])},
        name="cues",
        technique=pecore,
        model=model,
        method=getattr(method, "__qualname__", type(method).__name__),
        cue_std=float(cue_std),
        cue_top=cue_top,
        kept=kept,
        target=target,
    )
    return ContextReliance(sensitivity, labelled_cues, pairs)


KEPT = ("rival", "log_prob")


def _foils(passage: Passage, log_q: Float[Tensor, "token vocab"], fallback: str) -> list[int | None]:
    """What each token is contrasted with: the choice without the context, or the next one; None for no contrast."""
    first, second = log_q.topk(2, dim=-1).indices.T.tolist()
    rivals = second if fallback == "rival" else [None] * len(second)
    return [r if y == f else f for y, f, r in zip(passage.generated, first, rivals, strict=True)]


def _text(model: Model, token: int | None) -> str:
    return "" if token is None else model.token_text(token)


def _batches(items: list[T]) -> list[list[T]]:
    at_once = limit("context_prompts")
    return [items[i : i + at_once] for i in range(0, len(items), at_once)]


def _cues(
    model: Model, passage: Passage, method: Method, chosen: Sequence[int], foils: Sequence[int | None]
) -> dict[int, Float[Tensor, " key"]]:
    """The context's scores for each chosen token, batch by batch; those without a foil in batches of their own."""
    by_token: dict[int, Tensor] = {}
    pairs = [(t, foils[t]) for t in chosen]
    contrasted, others = [(t, f) for t, f in pairs if f is not None], [t for t, f in pairs if f is None]
    groups: list[tuple[list[int], Metric]] = []
    for part in _batches(contrasted):
        at = [t for t, _ in part]
        groups.append((at, logit_diff([passage.generated[t] for t in at], [f for _, f in part])))
    groups += [(part, log_prob([passage.generated[t] for t in part])) for part in _batches(others)]
    for group, metric in groups:
        scores = method(model, model.tokens([passage.prompt(generated=t) for t in group]), metric)
        if not isinstance(scores, xr.DataArray) or set(scores.dims) != {"batch", "pos"}:
            what = scores.dims if isinstance(scores, xr.DataArray) else type(scores).__name__
            raise CasebackError(f"the method gave {what}: expected scores of tokens, (batch, pos)")
        first = len(passage.special)
        values = torch.from_numpy(scores.transpose("batch", "pos").values.copy()).double()
        by_token |= {t: values[row, first : first + len(passage.context)] for row, t in enumerate(group)}
    return by_token
