"""Discretized integrated gradients: the path passes by embeddings of real words (PRIMER 3.1.3).

    A_i = sum_k d metric / d x_i (x^k) . (x_i^{k+1} - x_i^k),    x^0 the baseline, x^K the prompt

Half way to a baseline lies no word, so the straight path asks the model about inputs it never saw. Here every token
hops from word to word: of the nearest neighbors of the word last taken, the next is the one that strays least from
between it and the baseline; the dimensions that stray are put a step on from the last point, so that the path is
monotonic. ``greedy`` measures straying by distance, ``maxcount`` by the number of dimensions.
"""

from __future__ import annotations

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.budget import limit
from caseback.model.prompts.baselines import baseline_embedding, baseline_name, vocabulary
from caseback.model.prompts.embedding_points import Points
from caseback.model.prompts.per_token import aligned, prepared, token_scores
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

STRATEGIES = ("greedy", "maxcount")
SUMS = ("riemann_left", "riemann_right", "trapezoid")


@technique(
    role="input attribution",
    entry=("3.1.3",),
    citation="Sanyal and Ren 2021",
    cost="steps x (forward + backward + nearest words of each token)",
)
def discretized_integrated_gradients(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    baseline: str | int | Float[Tensor, "*batch pos d_model"] = "mean",
    steps: int = 30,
    strategy: str = "greedy",
    neighbours: int = 500,
    factor: int = 0,
    rule: str = "riemann_left",
    max_batch: int | None = None,
    by_dimension: bool = False,
) -> xr.DataArray:
    """What each token adds to the metric, along a path of words from a baseline.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    baseline
        Where the path starts, as for ``integrated_gradients``. The paper takes the pad token; ``"mean"`` serves
        models without one.
    steps
        Words that each token hops over; 30 as in the paper. The path has one point more at either end.
    strategy
        ``"greedy"`` or ``"maxcount"``.
    neighbours
        Among how many nearest words the next is looked for; 500 as in the paper's code, the whole vocabulary where
        that is smaller.
    factor
        How many times the path's points are doubled by those half way between; 0 as in the paper's code.
    rule
        ``"riemann_left"`` is the paper's sum; ``"riemann_right"`` takes the other end of each hop, ``"trapezoid"`` the
        mean of both, which is far closer to complete at the cost of one more point.
    max_batch
        Path points run at once; memory is bounded by it and the scores do not depend on it. By default as many as
        make 512 tokens (8192 on an accelerator).
    by_dimension
        Keep the embedding's dimensions instead of adding them up.

    Returns
    -------
    xr.DataArray
        (batch, pos), signed, or (batch, pos, d_model); NaN where a shorter prompt has no token. Attributes, one
        number per prompt: ``metric_value``, ``baseline_value`` and ``completeness_gap`` (the scores' sum less the
        metric's change).

    Raises
    ------
    OutOfRange
        For steps, neighbours or a batch below 1, a negative factor.
    TargetError
        Where a foil is the target.
    CasebackError
        For an unknown strategy, rule or baseline, a baseline of a wrong shape, or a ``metric`` that is not a
        ``Metric``.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> metric = cb.logit_diff(" cat", " dog")
    >>> scores = discretized_integrated_gradients(model, "the cat and the dog", metric, steps=8, rule="trapezoid")
    >>> scores.dims, "completeness_gap" in scores.attrs
    (('batch', 'pos'), True)
    """
    tokens, metric = prepared(model, tokens, metric)
    for name, value, known in (("strategy", strategy, STRATEGIES), ("rule", rule, SUMS)):
        if value not in known:
            raise CasebackError(f"{name} {value!r} is unknown. {did_you_mean(value, known)}")
    for name, value, least in (("steps", steps, 1), ("neighbours", neighbours, 1), ("factor", factor, 0)):
        if value < least:
            raise OutOfRange(f"{name} is {value}: expected at least {least}")
    points = Points(model, tokens, metric, max_batch)
    end = points.embedding
    start = baseline_embedding(model, baseline, end)
    everyone = torch.arange(len(tokens))
    at_baseline = points.values(everyone, lambda part: start[everyone[part]])
    scores = torch.zeros_like(end)
    words, ids = vocabulary(model).to(end), aligned(tokens.ids, tokens)
    at_once = limit("path_tokens")
    for row, n in enumerate(tokens.lengths.tolist()):
        hops = [
            word_path(words, ids[row, part], start[row, part], steps, strategy, neighbours, factor)
            for part in (slice(i, min(i + at_once, n)) for i in range(0, n, at_once))
        ]
        path = end.new_zeros(len(hops[0]), *end.shape[1:])
        path[:, :n] = torch.cat(hops, 1)
        hop = _hops(path, rule)
        node = hop.flatten(1).ne(0).any(1).nonzero()[:, 0]
        prompts = torch.full((len(node),), row)
        for part, _, gradient in points.gradients(prompts, lambda part, path=path, node=node: path[node[part]]):
            scores[row] += (gradient * hop[node[part]]).sum(0)
    gap = scores.sum((1, 2)).cpu() - (points.value - at_baseline)
    return token_scores(
        scores if by_dimension else scores.sum(-1),
        model,
        tokens,
        metric,
        technique=discretized_integrated_gradients,
        name="discretized_integrated_gradients",
        baseline=baseline_name(baseline),
        strategy=strategy,
        neighbours=min(neighbours, model.d_vocab - 1),
        factor=factor,
        rule=rule,
        steps=steps,
        metric_value=points.value.tolist(),
        baseline_value=at_baseline.tolist(),
        completeness_gap=gap.tolist(),
    )


def _hops(path: Float[Tensor, "point pos d_model"], rule: str) -> Float[Tensor, "point pos d_model"]:
    """What each point's gradient is multiplied by."""
    hop, none = path.diff(dim=0), torch.zeros_like(path[:1])
    left, right = torch.cat([hop, none]), torch.cat([none, hop])
    return {"riemann_left": left, "riemann_right": right, "trapezoid": (left + right) / 2}[rule]


def word_path(
    words: Float[Tensor, "vocab d_model"],
    ids: Int[Tensor, " token"],
    baseline: Float[Tensor, "token d_model"],
    steps: int,
    strategy: str,
    neighbours: int,
    factor: int = 0,
) -> Float[Tensor, "point token d_model"]:
    """Each token's path, baseline first: monotonic in every dimension.

    Examples
    --------
    >>> words = torch.tensor([[4.0, 4.0], [3.0, 2.0], [2.0, 5.0], [1.0, 1.0]])
    >>> path = word_path(words, torch.tensor([0]), torch.zeros(1, 2), 2, "greedy", 3)
    >>> path[:, 0].tolist()
    [[0.0, 0.0], [1.0, 1.0], [3.0, 2.0], [4.0, 4.0]]
    """
    device, n = words.device, len(ids)
    rows, ids = torch.arange(n, device=device), ids.to(device)
    size, k = (words**2).sum(-1), min(neighbours, len(words) - 1)
    taken = torch.zeros(n, len(words), dtype=torch.bool, device=device)
    taken[rows, ids] = True
    # The baseline, where it is a word, is where the path ends and no stop on the way.
    for row in range(n):
        taken[row] |= (words == baseline[row]).all(-1)
    word, point = words[ids], words[ids].clone()
    arrived = torch.zeros(n, dtype=torch.bool, device=device)
    points = [point]
    for _ in range(steps):
        # |w - v|^2 less |w|^2, which is the same for all neighbors v and does not change their order
        distance = size - 2 * word @ words.T
        distance[rows, ids] = torch.inf
        near = distance.topk(k, largest=False).indices
        stray = _straying(words[near], word, baseline, steps, strategy).masked_fill(taken.gather(1, near), torch.inf)
        best = stray.argmin(1)
        arrived |= stray[rows, best].isinf()
        ids = torch.where(arrived, ids, near[rows, best])
        taken[rows, ids] = True
        word = torch.where(arrived[:, None], baseline, words[ids])
        point = torch.where(_between(word, point, baseline), word, point - (point - baseline) / steps)
        points.append(point)
    path = torch.stack([*points, baseline]).flip(0)
    for _ in range(factor):
        middle = (path[:-1] + path[1:]) / 2
        path = torch.cat([torch.stack([path[:-1], middle], 1).flatten(0, 1), path[-1:]])
    return path


def _between(x: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return (x - one) * (x - other) <= 0


def _straying(
    near: Float[Tensor, "token near d_model"],
    word: Float[Tensor, "token d_model"],
    baseline: Float[Tensor, "token d_model"],
    steps: int,
    strategy: str,
) -> Float[Tensor, "token near"]:
    """How far, or in how many dimensions, each neighbor is not between the word and the baseline."""
    word, baseline = word[:, None], baseline[:, None]
    strays = ~_between(near, word, baseline)
    if strategy == "maxcount":
        return strays.sum(-1).to(near)
    return ((near - (word - (word - baseline) / steps)) ** 2 * strays).sum(-1)
