"""Whether a model prefers an answer at all, and not by habit or by accident: its margin m of target over foil.

    shuffled     the prompt's tokens in another order, the last and special ones in their places
    other words  every word that is not a mere joint replaced by another of its kind, none of the prompt's or answers'
    band         mean -+ 2 standard deviations of such prompts' margins (``thresholds.BAND``)
    turned       the margin m' after the counterfactual
    single words the median of |m - margin| over other words than those that it changes, one replaced at a time
    prefers      m > 0, and one of: above the band of shuffled; above that of other words;
                 m' <= -m / 2 and single words < m / 2 (``thresholds.TURNED``)

An answer that hangs on who stands where is lost by shuffling, one that hangs on what is named by other words; and where
both leave strong answers of their own, as in a small model, one change must turn the answer round that others leave
alone. What passes none of these is a habit, such as a letter that the model likes, or too small to tell from nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from caseback.localize.counterfactuals.finding import logits_after
from caseback.localize.counterfactuals.results import Counterfactual, Counterfactuals
from caseback.model.prompts.masked_prompts import special_tokens
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.reports.story import thresholds
from caseback.reports.story.depths import Depth

BANDS = ("shuffled", "other_words")


def margins(logits: Float[Tensor, "version vocab"], contrast: tuple[int, int]) -> Float[np.ndarray, " version"]:
    """By how much the target leads the foil after each version."""
    t, f = contrast
    return (logits[:, t] - logits[:, f]).cpu().double().numpy()


def preference(
    model: Model,
    tokens: Tokens,
    contrast: tuple[int, int],
    final: Float[Tensor, " vocab"],
    search: Counterfactuals | None,
    one: Counterfactual | None,
    depth: Depth,
    seed: int = 0,
) -> dict[str, Any]:
    """What is said above; the bands as [low, high], and None for what there is none of."""
    rng = np.random.default_rng(seed)
    value = float(margins(final[None], contrast)[0])
    shuffled = _shuffled(model, tokens, depth.shuffled, rng)
    other_words = _other_words(tokens, contrast, search, depth.shuffled, rng)
    turned_round = other_words[:0] if one is None else one.tokens.ids.cpu().numpy()
    rows = np.concatenate([shuffled, other_words, turned_round])
    after = margins(logits_after(model, tokens, rows)[0], contrast) if len(rows) else np.empty(0)
    parts = np.split(after, np.cumsum([len(shuffled), len(other_words)]))
    bands = {name: _band(part) if len(part) else None for name, part in zip(BANDS, parts, strict=False)}
    turned = None if one is None else float(parts[-1][0])
    single = _single_words(search, one, contrast, value)
    reasons = [band is not None and value > band[1] for band in bands.values()]
    half = thresholds.TURNED * value
    reasons.append(turned is not None and turned <= -half and (single is None or single < half))
    return {
        "value": value,
        **bands,
        "turned": turned,
        "single_words": single,
        "prefers": bool(value > 0 and any(reasons)),
    }


def _single_words(
    search: Counterfactuals | None, one: Counterfactual | None, contrast: tuple[int, int], value: float
) -> float | None:
    if search is None:
        return None
    shapes = set() if one is None else {change.word.shape for change in one.changes}
    unlike = [i for i, w in enumerate(search.of_word) if w >= 0 and search.words[w].shape not in shapes]
    return float(np.median(np.abs(margins(search.logits[unlike], contrast) - value))) if unlike else None


def _band(values: Float[np.ndarray, " row"]) -> list[float]:
    return [float(values.mean() + sign * thresholds.BAND * values.std()) for sign in (-1, 1)]


def _shuffled(model: Model, tokens: Tokens, count: int, rng: np.random.Generator) -> np.ndarray:
    own = tokens.ids[0].cpu().numpy()
    special = special_tokens(model, tokens)[0]
    free = [p for p in range(len(own) - 1) if not bool(special[p])]
    rows = np.repeat(own[None], count if len(free) > 1 else 0, 0)
    for row in rows:
        row[free] = own[rng.permutation(free)]
    return rows


def _other_words(
    tokens: Tokens, contrast: tuple[int, int], search: Counterfactuals | None, count: int, rng: np.random.Generator
) -> np.ndarray:
    own = tokens.ids[0].cpu().numpy()
    if search is None:
        return np.empty((0, len(own)), own.dtype)
    taken = {i for word in search.words if word.content for i in word.ids} | set(contrast)
    rows = np.repeat(own[None], count, 0)
    replaced = False
    for w, word in enumerate(search.words):
        options = [] if not word.content else search.rows[search.of_word == w][:, list(word.pos)]
        options = [option for option in options if not taken & set(option.tolist())]
        if options:
            replaced = True
            rows[:, list(word.pos)] = np.stack(options)[rng.integers(len(options), size=count)]
    return rows if replaced else rows[:0]
