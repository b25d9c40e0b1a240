"""Faithfulness with soft masks: every token loses dimensions in proportion to its score (PRIMER 3.1.28).

sufficiency        f(x) - E f(x'),  token i keeps each dimension of its embedding with probability a_i
comprehensiveness  the same with 1 - a_i;   a_i = (score_i - lowest) / (highest - lowest)
"""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.localize.inputs.trust.removal import Measured, dataset, of_units
from caseback.model.prompts.baselines import baseline_name
from caseback.model.prompts.granularity import Given
from caseback.model.prompts.masked_prompts import instead_of, units_of
from caseback.model.prompts.per_token import expect_metric
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike


@technique(
    role="judgement", entry=("3.1.28",), citation="Zhao & Aletras 2023", cost="2 x samples x methods edited runs"
)
def soft_faithfulness(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    scores: xr.DataArray | Float[Tensor, "*attribution batch pos"],
    *,
    samples: int = 16,
    seed: int = 0,
    baseline: str | int | Tensor = "zero",
    features: Given = "token",
    special: bool = False,
    progress: bool = False,
) -> xr.Dataset:
    """Comprehensiveness and sufficiency where every token loses dimensions according to its score.

    Scores are brought to 0 (a prompt's lowest) to 1 (its highest), a_i. For sufficiency a token keeps each dimension
    of its embedding with probability a_i, for comprehensiveness with 1 - a_i; nothing depends on a number of tokens,
    and a token in between counts as such.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. The same that were attributed.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. Usually the one that was attributed.
    scores, features, special
        As for ``removal_curves``.
    samples
        Draws that are averaged (the paper takes one). All methods and prompts meet the same random numbers.
    seed
        Same seed, same result. The masks are drawn with it.
    baseline
        What a lost dimension becomes, as in ``integrated_gradients``; the paper's 0.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``comprehensiveness`` (higher is better) and ``sufficiency`` (lower is better), (attribution if given, batch):
        f(x) less the mean over draws, with the standard error of that mean; ``value``.

    Raises
    ------
    OutOfRange
        For fewer than one sample.
    CasebackError
        Where scores do not fit the prompts, or no token may be replaced.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.inputs import gradient_norm
    >>> model, metric = cb.load("meadow"), cb.logit(" dog")
    >>> result = soft_faithfulness(model, "the cat and the", metric, gradient_norm(model, "the cat and the", metric))
    >>> result.comprehensiveness.dims
    ('batch',)
    """
    metric, tokens = expect_metric(metric), model.tokens(tokens)
    if samples < 1:
        raise OutOfRange(f"samples is {samples}: expected at least 1")
    units = units_of(model, tokens, metric, features, special=special)
    given = of_units(scores, units)
    low = torch.where(units.free, given, torch.inf).amin(-1, keepdim=True)
    high = torch.where(units.free, given, -torch.inf).amax(-1, keepdim=True)
    of, free = units.of.expand(len(given), -1, -1), units.of >= 0
    # where all score alike there is nothing to tell apart: every token keeps all, or loses all
    share = torch.where(high > low, (given - low) / (high - low), 1.0).gather(-1, of.clamp_min(0))
    share = torch.where(free, share, 1.0)
    measure = Measured(model, tokens, metric, instead_of(model, tokens, baseline))
    asked = {}
    for name, keep in (("comprehensiveness", torch.where(free, 1 - share, 1.0)), ("sufficiency", share)):
        asked[name] = torch.stack([measure.ask_soft(keep, (seed, i)) for i in range(samples)])
    values, clean = measure.values(progress)
    variables: dict[str, Any] = {"value": (("batch",), clean.numpy())}
    for name, index in asked.items():
        lost = clean - values[index, torch.arange(len(tokens))]
        variables[name] = (("attribution", "batch"), lost.mean(0).numpy())
        error = lost.std(0) / samples**0.5 if samples > 1 else torch.full_like(lost[0], torch.nan)
        variables[f"{name}_error"] = (("attribution", "batch"), error.numpy())
    attrs = {"baseline": baseline_name(baseline), "metric": metric.name, "samples": samples, "seed": seed}
    return dataset(soft_faithfulness, model, scores, variables, None, None, attrs)
