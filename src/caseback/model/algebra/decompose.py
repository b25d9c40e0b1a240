"""The prediction as a sum of what components wrote (PRIMER 2.1, 2.6).

    x_final = embed + pos_embed + sum_l (sum_h head_h + attn_bias + mlp)
    logit_w = sum_c share_w(c) + bias_w,     share_w(c) = c [M diag(gamma) W_U[:, w]] / s

with s the final norm's denominator in this run (epsilon included) and bias_w = beta W_U[:, w] + b_U[w]. Norms after
branches are held at their scales too, and multipliers are included. If the model soft-caps its logits, the rows sum to
the logits before the cap. b_O has its own row, ``attn bias``; b_out is in the MLP's row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from caseback.model.algebra.readout import Directions, Position, Readout, picked, readout, token_labels, unpadded
from caseback.model.algebra.under_edits import END, edited_end, expect_unedited, pushed_through_end
from caseback.model.algebra.writes import Branch, attention_branch
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.stream import expect_sums
from caseback.model.graph.names import head_name
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike
from caseback.model.running.verify import under_edits

Row = tuple[str, str, int, int]
"""A component's name, kind, layer and head; -1 where it has no layer or head."""


def write_sites(model: Model) -> list[Any]:
    """What a run must read for ``rows_of``: the embeddings, every layer's z and MLP, and the last stream.

    What edits put into the stream itself is no component's: a decomposition's ``gap`` has it.

    Raises
    ------
    SiteAbsent
        For a stream that is no sum of writes.
    EditError
        For a model under edits between z and the stream.
    """
    expect_sums(model.anatomy, "a split among writes")
    expect_unedited(model.anatomy, "a split among writes", {"head_out", "attn_out"}, "edit z")
    ends = ["embed", *(["pos_embed"] if model.anatomy.pos_embed is not None else [])]
    return [*ends, "z", "mlp_out", ("resid_post", -1)]


def rows_of(
    model: Model,
    run: Run,
    pos: Position,
    vector: Callable[[Tensor], Tensor],
    heads: Callable[[Branch, Tensor], Tensor],
) -> Iterator[tuple[list[Row], Tensor]]:
    """Rows with their values, (component, batch, ...), in computation order.

    ``vector`` maps a write to its values, ``heads`` a layer's z to those of its heads.
    """

    def at(site: Any) -> Tensor:
        return picked(run[site], run.tokens, pos)

    for name in ("embed", "pos_embed"):
        if name == "embed" or model.anatomy.pos_embed is not None:
            yield [(name, name, -1, -1)], vector(at(name))[None]
    for layer in range(model.n_layers):
        z, mlp = at(("z", layer)), at_least_float32(at(("mlp_out", layer)))
        branch = attention_branch(model.anatomy, layer, z)
        parts = heads(branch, z)
        names = [(head_name(layer, h), "head", layer, h) for h in range(z.shape[-2])]
        yield names, parts.movedim(-2, 0)
        constant = branch.constant(mlp)
        if constant is not None:
            yield [(f"attn bias {layer}", "attn_bias", layer, -1)], vector(constant)[None]
        yield [(f"MLP {layer}", "mlp", layer, -1)], vector(mlp)[None]


def _labels(rows: list[Row]) -> dict[str, Any]:
    name, kind, layer, head = (list(column) for column in zip(*rows, strict=True))
    return {
        "component": name,
        "kind": ("component", kind),
        "layer": ("component", layer),
        "head": ("component", head),
    }


def _finish(values: Tensor, rows: list[Row], run: Run, pos: Position, last: str, **attrs: Any) -> xr.DataArray:
    dims = ["component", "batch", *(["pos"] if pos is None else []), last]
    coords = {**_labels(rows), **attrs.pop("coords", {})}
    if pos is None:
        coords |= token_labels(run.tokens, "pos")
        values = unpadded(values, run.tokens, 1, 2)
    else:
        attrs["pos"] = pos
    return labelled(values, dims, coords, **attrs)


@technique(role="decomposition", entry=("2.1", "2.2"), citation="Elhage et al. 2021", cost="one forward")
def stream_parts(model: Model, tokens: PromptsLike, *, pos: Position = -1, normed: bool = False) -> xr.DataArray:
    """Every component's write to the final residual stream.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    pos
        A position of each prompt (negative from its end), or None for all; NaN at padding.
    normed
        Send each row through the final norm with its denominator frozen, and add the norm's bias as a row, so that the
        rows sum to ``final_norm`` instead of the last ``resid_post``.

    Returns
    -------
    xr.DataArray
        (component, batch, [pos,] d_model) with each component's kind, layer and head as coordinates. The attribute
        ``gap`` is the largest difference between the rows' sum and what they should sum to.

    Examples
    --------
    ::

        parts = stream_parts(model, "When Mary and John went to the store, John gave a drink to")
        parts.sel(component="L9H9")
        parts.where(parts.kind == "head", drop=True).sum("component")
    """
    run = model.run(tokens, read=write_sites(model))
    resid = at_least_float32(picked(run["resid_post", -1], run.tokens, pos))
    rows, values = [], []
    for names, parts in rows_of(model, run, pos, at_least_float32, head_writes):
        rows += names
        values.append(parts)
    stacked = torch.cat(values)
    module = model.anatomy.final_norm if normed else None
    if module is not None:
        norm = model.anatomy.norms[module]
        scale, total = norm.scale(resid), under_edits(model.anatomy, END, norm(resid))
        stacked = pushed_through_end(model.anatomy, norm.frozen(stacked, scale))
        if norm.beta is not None or edited_end(model.anatomy):
            beta = torch.zeros_like(resid) if norm.beta is None else norm.beta.expand_as(resid)
            rows.append(("bias", "bias", -1, -1))
            stacked = torch.cat([stacked, under_edits(model.anatomy, END, beta)[None]])
    else:
        total = resid
    gap = _gap(stacked.sum(0), total, run, pos)
    return _finish(
        stacked,
        rows,
        run,
        pos,
        "d_model",
        name="write",
        technique=stream_parts,
        model=model,
        gap=gap,
        normed=normed,
    )


def head_writes(branch: Branch, z: Tensor) -> Tensor:
    """What each head writes to the stream."""
    return branch.push(torch.einsum("...he,hed->...hd", at_least_float32(z), branch.weight))


@technique(role="decomposition", entry=("2.6", "2.5"), citation="Elhage et al. 2021", cost="one forward")
def logit_parts(model: Model, tokens: PromptsLike, directions: Directions, *, pos: Position = -1) -> xr.DataArray:
    """Each component's share of some logits, or of what other directions read off the final stream.

    The shares are of logits before any soft-cap. Nothing of the size (component, vocabulary) is formed; heads are
    projected from z, so not even their writes are.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    directions
        Tokens as text or ids (one, a list, or one list per prompt), or vectors that read the normed stream as a column
        of W_U does: (k, d_model) or (batch, k, d_model), such as a difference of two columns. A vector's reading does
        not include the model's logit scale.
    pos
        A position of each prompt (negative from its end), or None for all; NaN at padding.

    Returns
    -------
    xr.DataArray
        (component, batch, [pos,] vocab), or k in place of vocab for vectors and for tokens given per prompt. The row
        ``bias`` is the final norm's bias and the unembedding's. The attribute ``gap`` is the largest difference
        between the rows' sum and the model's own logits (or the normed stream's product with the vectors).

    Raises
    ------
    TargetError
        For a target that is not one token, or vectors of another width.

    Examples
    --------
    ::

        shares = logit_parts(model, prompt, [" Mary", " John"])
        difference = shares.isel(vocab=0) - shares.isel(vocab=1)
        difference.to_series().nlargest(5)
    """
    run = model.run(tokens, read=write_sites(model))
    resid = picked(run["resid_post", -1], run.tokens, pos)
    reading = readout(model, directions, resid)
    rows, values = [], []
    for names, parts in rows_of(model, run, pos, reading.of, reading.of_heads):
        rows += names
        values.append(parts)
    rows.append(("bias", "bias", -1, -1))
    stacked = torch.cat([*values, reading.rows(values[0][0])[None]])
    gap = _gap(capped(model, reading, stacked.sum(0)), read_off(model, run, reading, pos), run, pos)
    attrs = {"technique": logit_parts, "model": model, "gap": gap, "coords": reading.coords, "name": "share"}
    if reading.ids is not None and model.anatomy.logit_softcap is not None:
        attrs["softcap"] = model.anatomy.logit_softcap
    return _finish(stacked, rows, run, pos, reading.dim, **attrs)


def capped(model: Model, reading: Readout, total: Tensor) -> Tensor:
    """Sums of tokens' shares, soft-capped as the model does; other readings unchanged."""
    cap = model.anatomy.logit_softcap
    return total if reading.ids is None or cap is None else torch.tanh(total / cap) * cap


def read_off(model: Model, run: Run, reading: Readout, pos: Position) -> Tensor:
    """What shares should sum to: the tokens' logits, or the directions' reading of the stream."""
    if reading.ids is None:
        total = reading.of(picked(run["resid_post", -1], run.tokens, pos))
        return total + reading.rows(total)
    logits = at_least_float32(picked(run.logits, run.tokens, pos))
    if reading.ids.ndim == 1:
        return logits[..., reading.ids]
    between = [1] * (logits.ndim - 2)
    return logits.gather(-1, reading.ids.view(len(logits), *between, -1).expand(*logits.shape[:-1], -1))


def _gap(total: Tensor, expected: Tensor, run: Run, pos: Position) -> float:
    """The largest difference, over real tokens."""
    off = (total - expected).abs()
    return float((off[run.tokens.mask] if pos is None else off).max())
