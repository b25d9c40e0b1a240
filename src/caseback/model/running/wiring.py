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
from caseback.model.anatomy.anatomy import Anatomy, LayerParts
from caseback.model.anatomy.dense import Projection, weight_matrix
from caseback.model.anatomy.parameters import device_of
from caseback.model.anatomy.sites import Site
from caseback.model.running.attention import attending
from caseback.model.running.hooks import in_shape, on_sum, recording, touch_branch, touch_own
from caseback.model.running.passing import Hooks, hooked
from caseback.model.running.session import INSIDE_ATTENTION, Session
from caseback.model.running.wiring_mlp import wire_mlp_inside, wire_mlp_reads

_FROM_STREAM = {"q_in": "q", "k_in": "k", "v_in": "v"}


@contextmanager
def wired(session: Session, layers: Sequence[int] | None = None, *, attention: bool = True) -> Iterator[Session]:
    """Bring the session's sites under its ``touch`` while the context lasts.

    ``layers`` limits the wiring to some layers and leaves out the ends of the model (a sweep calls layers itself).
    Without ``attention`` the caller takes care of the sites inside it.
    """
    anatomy = session.anatomy
    names = {s.layer for s in (*session.reads, *session.edits, *session.sources) if not s.is_module}
    with ExitStack() as stack:
        hooks = stack.enter_context(hooked())
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
            and any(_inside_attention(anatomy, s) for s in (*session.reads, *session.edits, *session.sources))
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
    return site.name in INSIDE_ATTENTION or (site.name == "z" and anatomy.family.before_o is not None)


def _wire_module(session: Session, site: Site, hooks: Hooks) -> None:
    """A module's input or output, named by its path."""

    def at_module(x: Tensor) -> Tensor:
        # Some modules (routers, experts) see batch and position as one dimension, which is as good.
        if x.shape[:-1] != session.lead and x.numel() != session.lead[0] * session.lead[1] * x.shape[-1]:
            raise SiteAbsent(
                f"{site} has shape {tuple(x.shape)}: expected one vector per token, {(*session.lead, '...')}"
            )
        return touch_own(session, site, x)

    def at_output(_: nn.Module, args: tuple, __: Any) -> None:
        if not args:
            raise SiteAbsent(f"{site}: the module is called with no input by position, which an edit of it needs")
        session.entered[site] = args[0].reshape(-1, args[0].shape[-1])

    module = session.anatomy.module_at(site)
    if any(edit.of_input for _, edit in session.edits.get(site, ())):
        hooks.after(module, at_output)
    hook = hooks.on_input if site.name.endswith(".input") else hooks.on_output
    hook(module, at_module)


def _wire_ends(anatomy: Anatomy, session: Session, hooks: Hooks) -> None:
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

    start = anatomy.embed_whole or anatomy.embed_norm or anatomy.embed_project or anatomy.embed
    # One norm may serve both ends of the model (nanochat): of its calls one is the embedding's, the next the end's.
    turn = _every_other if start is anatomy.final_norm else lambda fn, _: fn
    if session.wants(embed) or session.grad:
        hooks.on_output(start, turn(at_embed, 0))
    if session.wants(pos) and anatomy.pos_embed is not None:
        hooks.on_output(anatomy.pos_embed, at_pos)
    if anatomy.final_norm is not None:
        if session.wants(Site("final_norm.scale")):
            norm = anatomy.norms[anatomy.final_norm]
            at_norm = recording(session, Site("final_norm.scale"), norm.scale)
            hooks.on_input(anatomy.final_norm, turn(at_norm, 1))
        if session.wants(final):
            hooks.on_output(anatomy.final_norm, turn(lambda x: session.touch(final, x), 1))


def _every_other(fn: Callable[[Tensor], Tensor], first: int) -> Callable[[Tensor], Tensor]:
    """A hook that acts at every second call, from call number ``first`` on (counted from 0)."""
    calls = count()
    return lambda x: fn(x) if next(calls) % 2 == first else x


def _scaled(session: Session, site: Site, x: Tensor, factor: float) -> Tensor:
    """Touch ``factor * x``, which is what reaches the stream; return what the model itself will multiply by factor."""
    written = x if factor == 1.0 else x * factor
    new = session.touch(site, in_shape(written, (*session.lead, x.shape[-1])))
    if not session.changes(site):
        return x  # multiplying and dividing by the factor would not give the same bits
    return in_shape(new, x.shape) if factor == 1.0 else in_shape(new, x.shape) / factor


def _wire_layer(p: LayerParts, index: int, session: Session, hooks: Hooks) -> None:
    site = lambda name: Site(name, index)  # noqa: E731
    wants = lambda *names: any(session.wants(site(n)) for n in names)  # noqa: E731
    _wire_attention_reads(p, index, session, hooks)
    _wire_attention_writes(p, index, session, hooks)
    wire_mlp_reads(p, index, session, hooks)
    wire_mlp_inside(p, index, session, hooks)
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
            on_sum(hooks, module, p.mlp_beside, at_mlp_out)
    if wants("resid_post"):
        hooks.on_output(p.layer, lambda x: session.touch(site("resid_post"), x))


def _wire_attention_reads(p: LayerParts, index: int, session: Session, hooks: Hooks) -> None:
    """The stream that enters the layer, what attention reads of it, its norm, and the heads' own inputs.

    ``attn_in`` is the stream as attention reads it. It passes through the norm's input, except where attention has no
    norm or shares one with the MLP: then it must be touched at attention's own input, where the MLP is not reached.
    """
    pre, attn_in, normed, scale = (Site(n, index) for n in ("resid_pre", "attn_in", "attn_norm", "attn_norm.scale"))
    per_head = [name for name in _FROM_STREAM if session.wants(Site(name, index))]
    seen: dict[str, Tensor] = {}  # the stream as attention reads it now, for the heads' own inputs

    def at_layer(x: Tensor) -> Tensor:
        x = x.to(device_of(p.layer))  # where a spread model passes from one device to the next
        if session.wants(pre):
            x = session.touch(pre, x)
        seen["stream"] = x
        return x

    def at_norm(x: Tensor) -> Tensor:
        if session.wants(attn_in) and not p.shared_norm:
            x = touch_branch(session, attn_in, x)
        seen["stream"] = x
        if session.wants(scale):
            recording(session, scale, session.anatomy.norms[p.attn_norm].scale)(x)
        return x

    def at_attention(x: Tensor) -> Tensor:
        if session.wants(attn_in) and (p.shared_norm or p.attn_norm is None):
            if p.attn_norm is None:
                x = seen["stream"] = touch_branch(session, attn_in, x)
            else:
                # The shared norm has run on the unedited stream, for both: attention gets its own output of it. The
                # call is to ``forward``, since the module's hooks must not run a second time.
                stream = seen["stream"] = touch_branch(session, attn_in, seen["stream"])
                x = p.attn_norm.forward(stream) if session.changes(attn_in) else x
        elif p.attn_norm is None:
            seen["stream"] = x
        if session.wants(normed):
            x = touch_branch(session, normed, x)
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
        projected = torch.einsum("bphd,hde->bphe", read, projection.weight().to(read)[some])
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
    w_o = weight_matrix(p.o).to(z).unflatten(0, (p.dims.n_heads, p.d_z))
    writes = torch.einsum("bphe,hed->bphd", z, w_o)
    if p.attn_post_norm is not None:
        norm = anatomy.norms[p.attn_post_norm]
        writes = norm.frozen(writes, norm.scale(o_out)[..., None, :]).to(z.dtype)
    return writes if anatomy.residual_scale == 1.0 else writes * anatomy.residual_scale


def _wire_attention_writes(p: LayerParts, index: int, session: Session, hooks: Hooks) -> None:
    """What the heads make (z), what each writes, and the write of attention as a whole.

    z is W_O's input, unless a gate or a norm stands between (``before_o``): then z comes from the attention function,
    and a head's write is computed from what reaches W_O.
    """
    z_site, head_site, out_site = (Site(n, index) for n in ("z", "head_out", "attn_out"))
    seen: dict[str, Tensor] = {}
    hidden = session.anatomy.family.before_o is not None

    def at_z(x: Tensor) -> Tensor:
        z = x.view(*session.lead, p.dims.n_heads, p.d_z)
        if session.wants(z_site) and not hidden:
            z = session.touch(z_site, z)
        seen["z"] = z
        return in_shape(z.flatten(2), x.shape) if session.changes(z_site) and not hidden else x

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
        hooks.on_z(p.attn, lambda z: session.touch(z_site, z))
    if session.wants(head_site) or (session.wants(z_site) and not hidden):
        hooks.on_input(p.o, at_z)
    if session.wants(head_site):
        hooks.on_output(p.o, at_o)
    if session.wants(head_site) or session.wants(out_site):
        hooks.on_output(p.attn_post_norm or p.o, at_write)
