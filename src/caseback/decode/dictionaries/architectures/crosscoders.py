"""Crosscoders: one set of codes for several layers, or for two models (Lindsey et al. 2024).

    z = sum_m W_enc^m (s_m x^m - b_dec^m) + b_enc        x^m: the state of source m at the same token
    x^m = (a W_dec^m + b_dec^m) / s_m
    |d_i| = sum_m |d_i^m|                                what a penalty weighs codes by, and features are ranked by

A crosscoder is a dictionary of the sources' states side by side: ``W_enc`` and ``W_dec`` are (feature, source x d),
``b_dec`` is (source x d). So every architecture has one: ``Crosscoder`` before its class.

With an L1 penalty, what a feature writes to a source where it is weak is cut to 0, and the feature looks as if it were
of the others alone; with BatchTopK less so (Minder et al. 2025). ``latent_scaling`` tells.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.decode.dictionaries.architectures.batch_topk import BatchTopK
from caseback.decode.dictionaries.architectures.jump_relu import JumpReLU
from caseback.decode.dictionaries.architectures.several_sources import SeveralSources, expect_sources
from caseback.decode.dictionaries.architectures.standard import Standard
from caseback.decode.dictionaries.architectures.topk import TopK
from caseback.decode.dictionaries.dictionary import Losses
from caseback.decode.dictionaries.facts import Facts
from caseback.decode.dictionaries.registry import architecture
from caseback.errors import ArgumentError
from caseback.model.arguments import checked


@checked
class Crosscoder(SeveralSources):
    """A dictionary of several sources' states.

    Parameters
    ----------
    d_in
        The width of one source's states.
    n_features
        How many features, each of all sources.
    n_sources
        How many layers or models.
    facts
        What the weights do not tell; by default features are ranked by score times norm. Rows are never held at
        norm 1.
    """

    def __init__(
        self,
        d_in: int,
        n_features: int,
        d_out: int | None = None,
        *,
        n_sources: int,
        facts: Facts | None = None,
        **more: Any,
    ):
        expect_sources(n_sources)
        if d_out not in (None, d_in):
            raise ArgumentError(f"a crosscoder reconstructs what it reads: d_out is {d_out}, d_in {d_in}")
        facts = replace(facts, unit_rows=False) if facts is not None else Facts(by_norm=True)
        super().__init__(d_in * n_sources, n_features, facts=facts, **more)
        self._set_sources(n_sources)
        self.d_in = self.d_out = d_in
        if n_sources > 1:  # each feature starts with the same row for all sources
            rows = self.W_dec.detach()[:, :d_in].double()
            rows = (rows / (rows.norm(dim=1, keepdim=True) * n_sources**0.5)).repeat(1, n_sources).to(self.W_dec.dtype)
            self.W_dec.data, self.W_enc.data = rows.clone(), rows

    def normalized(self, x: Tensor) -> Tensor:
        return super().normalized(x).flatten(-2)

    def _restored(self, written: Tensor, x: Tensor | None) -> Tensor:
        return super()._restored(written.unflatten(-1, (self.n_sources, self.d_in)), x)

    def rows(self) -> Float[Tensor, "feature source d"]:
        """What each feature writes to each source."""
        return self.W_dec.unflatten(-1, (self.n_sources, self.d_in))

    def norms(self) -> Float[Tensor, " feature"]:
        """The sum over sources of the norms of what each feature writes there."""
        return self.rows().norm(dim=-1).sum(-1)

    def change(self, coded: Tensor, edited: Tensor, x: Tensor) -> Float[Tensor, "... source d"]:
        states = self._expected(x).unbind(-2)
        return torch.stack([self.change_at(coded, edited, states[m], m) for m in range(self.n_sources)], -2)

    def change_at(
        self,
        coded: Float[Tensor, "... feature"],
        edited: Float[Tensor, "... feature"],
        x: Float[Tensor, "... d"],
        source: int,
    ) -> Float[Tensor, "... d"]:
        """What other codes write to one source in place of those that it had, whose state is ``x``."""
        written = (edited - coded).to(self.W_dec.dtype) @ self.rows()[:, source]
        if self.facts.normalization in ("none", "scale"):
            return written / self.out_scale[source]
        _, factor = self._factors(x.to(self.W_dec.dtype))
        assert factor is not None
        return written / factor

    def reconstructed(self, losses: Losses, x: Tensor, target: Tensor) -> Float[Tensor, "token source d"]:
        errors = losses.errors.unflatten(-1, (self.n_sources, self.d_in))
        return super().reconstructed(losses._replace(errors=errors), x, target)

    def losses(self, x: Tensor, target: Tensor | None = None, **more: Any) -> Losses:
        if target is not None:
            raise ArgumentError("a crosscoder reconstructs what it reads: give no target")
        return super().losses(x, **more)


@architecture("standard_crosscoder")
class StandardCrosscoder(Crosscoder, Standard):
    """Rectified scores with an L1 penalty."""

    options = ("n_sources", *Standard.options)


@architecture("topk_crosscoder")
class TopKCrosscoder(Crosscoder, TopK):
    """The k highest scores of each token."""

    options = ("n_sources", *TopK.options)


@architecture("batch_topk_crosscoder")
class BatchTopKCrosscoder(Crosscoder, BatchTopK):
    """The highest scores of a batch."""

    options = ("n_sources", *BatchTopK.options)


@architecture("jump_relu_crosscoder")
class JumpReLUCrosscoder(Crosscoder, JumpReLU):
    """Thresholds that learn."""

    options = ("n_sources", *JumpReLU.options)
