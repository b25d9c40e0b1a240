"""Directional ablation: nothing is written along a direction any more, in a run or in the weights themselves.

    in a run    x <- x - r (r . x)          at every write, or at every point of the stream
    in weights  W <- W (I - r r^T), b <- (I - r r^T) b        for W_E, W_pos, every W_O, b_O, W_out, b_out

The second gives the first exactly where what is written is linear in these weights: not where a norm stands behind
them (its gain puts the direction back), and not where W_E is W_U too, which the projection would change with it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from caseback.decode.directions.directions import Directions
from caseback.errors import AnatomyError, CasebackError, EditError, SiteAbsent
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.dense import bias_of, weight_matrix
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.parameters import expect_own_numbers, parameter
from caseback.model.anatomy.stream import expect_sums
from caseback.model.registry import technique
from caseback.model.running.edits import Edit, Index, Project
from caseback.model.running.frames import Positions
from caseback.model.running.model import Model

_WRITES = ("embed", "pos_embed", "attn_out", "mlp_out")
_STREAM = ("resid_pre", "resid_mid", "resid_post")
_ROUNDING = {torch.float64: 1e-11, torch.float32: 1e-4}
_INSTEAD = "directional_ablation gives edits that do it in every run, and model.edited(...) takes them"


@technique(entry=("4.2.10",), citation="Arditi et al. 2024", cost="none: gives edits")
def directional_ablation(
    model: Model,
    direction: Directions | Tensor,
    *,
    where: str = "writes",
    pos: Positions = None,
    prompt: Index = None,
) -> list[Edit]:
    """Keep a model from representing anything along a direction, at every layer.

    Parameters
    ----------
    model
        The model.
    direction
        ``Directions`` at one place, or a vector (d_model,) of any length.
    where
        ``"writes"``: what the embeddings, attention and MLPs add; ``"stream"``: the stream before and after each layer.
    pos, prompt
        As for every edit: all positions of all prompts by default.

    Returns
    -------
    list[Edit]
        ``cb.Project`` edits, each of all layers. To induce the behavior instead, add the difference itself where it
        was found: ``directions.edits()``.

    Raises
    ------
    EditError
        For directions at several places, of another width, of no length, or another ``where``.

    Notes
    -----
    Entry 4.2.10: Arditi et al. 2024, who edit the input of every block and the outputs of attention and MLPs. Where
    writes are added to the stream the two kinds are the same.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> [edit.describe() for edit in directional_ablation(model, torch.ones(model.d_model))]
    ['Project embed', 'Project pos_embed', 'Project attn_out', 'Project mlp_out']
    """
    unit = unit_of(model, direction)
    if where not in ("writes", "stream"):
        raise EditError(f"where={where!r}: expected 'writes' or 'stream'")
    sites = _WRITES if where == "writes" else _STREAM
    has = [site for site in sites if site not in model.anatomy.lacks]
    return [Project(site, unit[None], pos=pos, prompt=prompt) for site in has]


@technique(entry=("4.2.10",), citation="Arditi et al. 2024", cost="a copy of the model, and one short forward")
def orthogonalized(model: Model, direction: Directions | Tensor, *, untie: bool = False) -> Model:
    """Copy a model and take a direction out of all weights that write to the stream.

    Parameters
    ----------
    model
        The model; it stays as it is.
    direction
        ``Directions`` at one place, or a vector (d_model,) of any length.
    untie
        Whether an unembedding that is the embedding becomes a matrix of its own in the copy. Without it such a model
        is refused: it would read less of the stream, too.

    Returns
    -------
    Model
        In memory; ``.hf.save_pretrained(folder)`` keeps it. Its logits are those of ``directional_ablation`` up to
        rounding.

    Raises
    ------
    CasebackError
        Where weights cannot do what the edits do: norms behind writes, an embedding norm, tied embeddings without
        ``untie``, positions that are computed, quantized weights. The message says which.

    Notes
    -----
    Entry 4.2.10: Arditi et al. 2024. The copy is run once on a short prompt, and refused if anything it writes still
    has some of the direction.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    >>> without = orthogonalized(model, direction, untie=True)
    >>> stream = without.run("the old dog", read=["resid_post"])["resid_post"]
    >>> before = model.run("the old dog", read=["resid_post"])["resid_post"]
    >>> bool((stream @ direction).abs().max() < 1e-3 < (before @ direction).abs().max())
    True
    """
    unit = unit_of(model, direction)
    _expect_linear_writes(model.anatomy)
    tied = _tied(model.anatomy)
    if tied and not untie:
        raise CasebackError(
            f"the unembedding of {model.name!r} is its embedding, so taking a direction out of one takes it out of the "
            f"other: give untie=True to part them in the copy; or {_INSTEAD}"
        )
    twin = copy.deepcopy(model)
    twin.name = f"{model.name} without a direction"
    if tied:
        unembed: Any = twin.anatomy.unembed
        unembed.weight = nn.Parameter(unembed.weight.detach().clone(), requires_grad=unembed.weight.requires_grad)
        for config in {id(c): c for c in (twin.hf.config, twin.hf.config.get_text_config())}.values():
            config.tie_word_embeddings = False
    try:
        for tensor in _writers(twin):
            _remove(tensor, unit)
    except (AnatomyError, SiteAbsent) as error:
        raise CasebackError(f"{error}; {_INSTEAD}") from None
    _expect_none_left(twin, unit)
    return twin


def unit_of(model: Model, direction: Directions | Tensor) -> Float[Tensor, " d_model"]:
    """The one direction that is given, of length 1.

    Raises
    ------
    EditError
        For several, another width, or one without a length.
    """
    rows = direction.write if isinstance(direction, Directions) else torch.atleast_2d(direction)
    if len(rows) != 1:
        raise EditError(f"{len(rows)} directions: take one with .at(...)")
    if rows.dtype == torch.bool or rows.is_complex():
        raise EditError(f"a direction of {rows.dtype}: expected numbers, one for each dimension of the stream")
    vector = at_least_float32(rows[0] if rows.is_floating_point() else rows[0].float())
    if vector.shape != (model.d_model,):
        raise EditError(f"a direction of width {vector.numel()}: the stream of {model.name!r} is {model.d_model} wide")
    length = vector.norm()
    if not bool(length > 0) or not bool(length.isfinite()):
        raise EditError(f"a direction of length {float(length)}: expected a finite one")
    return vector / length


def _expect_linear_writes(anatomy: Anatomy) -> None:
    expect_sums(anatomy, "taking a direction out of the weights")
    behind = next(
        (
            what
            for p in anatomy.layers
            for what, norm in (("attention", p.attn_post_norm), ("the MLP", p.mlp_post_norm))
            if norm is not None
        ),
        None,
    )
    if behind is None and anatomy.embed_norm is not None:
        behind = "the embedding"
    if behind is not None:
        raise CasebackError(
            f"models of type {anatomy.model_type!r} have a norm behind {behind}, whose gain puts a direction back that "
            f"the weights no longer write: {_INSTEAD}"
        )


def _tied(anatomy: Anatomy) -> bool:
    own, other = (parameter(module, "weight") for module in (anatomy.embed, anatomy.unembed))
    return own is not None and other is not None and own.data_ptr() == other.data_ptr()


def _writers(model: Model) -> list[Tensor]:
    """Everything that writes to the stream, as tensors (..., d_model) that share storage with the parameters."""
    anatomy, weights = model.anatomy, model.weights
    expect_own_numbers(anatomy.hf, "taking a direction out of weights")
    tensors: list[Tensor | None] = []
    project = anatomy.embed_project
    if project is None:
        tensors.append(parameter(anatomy.embed, "weight"))
    else:
        tensors += [weight_matrix(project), bias_of(project)]
    if anatomy.pos_embed is not None:
        tensors.append(parameter(anatomy.pos_embed, "weight"))
    for layer, p in enumerate(anatomy.layers):
        tensors += [weights.in_place("W_O", layer), bias_of(p.o), weights.in_place("W_out", layer)]
        if p.experts is not None:
            tensors.append(weights.in_place("b_out", layer))
        elif p.w_out is not None:
            tensors.append(bias_of(p.w_out))
        tensors += [tensor for module in _beside(p) for tensor in (weight_matrix(module), bias_of(module))]
    return [tensor for tensor in tensors if tensor is not None]


def _beside(p: Any) -> list[nn.Module]:
    """Output projections of the MLPs that stand beside routed experts: those of shared experts."""
    if p.experts is None:
        return []
    inside = {id(module) for module in p.experts.modules()}
    beside = [m for part in (p.mlp, p.mlp_beside) if part is not None for m in part.named_modules()]
    return [m for name, m in beside if name.split(".")[-1] in ("down_proj", "output_linear") and id(m) not in inside]


@torch.no_grad()
def _remove(tensor: Tensor, unit: Float[Tensor, " d_model"]) -> None:
    wide = at_least_float32(tensor)
    r = unit.to(wide)
    tensor.copy_(wide - (wide @ r)[..., None] * r)


def _expect_none_left(model: Model, unit: Tensor) -> None:
    """Refuse a copy that still writes along the direction: by weights that its anatomy does not name, say."""
    sites = [site for site in _WRITES if site not in model.anatomy.lacks]
    ids = torch.arange(1, 9) % model.d_vocab
    run = model.run(ids, read=sites)
    allowed = _ROUNDING.get(model.dtype, 3e-2)
    for site in sites:
        x = at_least_float32(run[site])
        left = (x @ unit.to(x)).abs().max() / x.norm(dim=-1).max().clamp_min(torch.finfo(x.dtype).tiny)
        if bool(left > allowed):
            raise CasebackError(
                f"{float(left):.1g} of what {site} writes still lies along the direction: {model.anatomy.model_type!r} "
                f"writes with more than the weights that were changed; {_INSTEAD}"
            )
