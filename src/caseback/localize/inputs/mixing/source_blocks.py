"""The stream behind attention, by the position that each addend came from (PRIMER 3.1.13).

    y_i = x_i + attn_i = sum_j T_i(x_j) + c_i
    T_i(x_j) = sum_h a_ij v_j W_O + [i = j] x_i,       v_j = norm(x_j) W_V + b_V

A norm behind attention (Gemma-2, OLMo-2) is held at its scale, multipliers of the residual are included; c is what
attention adds that comes from no position: b_O, and such a norm's bias. Each v_j holds b_V, so that T_i(x_j) has its
share a_ij of b_V W_O. One layer's block is (query, key, d_model) per prompt; it is made a few queries at a time and
measured at once, so that memory does not grow with the square of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from caseback.jobs.budget import limit
from caseback.model.algebra.sources import values_of
from caseback.model.algebra.under_edits import (
    BEHIND,
    MLPS,
    QUERIES,
    STARTS,
    attended,
    expect_followed,
    pushed_through_end,
)
from caseback.model.algebra.writes import attention_branch, spread
from caseback.model.anatomy.norms import Norm, at_least_float32
from caseback.model.running.model import Model
from caseback.model.running.run import Run

Block = Float[Tensor, "batch query key d_model"]
SITES = ("resid_pre", "attn_out", "v", "pattern", "z")
"""What a run must have read, in the layers that are taken apart."""
_NORMS = frozenset({"attn_in", "attn_norm", "mlp_in", "mlp_norm"})
_FOLLOWED = STARTS | QUERIES | MLPS | BEHIND | {"resid_pre", "attn_in", "attn_norm", "v_in", "v", "resid_post"}


@dataclass(frozen=True)
class Rows:
    """The block of some queries.

    Attributes
    ----------
    queries
        Their columns in the padded batch.
    parts
        T, with the residual or without.
    whole
        y, or attention's output alone where the residual is left out.
    constant
        c, or None where attention has no such thing.
    """

    queries: slice
    parts: Block
    whole: Float[Tensor, "batch query d_model"]
    constant: Float[Tensor, "batch query d_model"] | None


def measured_blocks(
    model: Model,
    run: Run,
    layer: int,
    measure: Callable[[Rows], Float[Tensor, "batch query *rest"]],
    *,
    residual: bool = True,
    width: int | None = None,
) -> Float[Tensor, "batch pos *rest"]:
    """A measure of every query's block, such as the norm of each addend, some queries at a time.

    Parameters
    ----------
    run
        Has read ``SITES`` of the layer.
    measure
        From the rows of some queries to something whose first dimensions are (batch, query).
    residual
        Count the position's own stream to T_i(x_i).
    width
        Numbers that ``measure`` holds for a pair of positions, d_model unless given: it bounds the memory.

    Raises
    ------
    SiteAbsent
        For a model whose heads do not write z W_O.
    EditError
        For a model under edits of what attention writes that are not factors of heads, or of the stream behind it.
    """
    expect_followed(model.anatomy, "a map of who reads whom", _FOLLOWED, ("z",))
    z, pattern = run["z", layer], attended(run, layer)
    weight = attention_branch(model.anatomy, layer, z).weight
    each = torch.einsum("bhje,hed->bhjd", values_of(run, layer), weight)
    stream, written = (at_least_float32(run[name, layer]) for name in ("resid_pre", "attn_out"))
    batch, n_keys, d_model = stream.shape
    at_once = max(1, limit("source_numbers") // (batch * n_keys * (width or d_model)))
    measures = []
    for first in range(0, n_keys, at_once):
        rows = slice(first, min(first + at_once, n_keys))
        branch = attention_branch(model.anatomy, layer, z[:, rows])
        parts = branch.push(torch.einsum("bhij,bhjd->bijd", pattern[:, :, rows], each))
        whole = written[:, rows]
        if residual:
            here = torch.arange(rows.start, rows.stop, device=parts.device)
            parts[:, here - rows.start, here] += stream[:, rows]
            whole = whole + stream[:, rows]
        measures.append(measure(Rows(rows, parts, whole, branch.constant(whole))))
    return torch.cat(measures, 1)


def through(
    module: nn.Module | None, model: Model, parts: Tensor, scale_at: Float[Tensor, "batch query d_model"]
) -> Tensor:
    """Addends behind a norm, its denominator held at a stream; as they are where there is no norm."""
    if module is None:
        return parts
    norm: Norm = model.anatomy.norms[module]
    normed = norm.frozen(parts, spread(norm.scale(scale_at), parts))
    if module is model.anatomy.final_norm:
        return pushed_through_end(model.anatomy, normed)
    expect_followed(model.anatomy, "a map through norms", _FOLLOWED - _NORMS, ("z",))
    return normed
