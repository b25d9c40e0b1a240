"""GlobEnc: norms across the whole layer but for what the MLP itself writes (PRIMER 3.1.16).

    N_l[i, j] = || n_{l+1}(T_i(x_j)) ||_2,      T_i(x_j) = sum_h a_ij v_j W_O + [i = j] x_i

T is carried past both residual additions and through the norm that reads the layer's output: the next layer's, or the
final one, its denominator held at the true stream, the MLP's write included. (The paper's encoders have their norms
behind each addition; a decoder's stand before the branches, so the one that reads the sum is the next layer's.) The
MLP's write is left out as in the paper, since it is not linear in its sources; ``mlp_maps`` puts it in. Rows are
divided by their sums; the residual is in them, so a rollout adds no identity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr
from torch import Tensor, nn

from caseback.localize.inputs.mixing.mixing import (
    Across,
    by_own_positions,
    chosen_layers,
    labelled_maps,
    row_scores,
    row_shares,
)
from caseback.localize.inputs.mixing.source_blocks import SITES, Rows, measured_blocks, through
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.model.running.tokens import PromptsLike


def reader_of(model: Model, layer: int) -> nn.Module | None:
    """The norm that reads a layer's output, or None: the next layer's attention norm, the final norm after the last."""
    layers = model.anatomy.layers
    return layers[layer + 1].attn_norm if layer + 1 < len(layers) else model.anatomy.final_norm


def layer_vectors(model: Model, run: Run, layer: int, rows: Rows) -> Tensor:
    """The paper's vectors z, (batch, query, key, d_model), of some queries; ``run`` has read ``resid_post``."""
    after = at_least_float32(run["resid_post", layer])[:, rows.queries]
    return through(reader_of(model, layer), model, rows.parts, after)


@technique(role="context mixing", entry=("3.1.16",), citation="Modarressi et al. 2022", cost="one forward")
def globenc_maps(
    model: Model, tokens: PromptsLike, *, normalise: bool = True, layers: Sequence[int] | None = None
) -> xr.DataArray:
    """Norms of what each position has from each other behind a whole layer, the MLP's own write left out.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    normalise
        Divide each row by its sum, as the paper does.
    layers
        All unless given; negative ones count from the end.

    Returns
    -------
    xr.DataArray
        (batch, layer, query, key), rows that sum to 1.

    Raises
    ------
    SiteAbsent
        For a model whose heads do not write z W_O.
    UnknownSite
        For a layer that the model lacks.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> maps = globenc_maps(model, "the cat and the dog")
    >>> bool(abs(maps.sum("key") - 1).max() < 1e-5), maps.attrs["holds_residual"]
    (True, 1)
    """
    chosen, tokens = chosen_layers(model, layers), model.tokens(tokens)
    reads = [(name, i) for i in chosen for name in (*SITES, "resid_post")]
    run = execute(model.anatomy, tokens, read=reads, logits=False)
    maps = []
    for layer in chosen:
        norms = measured_blocks(
            model, run, layer, lambda rows, at=layer: layer_vectors(model, run, at, rows).norm(dim=-1)
        )
        maps.append(by_own_positions(norms, tokens))
    stacked, empty = torch.stack(maps, 1), None
    if normalise:
        stacked, empty = row_shares(stacked, tokens)
    attrs = {"holds_residual": True, "normalised": normalise, "empty_rows": empty}
    return labelled_maps(stacked, model, tokens, chosen, technique=globenc_maps, name="globenc", **attrs)


@technique(role="input attribution", entry=("3.1.16",), citation="Modarressi et al. 2022", cost="one forward")
def globenc(model: Model, tokens: PromptsLike, metric: Metric, *, across: Across = "rollout") -> xr.DataArray:
    """What the position that the metric reads holds of each token by GlobEnc's maps.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. Only its position counts: norms know no
        target.
    across
        ``"rollout"`` as in the paper, ``"mean"`` over the layers, or one by number.

    Returns
    -------
    xr.DataArray
        (batch, pos), shares that sum to 1; NaN where a shorter prompt has no token.

    Raises
    ------
    CasebackError
        For a ``metric`` that is not a ``Metric``, or that reads all positions.
    SiteAbsent
        For a model whose heads do not write z W_O.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> round(float(globenc(model, "the cat and the dog", cb.logit(" cat")).sum()), 4)
    1.0
    """
    tokens = model.tokens(tokens)
    return row_scores(globenc_maps(model, tokens), model, tokens, metric, across, technique=globenc, name="globenc")
