"""The sites around and inside a layer's MLP, and the routing of its experts, under a session's ``touch``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from caseback.model.anatomy.anatomy import LayerParts
from caseback.model.anatomy.sites import Site
from caseback.model.running.hooks import recording, touch_branch, touch_own
from caseback.model.running.passing import Hooks
from caseback.model.running.session import Session


def wire_mlp_reads(p: LayerParts, index: int, session: Session, hooks: Hooks) -> None:
    """The stream between attention and MLP, and what the MLP reads of it.

    No module's output is that stream: it is met as the input of the MLP's norm, or of the MLP where it has no norm of
    its own.
    """
    mid, mlp_in, normed, scale = (Site(n, index) for n in ("resid_mid", "mlp_in", "mlp_norm", "mlp_norm.scale"))
    entry = p.mlp if p.mlp is not None else p.w_in
    assert entry is not None
    own_norm = p.mlp_norm is not None and not p.shared_norm
    seen: dict[str, Tensor] = {}

    def at_mid(x: Tensor) -> Tensor:
        # The layer keeps this very tensor to add to later. A hook can only replace what the norm reads, so an edit is
        # written into the tensor itself, which changes both. With gradients that tensor is what must be recorded, not a
        # view of it.
        stream = x if x.shape[:-1] == session.lead else x.view(*session.lead, -1)
        new = session.touch(mid, stream)
        if stream is not x and session.grad and mid in session.reads:
            session.raw[mid] = x
        if session.edited(mid):
            x.copy_(new.view_as(x))
            if mid in session.reads:
                session.acts[mid] = stream
        return x

    def at_norm(x: Tensor) -> Tensor:
        if session.wants(mid):
            x = at_mid(x)
        if session.wants(mlp_in):
            x = touch_branch(session, mlp_in, x)
        if session.wants(scale):
            recording(session, scale, session.anatomy.norms[p.mlp_norm].scale)(x)
        return x

    def at_layer(x: Tensor) -> Tensor:
        seen["stream"] = x
        if session.wants(scale):
            recording(session, scale, session.anatomy.norms[p.mlp_norm].scale)(x)
        return x

    def at_entry(x: Tensor) -> Tensor:
        if not own_norm:
            if session.wants(mid):
                x = at_mid(x)
            if session.wants(mlp_in):
                if p.shared_norm and p.mlp_norm is not None:
                    stream = touch_branch(session, mlp_in, seen["stream"])
                    x = p.mlp_norm.forward(stream) if session.changes(mlp_in) else x
                else:
                    x = touch_branch(session, mlp_in, x)
        return touch_branch(session, normed, x) if session.wants(normed) else x

    if own_norm and p.mlp_norm is not None and (session.wants(mid) or session.wants(mlp_in) or session.wants(scale)):
        hooks.on_input(p.mlp_norm, at_norm)
    if p.shared_norm and (session.wants(mlp_in) or session.wants(scale)):
        hooks.on_input(p.layer, at_layer)
    if session.wants(normed) and p.mlp_beside is not None and p.mlp_norm is not None:
        hooks.on_output(p.mlp_norm, lambda x: touch_branch(session, normed, x))
    elif session.wants(normed) or (not own_norm and (session.wants(mid) or session.wants(mlp_in))):
        hooks.on_input(entry, at_entry)


def wire_mlp_inside(p: LayerParts, index: int, session: Session, hooks: Hooks) -> None:
    """Neurons before and after their nonlinearity, their gates, the router and the weights of its experts."""
    pre, gate, post = (Site(n, index) for n in ("mlp_pre", "mlp_gate", "mlp_post"))
    router, expert = Site("router", index), Site("expert", index)

    def flat(site: Site) -> Callable[[Tensor], Tensor]:
        return lambda x: touch_own(session, site, x)

    def at_gate_up(x: Tensor) -> Tensor:
        g, u = x.chunk(2, dim=-1)  # one module projects both halves, the gate first
        new_g = touch_own(session, gate, g) if session.wants(gate) else g
        new_u = touch_own(session, pre, u) if session.wants(pre) else u
        on_path = session.changes(gate) or session.changes(pre)
        return torch.cat([new_g, new_u], -1) if on_path else x

    if p.gate_up is not None and (session.wants(pre) or session.wants(gate)):
        hooks.on_output(p.gate_up, at_gate_up)
    if p.w_in is not None and session.wants(pre):
        hooks.on_output(p.w_in, flat(pre))
    if p.w_gate is not None and session.wants(gate):
        hooks.on_output(p.w_gate, flat(gate))
    if p.w_out is not None and session.wants(post):
        hooks.on_input(p.w_out, flat(post))
    if p.router is not None and session.wants(router):
        hooks.on_output(p.router, flat(router))
    if p.experts is not None and session.wants(expert):
        hooks.before(p.experts, _at_experts(expert, p, session))


def _at_experts(site: Site, p: LayerParts, session: Session) -> Callable:
    """The routing weights as (batch, pos, expert), zero where an expert is not used.

    Experts are called with their input, the indices of the chosen ones and their weights. What is edited or
    differentiated is the dense table, so the call is rebuilt from it.
    """

    def hook(_, args: tuple, kwargs: dict):
        given = [*args, *kwargs.values()]
        index, weights = given[1], given[2]
        dense = torch.zeros(index.shape[0], n_experts(p), dtype=weights.dtype, device=weights.device)
        dense = dense.scatter(1, index, weights).view(*session.lead, -1)
        new = session.touch(site, dense)
        if not session.changes(site):
            return None
        new = new.flatten(0, 1)
        if session.grad:
            # An expert that is not used has a derivative too: with weight 0 it adds nothing, but it must be run.
            index = torch.arange(new.shape[1], device=index.device).expand(len(new), -1)
        elif session.edited(site):
            # An edit may bring experts in or take them out: as many are called as the fullest token has.
            used = max(int((new != 0).sum(-1).max()), 1)
            index = new.abs().topk(used, dim=-1).indices
        changed = [given[0], index, new.gather(1, index), *given[3:]]
        return tuple(changed[: len(args)]), dict(zip(kwargs, changed[len(args) :], strict=True))

    return hook


def n_experts(p: LayerParts) -> int:
    """How many experts a mixture layer has."""
    experts: Any = p.experts
    stacked = next((w for w in experts.parameters() if w.ndim == 3), None)
    return int(experts.num_experts) if stacked is None else stacked.shape[0]
