"""Wiring: hooks that bring every site of an unmodified model under one function, ``touch(site, x) -> x``.

A ``Session`` says what to do at a site (edit, then record). ``wired`` puts the hooks that the session's sites need on
the model's modules for as long as the context lasts, and takes them off whatever happens. Sites inside attention come
through the attention function (``attention``); ``head_out`` and the per-head inputs are computed from the sites next to
them, since no module holds them.

A hook that changes nothing hands back the very tensor that came in, so that reading leaves every bit of the forward
pass as it is. With gradients, what is recorded must lie on the path of the computation: a tensor recorded beside the
path would have no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from caseback.errors import SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy, LayerParts, Projection, weight_matrix
from caseback.model.anatomy.sites import Site
from caseback.model.running.attention import OnZ, attending
from caseback.model.running.session import INSIDE_ATTENTION, Session

_FROM_STREAM = {"q_in": "q", "k_in": "k", "v_in": "v"}


def _first(args: tuple, kwargs: dict) -> tuple[Tensor, Callable[[Tensor], tuple[tuple, dict]]]:
    """A module's first input, positional or named, and how to put another in its place."""
    if args:
        return args[0], lambda x: ((x, *args[1:]), kwargs)
    name = next(n for n, value in kwargs.items() if isinstance(value, Tensor))
    return kwargs[name], lambda x: (args, {**kwargs, name: x})


class _Hooks:
    def __init__(self) -> None:
        self.handles: list[Any] = []

    def on_input(self, module: nn.Module, fn: Callable[[Tensor], Tensor]) -> None:
        def hook(_, args, kwargs):
            x, put = _first(args, kwargs)
            new = fn(x)
            return None if new is x else put(new)

        self.handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def on_output(self, module: nn.Module, fn: Callable[[Tensor], Tensor]) -> None:
        def hook(_, args, output):
            x = output[0] if isinstance(output, tuple) else output
            new = fn(x)
            if new is x:
                return None
            return (new, *output[1:]) if isinstance(output, tuple) else new

        self.handles.append(module.register_forward_hook(hook))

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


@contextmanager
def wired(session: Session, layers: Sequence[int] | None = None, *, attention: bool = True) -> Iterator[Session]:
    """Bring the session's sites under its ``touch`` while the context lasts.

    ``layers`` limits the wiring to some layers and leaves out the ends of the model (a sweep calls layers itself).
    Without ``attention`` the caller takes care of the sites inside it.
    """
    anatomy, hooks = session.anatomy, _Hooks()
    names = {s.layer for s in (*session.reads, *session.edits) if not s.is_module}
    with ExitStack() as stack:
        stack.callback(hooks.remove)
        if layers is None:
            _wire_ends(anatomy, session, hooks)
        for site in {s for s in (*session.reads, *session.edits) if s.is_module}:
            if layers is None or site.layer in layers:
                _wire_module(session, site, hooks)
        for index in range(anatomy.n_layers) if layers is None else layers:
            if index in names:
                _wire_layer(anatomy.layers[index], index, session, hooks)
        if (
            attention
            and layers is None
            and any(_inside_attention(anatomy, s) for s in (*session.reads, *session.edits))
        ):
            # An older family's own attention runs unless something inside it changes: ours differs in the last bits.
            peek = session.beside and not _inside_changes(session)
            stack.enter_context(attending(anatomy, session.attend, peek=peek))
        yield session


def _inside_changes(session: Session) -> bool:
    sites = (*session.reads, *session.edits)
    return any(session.changes(s) for s in sites if _inside_attention(session.anatomy, s))


def _inside_attention(anatomy: Anatomy, site: Site) -> bool:
    """Whether the site comes through the attention function, as z does where a gate or norm stands before W_O."""
    site = site.base
    return site.name in INSIDE_ATTENTION or (site.name == "z" and anatomy.head_site == "head_out")


def _wire_module(session: Session, site: Site, hooks: _Hooks) -> None:
    """A module's input or output, named by its path."""

    def at_module(x: Tensor) -> Tensor:
        # Some modules (routers, experts) see batch and position as one dimension, which is as good.
        if x.shape[:-1] != session.lead and x.numel() != session.lead[0] * session.lead[1] * x.shape[-1]:
            raise SiteAbsent(
                f"{site} has shape {tuple(x.shape)}: expected one vector per token, {(*session.lead, '...')}"
            )
        return _own(session, site, x)

    hook = hooks.on_input if site.name.endswith(".input") else hooks.on_output
    hook(session.anatomy.module_at(site), at_module)


def _wire_ends(anatomy: Anatomy, session: Session, hooks: _Hooks) -> None:
    embed, pos, final = Site("embed"), Site("pos_embed"), Site("final_norm")
    scale = anatomy.embed_scale

    # The parameters are frozen, so the graph starts here: without this leaf nothing would have a gradient.
    def at_embed(x: Tensor) -> Tensor:
        if session.grad:
            x = x.detach().requires_grad_()
        return _scaled(session, embed, x, scale) if session.wants(embed) else x

    def at_pos(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_() if session.grad else x
        # GPT-2 looks positions up once for the whole batch: an edit needs a row for each prompt.
        return session.touch(pos, x.view(-1, *x.shape[-2:]).expand(*session.lead, -1))

    start = anatomy.embed_norm or anatomy.embed_project or anatomy.embed
    # One norm may serve both ends of the model (nanochat): of its calls one is the embedding's, the next the end's.
    turn = _every_other if start is anatomy.final_norm else lambda fn, _: fn
    if session.wants(embed) or session.grad:
        hooks.on_output(start, turn(at_embed, 0))
    if session.wants(pos) and anatomy.pos_embed is not None:
        hooks.on_output(anatomy.pos_embed, at_pos)
    if anatomy.final_norm is not None:
        if session.wants(Site("final_norm.scale")):
            norm = anatomy.norms[id(anatomy.final_norm)]
            at_norm = _looking(session, Site("final_norm.scale"), norm.scale)
            hooks.on_input(anatomy.final_norm, turn(at_norm, 1))
        if session.wants(final):
            hooks.on_output(anatomy.final_norm, turn(lambda x: session.touch(final, x), 1))


def _every_other(fn: Callable[[Tensor], Tensor], first: int) -> Callable[[Tensor], Tensor]:
    """A hook that acts at every second call, from call number ``first`` on (counted from 0)."""
    calls = count()
    return lambda x: fn(x) if next(calls) % 2 == first else x


def _looking(session: Session, site: Site, fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A hook that records fn(x) squeezed of its last dimension and lets x pass."""

    def hook(x: Tensor) -> Tensor:
        session.touch(site, fn(x).squeeze(-1).view(session.lead))
        return x

    return hook


def _scaled(session: Session, site: Site, x: Tensor, factor: float) -> Tensor:
    """Touch ``factor * x``, which is what reaches the stream; return what the model itself will multiply by factor."""
    written = x if factor == 1.0 else x * factor
    new = session.touch(site, written.view(*session.lead, x.shape[-1]))
    if not session.changes(site):
        return x  # multiplying and dividing by the factor would not give the same bits
    return new.view_as(x) if factor == 1.0 else new.view_as(x) / factor


def _wire_layer(p: LayerParts, index: int, session: Session, hooks: _Hooks) -> None:
    site = lambda name: Site(name, index)  # noqa: E731
    wants = lambda *names: any(session.wants(site(n)) for n in names)  # noqa: E731
    _wire_attention_reads(p, index, session, hooks)
    _wire_attention_writes(p, index, session, hooks)
    _wire_mlp_reads(p, index, session, hooks)
    _wire_mlp_inside(p, index, session, hooks)
    if wants("mlp_out"):
        module = p.mlp_post_norm or p.w_out or p.mlp
        assert module is not None
        overwritten = session.anatomy.family.mlp_overwritten

        def at_mlp_out(x: Tensor) -> Tensor:
            new = _scaled(session, site("mlp_out"), x, session.anatomy.residual_scale)
            # Falcon adds to this tensor in place, which would change what was recorded.
            return new.clone() if overwritten else new

        if p.mlp_beside is None:
            hooks.on_output(module, at_mlp_out)
        else:
            _on_sum(hooks, module, p.mlp_beside, at_mlp_out)
    if wants("resid_post"):
        hooks.on_output(p.layer, lambda x: session.touch(site("resid_post"), x))


def _on_sum(hooks: _Hooks, first: nn.Module, second: nn.Module, fn: Callable[[Tensor], Tensor]) -> None:
    """A hook on the sum of two modules' outputs. The layer adds them, so the second's output takes the change."""
    seen: dict[str, Tensor] = {}

    def at_first(x: Tensor) -> Tensor:
        seen["first"] = x
        return x

    def at_second(x: Tensor) -> Tensor:
        total = seen["first"] + x
        new = fn(total)
        return x if new is total else new - seen["first"]

    hooks.on_output(first, at_first)
    hooks.on_output(second, at_second)


def _read(session: Session, site: Site, x: Tensor) -> Tensor:
    """Touch what one branch reads of a tensor that others read too.

    The stream goes to a branch and past it. A gradient at the branch's input is that of the branch alone, so with
    gradients it is recorded as a view, a node of its own in the graph: the stream's own would add up both ways.
    """
    if session.grad and site in session.reads:
        x = x.view_as(x)
    return session.touch(site, x.view(*session.lead, *x.shape[-1:])).view_as(x)


def _wire_attention_reads(p: LayerParts, index: int, session: Session, hooks: _Hooks) -> None:
    """The stream that enters the layer, what attention reads of it, its norm, and the heads' own inputs.

    ``attn_in`` is the stream as attention reads it. It passes through the norm's input, except where attention has no
    norm or shares one with the MLP: then it must be touched at attention's own input, where the MLP is not reached.
    """
    pre, attn_in, normed, scale = (Site(n, index) for n in ("resid_pre", "attn_in", "attn_norm", "attn_norm.scale"))
    per_head = [name for name in _FROM_STREAM if session.wants(Site(name, index))]
    seen: dict[str, Tensor] = {}  # the stream as attention reads it now, for the heads' own inputs

    def at_layer(x: Tensor) -> Tensor:
        if session.wants(pre):
            x = session.touch(pre, x)
        seen["stream"] = x
        return x

    def at_norm(x: Tensor) -> Tensor:
        if session.wants(attn_in) and not p.shared_norm:
            x = _read(session, attn_in, x)
        seen["stream"] = x
        if session.wants(scale):
            _looking(session, scale, session.anatomy.norms[id(p.attn_norm)].scale)(x)
        return x

    def at_attention(x: Tensor) -> Tensor:
        if session.wants(attn_in) and (p.shared_norm or p.attn_norm is None):
            if p.attn_norm is None:
                x = seen["stream"] = _read(session, attn_in, x)
            else:
                # The shared norm has run on the unedited stream, for both: attention gets its own output of it. The
                # call is to ``forward``, since the module's hooks must not run a second time.
                stream = seen["stream"] = _read(session, attn_in, seen["stream"])
                x = p.attn_norm.forward(stream) if session.changes(attn_in) else x
        elif p.attn_norm is None:
            seen["stream"] = x
        if session.wants(normed):
            x = _read(session, normed, x)
        return x

    if session.wants(pre) or session.wants(attn_in) or per_head:
        hooks.on_input(p.layer, at_layer)
    if p.attn_norm is not None and (session.wants(attn_in) or session.wants(scale) or per_head):
        hooks.on_input(p.attn_norm, at_norm)
    if session.wants(attn_in) or session.wants(normed) or (per_head and p.attn_norm is None):
        hooks.on_input(p.attn, at_attention)
    for name in per_head:
        projection = getattr(p, _FROM_STREAM[name])
        hooks.on_output(projection.module, _per_head_input(p, Site(name, index), projection, session, seen))


def _per_head_input(
    p: LayerParts, site: Site, projection: Projection, session: Session, seen: dict[str, Tensor]
) -> Callable[[Tensor], Tensor]:
    """Let each head read a stream of its own: what changed is projected again, into that head's output rows only.

    The model has one projection of one stream for all heads, so the hook is on the projection's output. Heads and
    tokens whose stream is not edited keep the output that the model itself computed, to the bit.
    """

    def hook(out: Tensor) -> Tensor:
        stream, n_heads = seen["stream"], len(projection.rows)
        each = stream.view(*session.lead, 1, -1).expand(-1, -1, n_heads, -1)  # every head is shown the one stream
        new = session.touch(site, each)
        if new is not each:
            out = project_again(out, each, new)
        if session.grad and site in session.reads:
            # ``Run.grad`` starts from the projection's output and pulls back by hand, so that is what is recorded. It
            # must stay as it is, and OLMo clamps what it gets in place.
            session.raw[site] = out
            out = out.clone()
        return out

    def project_again(out: Tensor, each: Tensor, new: Tensor) -> Tensor:
        heads = sorted({h for _, e in session.edits[site] for h in _as_list(e.head, len(projection.rows))})
        some = slice(None) if len(heads) == len(projection.rows) else heads
        read = new[..., some, :]
        changed = (read - each[..., some, :]).abs().amax(-1, keepdim=True) != 0  # (batch, pos, head, 1)
        read = read if p.attn_norm is None else p.attn_norm.forward(read)
        projected = torch.einsum("bphd,hde->bphe", read, projection.weight()[some])
        bias = projection.bias()
        if bias is not None:
            projected = projected + bias[some]
        out = out.clone()
        rows = projection.rows[some].to(out.device)
        viewed = out.view(*session.lead, -1)
        viewed[..., rows] = torch.where(changed, projected.to(out.dtype), viewed[..., rows])
        return out

    return hook


def _as_list(index: Any, size: int) -> list[int]:
    if index is None:
        return list(range(size))
    return [i % size for i in ([index] if isinstance(index, int) else index)]


def head_writes(anatomy: Anatomy, p: LayerParts, z: Tensor, o_out: Tensor) -> Tensor:
    """Each head's write to the stream, (batch, pos, head, d_model); a norm after attention has its denominator held."""
    w_o = weight_matrix(p.o).unflatten(0, (p.dims.n_heads, p.d_z))
    writes = torch.einsum("bphe,hed->bphd", z, w_o)
    if p.attn_post_norm is not None:
        norm = anatomy.norms[id(p.attn_post_norm)]
        writes = norm.frozen(writes, norm.scale(o_out)[..., None, :]).to(z.dtype)
    return writes if anatomy.residual_scale == 1.0 else writes * anatomy.residual_scale


def _wire_attention_writes(p: LayerParts, index: int, session: Session, hooks: _Hooks) -> None:
    """What the heads make (z), what each writes, and the write of attention as a whole.

    z is W_O's input, unless a gate or a norm stands between (``before_o``): then z comes from the attention function,
    and a head's write is computed from what reaches W_O.
    """
    z_site, head_site, out_site = (Site(n, index) for n in ("z", "head_out", "attn_out"))
    seen: dict[str, Tensor] = {}
    hidden = session.anatomy.head_site == "head_out"

    def at_z(x: Tensor) -> Tensor:
        z = x.view(*session.lead, p.dims.n_heads, p.d_z)
        if session.wants(z_site) and not hidden:
            z = session.touch(z_site, z)
        seen["z"] = z
        return z.flatten(2).view_as(x) if session.changes(z_site) and not hidden else x

    def at_o(x: Tensor) -> Tensor:
        seen["o"] = x
        return x

    def at_write(x: Tensor) -> Tensor:
        factor = session.anatomy.residual_scale
        if session.wants(head_site):
            heads = head_writes(session.anatomy, p, seen["z"], seen["o"].view(*session.lead, -1))
            new = session.touch(head_site, heads)
            if new is not heads:
                # Only the difference is added: the sum of the heads' writes has other bits than W_O's output.
                x = x + ((new - heads).sum(2) / factor).view_as(x)
        return _scaled(session, out_site, x, factor) if session.wants(out_site) else x

    if session.wants(z_site) and hidden:
        hooks.handles.append(OnZ(p.attn, lambda z: session.touch(z_site, z)))
    if session.wants(head_site) or (session.wants(z_site) and not hidden):
        hooks.on_input(p.o, at_z)
    if session.wants(head_site):
        hooks.on_output(p.o, at_o)
    if session.wants(head_site) or session.wants(out_site):
        hooks.on_output(p.attn_post_norm or p.o, at_write)


def _wire_mlp_reads(p: LayerParts, index: int, session: Session, hooks: _Hooks) -> None:
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
            x = _read(session, mlp_in, x)
        if session.wants(scale):
            _looking(session, scale, session.anatomy.norms[id(p.mlp_norm)].scale)(x)
        return x

    def at_layer(x: Tensor) -> Tensor:
        seen["stream"] = x
        if session.wants(scale):
            _looking(session, scale, session.anatomy.norms[id(p.mlp_norm)].scale)(x)
        return x

    def at_entry(x: Tensor) -> Tensor:
        if not own_norm:
            if session.wants(mid):
                x = at_mid(x)
            if session.wants(mlp_in):
                if p.shared_norm and p.mlp_norm is not None:
                    stream = _read(session, mlp_in, seen["stream"])
                    x = p.mlp_norm.forward(stream) if session.changes(mlp_in) else x
                else:
                    x = _read(session, mlp_in, x)
        return _read(session, normed, x) if session.wants(normed) else x

    if own_norm and p.mlp_norm is not None and (session.wants(mid) or session.wants(mlp_in) or session.wants(scale)):
        hooks.on_input(p.mlp_norm, at_norm)
    if p.shared_norm and (session.wants(mlp_in) or session.wants(scale)):
        hooks.on_input(p.layer, at_layer)
    if session.wants(normed) and p.mlp_beside is not None and p.mlp_norm is not None:
        hooks.on_output(p.mlp_norm, lambda x: _read(session, normed, x))
    elif session.wants(normed) or (not own_norm and (session.wants(mid) or session.wants(mlp_in))):
        hooks.on_input(entry, at_entry)


def _wire_mlp_inside(p: LayerParts, index: int, session: Session, hooks: _Hooks) -> None:
    pre, gate, post = (Site(n, index) for n in ("mlp_pre", "mlp_gate", "mlp_post"))
    router, expert = Site("router", index), Site("expert", index)

    def flat(site: Site) -> Callable[[Tensor], Tensor]:
        return lambda x: _own(session, site, x)

    def at_gate_up(x: Tensor) -> Tensor:
        g, u = x.chunk(2, dim=-1)  # one module projects both halves, the gate first
        new_g = _own(session, gate, g) if session.wants(gate) else g
        new_u = _own(session, pre, u) if session.wants(pre) else u
        return x if new_g is g and new_u is u else torch.cat([new_g, new_u], -1)

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
        hooks.handles.append(p.experts.register_forward_pre_hook(_at_experts(expert, p, session), with_kwargs=True))


def _own(session: Session, site: Site, x: Tensor) -> Tensor:
    """Touch a tensor that only this site uses, so that what is recorded may itself go on, and has a gradient."""
    viewed = x.view(*session.lead, x.shape[-1])
    new = session.touch(site, viewed)
    return new.view_as(x) if session.changes(site) else x


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
