"""Gradients at one position's embedding, run from that position on.

The tokens before a position do not depend on it. So where only one embedding differs from the prompt, the clean prefix
is reused, as in a sweep, and forward and backward go through the rest alone: on average half a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.jobs.budget import limit
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Site
from caseback.model.running.edits import Replace
from caseback.model.running.metrics import Metric
from caseback.model.running.passing import undisturbed
from caseback.model.running.run import resolve
from caseback.model.running.tokens import Tokens
from caseback.model.running.undo import as_found
from caseback.model.sweeping.clean import Clean, record
from caseback.model.sweeping.packed import Packed, Segment


def suffix_gradients(
    anatomy: Anatomy,
    tokens: Tokens,
    metric: Metric,
    prompts: Int[Tensor, " point"],
    positions: Int[Tensor, " point"],
    embeddings: Callable[[Int[Tensor, " row"]], Float[Tensor, "row d_model"]],
    *,
    token_budget: int | None = None,
) -> Iterator[tuple[Int[Tensor, " row"], Float[Tensor, " row"], Float[Tensor, "row d_model"]]]:
    """The metric where one embedding of a prompt is replaced, and its gradient at that embedding.

    Parameters
    ----------
    anatomy, tokens
        The model and its prompts.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It is differentiated.
    prompts, positions
        For each point, its prompt and the position, counted in the prompt, whose embedding is replaced. Points after
        the last position that the metric reads are left out: they change nothing.
    embeddings
        A function from some of the points to their new embeddings.
    token_budget
        The most tokens in one pass, but never less than one point; it bounds the memory. By default 512 on a CPU, 8192
        on an accelerator.

    Yields
    ------
    The points of one pass, the metric at each, and its gradient.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> nought = lambda rows: torch.zeros(len(rows), model.d_model)
    >>> at = torch.tensor([0]), torch.tensor([2])
    >>> passes = suffix_gradients(model.anatomy, model.tokens("the cat sat"), cb.logit(" on"), *at, nought)
    >>> [gradient.shape == (1, model.d_model) for _, _, gradient in passes]
    [True]
    """
    token_budget = limit("gradient_tokens", tokens.ids.device, given=token_budget)
    bound = metric.on(tokens, anatomy)
    clean = _record(anatomy, tokens)
    first, lengths, ends = tokens.first.tolist(), tokens.lengths.tolist(), tokens.lengths.cpu() - 1
    stops = (
        lengths if bound.columns is None else [c - f + 1 for c, f in zip(bound.columns.tolist(), first, strict=True)]
    )
    where = [
        (i, b, p) for i, (b, p) in enumerate(zip(prompts.tolist(), positions.tolist(), strict=True)) if p < stops[b]
    ]
    for chunk in _chunks(where, stops, token_budget):
        points = torch.tensor([i for i, _, _ in chunk])
        x = embeddings(points).to(tokens.ids.device).detach().requires_grad_()
        segments = [Segment(i, b, p, stops[b], 0) for i, b, p in chunk]
        edits = [
            edit
            for row, (i, _, p) in enumerate(chunk)
            # An address must exist in every prompt, although only the owner's rows are edited.
            for edit in resolve(Replace("embed", x[row], pos=ends.clamp_max(p)), anatomy, tokens, owner=i)
        ]
        values = _values(anatomy, Packed(anatomy, clean, segments, edits, bound))
        (gradient,) = torch.autograd.grad(values.sum(), x)
        yield points, values.detach(), gradient


@as_found
def _record(anatomy: Anatomy, tokens: Tokens) -> Clean:
    with undisturbed(anatomy, grad=False):
        return record(anatomy, tokens, [Site("embed")])


@as_found
def _values(anatomy: Anatomy, packed: Packed) -> Float[Tensor, " segment"]:
    with undisturbed(anatomy, grad=True):
        return packed.values()


def _chunks(where: list[tuple[int, int, int]], stops: list[int], budget: int) -> Iterator[list[tuple[int, int, int]]]:
    chunk: list[tuple[int, int, int]] = []
    total = 0
    for point in where:
        size = stops[point[1]] - point[2]
        if chunk and total + size > budget:
            yield chunk
            chunk, total = [], 0
        chunk.append(point)
        total += size
    if chunk:
        yield chunk
