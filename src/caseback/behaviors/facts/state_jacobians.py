"""How the final stream at a prompt's end hangs on the stream at one of its tokens, to first order.

    J = d resid_post[last][end] / d resid_post[layer][place],     (prompt, d_model, d_model)

Only layers behind ``layer`` and tokens from the place on are run; the rest is the recorded run's. Prompts do not meet,
so one pass back gives a row of J for each of them, and several rows are taken back together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.jobs.budget import limit
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.running.edits import Replace
from caseback.model.running.metrics import Bound
from caseback.model.running.model import Model
from caseback.model.running.passing import undisturbed
from caseback.model.running.run import resolve
from caseback.model.running.tokens import Tokens
from caseback.model.running.undo import as_found
from caseback.model.sweeping.clean import record
from caseback.model.sweeping.packed import Packed, Segment


@as_found
def state_jacobians(
    model: Model, tokens: Tokens, at: Sequence[int], layer: int, states: Float[Tensor, "batch d_model"]
) -> Float[Tensor, "batch d_model other"]:
    """J of each prompt, in float64.

    Parameters
    ----------
    model
        The model.
    tokens
        Its prompts.
    at
        The place in each, counted in the prompt, not the last.
    layer
        Behind which the stream is varied, not the last.
    states
        What the stream holds there, as the run has it.
    """
    n, d = states.shape
    ends = (tokens.lengths - 1).cpu()
    with undisturbed(model.anatomy, grad=False):
        clean = record(model.anatomy, tokens)
    x = at_least_float32(states).to(tokens.ids.device, model.dtype).detach().requires_grad_()
    last = Site("resid_post", model.n_layers - 1)
    bound = Bound(tokens.column(-1), None, lambda final, rows: at_least_float32(final), last)
    segments = [Segment(0, b, int(at[b]), int(ends[b]) + 1, layer + 1) for b in range(n)]
    put = Replace("resid_post", x, layer=layer, pos=torch.tensor(list(at), device=tokens.ids.device))
    with undisturbed(model.anatomy, grad=True):
        final = Packed(model.anatomy, clean, segments, resolve(put, model.anatomy, tokens), bound).values()
    rows = []
    copies = limit("jacobian_copies")
    for start in range(0, d, copies):
        wanted = torch.eye(d, device=final.device)[start : start + copies]
        directions = wanted[:, None].expand(-1, n, -1).to(final)
        more = start + copies < d
        (gradient,) = torch.autograd.grad(final, x, directions, retain_graph=more, is_grads_batched=True)
        rows.append(in_float64(gradient).cpu())
    return torch.cat(rows).transpose(0, 1)
