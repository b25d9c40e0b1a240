"""Virtual weights: what a feature reads of another by weights alone, on no prompt (Dunefsky et al. 2024).

    V_ij = w_i . r_j                           w_i: what source i writes, r_j: what target j reads of the stream
    V_ij = w_i N^T W_V W_O r_j                 through one head
    V_tj = E_t . r_j                           of a token's embedding: what a feature answers to (de-embedding)

These are the edges of a transcoder circuit that no input changes. They hold pairs that are never active together too:
``expected_weights`` tells these apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import ArgumentError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.attribution_graphs.stream_places import (
    Features,
    Head,
    Vocabulary,
    features_of,
    head_of,
    sources_of,
)
from caseback.model.anatomy.feature_reads import FeatureDictionary
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model


@technique(
    entry=("3.2.30",),
    citation="Dunefsky et al. 2024, Ameisen et al. 2025",
    cost="source features x target features x d_model; no forward pass",
)
def virtual_weights(
    model: Model,
    source: Any,
    target: Any,
    *,
    top: int = 16,
    through: str | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Find for each feature the earlier features that its weights read most of: V_ij = w_i . r_j.

    Parameters
    ----------
    model
        The model.
    source
        A dictionary whose features write to the stream: of a residual site, of attention's or an MLP's output, or a
        cross-layer transcoder, of which all that a feature has written before the target's layer counts together. Or
        ``"embed"``: the embeddings of all tokens, whose ids are then the sources.
    target
        A dictionary whose features read the stream, before a norm or behind it; not before the source writes. One of
        attention's output reads the heads of its layer, and needs ``through``.
    top
        How many sources are listed of each target, those of the largest |V|.
    through
        A head, such as ``"L3H2"``: what is read through its OV matrix, as if it attended to the source alone. None:
        what is read of the stream directly.
    progress
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        ``weight`` and ``source``, (feature, k): V of each target feature and which source it is of, the largest |V|
        first. Where fewer sources precede a target, the weight is 0 and the source -1. Activations of the source times
        ``weight``, over the denominators below, are what the target's activation gets.

    Raises
    ------
    ArgumentError
        For what is no dictionary of the stream, a source that no target follows, or a name of no head.
    LoadError
        For a dictionary of another width, or of other layers.
    OutOfRange
        For ``top`` below 1.
    SiteAbsent
        For families whose stream is not a sum, or whose heads are not linear.

    Notes
    -----
    Entry 3.2.30. Gains and centering of norms are in V; their denominators, which a prompt decides, are not, nor are
    the norms of queries and keys, attention weights, a skip's map and bounds on values. A dictionary that normalizes
    each token is taken at a state of mean 0 and mean square 1. Features x features are never held at once.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> model = cb.load("meadow")
    >>> of_mlp = lambda layer: Facts(site=f"mlp_norm.{layer}", target=f"mlp_out.{layer}")
    >>> early, late = (TopK(model.d_model, 64, k=4, seed=layer, facts=of_mlp(layer)) for layer in (0, 2))
    >>> found = virtual_weights(model, early, late, top=3)
    >>> found.weight.dims, found.weight.shape
    (('feature', 'k'), (64, 3))
    >>> virtual_weights(model, early, late, top=3, through="L1H0").weight.shape
    (64, 3)
    """
    if top < 1:
        raise OutOfRange(f"top={top}: expected 1 or more sources of each target")
    sources, targets = sources_of(model, source), features_of(model, target, "target")
    head = None if through is None else head_of(model, through)
    if source is target and len(sources) == 1:
        raise ArgumentError(f"{source!r} is both source and target: its features read none of their own writes")
    if not any(_precedes(one, other, head) for one in sources for other in targets):
        way = "" if head is None else f" through {through}"
        expected = "a target of a later layer, or for one of attention's output through=, a head of its own layer"
        raise ArgumentError(f"{target!r} reads nothing that {source!r} writes{way}: expected {expected}")
    top = min(top, sum(one.count for one in sources))
    side = max(1, math.isqrt(limit("virtual_weights", model.device)))
    blocks = [(group, *block) for group in targets for block in group.blocks(side)]
    weights, numbers = [], []
    with torch.no_grad():
        for group, start, end in progress_bar(blocks, "virtual weights", unit="block", show=progress):
            rows = group.reads(start, end)
            rows = rows if head is None else head.pull(rows)
            depth = group.read_at() if head is None else head.read_at
            before = [one for one in sources if _precedes(one, group, head)]
            weight, number = strongest(before, rows, depth, top, side)
            weights.append(weight)
            numbers.append(number)
    weight, number = torch.cat(weights), torch.cat(numbers)
    if not bool(weight.isfinite().all()):
        raise ArgumentError(f"weights between {source!r} and {target!r} are not finite: one of them holds NaN or more")
    attrs = {
        "technique": virtual_weights,
        "model": model,
        **sites_of_weights(source, target),
        "through": through,
        "source_features": sum(one.count for one in sources),
    }
    labelled_weight = labelled(weight, ["feature", "k"], name="weight", **attrs)
    held = {"weight": labelled_weight, "source": (("feature", "k"), number.cpu().numpy())}
    return xr.Dataset(held, attrs=labelled_weight.attrs)


def sites_of_weights(source: FeatureDictionary | str, target: FeatureDictionary) -> dict[str, str]:
    """Where the source writes and the target reads, as attributes of results."""
    return {"source_site": site_written(source), "target_site": target.facts.site}


def site_written(one: FeatureDictionary | str) -> str:
    """Where a dictionary writes; ``"embed"`` for tokens."""
    return one if isinstance(one, str) else one.facts.target or one.facts.site


def _precedes(source: Features | Vocabulary, target: Features, head: Head | None) -> bool:
    of_heads = target.site.name == "attn_out"
    if head is None:
        return not of_heads and source.written_at() <= target.read_at()
    if of_heads and head.layer != target.site.layer:
        return False
    return source.written_at() <= head.read_at and head.written_at <= target.read_at()


def strongest(
    sources: Sequence[Features | Vocabulary], rows: Float[Tensor, "target d_model"], depth: int, top: int, side: int
) -> tuple[Float[Tensor, "target top"], Int[Tensor, "target top"]]:
    """The largest weights of some targets and the sources' numbers, a block of sources at a time."""
    weight = rows.new_zeros(len(rows), 0)
    number = torch.zeros(len(rows), 0, dtype=torch.long, device=rows.device)
    for group in sources:
        for start, end in group.blocks(side):
            written = group.writes(start, end, depth)
            kind = torch.promote_types(rows.dtype, written.dtype)
            products = rows.to(kind) @ written.to(kind).T
            chosen = products.abs().topk(min(top, end - start), dim=1).indices
            weight = torch.cat([weight.to(kind), products.gather(1, chosen)], 1)
            number = torch.cat([number, chosen + start], 1)
            order = weight.abs().sort(dim=1, descending=True, stable=True).indices[:, :top]
            weight, number = weight.gather(1, order), number.gather(1, order)
    left = (0, top - weight.shape[1])
    return torch.nn.functional.pad(weight, left), torch.nn.functional.pad(number, left, value=-1)
