"""Virtual scores: what two features make of a head's attention score by weights alone, on no prompt.

    S_ij = scaling w_i N^T W_Q R W_K^T N w_j       w_i: what feature i writes at the query, w_j: feature j at the key

R is the rotation between a query and a key so far apart. The QK edge of a circuit of dictionaries that no input
changes: times both activations, over the denominators of the norm at both places, it is the pair's term on a prompt.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import xarray as xr

from caseback.errors import ArgumentError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.attribution_graphs.queries import head_of_scores
from caseback.localize.circuits.attribution_graphs.stream_places import depth_of, features_of
from caseback.localize.circuits.attribution_graphs.virtual_weights import site_written, strongest
from caseback.model.algebra.scalings import score_scalings
from caseback.model.algebra.under_edits import expect_in_weights
from caseback.model.anatomy.sites import Site
from caseback.model.graph.names import head_name
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model


@technique(
    entry=("3.2.30",),
    citation="He et al. 2024",
    cost="query features x key features x d_head; one short forward pass for the rotation",
)
def virtual_scores(
    model: Model,
    query: Any,
    key: Any,
    head: str,
    *,
    offset: int = 0,
    top: int = 16,
    progress: bool = False,
) -> xr.Dataset:
    """Find for each feature at a query the features at a key that draw a head's attention, by weights alone.

    Parameters
    ----------
    model
        The model.
    query
        A dictionary whose features write to the stream before the head's layer, at the token that looks.
    key
        Another, or the same, at the token looked at.
    head
        Such as ``"L3H2"``.
    offset
        How many tokens the key stands before the query; matters where positions are rotations.
    top
        How many key features are listed of each query feature, those of the largest |S|.
    progress
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        ``weight`` and ``source``, (feature, k): S of each feature at the query and which feature at the key it is of,
        the largest |S| first; 0 and -1 where there are fewer.

    Raises
    ------
    ArgumentError
        For what is no dictionary of the stream, one that writes only behind the head, or a name of no head.
    LoadError
        For a dictionary of another width, or of other layers.
    OutOfRange
        For ``top`` below 1, or an offset that the model has no positions for.
    EditError
        For a model under edits of what makes its scores, which are in no weight.
    CasebackError
        For families that norm queries or keys, whose scores no matrix gives.
    SiteAbsent
        For families whose queries and keys are not read from the stream by heads.

    Notes
    -----
    Entry 3.2.30. Gains and centering of the norm are in S; biases are not, nor position biases, soft-caps and
    denominators. Features x features are never held at once.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> model = cb.load("meadow")
    >>> stream = TopK(model.d_model, 64, k=4, facts=Facts(site="resid_post.0"))
    >>> virtual_scores(model, stream, stream, "L1H2", offset=1, top=3).weight.shape
    (64, 3)
    """
    if top < 1:
        raise OutOfRange(f"top={top}: expected 1 or more features of each")
    layer, index = head_of_scores(model, head)
    expect_in_weights(model.anatomy, "a virtual score", {"attn_in", "attn_norm", "q_in", "k_in", "q", "k", "scores"})
    depth = depth_of(model, Site("attn_in", layer))
    sides = []
    for name, one in (("query", query), ("key", key)):
        groups = [group for group in features_of(model, one, "source") if group.written_at() <= depth]
        if not groups:
            raise ArgumentError(
                f"{name}={one!r} writes nothing that {head} reads: expected a dictionary of an earlier layer"
            )
        sides.append(groups)
    circuit = model.weights.qk(layer, index, offset)
    module = model.anatomy.layers[layer].attn_norm
    norm = None if module is None else model.anatomy.norms[module]
    scaling = score_scalings(model.anatomy)[layer]
    side = max(1, math.isqrt(limit("virtual_weights", model.device)))
    blocks = [(group, *block) for group in sides[0] for block in group.blocks(side)]
    top = min(top, sum(one.count for one in sides[1]))
    weights, numbers = [], []
    with torch.no_grad():
        for group, start, end in progress_bar(blocks, "virtual scores", unit="block", show=progress):
            written = group.writes(start, end, depth)
            unit = written.new_ones(1)
            read = written if norm is None else norm.frozen(written, unit)
            rows = (read @ circuit.left.detach().to(read) @ circuit.right.detach().to(read)) * scaling
            weight, number = strongest(sides[1], rows if norm is None else norm.pull(rows, unit), depth, top, side)
            weights.append(weight)
            numbers.append(number)
    attrs = {
        **{"technique": virtual_scores, "model": model, "head": head_name(layer, index), "offset": offset},
        **{"query_site": site_written(query), "key_site": site_written(key)},
    }
    weight = labelled(torch.cat(weights), ["feature", "k"], name="weight", **attrs)
    return xr.Dataset(
        {"weight": weight, "source": (("feature", "k"), torch.cat(numbers).cpu().numpy())}, attrs=weight.attrs
    )
