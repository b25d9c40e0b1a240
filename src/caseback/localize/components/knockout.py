"""Attention knockout: which information moves along which edges (PRIMER 3.2.7; used for facts in 5.4.19).

    effect = m(x) - m(x | a_ij = 0 for i in target, j in source, in a window of layers)

Scores become minus infinity, so that the other keys share the weight. One layer's edge is often made good by the
next, hence the windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.errors import CasebackError
from caseback.localize.components.machinery.site_grid import expect_window, places_axis, windowed
from caseback.model.prompts.places import Place, addresses, named, placed
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Add, Edit, Index, Scale
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens


@technique(
    role="component effect",
    entry=("3.2.7",),
    citation="Geva et al. 2023",
    cost="a sweep: layers x sources x (the forward pass from the target on)",
)
def attention_knockout(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    source: Any = None,
    target: Place = -1,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    window: int = 1,
    renormalise: bool = True,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """What the metric loses when some positions can no longer look at others, in a window of layers.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    source
        Where the information comes from, one place at a time: a list of positions, or a mapping from names to
        positions, several positions or the text that stands there. None: every position.
    target
        Where it goes: positions or a text; the last position by default.
    layers
        The middle of each window; all layers by default.
    heads
        The heads that are cut; all by default.
    window
        How many layers are cut together, ``window // 2`` of them before the one named, within the model's ends. Geva
        et al. take 9 of GPT-2 XL's 48.
    renormalise
        Let the other keys share the weight. False: set it to 0 and leave the rest as it was.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    xr.DataArray
        (layer, key, batch), the metric less that of the run without the edges: positive where they serve the metric;
        NaN where a shorter prompt has no such source. Beside it the unedited ``metric_value`` (batch) and the
        ``token`` at each source (batch, key).

    Raises
    ------
    TokensError, OutOfRange, EditError
        For a place that a prompt lacks, a layer or a head that the model lacks, a window larger than the model.
    CasebackError
        Where nothing would be left for a target to look at.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> text, metric = "Mary and John went to the store. Mary gave", cb.prob(" John")
    >>> lost = attention_knockout(model, text, metric, source={"friend": "John", "rest": [1]}, window=3)
    >>> lost.sizes["key"], lost.key.values.tolist()
    (2, ['friend', 'rest'])
    """
    tokens = model.tokens(tokens)
    window = expect_window(window, model.n_layers)
    middles = list(range(model.n_layers)) if layers is None else [model.anatomy.layer(int(i)) for i in layers]
    sources = places_axis("key", source, tokens)
    targets = placed(target, tokens)
    variants = [
        _cut(tokens, targets, spans, [*windowed(layer, window, model.n_layers)], heads, renormalise)
        for layer in middles
        for spans in sources.spans or ()
    ]
    swept = model.sweep(
        tokens,
        variants,
        metric,
        labels=[str(i) for i in range(len(variants))],
        progress=progress,
        checkpoint=checkpoint,
    )
    values = (swept["clean"].values - swept.values).reshape(len(middles), len(sources.labels), len(tokens))
    for i, spans in enumerate(sources.spans or ()):
        values[:, i, [b for b, span in enumerate(spans) if not span]] = np.nan
    return labelled(
        values,
        ["layer", "key", "batch"],
        {
            "layer": middles,
            "key": sources.labels,
            "token": (("batch", "key"), sources.tokens_of(tokens)),
            "metric_value": ("batch", swept["clean"].values),
        },
        name="effect",
        technique=attention_knockout,
        model=model,
        metric=metric.name,
        target=metric.target,
        foil=metric.foil,
        queries=named(target),
        window=window,
        heads=None if heads is None else list(heads),
        renormalise=renormalise,
        noise_floor=swept.attrs.get("noise_floor"),
    )


def _cut(
    tokens: Tokens,
    targets: list[list[int]],
    sources: list[list[int]],
    layers: list[int],
    heads: Index,
    renormalise: bool,
) -> list[Edit]:
    """The edits that take each prompt's own sources from its targets."""
    width = tokens.ids.shape[1]
    keep = torch.ones(len(tokens), width)
    for b, (span, first) in enumerate(zip(sources, tokens.first.tolist(), strict=True)):
        keep[b, [first + key for key in span]] = 0.0
        alone = next((i for i in targets[b] if set(range(i + 1)) <= set(span)), None)
        if renormalise and alone is not None:
            raise CasebackError(
                f"prompt {b}: position {alone} sees only positions up to itself, and all of them are cut: nothing is "
                "left to look at. Leave one out, or pass renormalise=False"
            )
    edits: list[Edit] = []
    for pos in addresses(targets):
        # (batch, head, query, key); with one position per prompt there is no query dimension
        value = keep[:, None] if isinstance(pos, Tensor) else keep[:, None, None]
        if renormalise:
            edits.append(Add("scores", value.log(), layer=layers, head=heads, pos=pos))
        else:
            edits.append(Scale("pattern", value, layer=layers, head=heads, pos=pos))
    return edits
