"""The checks that an explanation carries: does each of its claims hold on the model itself?

Identities must hold up to rounding. Agreements are rank correlations between what a method claims and what an
intervention measures: from 0.7 the claim is borne out, from 0.3 the correlation is weak and the order not to be relied
on, and below that the claim is only what the method says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from caseback.localize.components.ablation import edits_of
from caseback.localize.inputs.gradients.integrated_gradients import steepest_words
from caseback.model.prompts.baselines import baseline_embedding
from caseback.model.running.edits import Replace
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike, Tokens

_COMPARED = 10  # how many components by their claim, and how many by their effect, are compared
_REMOVED = 64  # how many input tokens are removed: those with the largest scores
_COMPLETE = 0.05  # the share of the metric's change that integrated gradients may miss
_STRONG = 0.7  # the rank correlation from which a claim counts as borne out
_WEAK = 0.3  # and from which there is one at all


@dataclass(frozen=True)
class Evidence:
    """What an explanation computed, before it becomes a document."""

    model: Model
    tokens: Tokens
    metric: Metric
    run: Run
    contrast: tuple[int, int]
    lens: xr.Dataset
    integrated: xr.DataArray | None
    baseline: Any
    shares: xr.DataArray
    effects: xr.DataArray
    ablation: str
    over: PromptsLike | None

    @property
    def rounding(self) -> float:
        """By how much two exact ways to the same logit may differ in this model's precision."""
        last = self.run.logits[0, int(self.tokens.column(-1)[0])]
        size = max(1.0, *(abs(float(last[i])) for i in self.contrast))
        return size * (2e-2 if self.model.dtype in (torch.float16, torch.bfloat16) else 1e-4)


def checks(evidence: Evidence) -> list[dict[str, Any]]:
    """All checks that apply to the prompt; agreements need at least three items to rank."""
    path = evidence.integrated
    along = [] if path is None else [_complete(path)]
    results = [_sums(evidence), *along, *_lens_ends(evidence), _measured_again(evidence)]
    agreements = (None if path is None else _inputs_agree(evidence, path), _components_agree(evidence))
    return results + [check for check in agreements if check is not None]


def rank_correlation(a: Any, b: Any) -> float | None:
    """Spearman's rank correlation, with shared ranks for ties; None for fewer than three pairs, or a constant side.

    Examples
    --------
    >>> round(rank_correlation([1.0, 2.0, 3.0], [0.1, 0.2, 9.0]), 6)
    1.0
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def baseline_words(name: str) -> str:
    """A baseline in words, with what they mean for the scores.

    Examples
    --------
    >>> baseline_words("mean")
    'mean baseline'
    """
    if name == "mean_after_first":
        return "mean baseline that keeps the first token, whose score is therefore 0"
    return f"{name} baseline"


def correlation_words(agreement: float) -> str:
    """A rank correlation in words that claim no more than it does.

    Examples
    --------
    >>> [correlation_words(rho) for rho in (0.8, 0.5, 0.03, -0.6)]
    ['strong', 'weak', 'none', 'none: it is negative']
    """
    if agreement >= _STRONG:
        return "strong"
    if agreement >= _WEAK:
        return "weak"
    return "none: it is negative" if agreement <= -_WEAK else "none"


def verdict_of(check: Mapping[str, Any]) -> str:
    """``"held"``, ``"weak"`` or ``"failed"``; documents of earlier versions know only the first and the last.

    Examples
    --------
    >>> verdict_of({"passed": False}), verdict_of({"passed": False, "verdict": "weak"})
    ('failed', 'weak')
    """
    return check.get("verdict", "held" if check["passed"] else "failed")


def _ranks(x: np.ndarray) -> np.ndarray:
    # scipy has this, but importing it takes longer than explaining a small model
    _, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (counts.cumsum() - (counts - 1) / 2)[which]


def _check(name: str, value: float, limit: float, detail: str) -> dict[str, Any]:
    """An identity, which holds or does not."""
    passed = bool(value <= limit)
    verdict = "held" if passed else "failed"
    return {
        "name": name,
        "value": float(value),
        "limit": float(limit),
        "passed": passed,
        "verdict": verdict,
        "detail": detail,
    }


def _agreement(name: str, value: float, detail: str) -> dict[str, Any]:
    """A rank correlation: it bears a claim out, is weak, or is none."""
    verdict = "held" if value >= _STRONG else "weak" if value >= _WEAK else "failed"
    return {
        "name": name,
        "value": float(value),
        "limit": _STRONG,
        "passed": verdict == "held",
        "verdict": verdict,
        "detail": f"{detail}; {correlation_words(value)} (weak from {_WEAK:g}, strong from {_STRONG:g})",
    }


def _sums(evidence: Evidence) -> dict[str, Any]:
    cap = evidence.shares.attrs.get("softcap")
    of = f"the logit difference before the soft-cap of {cap:g}" if cap else "the logit difference"
    gap = abs(evidence.shares.attrs["gap"][0])
    detail = f"direct attributions of all heads, MLPs, embeddings and biases, added up, against {of}"
    return _check("logit attributions sum to the metric", gap, evidence.rounding, detail)


def _complete(integrated: xr.DataArray) -> dict[str, Any]:
    attrs = integrated.attrs
    change = abs(attrs["metric_value"][0] - attrs["baseline_value"][0])
    detail = (
        f"their sum against the metric's change from the {baseline_words(attrs['baseline'])}, after "
        f"{attrs['steps'][0]} steps; the limit is {_COMPLETE:.0%} of the change, or of 1 where that is smaller"
    )
    gap = abs(attrs["completeness_gap"][0])
    if gap > _COMPLETE * max(1.0, change) and attrs.get("steepest"):
        detail += f"; {steepest_words(attrs['steepest'])}"
    return _check("integrated gradients are complete", gap, _COMPLETE * max(1.0, change), detail)


def _lens_ends(evidence: Evidence) -> list[dict[str, Any]]:
    gap = evidence.lens["top_prob"].attrs.get("last_layer_gap")
    if gap is None:  # of a fitted lens the last row is the model's own
        return []
    detail = "the last layer's logits, read by the lens, against the model's, the largest difference anywhere"
    return [_check("the lens ends at the model's output", gap, evidence.rounding, detail)]


def _measured_again(evidence: Evidence) -> dict[str, Any]:
    """The ablation with the largest effect as one full run, compared with the sweep's number."""
    effects = evidence.effects
    largest = int(np.abs(effects.values).argmax())
    layer, head = int(effects["layer"][largest]), int(effects["head"][largest])
    component = (layer, None if head < 0 else head)
    edits = edits_of(evidence.model, evidence.tokens, [component], evidence.ablation, over=evidence.over)
    again = evidence.metric(evidence.run) - evidence.metric(evidence.model.run(evidence.tokens, edits=edits))
    off = abs(float(again[0]) - float(effects[largest]))
    detail = f"ablating {effects.component.values[largest]} in a full run of its own, against the sweep's number"
    return _check("the largest ablation, measured again, is the same", off, evidence.rounding, detail)


def _inputs_agree(evidence: Evidence, integrated: xr.DataArray) -> dict[str, Any] | None:
    """Replace one token at a time by the baseline; what the metric loses should rank as the scores do."""
    scores = integrated.values[0]
    removed = np.sort(np.argsort(-np.abs(scores), kind="stable")[:_REMOVED])
    embedding = evidence.model.run(evidence.tokens, read=["embed"])["embed"]
    instead = baseline_embedding(evidence.model, evidence.baseline, embedding)
    variants = [[Replace("embed", instead[0, int(i)], pos=int(i))] for i in removed]
    without = evidence.model.sweep(evidence.tokens, variants, evidence.metric)
    agreement = rank_correlation(scores[removed], without["clean"].values[0] - without.values[:, 0])
    if agreement is None:
        return None
    detail = f"rank correlation of integrated gradients with the effect of removing each of {len(removed)} tokens alone"
    return _agreement("removing input tokens bears the scores out", agreement, detail)


def _components_agree(evidence: Evidence) -> dict[str, Any] | None:
    """Of those with the largest claims and those with the largest effects, lest a claim too small go unseen."""
    claimed, effects = evidence.shares.sel(component=evidence.effects.component).values, evidence.effects.values
    largest = [np.argsort(-np.abs(x), kind="stable")[:_COMPARED] for x in (claimed, effects)]
    top = np.unique(np.concatenate(largest))
    agreement = rank_correlation(claimed[top], effects[top])
    if agreement is None:
        return None
    detail = (
        f"rank correlation of direct attribution with {evidence.ablation}-ablation over the {len(top)} components of "
        f"the {_COMPARED} largest attributions or effects; what a component does through later ones, or is made up for "
        "by them, is not in its direct attribution"
    )
    return _agreement("ablating components bears their attributions out", agreement, detail)
