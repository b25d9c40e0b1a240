"""``Readout``: what directions read off the final stream, with the final norm frozen (PRIMER 2.2, 2.5).

    reading(x) = final_norm(x) u + b = x [M diag(gamma) u] / s + (beta u + b)

At the run's own s the first term is linear in x, so each addend of the stream has its own share, and the rest is
constant. For a token, u and b are its column of W_U and entry of b_U, times the family's logit scale: the reading is
its logit before any soft-cap. Directions are few, so nothing of the vocabulary's size is formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import TargetError
from caseback.jobs.json_text import shortened
from caseback.model.algebra.under_edits import expect_unedited_logits, pulled_through_end
from caseback.model.algebra.writes import Branch, spread
from caseback.model.anatomy.coerce import are_several
from caseback.model.anatomy.dense import weight_matrix, wide_bias, wide_matrix
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.stream import expect_sums
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

Position = int | Int[Tensor, " batch"] | None
"""One position for all prompts (negative from the end), one per prompt, or None for all positions."""
Directions = str | int | Sequence[Any] | Tensor
"""Tokens (text or id, one or a list), one list of tokens per prompt, or vectors (d_model,), (k, d_model) or
(batch, k, d_model) that read the normed stream as a column of W_U does."""


@dataclass(frozen=True)
class Readout:
    """A run's frozen final norm, and the directions that read through it.

    Attributes
    ----------
    pulled
        (k, d_model), or (batch, k, d_model) where each prompt has its own: the directions before the final norm, up to
        its denominator.
    scale
        (*lead, 1), the denominator; None without a final norm. ``lead`` is (batch,) or (batch, pos).
    constant
        (k,) or (batch, k), the part of the reading that does not depend on the stream.
    ids
        The tokens' ids, in the shape of ``constant``; None for vectors.
    dim, coords
        The name of the k dimension in results, and its labels.
    """

    pulled: Tensor
    scale: Tensor | None
    constant: Tensor
    ids: Int[Tensor, "*batch k"] | None
    dim: str
    coords: dict[str, Any]

    def of(self, parts: Float[Tensor, "*lead d_model"]) -> Float[Tensor, "*lead k"]:
        """The shares of addends of the stream, which may have dimensions between ``lead`` and ``d_model``."""
        letters = "bkd" if self.pulled.ndim == 3 else "kd"
        return self._over(torch.einsum(f"b...d,{letters}->b...k", at_least_float32(parts), self.pulled))

    def of_heads(self, branch: Branch, z: Float[Tensor, "*lead head d_head"]) -> Float[Tensor, "*lead head k"]:
        """The shares of a layer's heads, from z, without forming what they write."""
        shares = torch.einsum(f"b...he,{self._b}hek->b...hk", at_least_float32(z), self.through(branch))
        return self._over(shares, branch.scale)

    def of_neurons(self, branch: Branch, neurons: Float[Tensor, "*lead neuron"]) -> Float[Tensor, "*lead neuron k"]:
        """The shares of a layer's neurons, without forming what they write."""
        shares = torch.einsum(f"b...m,{self._b}mk->b...mk", at_least_float32(neurons), self.through(branch))
        return self._over(shares, branch.scale)

    def through(self, branch: Branch) -> Tensor:
        """W_O or W_out times the pulled directions: what each unit's value contributes, up to denominators."""
        units = "he" if branch.weight.ndim == 3 else "m"
        return torch.einsum(f"{units}d,{self._b}kd->{self._b}{units}k", branch.weight, branch.pull(self.pulled))

    def rows(self, like: Float[Tensor, "*lead k"]) -> Float[Tensor, "*lead k"]:
        """The constant, at every position of ``like``."""
        between = [1] * (like.ndim - 2)
        constant = self.constant if self.constant.ndim == 1 else self.constant.view(len(like), *between, -1)
        return constant.expand_as(like)

    @property
    def _b(self) -> str:
        return "b" if self.pulled.ndim == 3 else ""

    def _over(self, shares: Tensor, scale: Tensor | None = None) -> Tensor:
        for s in (self.scale, scale):
            shares = shares if s is None else shares / spread(s, shares)
        return shares


def readout(model: Model, directions: Directions, resid: Float[Tensor, "*lead d_model"]) -> Readout:
    """Make the readout of some directions, with the final norm frozen at the stream ``resid``.

    Raises
    ------
    TargetError
        For directions that are neither tokens nor vectors that read this stream.
    EditError
        For a model under edits of ``final_norm`` that are not affine, or not the same at all positions; for tokens, of
        a model under edits of its logits.
    """
    anatomy, batch = model.anatomy, len(resid)
    expect_sums(anatomy, "reading logits off a part of the stream")
    ids = _ids(model, directions, batch)
    if ids is not None:
        expect_unedited_logits(anatomy, "a share of logits")
    if ids is None:
        vectors = _vectors(model, directions, batch).to(resid.device)
        constant = torch.zeros_like(vectors[..., 0])
    else:
        vectors, constant = _columns(model, ids)
    vectors, of_edits = pulled_through_end(anatomy, vectors)
    constant = constant if of_edits is None else constant + of_edits
    norm = None if anatomy.final_norm is None else anatomy.norms[anatomy.final_norm]
    if norm is not None:
        constant = constant if norm.beta is None else constant + vectors @ norm.beta
        vectors = norm.centre(vectors * norm.gamma.to(vectors))
    dim, coords = _labels(model, ids)
    return Readout(vectors, None if norm is None else norm.scale(resid), constant, ids, dim, coords)


def _ids(model: Model, directions: Directions, batch: int) -> Tensor | None:
    """Token ids (k,), or (batch, k) where each prompt has its own; None for vectors."""
    if isinstance(directions, Tensor):
        if directions.is_floating_point():
            return None
        directions = directions.tolist()
    given: list[Any] = [directions] if isinstance(directions, str | int) else list(directions)
    if not given:
        raise TargetError("no direction given: expected tokens, or vectors of d_model numbers")
    if isinstance(given[0], float) or (isinstance(given[0], Tensor) and given[0].is_floating_point()):
        raise TargetError("directions as numbers must be one tensor, (k, d_model) or (batch, k, d_model)")
    if isinstance(given[0], str | int):
        return torch.tensor([model.token_id(token) for token in given], device=model.device)
    if not all(are_several(row) for row in given):
        raise TargetError(f"directions hold {shortened(repr(given), 60)}: expected tokens, or a list for each prompt")
    if len(given) != batch or len({len(row) for row in given}) != 1:
        raise TargetError(
            f"{len(given)} lists of {sorted({len(row) for row in given})} tokens for {batch} prompts: "
            "expected one list per prompt, all of equal length"
        )
    return torch.tensor([[model.token_id(token) for token in row] for row in given], device=model.device)


def _vectors(model: Model, directions: Any, batch: int) -> Tensor:
    vectors = at_least_float32(directions)
    vectors = vectors[None] if vectors.ndim == 1 else vectors
    fits = vectors.ndim == 2 or (vectors.ndim == 3 and len(vectors) == batch)
    if not fits or vectors.shape[-1] != model.d_model:
        raise TargetError(
            f"directions of shape {tuple(directions.shape)} cannot read a stream of {batch} prompts, width "
            f"{model.d_model}: expected (k, {model.d_model}) or ({batch}, k, {model.d_model})"
        )
    return vectors


def _columns(model: Model, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens' columns of the unembedding and their biases, with the projection before it and the logit scale."""
    anatomy = model.anatomy
    matrix = weight_matrix(anatomy.unembed).detach()
    columns = at_least_float32(matrix.T[ids.to(matrix.device)]).to(ids.device)
    if anatomy.unembed_project is not None:
        columns = columns @ wide_matrix(anatomy.unembed_project, ids.device).T
    bias = wide_bias(anatomy.unembed, ids.device)
    bias = columns.new_zeros(ids.shape) if bias is None else bias[ids]
    return columns * anatomy.logit_scale, bias * anatomy.logit_scale


def _labels(model: Model, ids: Tensor | None) -> tuple[str, dict[str, Any]]:
    if ids is None:
        return "k", {}
    texts = [model.token_text(i) for i in ids.flatten().tolist()]
    if ids.ndim == 1:
        return "vocab", {"vocab": ids, "target": ("vocab", texts)}
    rows = [texts[i : i + ids.shape[1]] for i in range(0, len(texts), ids.shape[1])]
    return "k", {"target": (("batch", "k"), rows)}


def picked(x: Float[Tensor, "batch pos *rest"], tokens: Tokens, pos: Position) -> Tensor:
    """An activation at one position of each prompt, (batch, ...), or all of it if ``pos`` is None."""
    if pos is None:
        return x
    return x[torch.arange(len(x), device=x.device), tokens.column(pos).to(x.device)]


def token_labels(tokens: Tokens, dim: str) -> dict[str, Any]:
    """The coordinates of a dimension of positions: each prompt's tokens as text, empty at padding."""
    texts = []
    for first, row in zip(tokens.first.tolist(), tokens.text, strict=True):
        texts.append([""] * first + row + [""] * (tokens.ids.shape[1] - first - len(row)))
    return {"token": (("batch", dim), texts)}


def unpadded(values: Float[Tensor, "*dims"], tokens: Tokens, *dims: int) -> Float[Tensor, "*dims"]:
    """The values with NaN at padding; ``dims`` are the axes of batch and pos."""
    if not tokens.padded:
        return values
    batch, pos = dims
    shape = [1] * values.ndim
    shape[batch], shape[pos] = tokens.mask.shape
    mask = tokens.mask if batch < pos else tokens.mask.T
    return values.masked_fill(~mask.reshape(shape).to(values.device), torch.nan)
