"""Erased writes: direct effects that a later component takes back (PRIMER 3.2.6).

    removes(d, c) = max(0, -<w_d, w_c> / <w_c, w_c>)                      what d's write takes away of c's
    erased(c by d) = min(change(d | c ablated), -share(d)) >= 0           what of d's contrary share needs c

Components clear the stream for one another, so an early write with a large share may be gone before the end: its share
is then not part of why the model predicts what it does. Projections of writes on earlier ones screen for such pairs at
the price of one run. Whether the later component answers to the earlier or merely writes the contrary anyway is decided
by ablating the earlier one at the metric's position: only what goes with it was erasure.
"""

from __future__ import annotations

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import OutOfRange
from caseback.localize.components.logit_attribution import row_labels
from caseback.localize.components.machinery.ablation_responses import answers
from caseback.model.algebra.decompose import Row, head_writes, rows_of
from caseback.model.algebra.direct import (
    Direction,
    direction_attrs,
    direction_of,
    shares_of,
    writes_run,
)
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.graph.units import Component, address_of
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Zero
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike


@technique(
    role="component effect",
    entry=("3.2.6",),
    citation="Dao et al. 2023",
    cost="two forwards + one forward per early component, side by side",
)
def erased_writes(
    model: Model, tokens: PromptsLike, metric: Metric, *, top: int = 10, at_least: float = 0.1
) -> xr.Dataset:
    """Early components whose direct share a later one takes back, and by how much: shares not to be believed.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It must be linear in the logits of one
        position, as for ``logit_attribution``.
    top
        How many heads and MLPs to test: those of whose share later writes remove most, by projection.
    at_least
        From which fraction of the early component's share on a pair is flagged.

    Returns
    -------
    xr.Dataset
        The components that were tested, those of whose share most is erased first, and every other one at the end of a
        ``path`` from them. (component, batch): ``share``, the direct one; ``screened``, the fraction of it that later
        writes remove by projection, at most 1; ``fraction``, the fraction erased according to the ablation (beyond 1
        where more contrary writes hang on the component than it wrote itself).
        (component, path, batch): ``cosine`` of the two writes; ``change``, by how much the later one's share
        grows when the early one is zeroed at the metric's position; ``erased``, as above, in the metric's unit and
        with the sign of the share that is lost; ``flagged``. ``path_share`` (path, batch) are the later ones' shares.

    Raises
    ------
    OutOfRange
        For ``top`` below 1, or ``at_least`` that is not a fraction above 0.
    CasebackError
        For a metric that is not linear in the logits of one position.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> erasure = erased_writes(model, "the cat and the dog", cb.logit(" cat"), top=3)
    >>> pairs = erasure.erased.where(erasure.flagged).isel(batch=0).to_series().dropna()
    >>> erasure.sizes["component"], pairs.index.names
    (3, FrozenList(['component', 'path']))
    """
    if top < 1 or not 0 < at_least <= 1:
        raise OutOfRange(f"top is {top} and at_least {at_least}: expected at least 1, and a fraction above 0")
    tokens = model.tokens(tokens)
    direction = direction_of(model, tokens, metric)
    clean = writes_run(model, tokens)
    rows, shares = shares_of(direction, clean, direction.reading(direction.stream(clean)))
    writes = _writes(direction, clean)
    after = _after(model, rows)
    removes = _removes(writes, after)
    screened = removes.sum(1).clamp(max=1.0)
    able = torch.tensor([kind in ("head", "mlp") for _, kind, _, _ in rows], device=shares.device)
    score = torch.where(able, (shares.abs() * screened).mean(-1), -1.0)
    tested = score.topk(min(top, int(able.sum()))).indices
    chosen: list[Component] = [(rows[i][2], None if rows[i][1] == "mlp" else rows[i][3]) for i in tested.tolist()]
    edits = [Zero(pos=direction.pos, **address_of(c)) for c in chosen]
    change = answers(direction, chosen, edits, tokens).change
    share = shares[tested]
    sign = share.sign()[:, None]
    # of a later share that is contrary, at most all of it can be due to the early component
    most = (-shares * sign).clamp(min=0.0)
    erased = torch.minimum((change * sign).clamp(min=0.0), most) * after[tested][..., None]
    size = share.abs()[:, None]
    fraction = torch.where(share == 0, 0.0, erased.sum(1) / share.abs())
    order = (erased.sum(1).mean(-1)).argsort(descending=True, stable=True)
    values = {
        "share": share,
        "screened": screened[tested],
        "fraction": fraction,
        "cosine": torch.nn.functional.cosine_similarity(writes[tested][:, None], writes[None], dim=-1),
        "change": change,
        "erased": erased * sign,
        "flagged": (erased >= at_least * size) & (erased > 0),
    }
    early = row_labels([rows[i] for i in tested[order].tolist()])
    name, *beside = (list(column) for column in zip(*rows, strict=True))
    later = {"path": name, "path_kind": ("path", beside[0]), "path_layer": ("path", beside[1])}
    later["path_head"] = ("path", beside[2])
    attrs = {"technique": erased_writes, "model": model, "at_least": at_least, **direction_attrs(direction, metric)}
    arrays = {
        key: labelled(
            x[order],
            ["component", "path", "batch"] if x.ndim == 3 else ["component", "batch"],
            {**early, **(later if x.ndim == 3 else {})},
            name=key,
            **attrs,
        )
        for key, x in values.items()
    }
    arrays["path_share"] = labelled(shares, ["path", "batch"], later, name="path_share", **attrs)
    return xr.Dataset(arrays, attrs=arrays["share"].attrs)


def _writes(direction: Direction, run: Run) -> Float[Tensor, "path batch d_model"]:
    """What each row of the shares writes to the stream; the biases behind the last layer write nothing there."""
    stacked = torch.cat([x for _, x in rows_of(direction.model, run, direction.pos, at_least_float32, head_writes)])
    return torch.cat([stacked, torch.zeros_like(stacked[:1])])


def _removes(
    writes: Float[Tensor, "path batch d_model"], after: Bool[Tensor, "path path"]
) -> Float[Tensor, "path path batch"]:
    """What fraction of each write every later one takes away: their projection on it, where it is contrary."""
    product = torch.einsum("cbd,ebd->ceb", writes, writes)
    square = writes.pow(2).sum(-1)[:, None]
    contrary = (-product / torch.where(square == 0, 1.0, square)).clamp(min=0.0)
    return contrary * after[..., None]


def _after(model: Model, rows: list[Row]) -> Bool[Tensor, "path path"]:
    """Which rows can read what a row writes: those of later layers, and the MLP of a sequential one its attention."""

    def reads(early: Row, late: Row) -> bool:
        if late[1] not in ("head", "mlp"):
            return False
        if late[2] != early[2]:
            return late[2] > early[2]
        sequential = not model.anatomy.layers[late[2]].parallel
        return sequential and late[1] == "mlp" and early[1] in ("head", "attn_bias")

    return torch.tensor([[reads(early, late) for late in rows] for early in rows], device=model.device)
