"""Which learner a model's prediction from examples follows: gradient descent, ridge, neighbors ... (PRIMER 5.4.14).

    prediction_b = sum_a value_a p(answer_a) / sum_a p(answer_a)                            at the prompt's last token
    difference   = (prediction - learner's prediction)^2       a learner's free number is fitted on half of the prompts
    agreement    = corr_b(prediction, learner), the mean of outputs taken out of both      beside prompts dealt out anew

One layer of linear self-attention can take one gradient step exactly (``organisms.compiled.gradient_descent``); what a
trained softmax model does is a question of measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr

from caseback.behaviors.mechanisms.learners import learners
from caseback.errors import OutOfRange, TokensError
from caseback.jobs.budget import limit
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.answer_metrics import answer_ids
from caseback.model.running.model import Model
from caseback.tasks.regression import Regression

LEAST = 12
"""Prompts, half of which free numbers are fitted on."""


@technique(
    entry=("5.4.14",),
    citation="von Oswald et al. 2023, Akyürek et al. 2023",
    cost="one forward",
)
def in_context_learner(
    model: Model,
    examples: Regression,
    *,
    steps: Sequence[int] = (1, 2, 4, 16),
    draws: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Compare what a model predicts from a prompt's examples with what learners predict from the same examples.

    Parameters
    ----------
    model
        The model.
    examples
        Prompts with their numbers, such as those of ``digit_regression``.
    steps
        Numbers of gradient steps, of which each is a learner.
    draws
        How often the learners' predictions are dealt out to other prompts.
    seed
        Same seed, same result. Splits the prompts and deals predictions out.

    Returns
    -------
    xr.Dataset
        Over the prompts that learners are judged on: ``difference`` (variant, batch), the squared difference of the
        model's and a learner's predictions in the outputs' unit; ``prediction`` (batch); ``learned`` (variant, batch),
        the learners' predictions; and beside them ``target``. ``agreement`` (variant), the correlation with a learner
        once a line in the mean of each prompt's outputs is taken out of both, NaN for that mean itself, and
        ``agreement_control`` (draw, variant) with predictions dealt out anew. ``free`` (variant) is the number that
        was fitted: a rate, a strength, a width or a factor. The attributes ``follows``, the learner that was nearest
        (the mean of outputs aside) on the half that it was fitted on, and ``answered``, the mean probability of all
        answers together: where it is low, the model answers something else.

    Raises
    ------
    OutOfRange
        For fewer than 12 prompts, or steps or draws below 1.
    TokensError
        For answers that are several tokens, or the same one.

    References
    ----------
    Akyürek et al. 2023, "What learning algorithm is in-context learning?"; von Oswald et al. 2023, "Transformers learn
    in-context by gradient descent".

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.tasks.regression import digit_regression
    >>> compared = in_context_learner(cb.load("meadow"), digit_regression(20, shots=8))
    >>> compared["difference"].dims, compared.sizes["batch"]
    (('variant', 'batch'), 10)
    """
    if len(examples) < LEAST or draws < 1 or not steps or min(steps) < 1:
        raise OutOfRange(
            f"{len(examples)} prompts, {draws} draws, steps {list(steps)}: expected {LEAST} prompts or more, and 1 "
            "draw and step or more"
        )
    predicted, answered = _predictions(model, examples, _answers(model, examples))
    by_name = learners(examples.inputs, examples.outputs, examples.queries, sorted(set(steps)))
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(examples))
    fitted, judged = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    free, nearness, learned = [], [], []
    for one in by_name.values():
        apart = ((one.predictions[:, fitted] - predicted[fitted]) ** 2).mean(1)
        best = int(apart.argmin())
        free.append(float(one.free[best]))
        nearness.append(float(apart[best]))
        learned.append(one.predictions[best])
    names, table = list(by_name), np.stack(learned)[:, judged]
    own, mean = predicted[judged], examples.outputs.mean(1)[judged]
    deals = np.stack([rng.permutation(len(judged)) for _ in range(draws)])
    beyond, rest = _without(mean, table), _without(mean, own[None])[0]
    dealt = [_correlations(rest, row[deals]) for row in beyond]
    beside: dict[str, Any] = {"target": ("batch", examples.targets[judged])}
    common = {
        "technique": in_context_learner,
        "model": model,
        # the mean of outputs is what the others are compared with
        "follows": min((apart, name) for apart, name in zip(nearness, names, strict=True) if name != "mean")[1],
        "answered": answered,
        "shots": examples.inputs.shape[1],
        "draws": draws,
        "seed": seed,
    }
    some = {
        "difference": ((table - own) ** 2, ["variant", "batch"]),
        "learned": (table, ["variant", "batch"]),
        "prediction": (own, ["batch"]),
        "agreement": (_correlations(rest, beyond), ["variant"]),
        "agreement_control": (np.stack(dealt, 1), ["draw", "variant"]),
        "free": (np.array(free), ["variant"]),
    }
    arrays = {
        key: labelled(
            values,
            dims,
            {"variant": names} if "variant" in dims else (beside if "batch" in dims else None),
            name=key,
            **common,
        )
        for key, (values, dims) in some.items()
    }
    return xr.Dataset(arrays, attrs=arrays["difference"].attrs)


def _answers(model: Model, examples: Regression) -> list[int]:
    ids = answer_ids(list(examples.answers), len(examples.answers), model.tokenizer, model.d_vocab)
    several = [name for name, row in zip(examples.answers, ids, strict=True) if len(row) > 1]
    if several or len({tuple(row) for row in ids}) < len(ids):
        raise TokensError(
            f"the answers {', '.join(several or examples.answers)[:80]} are several tokens, or two of them are one: "
            "expected answers of a token each"
        )
    return [row[0] for row in ids]


def _predictions(model: Model, examples: Regression, ids: list[int]) -> tuple[np.ndarray, float]:
    """The mean of the answers' values under the model's probabilities, and the mean of their sum."""
    values = torch.from_numpy(examples.values.astype(float))
    size, means, sums = limit("task_prompts", model.device), [], []
    for start in range(0, len(examples), size):
        tokens = model.tokens(list(examples.texts[start : start + size]))
        logits = model.run(tokens).logits
        at = tokens.column(-1).to(logits.device)
        # half precision would round the sum over a vocabulary
        p = in_float64(logits[torch.arange(len(tokens), device=logits.device), at]).softmax(-1)[:, ids]
        sums.append(p.sum(-1))
        means.append(p @ values.to(p) / p.sum(-1))
    return torch.cat(means).cpu().numpy(), float(torch.cat(sums).mean())


def _without(mean: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """What a line in the mean leaves of each row; exactly 0 where it leaves no more than rounding."""
    design = np.stack([np.ones_like(mean), mean], 1)
    rest = rows - rows @ np.linalg.pinv(design).T @ design.T
    return np.where(np.abs(rest).max(-1, keepdims=True) > 1e-9 * np.abs(rows).max(-1, keepdims=True), rest, 0.0)


def _correlations(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Of one row of mean 0 with each of others; NaN where either is 0."""
    scale = np.linalg.norm(one) * np.linalg.norm(others, axis=-1)
    return np.divide(others @ one, scale, out=np.full(len(others), np.nan), where=scale > 1e-12)
