"""What a graph explains: logits at the last position, each less the mean over the vocabulary, or less a foil's.

    logit_v - mean = (norm(x) . (u_v - mean of u)) + (b_v - mean of b)

The mean is what a softmax is blind to. Logits are those before any soft-cap.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import TargetError
from caseback.localize.circuits.attribution_graphs.frozen import Frozen
from caseback.localize.circuits.attribution_graphs.rows import Readers
from caseback.model.anatomy.coerce import are_several
from caseback.model.anatomy.dense import wide_bias
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.targets import warn_of_space


def targets_of(
    network: Frozen, targets: Any, foil: Any, mass: float, most: int
) -> tuple[Int[Tensor, " target"], Float[Tensor, " target"]]:
    """Ids of the tokens explained, and how much each counts."""
    model, final = network.model, network.run.logits[0, -1].detach()
    several = [] if targets is None else list(targets) if are_several(targets) else [targets]
    for what, word in (*(("target", one) for one in several), ("foil", foil)):
        if isinstance(word, str):
            warn_of_space(model.tokenizer, word, final, what)
    probabilities = at_least_float32(final).softmax(-1)
    other = None if foil is None else model.token_id(foil)
    if targets is None and other is not None:  # the first choice that is not the foil
        best = probabilities.topk(min(2, len(probabilities))).indices
        ids = best[best != other][:1]
        return ids, torch.ones_like(probabilities[ids])
    if targets is None:
        best = probabilities.topk(min(most, len(probabilities)))
        before = best.values.cumsum(0) - best.values
        count = int((before < mass).sum())
        return best.indices[:count], best.values[:count]
    if not several:
        raise TargetError("no target given: expected tokens, or None for the likeliest")
    ids = torch.tensor([model.token_id(one) for one in several], device=probabilities.device)
    if len(ids.unique()) < len(ids):
        raise TargetError(f"a target is given twice among {several}")
    if other is not None and bool((ids == other).any()):
        raise TargetError(f"the foil {foil!r} is a target: their difference is 0")
    weights = probabilities[ids]
    return ids, weights if foil is None and len(ids) > 1 else torch.full_like(weights, 1 / len(ids))


def logit_readers(network: Frozen, ids: Int[Tensor, " target"], foil: int | None) -> Readers:
    """The targets' logits, less the mean logit or the foil's, as readers of the last stream."""
    model = network.model
    W_U, bias = at_least_float32(model.weights.W_U.detach()), wide_bias(model.anatomy.unembed, model.device)
    other = W_U.mean(1) if foil is None else W_U[:, foil]
    rows = (W_U[:, ids].T - other) * model.anatomy.logit_scale
    constant = rows.new_zeros(len(ids))
    if bias is not None:
        constant = (bias[ids] - (bias.mean() if foil is None else bias[foil])) * model.anatomy.logit_scale
    norm, scale = network.final_norm()
    last = network.at("resid_post", network.n_layers - 1)[-1]
    value = (last if norm is None else norm(last)) @ rows.T + constant
    rows = rows if norm is None else norm.pull(rows, scale[-1])
    places = torch.full_like(ids, network.n_layers), torch.full_like(ids, network.n_positions - 1)
    return Readers(*places, rows.to(last.dtype), value.to(last.dtype))
