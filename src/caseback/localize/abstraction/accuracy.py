"""Interchange accuracy: how often network and causal model agree after the same intervention (PRIMER 3.2.32).

    IIA = share of examples with  argmax N(b | do(place := what stood there on s))  =  M(b | do(V := V(s)))

1 with every value of every input says that the causal model abstracts the network. It is to be read beside what the
network gets right without any intervention, and on the examples whose answer the interchange changes: a swap that
does nothing is right on all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from caseback.errors import CasebackError, TargetError, TokensError
from caseback.localize.abstraction.alignment import Alignment, At, Seat, alignment_as_text, basis_of, seats
from caseback.localize.abstraction.interchanges import Interchanges
from caseback.model.anatomy.coerce import in_float64, widened
from caseback.model.anatomy.sites import SITES
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit
from caseback.model.running.metrics import Bound, Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens, one_token
from caseback.model.sweeping.sweep import sweep


def prediction(pos: int | Tensor = -1, among: Sequence[str | int] | None = None) -> Metric:
    """The id of the likeliest next token as a number, of all tokens or of some; what answers are compared with."""
    if among is not None and len(among) == 0:
        raise TargetError("among is empty: expected the tokens that an answer may be, or None for all")

    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        columns = tokens.column(pos)
        if among is None:
            return Bound(columns, None, lambda x, rows: widened(x.argmax(-1)))
        ids = torch.tensor([one_token(tokenizer, t, d_vocab, "answer") for t in among], device=tokens.ids.device)
        return Bound(columns, ids.expand(len(tokens), -1), lambda x, rows: widened(ids.to(x.device)[x.argmax(-1)]))

    return Metric("prediction", bind, pos=pos)


@technique(
    role="judgement",
    entry=("3.2.32",),
    citation="Geiger et al. 2021",
    cost="a forward for each variable's sources, one of the bases, and the forward from the first place on",
)
def interchange_accuracy(
    model: Model,
    data: Interchanges,
    alignment: Alignment,
    *,
    among: Sequence[str | int] | None = None,
    batch_size: int | None = None,
    token_budget: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """Swap variables where they are claimed to lie, and compare each answer with the causal model's.

    Every variable has a source prompt of its own, so with several of them the intervention is a multi-source one.

    Parameters
    ----------
    model
        The model.
    data
        Examples with the causal model's answers, as ``Interchanges.sample`` draws them.
    alignment
        For each variable the place, or places, where it lies.
    among
        The tokens that answers are chosen from; by default the whole vocabulary.
    batch_size
        Source prompts in one pass.
    token_budget, progress, checkpoint
        As for ``Model.sweep``.

    Returns
    -------
    xr.DataArray
        (batch), 1 where the answer is the causal model's. Attributes: ``accuracy``; ``accuracy_where_changed``, on the
        examples whose answer the interchange changes; ``task_accuracy``, of the bases without interchange. Beside it
        the token ids ``answer``, ``target`` and ``base_target``.

    Raises
    ------
    CasebackError
        For variables with no place, or places with no sources.
    UnknownSite, EditError, OutOfRange
        For places that the model does not have, and for subspaces larger than their site.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> data = Interchanges.of_pairs(cb.tasks.agreement().prompts(model, 8))
    >>> hits = interchange_accuracy(model, data, {"variable": At("resid_post", layer=0)})
    >>> hits.dims, hits.attrs["accuracy"] == hits.attrs["task_accuracy"]
    (('batch',), True)
    """
    seated = seats(model, data, alignment, batch_size=batch_size)
    edits = swaps(seated)
    answers, own, *_ = sweep(
        model.anatomy,
        data.base,
        [edits],
        prediction(data.pos, among),
        token_budget=token_budget,
        progress=progress,
        checkpoint=checkpoint,
    )
    hits = answers[0].to(data.target.device) == data.target
    return labelled(
        in_float64(hits),
        ["batch"],
        {
            "answer": ("batch", answers[0].long()),
            "target": ("batch", data.target),
            "base_target": ("batch", data.base_target),
        },
        name="hit",
        technique=interchange_accuracy,
        model=model,
        alignment=alignment_as_text(alignment),
        accuracy=float(in_float64(hits).mean()),
        accuracy_where_changed=float(in_float64(hits[data.changes]).mean()) if bool(data.changes.any()) else None,
        task_accuracy=float(in_float64(own.to(data.target.device) == data.base_target).mean()),
    )


def swaps(seated: Sequence[Seat]) -> list[Edit]:
    """The interchange in every place together, each in its own subspace."""
    return [edit for seat in seated for edit in seat.edits(basis_of(seat.at, seat.width))]


def accuracies(
    model: Model,
    data: Interchanges,
    variants: Sequence[Sequence[Edit]],
    *,
    among: Sequence[str | int] | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> Tensor:
    """The share of hits of each of several interchanges of the same examples, in one sweep."""
    answers, *_ = sweep(
        model.anatomy, data.base, variants, prediction(data.pos, among), progress=progress, checkpoint=checkpoint
    )
    return in_float64(answers.to(data.target.device) == data.target).mean(-1)


@technique(
    role="causal abstraction",
    entry=("3.2.32",),
    citation="Geiger et al. 2021",
    cost="2 forwards + places x (the forward from there on)",
)
def interchange_map(
    model: Model,
    data: Interchanges,
    *,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    pos: Sequence[int] | None = None,
    among: Sequence[str | int] | None = None,
    batch_size: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """Interchange accuracy of the whole activation at every layer and position: where a variable may lie at all.

    Parameters
    ----------
    model, data
        As for ``interchange_accuracy``; of several variables all are swapped together.
    site
        A site of vectors.
    layers, heads, pos
        Which; all by default. Heads only at a site that has some: one by one where they are given.
    among, batch_size, progress, checkpoint
        As for ``interchange_accuracy``.

    Returns
    -------
    xr.DataArray
        (layer, pos) of the accuracy, or (layer, head, pos). A site outside the layers has the layer -1.

    Raises
    ------
    TokensError
        For positions left to be all while prompts differ in length.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> pair = "Mary gave the ball to", "John gave the ball to"
    >>> interchange_map(model, Interchanges.of(model, *pair, " Mary", " John"), layers=[0, 1]).dims
    ('layer', 'pos')
    """
    where = grid(model, data, site, layers, heads, pos)
    seated: list[Seat] = seats(model, data, dict.fromkeys(data.variables, where), batch_size=batch_size)
    variants = [[edit for seat in seated[i :: len(where)] for edit in seat.edits()] for i in range(len(where))]
    values = accuracies(model, data, variants, among=among, progress=progress, checkpoint=checkpoint)
    return mapped(model, data, where, values, technique=interchange_map, site=site, subspace="all of it")


def grid(
    model: Model,
    data: Interchanges,
    site: str,
    layers: Sequence[int] | None,
    heads: Sequence[int] | None,
    pos: Sequence[int] | None,
) -> list[At]:
    """Every place of a map, layer by layer, head by head, position by position."""
    if pos is None:
        lengths = {n for t in (data.base, *data.sources.values()) for n in t.lengths.tolist()}
        if len(lengths) > 1:
            raise TokensError(
                f"prompts of {min(lengths)} to {max(lengths)} tokens have no positions in common: give pos=, such as "
                "pos=[-1, -2], which count from each prompt's end"
            )
        pos = range(lengths.pop())
    sites = list(model.anatomy.sites(site))
    named = sites[0].name
    depth: Sequence[int | None] = [None]
    if SITES[named].layered:
        depth = [s.layer for s in sites] if layers is None else [model.anatomy.layer(i) for i in layers]
    elif layers is not None:
        raise CasebackError(f"{named!r} is not in a layer: leave out layers={list(layers)}")
    if not pos or not depth or heads == []:
        raise CasebackError("a map needs at least one layer, position and head: give some, or leave them all out")
    return [At(named, layer, head, p) for layer in depth for head in heads or [None] for p in pos]


def mapped(model: Model, data: Interchanges, where: Sequence[At], values: Tensor, **attrs: Any) -> xr.DataArray:
    """Values of a grid's places as a labelled map."""
    layers, heads, pos = (list(dict.fromkeys(getattr(at, part) for at in where)) for part in ("layer", "head", "pos"))
    whole = heads == [None]
    dims = ["layer", "pos"] if whole else ["layer", "head", "pos"]
    shape = (len(layers), len(pos)) if whole else (len(layers), len(heads), len(pos))
    texts = [{row[p] for row in data.base.text} for p in pos]
    coords: dict[str, Any] = {
        "layer": [-1 if layer is None else layer for layer in layers],
        "pos": pos,
        "token": ("pos", [text.pop() if len(text) == 1 else "" for text in texts]),
    }
    if not whole:
        coords["head"] = heads
    changed = float(in_float64(data.changes).mean())
    return labelled(values.view(shape), dims, coords, name="accuracy", model=model, changing=changed, **attrs)
