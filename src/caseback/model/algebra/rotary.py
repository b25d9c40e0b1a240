"""The rotation between a query and a key, measured with the model's own rotary code (PRIMER 2.3).

    score_ij = (n_i W_Q + b_Q) R_{i-j} (n_j W_K + b_K)^T * scaling,     R_{i-j} = T_i T_j^T

Families rotate halves or pairs, all of a head or part of it, in some layers and not in others, at frequencies scaled in
many ways. None of this is repeated here: a head's unit vectors are put where its queries and keys leave their
projections, and what enters attention is then the matrix T. A family without rotary embeddings gives the identity.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from caseback.errors import CasebackError, OutOfRange, SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.dense import Projection, computes_in
from caseback.model.anatomy.parameters import device_of
from caseback.model.running.attention import attending
from caseback.model.running.passing import hooked, undisturbed
from caseback.model.running.run import takes_positions
from caseback.model.running.undo import as_found


class _Seen(Exception):  # noqa: N818  (not an error: it ends a forward pass that has shown what was wanted)
    def __init__(self, q: Tensor, k: Tensor):
        self.q, self.k = q, k


@as_found
def rotation(anatomy: Anatomy, layer: int, offset: int) -> Float[Tensor, "d_head d_head"]:
    """R between a query at position ``offset`` and a key at position 0, for one layer's heads.

    Raises
    ------
    OutOfRange
        For a negative offset, or one past the model's positions.
    SiteAbsent
        For latent attention.
    CasebackError
        If queries or keys are normed or clipped between their projections and attention.

    Examples
    --------
    ::

        turn = rotation(model.anatomy, layer=3, offset=7)
        turn @ turn.T        # the identity, times the square of any attention factor (YaRN)
    """
    if offset < 0:
        raise OutOfRange(f"offset {offset}: a query attends to keys at or before it, so offsets start at 0")
    p, wanted = anatomy.layers[layer], layer
    if p.q is None or p.k is None:
        raise SiteAbsent(f"this model ({anatomy.model_type}) has no queries of its own: {anatomy.lacks['q_in']}")
    d_head, device = p.dims.d_head, device_of(p.o)
    units = torch.eye(d_head, dtype=torch.promote_types(computes_in(p.o), torch.float32), device=device)
    probes = torch.cat([units, 2 * units])
    hf, positions = anatomy.hf, [0, offset] if offset else [0]
    given: dict[str, Any] = {"use_cache": False}
    if takes_positions(hf):
        given["position_ids"] = torch.tensor([positions] * len(probes), device=anatomy.device)
    else:
        positions = list(range(offset + 1))
    ids = torch.zeros(len(probes), len(positions), dtype=torch.long, device=anatomy.device)

    def attender(layer: int, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, **how: Any) -> Tensor:
        if layer == wanted:
            raise _Seen(q, k)
        return v.new_zeros(len(q), q.shape[2], q.shape[1], v.shape[3])

    with ExitStack() as stack:
        stack.enter_context(undisturbed(anatomy, grad=False))
        hooks = stack.enter_context(hooked())
        for projection in (p.q, p.k):
            hooks.after(projection.module, _showing(projection, probes))
        stack.enter_context(attending(anatomy, attender))
        try:
            hf(input_ids=ids, **given)
            raise CasebackError(f"attention of layer {layer} was not reached, so its rotation cannot be measured")
        except _Seen as seen:
            turned_q, turned_k = seen.q[:, 0, -1], seen.k[:, 0, 0]
        except IndexError as error:
            raise OutOfRange(f"offset {offset} is past the positions of this model ({anatomy.model_type})") from error
    for turned, what in ((turned_q, "queries"), (turned_k, "keys")):
        if not torch.allclose(turned[d_head:], 2 * turned[:d_head], rtol=1e-2, atol=1e-3):
            raise CasebackError(
                f"{what} of layer {layer} of this model ({anatomy.model_type}) are normed or clipped before "
                "they meet, so no single matrix gives the scores. QK is their part before that"
            )
    return (turned_q[:d_head] @ turned_k[:d_head].T).to(anatomy.device, units.dtype)


def _showing(projection: Projection, probes: Tensor) -> Any:
    """A hook that puts the probes, one per row of the batch, in place of every head's query (key)."""

    def hook(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        shown = output.clone()
        rows = projection.rows.to(output.device)
        shown.view(len(probes), -1, output.shape[-1])[..., rows] = probes[:, None, None].to(output.dtype)
        return shown

    return hook
