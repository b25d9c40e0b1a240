"""What scores are multiplied by before the softmax, layer by layer, as the model's own code has it.

score_ij = scaling (q_i . k_j)        1 / sqrt(d_head) in most families; others divide by the layer, or by nothing
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.running.attention import attending
from caseback.model.running.passing import undisturbed
from caseback.model.running.undo import as_found


@as_found
def score_scalings(anatomy: Anatomy) -> list[float]:
    """Each layer's factor, seen where attention is called in one short pass.

    Examples
    --------
    >>> import caseback as cb
    >>> score_scalings(cb.load("meadow").anatomy)[0] == cb.load("meadow").d_head ** -0.5
    True
    """
    seen: dict[int, float] = {}

    def attender(layer: int, module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Any, **how: Any) -> Tensor:
        scaling = how.get("scaling")
        seen[layer] = q.shape[-1] ** -0.5 if scaling is None else float(scaling)
        return v.new_zeros(len(q), q.shape[2], q.shape[1], v.shape[3])

    with ExitStack() as stack:
        stack.enter_context(undisturbed(anatomy, grad=False))
        stack.enter_context(attending(anatomy, attender))
        anatomy.hf(input_ids=torch.zeros(1, 1, dtype=torch.long, device=anatomy.hf.device), use_cache=False)
    return [seen[layer] for layer in range(anatomy.n_layers)]
