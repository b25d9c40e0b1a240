"""Folding (PRIMER 2.2): a norm's gain, bias and centering become part of the matrices next to it.

With M = I - 11^T/d if the norm centers, M = I if it does not, and u(x) = x M / scale(x) the bare norm,

    norm(x) W + b = u(x) [M diag(gamma) W] + [b + beta W].

So the folded weights describe the same model with bare norms: every read is u(x) @ W + b. If all reads center the
stream, what is written is centered too, since no read could tell the difference. The multipliers of some families are
folded as well: embeddings are given as they reach the stream, writes and unembedding with their scales. A norm after a
branch cannot be folded away, since its denominator depends on the branch's output o, but its gain can: the write is
then (z W_O + b_O) / scale(o). Where a branch reads without a norm (OLMo-2), its reading matrices stay as they are.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import CasebackError
from caseback.model.algebra.weights import Weights
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.norms import Norm, at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.anatomy.stream import expect_sums
from caseback.model.running.verify import under_edits

_READERS = {"Q": "attn_norm", "K": "attn_norm", "V": "attn_norm", "in": "mlp_norm", "gate": "mlp_norm"}
_WRITERS = {"O": "attn_post_norm", "out": "mlp_post_norm"}


def fold(norm: Norm, weight: Float[Tensor, "*dims d_in d_out"]) -> Float[Tensor, "*dims d_in d_out"]:
    """M diag(gamma) W, which reads the bare norm as W reads the norm."""
    weight = at_least_float32(weight) * norm.gamma[:, None].to(weight)
    return weight - weight.mean(-2, keepdim=True) if norm.centred else weight


@torch.no_grad()
def embedded(anatomy: Anatomy, ids: Int[Tensor, " token"]) -> Float[Tensor, "token d_model"]:
    """What the embeddings of some tokens write to the stream: with their scale, projection, norm and edits."""
    x = anatomy.embed.forward(ids)
    for module in (anatomy.embed_project, anatomy.embed_norm):
        x = x if module is None else module.forward(x)
    return under_edits(anatomy, Site("embed"), at_least_float32(x) * anatomy.embed_scale)


class Folded(Weights):
    """Weights with the norms folded in, under the same names as ``Weights``; made by ``Weights.folded``.

    Its norms are bare: gain 1 and no bias, except the bias that a norm after a branch adds to the stream. Nothing here
    is a view: each access computes a copy, in float32 at least; W_E, W_pos and W_U are cached.

    Examples
    --------
    ::

        folded = model.weights.folded()
        read = folded.attn_norm[5](run["resid_pre", 5])        # a bare norm
        q = torch.einsum("bpd,hde->bphe", read, folded.W_Q[5]) + folded.b_Q[5]    # before any rotation
    """

    def __init__(self, anatomy: Anatomy, *, value_bias: bool = False, centre_vocab: bool = False):
        expect_sums(anatomy, "folding norms into weights")
        super().__init__(anatomy)
        self.plain, self.value_bias, self.centre_vocab = Weights(anatomy), value_bias, centre_vocab
        if value_bias and any(getattr(p.attn, "sinks", None) is not None for p in anatomy.layers):
            raise CasebackError(
                f"b_V cannot be folded into b_O: attention of this model ({anatomy.model_type}) has a sink, "
                "so its pattern's rows do not sum to one. Leave value_bias out"
            )

    @cached_property
    def centred(self) -> bool:
        """Whether every read of the stream removes its mean, so that writes are centered here."""
        plain = self.plain
        norms = [plain.final_norm, *plain.attn_norm, *plain.mlp_norm]
        return all(norm is not None and norm.centred for norm in norms)

    @cached_property
    def W_E(self) -> Float[Tensor, "vocab d_model"]:
        """What each token's embedding writes to the stream: with its scale, projection and norm."""
        table = self.plain.W_E
        return self._centre(embedded(self.anatomy, torch.arange(len(table), device=table.device)))

    @cached_property
    def W_pos(self) -> Float[Tensor, "pos d_model"]:
        """What each position's embedding writes to the stream."""
        return self._centre(at_least_float32(self.plain.W_pos))

    @cached_property
    def _unembedding(self) -> tuple[Tensor, Tensor]:
        weight, bias, norm = at_least_float32(self.plain.W_U), self.plain.b_U, self.plain.final_norm
        if norm is not None:
            bias = bias if norm.beta is None else bias + norm.beta @ weight
            weight = fold(norm, weight)
        if self.centre_vocab:
            weight, bias = weight - weight.mean(-1, keepdim=True), bias - bias.mean()
        return weight * self.anatomy.logit_scale, bias * self.anatomy.logit_scale

    @property
    def W_U(self) -> Float[Tensor, "d_model vocab"]:
        """The unembedding after the bare final norm, in logits before any soft-cap."""
        return self._unembedding[0]

    @property
    def b_U(self) -> Float[Tensor, " vocab"]:
        """The final norm's bias through the unembedding, plus the unembedding's own."""
        return self._unembedding[1]

    @property
    def final_norm(self) -> Norm | None:
        """The bare final norm."""
        return _bare(self.plain.final_norm)

    def _norm(self, name: str, layer: int) -> Norm | None:
        norm = self.plain._norm(name, layer)
        if norm is None or norm.beta is None or name not in _WRITERS.values():
            return _bare(norm)
        return replace(_bare(norm), beta=self._centre(norm.beta * self.anatomy.residual_scale))

    def _at(self, name: str, layer: int) -> Tensor:
        if name == "b_V" and self.value_bias:
            return torch.zeros_like(self._read("b_V", layer))
        part = name.split("_")[1]
        if part not in _WRITERS:
            return self._read(name, layer)
        x = at_least_float32(self.plain._at(name, layer))
        if name == "b_O" and self.value_bias:
            b_v, w_o = self._read("b_V", layer), at_least_float32(self.plain.W_O[layer])
            x = x + torch.einsum("he,hed->d", b_v.repeat_interleave(len(w_o) // len(b_v), 0), w_o)
        return self._written(x, self.plain._norm(_WRITERS[part], layer))

    def _read(self, name: str, layer: int) -> Tensor:
        """A reading matrix, or its bias, after a bare norm."""
        plain, (kind, part) = self.plain, name.split("_")
        x, norm = at_least_float32(plain._at(name, layer)), plain._norm(_READERS[part], layer)
        if norm is None:
            return x
        if kind == "W":
            return fold(norm, x)
        return x if norm.beta is None else x + norm.beta @ at_least_float32(plain._at(f"W_{part}", layer))

    def _written(self, x: Tensor, post: Norm | None) -> Tensor:
        """Vectors in a branch's output as they reach the stream, up to the post-norm's denominator."""
        x = x if post is None else post.centre(x) * post.gamma.to(x)
        return self._centre(x * self.anatomy.residual_scale)

    def _centre(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centred else x


def _bare(norm: Norm | None) -> Any:
    return None if norm is None else replace(norm, gamma=torch.ones_like(norm.gamma), beta=None)
