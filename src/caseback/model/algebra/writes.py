"""What a branch writes to the stream, unit by unit, with the norm behind it held at its forward scale.

    write = c * post(inner W + b),     post(x) = x M / s * gamma + beta   (the identity in most families)

``inner`` is z or the neurons' activations, c the family's residual multiplier. At fixed s this is linear, so
it splits over the units (heads, neurons): unit u writes push(inner_u W_u), and push(b) + c beta is no unit's.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import SiteAbsent
from caseback.model.algebra.under_edits import with_side_terms, write_factor
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.dense import wide_bias, wide_matrix
from caseback.model.anatomy.norms import Norm, at_least_float32
from caseback.model.anatomy.stream import expect_sums


def spread(scale: Float[Tensor, "*lead 1"], x: Tensor) -> Tensor:
    """A norm's denominator shaped to divide x, whose dimensions begin with ``lead``."""
    return scale.view(*scale.shape[:-1], *[1] * (x.ndim - scale.ndim + 1))


@dataclass(frozen=True)
class Branch:
    """The frozen map from a branch's units to the stream.

    Attributes
    ----------
    weight, bias
        W_O (head, d_head, d_model) and b_O, or W_out (neuron, d_model) and b_out.
    factor, norm, scale
        The multiplier, that of standing edits of ``attn_out`` included; the norm behind the branch and its
        denominator (*lead, 1) in this run, both or none.
    """

    weight: Tensor
    bias: Tensor | None
    factor: float
    norm: Norm | None
    scale: Float[Tensor, "*lead 1"] | None

    def push(self, parts: Float[Tensor, "*lead d_model"]) -> Tensor:
        """Addends of the branch's output as they reach the stream; ``lead`` may be followed by others."""
        if self.norm is not None and self.scale is not None:
            parts = self.norm.frozen(parts, spread(self.scale, parts))
        return parts if self.factor == 1.0 else parts * self.factor

    def pull(self, directions: Float[Tensor, "*dims d_model"]) -> Float[Tensor, "*dims d_model"]:
        """Directions in the stream as directions in the branch's output, to be divided by ``scale``."""
        if self.norm is not None:
            directions = self.norm.centre(directions * self.norm.gamma.to(directions))
        return directions * self.factor

    def constant(self, like: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead d_model"] | None:
        """What the branch writes that is no unit's, or None where it has neither bias nor a post-norm's."""
        beta = None if self.norm is None else self.norm.beta
        if self.bias is None and beta is None:
            return None
        written = torch.zeros_like(like) if self.bias is None else self.push(self.bias.expand_as(like))
        return written if beta is None else written + beta * self.factor


def attention_branch(anatomy: Anatomy, layer: int, z: Float[Tensor, "*lead head d_head"]) -> Branch:
    """Attention of a layer, with its post-norm (if any) frozen at what ``z`` makes of it."""
    expect_sums(anatomy, "a split among writes")
    p = anatomy.layers[layer]
    if anatomy.head_site == "head_out":
        raise SiteAbsent(
            f"heads of this model ({anatomy.model_type}) do not write z W_O: {anatomy.before_write} stands between; "
            "read 'head_out', which holds what each writes"
        )
    weight = with_side_terms(anatomy, p.o, wide_matrix(p.o, anatomy.device))
    bias = wide_bias(p.o, anatomy.device)
    norm, scale = _frozen(anatomy, p.attn_post_norm, z.flatten(-2), weight, bias)
    factor = anatomy.residual_scale * write_factor(anatomy, layer)
    return Branch(weight.unflatten(0, (p.dims.n_heads, p.d_z)), bias, factor, norm, scale)


def mlp_branch(anatomy: Anatomy, layer: int, neurons: Float[Tensor, "*lead neuron"]) -> Branch:
    """The dense MLP of a layer, with its post-norm (if any) frozen at what the activations make of it.

    Raises
    ------
    SiteAbsent
        For a layer whose MLP is a mixture of experts.
    """
    expect_sums(anatomy, "a split among writes")
    p = anatomy.layers[layer]
    if p.w_out is None:
        raise SiteAbsent(
            f"layer {layer} of this model ({anatomy.model_type}) has no dense MLP: each expert has its own neurons"
        )
    weight = with_side_terms(anatomy, p.w_out, wide_matrix(p.w_out, anatomy.device))
    bias = wide_bias(p.w_out, anatomy.device)
    norm, scale = _frozen(anatomy, p.mlp_post_norm, neurons, weight, bias)
    return Branch(weight, bias, anatomy.residual_scale, norm, scale)


def _frozen(anatomy, module, inner: Tensor, weight: Tensor, bias: Tensor | None):
    """The norm behind a branch and its denominator at this output."""
    if module is None:
        return None, None
    norm = anatomy.norms[module]
    out = at_least_float32(inner) @ weight
    return norm, norm.scale(out if bias is None else out + bias)
