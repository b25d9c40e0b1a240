"""Attributing a generation: each of its tokens in turn to all tokens before it, prompt and generation alike.

    A[t, i] = score of token i for the t-th generated token, given all before it

Row t is what the method says of the prefix that ends before token t, whatever the method. The generation itself runs
with the cache; the prefixes of one text differ by a token each, so they are run side by side in batches with next to no
padding, and the probabilities of all steps come from one pass over the whole text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, TargetError, TokensError, did_you_mean
from caseback.jobs.progress import progress_bar
from caseback.localize.inputs.contrastive import in_batches
from caseback.localize.inputs.methods import Method, checked_options, method_named
from caseback.model.anatomy.coerce import are_several
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.prompts.granularity import Given, aggregate, features_of, padded_text
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running import metrics
from caseback.model.running.answer_metrics import as_ids
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens

METRICS = ("logit", "prob", "log_prob", "logit_diff")


@technique(
    role="input attribution of another kind",
    entry=("3.1.22",),
    citation="Yin & Neubig 2022, Sarti et al. 2023",
    cost="the method's, once per generated token",
)
def attribute_generation(
    model: Model,
    prompts: PromptsLike,
    method: str | Method = "gradient_x_input",
    *,
    metric: str | Callable[..., Metric] = "logit",
    continuation: Any = None,
    max_new_tokens: int = 20,
    foils: Sequence[Any] | None = None,
    contrast: Any = None,
    features: Given = "token",
    aggregation: str = "sum",
    options: Mapping[str, Any] | None = None,
    token_budget: int | None = None,
    progress: bool = False,
    **generating: Any,
) -> xr.DataArray:
    """Score every token before it for each generated token: one target x source matrix per prompt.

    Parameters
    ----------
    model
        The model.
    prompts
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    method
        A name of ``input_methods()`` or a function of their signature.
    metric
        What is attributed at each step: ``"logit"``, ``"prob"`` or ``"log_prob"`` of the generated token, its
        ``"logit_diff"`` from a foil; or a function that makes a metric of a batch's targets, as ``cb.logit`` does
        (of targets and foils, where there are foils).
    continuation
        What was generated, where it is given: text, or token ids; a list of them, one per prompt, for several prompts.
        By default the model generates.
    max_new_tokens, **generating
        For generating, as for ``Model.generate``.
    foils
        The token that each step is contrasted with, text or id: one per step; one list per prompt for several prompts.
        By default, for ``"logit_diff"``, the model's first choice that is not the token generated.
    contrast
        Another continuation, as many tokens long, whose tokens are the foils. Where both say the same there is nothing
        to contrast, and the row is NaN.
    features
        Sum sources up to words, sentences or groups of the whole text; see ``features_of``. The method itself sees
        tokens.
    aggregation
        How sources are put together; see ``aggregate``.
    options
        The method's options.
    token_budget
        Most tokens in one batch of prefixes; by default a sweep's.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (batch, step, pos), or (batch, step, feature): NaN where a token stands at or after the one attributed, and
        past a shorter prompt's or generation's end. Coordinates: ``token``, the text of all tokens; ``target`` and
        ``foil``, of each step; ``probability`` of the target there.

    Raises
    ------
    TokensError
        For a continuation that is empty, does not continue the prompt's tokens, or a contrast of another length.
    TargetError
        For a foil equal to the token generated, or a wrong number of foils.
    CasebackError
        For an unknown metric or method, or foils with a metric that takes none.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = attribute_generation(model, "Mary and John went to", "gradient_norm", max_new_tokens=3)
    >>> scores.dims, scores.target.values[0].tolist()[0]
    (('batch', 'step', 'pos'), ' the')
    """
    name, function = method_named(method)
    own = checked_options({name: function}, {name: options or {}})[name]
    prompts = model.tokens(prompts)
    steps = steps_of(model, prompts, continuation, max_new_tokens, generating)
    against = _against(model, steps, metric, foils, contrast)
    make = _factory(metric)
    todo = [(b, t) for b, t in steps.all() if against is None or against[b][t] is not None]
    if not todo:
        raise TargetError("the contrast says the same as the continuation at every step: nothing is contrasted")
    rows = steps.prefixes(todo)
    targets = [steps.target(b, t) for b, t in todo]
    opposite = None if against is None else [against[b][t] for b, t in todo]

    def metric_of(which: slice) -> Metric:
        return make(targets[which]) if opposite is None else make(targets[which], opposite[which])

    most = max(steps.counts)
    width = steps.whole.ids.shape[1] - 1
    scores = np.full((len(prompts), most, width), np.nan)
    at = 0
    with progress_bar(total=len(todo), show=progress, what=name, unit="token") as bar:
        for batch_scores in in_batches(name, function, model, rows, metric_of, own, token_budget):
            for row in batch_scores.values:
                b, t = todo[at]
                scores[b, t, : len(row)] = row
                at += 1
            bar.update(len(batch_scores))
    last, text = "pos", [row[:width] + [""] * (width - len(row)) for row in steps.whole.text]
    if features != "token":
        last = "feature"
        scores, text = _by_feature(model, steps, scores, features, aggregation)
    return labelled(
        scores,
        ["batch", "step", last],
        {
            "token": (("batch", last), text),
            "target": (("batch", "step"), steps.table(lambda b, t: model.token_text(steps.target(b, t)), "")),
            "foil": (("batch", "step"), steps.table(lambda b, t: _foil_text(model, against, b, t), "")),
            "probability": (("batch", "step"), steps.table(lambda b, t: steps.probability[b][t], float("nan"))),
            "prompt_length": ("batch", prompts.lengths.tolist()),
        },
        name="scores",
        technique=attribute_generation,
        model=model,
        method=name,
        metric=metric if isinstance(metric, str) else getattr(metric, "__name__", "function"),
        features=features if isinstance(features, str) else "given",
        aggregation=None if features == "token" else aggregation,
    )


@dataclass(frozen=True)
class Steps:
    """Whole texts, left-aligned, where in each of them the generation begins, and what each step's rivals are."""

    whole: Tokens
    starts: list[int]
    counts: list[int]
    probability: list[list[float]]
    runner_up: list[list[int]]

    def all(self) -> list[tuple[int, int]]:
        return [(b, t) for b, n in enumerate(self.counts) for t in range(n)]

    def target(self, b: int, t: int) -> int:
        return int(self.whole.ids[b, self.starts[b] + t])

    def prefixes(self, todo: Sequence[tuple[int, int]]) -> Tokens:
        """What stands before each step's token, one prompt per step."""
        which = torch.tensor([b for b, _ in todo])
        lengths = torch.tensor([self.starts[b] + t for b, t in todo])
        mask = torch.arange(self.whole.ids.shape[1]) < lengths[:, None]
        device = self.whole.ids.device
        text = [self.whole.text[b][: self.starts[b] + t] for b, t in todo]
        return Tokens(self.whole.ids[which.to(device)], mask.to(device), text)

    def table(self, of: Callable[[int, int], Any], missing: Any) -> list[list[Any]]:
        return [[of(b, t) if t < n else missing for t in range(max(self.counts))] for b, n in enumerate(self.counts)]


def steps_of(
    model: Model, prompts: Tokens, continuation: Any, max_new_tokens: int, generating: Mapping[str, Any]
) -> Steps:
    """The steps of each prompt's continuation, which the model writes where none is given."""
    if continuation is None:
        whole = model.generate(prompts, max_new_tokens=max_new_tokens, **generating).padded_on("right")
        if len(whole) != len(prompts):
            raise CasebackError(f"{len(whole)} texts generated from {len(prompts)} prompts: generate one per prompt")
    else:
        if generating:
            raise CasebackError(f"{next(iter(generating))} is for generating, and a continuation is given")
        rows = _joined(model, prompts, continuation, "continuation")
        whole = model.tokens(rows)
    starts = prompts.lengths.tolist()
    counts = [int(n) - start for n, start in zip(whole.lengths, starts, strict=True)]
    for b, n in enumerate(counts):
        if n < 1:
            raise TokensError(f"prompt {b} has no continuation: expected at least one token to attribute")
    # one pass over whole texts: a step's distribution is that of the position before it
    log_p = at_least_float32(model.run(whole).logits.detach()).log_softmax(-1)
    probability, runner_up = [], []
    for b, n in enumerate(counts):
        here = log_p[b, starts[b] - 1 : starts[b] - 1 + n]
        ids = whole.ids[b, starts[b] : starts[b] + n]
        probability.append(here.gather(-1, ids[:, None])[:, 0].exp().tolist())
        runner_up.append(here.scatter(-1, ids[:, None], -torch.inf).argmax(-1).tolist())
    return Steps(whole, starts, counts, probability, runner_up)


def _joined(model: Model, prompts: Tokens, more: Any, what: str) -> list[list[int]]:
    """Each prompt's ids with what follows, text being tokenized together with its prompt."""
    if not (isinstance(more, str) or are_several(more)):
        raise TokensError(f"{what} is a {type(more).__name__}: expected text or token ids, or a list of these")
    given = [more] if len(prompts) == 1 and not _is_list_of_rows(more) else list(more)
    if len(given) != len(prompts):
        raise TokensError(f"{len(given)} {what}s for {len(prompts)} prompts: give one per prompt")
    rows = []
    for b, one in enumerate(given):
        ids = prompts.ids[b][prompts.mask[b]].tolist()
        if not isinstance(one, str):
            rows.append([*ids, *as_ids(one)])
            continue
        if model.tokenizer is None:
            raise TokensError(f"{what} {one!r}: this model has no tokenizer, give token ids")
        text = model.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) + one
        whole = model.tokens(text).ids[0].tolist()
        if whole[: len(ids)] != ids or len(whole) == len(ids):
            raise TokensError(
                f"{what} {one!r} does not follow the tokens of prompt {b}: together they are tokenized differently, or "
                "it is empty; begin it where a token begins (often with a space), or give token ids"
            )
        rows.append(whole)
    return rows


def _is_list_of_rows(more: Any) -> bool:
    if isinstance(more, str):
        return False
    return (isinstance(more, Tensor) and more.ndim == 2) or (
        isinstance(more, Sequence) and bool(more) and not isinstance(more[0], int)
    )


def _against(
    model: Model, steps: Steps, metric: str | Callable[..., Metric], foils: Sequence[Any] | None, contrast: Any
) -> list[list[int | None]] | None:
    """The foil of every step; None where a contrast says the same; None for all where there are no foils."""
    if isinstance(metric, str) and metric not in METRICS:
        raise CasebackError(f"metric {metric!r} is unknown. {did_you_mean(metric, METRICS)}")
    given = foils is not None or contrast is not None
    if given and isinstance(metric, str) and metric != "logit_diff":
        raise CasebackError(f"foils are given, and {metric!r} takes none: use metric='logit_diff'")
    if foils is not None and contrast is not None:
        raise CasebackError("both foils and a contrast given: expected one of them")
    if contrast is not None:
        prompts = steps.prefixes([(b, 0) for b in range(len(steps.counts))])
        rows = _joined(model, prompts, contrast, "contrast")
        foil_ids: list[list[int | None]] = []
        for b, (row, start, n) in enumerate(zip(rows, steps.starts, steps.counts, strict=True)):
            theirs = row[start:]
            if len(theirs) != n:
                raise TokensError(
                    f"contrast {b} has {len(theirs)} tokens, the continuation {n}: they are compared token by token"
                )
            foil_ids.append([i if i != steps.target(b, t) else None for t, i in enumerate(theirs)])
        return foil_ids
    if foils is None:
        return [list(row) for row in steps.runner_up] if metric == "logit_diff" else None
    listed = [list(foils)] if len(steps.counts) == 1 and not _is_nested(foils) else [list(row) for row in foils]
    if [len(row) for row in listed] != steps.counts:
        raise TargetError(
            f"{[len(row) for row in listed]} foils for {steps.counts} generated tokens: give one for each"
        )
    ids: list[list[int | None]] = []
    for b, row in enumerate(listed):
        ids.append([model.token_id(foil, "foil") for foil in row])
        for t, foil in enumerate(ids[-1]):
            if foil == steps.target(b, t):
                raise TargetError(f"foil {row[t]!r} of step {t} is the token generated there: choose another")
    return ids


def _is_nested(foils: Sequence[Any]) -> bool:
    return bool(len(foils)) and not isinstance(foils[0], str | int)


def _factory(metric: str | Callable[..., Metric]) -> Callable[..., Metric]:
    if isinstance(metric, type):
        raise CasebackError(f"metric {metric.__name__}: expected a name, or a function that makes a metric of targets")
    return getattr(metrics, metric) if isinstance(metric, str) else metric


def _foil_text(model: Model, against: list[list[int | None]] | None, b: int, t: int) -> str:
    foil = None if against is None else against[b][t]
    return "" if foil is None else model.token_text(foil)


def _by_feature(
    model: Model, steps: Steps, scores: Float[np.ndarray, "batch step pos"], features: Given, aggregation: str
) -> tuple[np.ndarray, list[list[str]]]:
    """Sources by feature: of each what stands before the step's token."""
    resolved = features_of(model, steps.whole, features)
    by_feature = np.full((*scores.shape[:2], resolved.most), np.nan)
    for b, t in steps.all():
        row = scores[b, t]
        for f, group in enumerate(resolved.groups[b]):
            seen = [p for p in group if p < len(row) and np.isfinite(row[p])]
            if seen:
                by_feature[b, t, f] = float(aggregate(torch.from_numpy(row[seen]), aggregation))
    used = np.asarray(np.isfinite(by_feature).any((0, 1)))
    text = [[word for word, is_used in zip(row, used, strict=True) if is_used] for row in padded_text(resolved)]
    return by_feature[:, :, used], text
