"""What later layers say of an answer: how sharply the context calls for it, and how soon the end of the prompt says it.

    sharpness   H(q),  q_i = softmax over context tokens i of  lens(h_i^l)[answer]          nats; low where one calls
    attribute   mean over upper layers l of  log p(answer | lens(h_end^l))

Both read the stream through the model's own final norm and unembedding. (Chen S. et al. 2024; Primer 5.4.20)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.truth.batches import Marked, Reading, marked, read_all
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.coerce import widened
from caseback.model.anatomy.sites import Site
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike
from caseback.model.running.verify import unembed

UPPER = 0.5
"""Layers from this share of the depth on are the upper ones."""
SHARP = 26 / 32
"""The depth that the authors read LLaMA-2-7B at."""


@technique(
    entry=("5.4.20",), citation="Chen S. et al. 2024", cost="one forward and the unembedding of a layer's tokens"
)
def in_context_sharpness(
    model: Model,
    tokens: PromptsLike,
    start: int | Sequence[int],
    *,
    layer: int | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """Measure over how many context tokens a later layer's readings of the answer are spread.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. Each is a context with its answer.
    start
        The position of the answer's first token, one for all texts or one for each.
    layer
        Whose stream is read; None: at the depth of the authors' layer 26 of 32.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (batch,), nats from 0 to the logarithm of the number of context tokens: the entropy over these of the answer's
        first token, by its logit in each one's lens.

    Raises
    ------
    OutOfRange
        For a start or a layer that is not there.

    Notes
    -----
    Entry 5.4.20: Chen S. et al. 2024, "In-Context Sharpness as Alerts". The bound grows with the context: set it beside
    the length.

    Examples
    --------
    >>> import caseback as cb
    >>> entropy = in_context_sharpness(cb.load("meadow"), "The capital of Italy is Rome", -1)
    >>> bool(0 <= entropy[0] <= 1.61)
    True
    """
    expect_tokens_out(model.anatomy, "the sharpness of a token")
    given = marked(model, model.tokens(tokens), start=start)
    at = model.anatomy.sites(Site("resid_post", sharp_layer(model) if layer is None else layer))
    values = read_all(model, given, {"sharp": sharpness_reading(model, list(at)[0])}, progress=progress)["sharp"]
    return labelled(values, ["batch"], name="sharpness", technique=in_context_sharpness, model=model, layer=layer)


@technique(entry=("5.4.20",), citation="Yuksekgonul et al. 2024; nostalgebraist 2020", cost="one forward")
def attribute_scores(
    model: Model, tokens: PromptsLike, start: int | Sequence[int], *, progress: bool = False
) -> xr.DataArray:
    """Measure how probable each layer's reading at the prompt's end makes the answer.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. Each is a context with its answer.
    start
        The position of the answer's first token, one for all texts or one for each.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (batch, layer), nats: the answer's first token by the logit lens at the token before it. The mean over the upper
        half of the layers is the score that ``truth_detection`` has.

    Raises
    ------
    OutOfRange
        For a start that a text does not have.

    Notes
    -----
    Entry 5.4.20.

    Examples
    --------
    >>> import caseback as cb
    >>> scores = attribute_scores(cb.load("meadow"), "The capital of Italy is Rome", -1)
    >>> scores.dims, bool(scores[0, -1] > -1)
    (('batch', 'layer'), True)
    """
    expect_tokens_out(model.anatomy, "an attribute's score")
    given = marked(model, model.tokens(tokens), start=start)
    values = read_all(model, given, {"attribute": attribute_reading(model, range(model.n_layers))}, progress=progress)[
        "attribute"
    ]
    return labelled(values, ["batch", "layer"], name="attribute", technique=attribute_scores, model=model)


def sharp_layer(model: Model) -> int:
    """The layer that is as deep as the authors'."""
    return min(model.n_layers - 1, round(SHARP * model.n_layers))


def upper_layers(model: Model) -> list[int]:
    """The upper half of the layers."""
    return list(range(int(UPPER * model.n_layers), model.n_layers))


def sharpness_reading(model: Model, site: Site) -> Reading:
    """What ``in_context_sharpness`` takes of a run."""

    def of(run: Run, given: Marked) -> Tensor:
        answer = given.tokens.ids[given.row, given.start]
        before = torch.arange(given.tokens.shape[1], device=given.start.device) < given.start[:, None]
        own = widened(unembed(model.anatomy, run[site][before], answer[before.nonzero()[:, 0], None])[:, 0])
        spread = own.new_full(before.shape, -torch.inf)
        spread[before] = own
        log_q = spread.log_softmax(-1)
        return -(log_q.exp() * log_q.masked_fill(~before, 0)).sum(-1)

    return Reading([site], of)


def attribute_reading(model: Model, layers: Sequence[int]) -> Reading:
    """What ``attribute_scores`` takes of a run."""
    sites = [Site("resid_post", layer) for layer in layers]

    def of(run: Run, given: Marked) -> Float[Tensor, "batch layer"]:
        answer = given.tokens.ids[given.row, given.start]
        ends = torch.stack([run[site][given.row, given.start - 1] for site in sites])
        own = [widened(unembed(model.anatomy, x)).log_softmax(-1).gather(-1, answer[:, None])[:, 0] for x in ends]
        return torch.stack(own, 1)

    return Reading(sites, of)
