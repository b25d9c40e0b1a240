"""How queries and keys are turned at each position, measured with the model's own code.

    q(p) = q T_p,    T_p^-1 = M_p^-1 M_0,    M_p: what a head's unit vectors are at position p when they enter attention

Unit vectors are put where queries leave their projection, one a head, and the model is run once over positions. What
stands between the projection and the rotation, a norm or a clip, multiplies each by a number, which M_0 takes out
again; so T_0 = 1, and a mean of turned vectors can be turned back to position 0.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from caseback.errors import SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.dense import Projection
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.attention import attending
from caseback.model.running.passing import hooked, undisturbed
from caseback.model.running.undo import as_found

_known: WeakKeyDictionary[Anatomy, tuple[int, list[Tensor | None]]] = WeakKeyDictionary()


def turns_back(anatomy: Anatomy, width: int) -> list[Float[Tensor, "pos d_head d_head"] | None]:
    """Each layer's T_p^-1 for positions 0 to ``width`` - 1, None where nothing is turned.

    Layers with the same have the same tensor.

    Raises
    ------
    SiteAbsent
        For latent attention, and where what stands before the rotation cannot be taken out, such as a norm that
        centers.
    """
    if any(p.q is None for p in anatomy.layers):
        raise SiteAbsent(f"this model ({anatomy.model_type}) has no queries of its own: {anatomy.lacks['q_in']}")
    measured, known = _known.get(anatomy, (0, []))
    if measured < width:
        unlike: list[Tensor] = []
        known = []
        for turned in _turned(anatomy, width):
            turn = _relative(anatomy, turned)
            near = partial(torch.allclose, rtol=0, atol=64 * torch.finfo(turn.dtype).eps)
            if near(turn, turn[:1].expand_as(turn)):
                known.append(None)
                continue
            same = next((other for other in unlike if near(other, turn)), None)
            unlike += [] if same is not None else [turn]
            known.append(turn if same is None else same)
        _known[anatomy] = width, known
    return [None if turn is None else turn[:width] for turn in known]


def _relative(anatomy: Anatomy, turned: Tensor) -> Tensor:
    units = torch.eye(turned.shape[1], dtype=turned.dtype, device=turned.device)
    # the inverse, not the transpose: sines and cosines may be of less precision than what they turn
    turn, info = torch.linalg.solve_ex(turned, turned[:1].expand_as(turned))
    if bool(info.any()) or not torch.allclose(turn @ turn.transpose(1, 2), units.expand_as(turn), atol=1e-3):
        raise SiteAbsent(
            f"queries of this model ({anatomy.model_type}) cannot be turned back: what stands between their projection "
            "and attention is more than a rotation and a size"
        )
    return turn


@as_found
def _turned(anatomy: Anatomy, width: int) -> list[Tensor]:
    """What unit vectors are at each position when they enter attention, by layer: (pos, unit, d_head)."""
    seen: dict[int, Tensor] = {}
    heads, d_head = anatomy.layers[0].dims.n_heads, anatomy.layers[0].dims.d_head
    n_rows = -(-d_head // heads)

    def attender(layer: int, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, **how: Any) -> Tensor:
        dims = anatomy.layers[layer].dims
        if (dims.n_heads, dims.d_head) == (heads, d_head):
            # (row, head, pos, d_head) to (unit, pos, d_head)
            seen[layer] = at_least_float32(q).flatten(0, 1)[:d_head].transpose(0, 1)
        return v.new_zeros(len(q), q.shape[2], q.shape[1], v.shape[3])

    def showing(projection: Projection) -> Any:
        def hook(_: nn.Module, args: Any, output: Tensor) -> Tensor:
            units = torch.zeros(n_rows * heads, d_head, dtype=output.dtype, device=output.device)
            units[range(d_head), range(d_head)] = 1
            shown = output.clone().view(n_rows, width, -1)
            shown[..., projection.rows.to(output.device)] = units.view(n_rows, 1, heads, d_head)
            return shown.view_as(output)

        return hook

    with ExitStack() as stack:
        stack.enter_context(undisturbed(anatomy, grad=False))
        hooks = stack.enter_context(hooked())
        for p in anatomy.layers:
            if p.q is not None and (p.dims.n_heads, p.dims.d_head) == (heads, d_head):
                hooks.after(p.q.module, showing(p.q))
        stack.enter_context(attending(anatomy, attender))
        ids = torch.ones(n_rows, width, dtype=torch.long, device=anatomy.device)
        anatomy.hf(input_ids=ids, use_cache=False)
    if len(seen) < anatomy.n_layers:
        raise SiteAbsent("layers differ in their heads, so their queries cannot be turned back together")
    return [seen[layer] for layer in range(anatomy.n_layers)]
