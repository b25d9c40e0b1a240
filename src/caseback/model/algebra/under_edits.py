"""What the standing edits of a model (``Model.edited``) are to a decomposition of its run.

    z        a_ij v_j W_O  ->  f_ih a_ij v_j W_O,       f = E(1), E zeroing or scaling a head as a whole
    branch   sum_h w_h  ->  f sum_h w_h + E(0),         likewise of attn_out, at every position
    side     W  ->  W + right^T left
    end      N(x) u  ->  N(x) J^T u + E(0) u,           E affine, J its matrix, the same at every position

A decomposition puts together again what the model computes between the sites that it reads. An edit of a site that it
reads is in its numbers; of what it puts together only these forms are followed, and any other is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Set
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from caseback.errors import EditError
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.norms import Norm, at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.running.affine import Affine, SideTerm
from caseback.model.running.edit import Edit, apply_edits
from caseback.model.running.edits import Add, Project, Replace, Scale, Zero
from caseback.model.running.frames import batch_frame
from caseback.model.running.run import Run
from caseback.model.running.verify import under_edits

END = Site("final_norm")
QUERIES = frozenset({"q_in", "k_in", "q", "k", "scores", "pattern"})
"""Sites before the pattern, which decompositions read."""
STARTS = frozenset({"embed", "pos_embed"})
BEHIND = frozenset({"final_norm", "logits"})
MLPS = frozenset({"mlp_in", "mlp_norm", "mlp_pre", "mlp_gate", "mlp_post", "mlp_out", "expert"})
_BETWEEN = frozenset({"resid_pre", "resid_mid", "resid_post"})
_READ = _BETWEEN | {"attn_in", "mlp_in", "q_in", "k_in", "v_in"}
_BRANCHES = frozenset({"attn_out", "mlp_out"})
_INSIDE_MLPS = MLPS - {"mlp_in", "mlp_norm"}
_AFFINE = Zero | Scale | Add | Replace | Project | Affine


def expect_followed(anatomy: Anatomy, what: str, read: Set[str], factors: Collection[str] = ()) -> None:
    """Refuse a model under edits of what a decomposition puts together again.

    Parameters
    ----------
    anatomy
        Of the model.
    what
        The decomposition, as the sentence begins.
    read
        Sites whose edits are in what it reads. Side terms of the matrices that write to the stream are followed too,
        and with all sites between an MLP's norm and its write, edits of the MLP's modules by their path.
    factors
        Sites whose values it takes apart as products, so that those that zero or scale them are followed.

    Raises
    ------
    EditError
        With what to do instead.
    """
    for site, edit in anatomy.standing:
        followed = site.written.name in read or (site.name in factors and _is_factor(edit))
        if followed or _side_term(anatomy, site, edit) or (read >= _INSIDE_MLPS and _inside_mlp(anatomy, site)):
            continue
        factors_too = f", or zero or scale {' or '.join(sorted(factors))} as a whole" if factors else ""
        raise _refused(what, site, edit, f"edit {', '.join(sorted(read))}{factors_too}")


def expect_unedited_logits(anatomy: Anatomy, what: str) -> None:
    """Refuse a model under edits of its logits, for what reads them off the stream without these.

    Raises
    ------
    EditError
    """
    expect_unedited(anatomy, what, {"logits"}, "edit sites before the logits")


def expect_unedited(anatomy: Anatomy, what: str, sites: Set[str], instead: str) -> None:
    """Refuse a model under edits of some sites, which what is computed from earlier ones would miss.

    Side terms of the matrices that write to the stream are followed; other edits of what an MLP's modules give, by
    their path, count as edits of ``mlp_out``.

    Raises
    ------
    EditError
    """
    for site, edit in anatomy.standing:
        if _side_term(anatomy, site, edit):
            continue
        if site.written.name in sites or ("mlp_out" in sites and _inside_mlp(anatomy, site)):
            raise _refused(what, site, edit, instead)


def expect_in_weights(anatomy: Anatomy, what: str, sites: Set[str] | None = None) -> None:
    """Refuse a model under edits that are in no weight, for what is said of weights alone.

    By default those of embeddings and inside layers, not those of the stream. What is added to a branch's output is a
    bias, and leaves every matrix as it is. ``sites`` are those whose edits the matrices would have to hold; edits of an
    MLP's modules by their path count as edits of ``mlp_out``.

    Raises
    ------
    EditError
    """
    for site, edit in anatomy.standing:
        name = site.written.name
        inside = site.name in STARTS or (site.layer is not None and site.name not in _BETWEEN)
        if sites is not None:
            inside = name in sites or ("mlp_out" in sites and _inside_mlp(anatomy, site))
        if inside and not (_is_bias(site, edit) or _side_term(anatomy, site, edit)):
            raise _refused(what, site, edit, "ask the unedited model")


def expect_sum_of_writes(anatomy: Anatomy, inputs: Collection[str]) -> None:
    """Refuse a model under edits that change what writers before them write to a reader, for a graph of both.

    What is added to the stream or to what a reader takes is no writer's, and leaves every edge as it is. Edits of
    ``attn_norm`` do not reach a head's own input, which passes the norm by itself.

    Raises
    ------
    EditError
        With what to do instead.
    """
    for site, edit in anatomy.standing:
        is_input = site.written == Site("resid_pre", 0) and "pos_embed" not in inputs
        edge = site.written.name in _READ and not is_input and not isinstance(edit, Add)
        if edge or site.written.name == "attn_norm":
            raise _refused("a graph of writers and readers", site, edit, "edit what is written, such as z or mlp_out")


def write_factor(anatomy: Anatomy, layer: int) -> float:
    """By what standing edits of ``attn_out`` multiply each head's write; what they add is no head's.

    Raises
    ------
    EditError
        For edits that neither add nor zero or scale it as a whole, at every position.
    """
    factor = 1.0
    for site, edit in anatomy.standing:
        if site.written != Site("attn_out", layer) or isinstance(edit, Add):
            continue
        if not _is_factor(edit) or edit.pos is not None or edit.prompt is not None:
            raise _refused("what each head writes", site, edit, "zero or scale attn_out as a whole, or edit z")
        factor *= float(edit.factor) if isinstance(edit, Scale) else 0.0
    return factor


def _is_bias(site: Site, edit: Edit) -> bool:
    """Whether it adds to what a layer's attention or MLP writes, and changes nothing else of it."""
    return site.name in _BRANCHES and isinstance(edit, Add)


def _refused(what: str, site: Site, edit: Edit, instead: str) -> EditError:
    return EditError(
        f"{what} is of what the model itself computes, and {site.written} is edited ({edit.describe()}): {instead}, or "
        "take a copy with other weights, as caseback.edit.applied makes it of a fact's edit"
    )


def _is_factor(edit: Edit) -> bool:
    """Whether it multiplies all units of what it changes by one number."""
    if edit.unit is not None:
        return False
    number = isinstance(edit, Scale) and (not isinstance(edit.factor, Tensor) or edit.factor.numel() == 1)
    return isinstance(edit, Zero) or number


def _side_term(anatomy: Anatomy, site: Site, edit: Edit, of: nn.Module | None = None) -> bool:
    """Whether it is a term beside a matrix that writes to the stream (``of``: beside this one)."""
    if not isinstance(edit, SideTerm) or not site.name.endswith(".output"):
        return False
    if edit.pos is not None or edit.prompt is not None or edit.unit is not None:
        return False
    module = anatomy.hf.get_submodule(site.name.removesuffix(".output"))
    return any(module is writer for writer in ([of] if of else [m for p in anatomy.layers for m in (p.o, p.w_out)]))


def _inside_mlp(anatomy: Anatomy, site: Site) -> bool:
    """Whether it is what a module of some MLP gives or takes, by the module's path."""
    if not site.is_module:
        return False
    module = anatomy.module_at(site)
    parts = [m for p in anatomy.layers for m in (p.w_in, p.w_gate, p.gate_up, p.w_out, p.experts)]
    inside = [m for p in anatomy.layers if p.mlp not in (None, p.layer) for m in p.mlp.modules()]
    return module not in anatomy.norms and any(module is part for part in (*parts, *inside))


def with_side_terms(
    anatomy: Anatomy, module: nn.Module, weight: Float[Tensor, "in d_model"]
) -> Float[Tensor, "in d_model"]:
    """A matrix that writes to the stream with the terms that stand beside it."""
    for site, edit in anatomy.standing:
        if isinstance(edit, SideTerm) and _side_term(anatomy, site, edit, module):
            weight = weight + edit.right.to(weight).T @ edit.left.to(weight)
    return weight


def attended(run: Run, layer: int) -> Float[Tensor, "batch head query key"]:
    """How much of each value a head brings: the pattern, times what standing edits of z leave of it.

    Parameters
    ----------
    run
        Has read ``pattern`` and ``z``.

    Raises
    ------
    EditError
        For edits of z that do not zero or scale heads.
    """
    pattern = at_least_float32(run["pattern", layer])
    edits: list[tuple[int | None, Any]] = []
    for site, edit in run.anatomy.standing:
        if site.written != Site("z", layer):
            continue
        if site.name != "z" or not _is_factor(edit):
            raise EditError(
                f"z of layer {layer} is edited ({edit.describe()}), and so is no sum over the positions that its heads "
                "look at: zero or scale whole heads, edit values, or take a copy with other weights"
            )
        edits.append((None, edit))
    if not edits:
        return pattern
    first, ones = np.array([at for at, _ in run.tokens.extents]), torch.ones_like(at_least_float32(run["z", layer]))
    frame = batch_frame(run.tokens)
    left = apply_edits(edits, ones.flatten(0, 1), frame, Site("z", layer), lambda rows: first[rows.at[1]])
    return pattern * left.view_as(ones)[..., 0].transpose(1, 2)[..., None].to(pattern)


def edited_end(anatomy: Anatomy) -> bool:
    """Whether edits stand at the final norm's output.

    Raises
    ------
    EditError
        For edits whose output is no affine map of what was there.
    """
    edits = [edit for site, edit in anatomy.standing if site == END]
    other = next((edit for edit in edits if not isinstance(edit, _AFFINE)), None)
    if other is not None:
        raise EditError(
            f"{other.describe()} stands behind the final norm, and a sum of shares passes it only where it is affine: "
            "zero, scale, add to or project its output, or take a copy with other weights"
        )
    return bool(edits)


def edited_norm(anatomy: Anatomy) -> Norm | None:
    """The final norm with its edits in gain and bias, N' = f N + E(0), where each is of units by themselves.

    Edits that mix units are left to the unembedding; see ``edits_in_unembedding``.
    """
    if anatomy.final_norm is None:
        return None
    norm = anatomy.norms[anatomy.final_norm]
    if not edited_end(anatomy) or edits_in_unembedding(anatomy):
        return norm
    ends = torch.stack([torch.zeros_like(norm.gamma), torch.ones_like(norm.gamma)])
    at_zero, at_one = under_edits(anatomy, END, ends)
    factor = at_one - at_zero
    return replace(norm, gamma=norm.gamma * factor, beta=at_zero if norm.beta is None else norm.beta * factor + at_zero)


def edits_in_unembedding(anatomy: Anatomy) -> bool:
    """Whether edits stand at the final norm's output that its gain and bias cannot hold, so that W_U must.

    Raises
    ------
    EditError
        As ``edited_end``.
    """
    mixing = any(site == END and isinstance(edit, Project | Affine) for site, edit in anatomy.standing)
    return edited_end(anatomy) and (mixing or anatomy.final_norm is None)


def pulled_through_end(anatomy: Anatomy, u: Float[Tensor, "*dims d_model"]) -> tuple[Tensor, Tensor | None]:
    """Directions behind the edits of the final norm as directions before them, J^T u, and what E(0) is worth to them.

    The second is None where nothing is edited.
    """
    if not edited_end(anatomy):
        return u, None
    with torch.enable_grad():
        nothing = torch.zeros_like(u).requires_grad_()
        at_zero = under_edits(anatomy, END, nothing)
        pulled = torch.autograd.grad(at_zero, nothing, u.detach(), allow_unused=True)[0]
    return torch.zeros_like(u) if pulled is None else pulled, (at_zero.detach() * u).sum(-1)


def pushed_through_end(anatomy: Anatomy, parts: Float[Tensor, "*dims d_model"]) -> Float[Tensor, "*dims d_model"]:
    """Addends of the final norm's output behind its edits, J times each: what E(0) adds is no addend's."""
    if not edited_end(anatomy):
        return parts
    return under_edits(anatomy, END, parts) - under_edits(anatomy, END, torch.zeros_like(parts))
