"""Gradients at points of a way between two values of a site, points side by side.

    row (b, t):  site = start_b + share_t (end_b - start_b)

Prompts do not mix, so the points of each prompt are rows of one batch, as many at a time as memory holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.jobs.batches import Batches
from caseback.model.anatomy.coerce import widest
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.prompts.copies import repeated, repeated_metric
from caseback.model.prompts.embedding_points import rows_at_once
from caseback.model.prompts.run_pair import expect_gradient
from caseback.model.running.edits import Edit
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import Tokens


def gradients_on_the_way(
    model: Model,
    tokens: Tokens,
    metric: Metric,
    shares: Sequence[float],
    edit: Callable[[Float[Tensor, " point"]], Edit],
    sites: Sequence[Site],
    *,
    pull: bool = True,
) -> Iterator[tuple[slice, Run, Run]]:
    """The metric's gradients at some points, a batch of them at a time.

    Parameters
    ----------
    model, tokens, metric
        What is run and measured.
    shares
        How far each point lies on the way.
    edit
        What puts prompts at some points, a prompt's points next to each other, as ``at_shares`` lays them.
    sites, pull
        Where gradients are wanted, as for ``Run.grad``.

    Yields
    ------
    Which points, the run without its graph, and the gradients; rows as ``edit`` has them.
    """

    def of_points(part: slice) -> tuple[Run, Run]:
        some = torch.tensor(shares[part], dtype=widest(tokens.ids.device), device=tokens.ids.device)
        times = len(some)
        copies, mine = repeated(tokens, times), repeated_metric(metric, tokens, times)
        run, values = measured(model.anatomy, copies, mine, read=sites, edits=[edit(some)], grad=True)
        expect_gradient(metric, values)
        return run.detached(), run.grad(values, sites, retain=False, pull=pull)

    at_once = max(1, rows_at_once(model, tokens, metric) // len(tokens))
    for part, (run, gradients) in Batches(at_once, "points").over(len(shares), of_points):
        yield part, run, gradients


def at_shares(change: Float[Tensor, "batch *dims"], shares: Float[Tensor, " point"]) -> Float[Tensor, "row *dims"]:
    """Some shares of each prompt's change, next to each other.

    Examples
    --------
    >>> at_shares(torch.tensor([[1.0], [10.0]]), torch.tensor([0.5, 1.0])).flatten()
    tensor([ 0.5000,  1.0000,  5.0000, 10.0000])
    """
    scale = shares.to(change).view(1, -1, *[1] * (change.ndim - 1))
    return (scale * change[:, None]).flatten(0, 1)


def over_points(values: Float[Tensor, "row *dims"], weights: Sequence[float]) -> Float[Tensor, "batch *dims"]:
    """The weighted sum over each prompt's points.

    Examples
    --------
    >>> over_points(torch.tensor([1.0, 2.0, 10.0, 20.0]), [0.5, 0.25])
    tensor([ 1., 10.])
    """
    values = at_least_float32(values)
    each = values.unflatten(0, (-1, len(weights))).transpose(0, 1)
    return torch.tensordot(values.new_tensor(weights), each, dims=1)
