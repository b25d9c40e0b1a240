"""Value Zeroing: what a layer makes of a position without another one's value (PRIMER 3.1.18).

    C[i, j] = 1 - cos(x_i, x_i without v_j)       x_i the layer's output

v_j is put to zero in all heads of one layer; the pattern, the residual stream and all else that enters the layer stay,
and the whole layer, norms and MLP included, is run again. Rows are divided by their sums. The rest of the layer is in
it, the residual too, so a rollout adds no identity. Only rows from j on can change and only they are run: a map costs
half as many token-layers as positions^2, in a sweep's packed passes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.progress import progress_bar
from caseback.localize.inputs.mixing.mixing import Across, chosen_layers, labelled_maps, row_scores, row_shares
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.running.edits import Edit, Zero
from caseback.model.running.metrics import Bound, Metric
from caseback.model.running.model import Model
from caseback.model.running.passing import undisturbed
from caseback.model.running.run import resolve
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.model.running.undo import as_found
from caseback.model.sweeping.clean import Clean, record
from caseback.model.sweeping.packed import Packed, Segment
from caseback.model.sweeping.room import tokens_per_pass
from caseback.model.sweeping.segments import chunks

_NO_METRIC = Bound(None, None, lambda logits, rows: rows)


def cosine_distance(a: Float[Tensor, "row d_model"], b: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
    """1 - cos(a, b), by way of the unit vectors' difference so that nearly equal ones keep their digits.

    Examples
    --------
    >>> cosine_distance(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])).tolist()
    [1.0]
    """
    a, b = (torch.nn.functional.normalize(at_least_float32(x), dim=-1) for x in (a, b))
    return (a - b).pow(2).sum(-1) / 2


def _euclidean(a: Tensor, b: Tensor) -> Tensor:
    return (at_least_float32(a) - at_least_float32(b)).norm(dim=-1)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cosine": cosine_distance, "euclidean": _euclidean}


def changed_outputs(
    model: Model,
    clean: Clean,
    layer: int,
    edit: Callable[[int, slice], Edit],
    distance: Callable[[Tensor, Tensor], Tensor],
    token_budget: int,
    bar: Any = None,
) -> Float[Tensor, "batch query key"]:
    """How far each position's output of one layer moves under an edit of each position alone.

    Parameters
    ----------
    clean
        Of ``record``: what entered each layer.
    edit
        From a layer and a position, as a slice of one, to the edit made there.
    """
    tokens = clean.tokens
    lengths, first = tokens.lengths.tolist(), tokens.first.to(clean.stream[layer].device)
    width = max(lengths)
    edits = [resolve(edit(layer, slice(j, j + 1)), model.anatomy, tokens, owner=j) for j in range(width)]
    # variant j zeroes position j; a segment runs from j on, since earlier rows cannot see the change
    segments = [Segment(j, b, j, n, layer) for b, n in enumerate(lengths) for j in range(n)]
    maps = torch.zeros(len(lengths), width, width, dtype=torch.promote_types(model.dtype, torch.float32))
    maps = maps.to(first.device)
    for chunk in chunks(segments, token_budget, tokens.ids.shape[1]):
        owners = {s.variant for s in chunk}
        packed = Packed(model.anatomy, clean, chunk, [e for j in sorted(owners) for e in edits[j]], _NO_METRIC)
        after, before = packed.after(layer), clean.stream[layer + 1][packed.example, packed.column]
        of = torch.tensor([s.start for s in chunk]).repeat_interleave(torch.tensor([len(s) for s in chunk]))
        moved = distance(before, after).to(maps)
        maps[packed.example, packed.column - first[packed.example], of.to(first.device)] = moved
        if bar is not None:
            bar.update(len(chunk))
    return maps


@technique(
    role="context mixing",
    entry=("3.1.18",),
    citation="Mohebbi et al. 2023",
    cost="one forward + positions / 2 forwards, batched",
)
def value_zeroing_maps(
    model: Model,
    tokens: PromptsLike,
    *,
    distance: str = "cosine",
    normalise: bool = True,
    layers: Sequence[int] | None = None,
    token_budget: int | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """How far each position's output of a layer moves when another position's value is zero there.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    distance
        ``"cosine"`` as in the paper, or ``"euclidean"``.
    normalise
        Divide each row by its sum, as the paper does.
    layers
        All unless given; negative ones count from the end.
    token_budget
        Most rows in one pass; by default a sweep's.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (batch, layer, query, key), rows that sum to 1; the diagonal is the effect of a position's own value. The
        attribute ``empty_rows`` counts rows that no value moves; they are given to the position itself.

    Raises
    ------
    CasebackError, OutOfRange, UnknownSite
        For an unknown distance, a budget below 1, or a layer that the model lacks.
    SiteAbsent
        For a model that cannot be swept.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> maps = value_zeroing_maps(model, "the cat and the dog")
    >>> bool(abs(maps.sum("key") - 1).max() < 1e-5), float(maps.sel(query=0, key=3).max())
    (True, 0.0)
    """
    if distance not in DISTANCES:
        raise CasebackError(f"distance={distance!r} is unknown. {did_you_mean(str(distance), DISTANCES)}")
    if token_budget is not None and token_budget < 1:
        raise OutOfRange(f"token_budget={token_budget}: expected at least 1 row per pass")
    chosen, tokens = chosen_layers(model, layers), model.tokens(tokens)
    maps = zeroed(model, tokens, chosen, DISTANCES[distance], token_budget, progress)
    empty = None
    if normalise:
        maps, empty = row_shares(maps, tokens)
    return labelled_maps(
        maps,
        model,
        tokens,
        chosen,
        technique=value_zeroing_maps,
        name="value_zeroing",
        distance=distance,
        holds_residual=True,
        normalised=normalise,
        empty_rows=empty,
    )


@as_found
def zeroed(
    model: Model,
    tokens: Tokens,
    layers: Sequence[int],
    distance: Callable[[Tensor, Tensor], Tensor],
    token_budget: int | None,
    progress: bool,
) -> Float[Tensor, "batch layer query key"]:
    """Distances of all layers, before rows are divided by their sums."""
    token_budget = tokens_per_pass(model.anatomy, tokens, token_budget)

    def zero(layer: int, pos: slice) -> Edit:
        return Zero("v", layer=layer, pos=pos)

    total, width = len(layers) * int(tokens.lengths.sum()), tokens.ids.shape[1]
    with undisturbed(model.anatomy, grad=False), progress_bar(total=total, show=progress, what="value zeroing") as bar:
        clean = record(model.anatomy, tokens)
        maps = [changed_outputs(model, clean, i, zero, distance, token_budget, bar) for i in layers]
    missing = width - maps[0].shape[-1]
    return torch.nn.functional.pad(torch.stack(maps, 1), (0, missing, 0, missing))


@technique(
    role="input attribution",
    entry=("3.1.18",),
    citation="Mohebbi et al. 2023",
    cost="one forward + positions / 2 forwards, batched",
)
def value_zeroing(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    across: Across = "mean",
    distance: str = "cosine",
    token_budget: int | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """What the position that the metric reads holds of each token by Value Zeroing's maps.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. Only its position counts: the layers'
        outputs know no target.
    across
        ``"mean"`` over the layers, one by number, or ``"rollout"`` without identity, which the paper has as an option.
        A row says whose values matter to a position, not how much of itself it keeps, so a rollout moves on to
        earlier tokens at every layer.
    distance, token_budget
        As for ``value_zeroing_maps``.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (batch, pos), shares that sum to 1; NaN where a shorter prompt has no token.

    Raises
    ------
    CasebackError
        For a ``metric`` that is not a ``Metric``, or that reads all positions, or an unknown distance.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> round(float(value_zeroing(model, "the cat and the dog", cb.logit(" cat")).sum()), 4)
    1.0
    """
    tokens = model.tokens(tokens)
    maps = value_zeroing_maps(model, tokens, distance=distance, token_budget=token_budget, progress=progress)
    return row_scores(maps, model, tokens, metric, across, technique=value_zeroing, name="value_zeroing")
