"""Matching pursuit: features are taken from a state one by one, each the best match of what is left (B.10).

    r_0 = x - b_dec        i = argmax_i <r_t, d_i>        a_i += <r_t, d_i>        r_(t+1) = r_t - <r_t, d_i> d_i

Reading and writing are the same rows, of norm 1: there is no encoder. It stops after k features, where what is left is
small, has no match, or is matched best by a feature that was taken before. The gradient is that of
|r_k|^2 through all steps, with the choices as they are.

All tokens take a step together. Codes answer to each other (what is taken first is taken whole), so no bias or
threshold tells them, and reconstructions can be better without the features being truer.

Mallat & Zhang 1993; Costa et al. 2025.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from caseback.decode.dictionaries.dictionary import Dictionary, Losses
from caseback.decode.dictionaries.facts import Facts
from caseback.decode.dictionaries.registry import architecture
from caseback.decode.dictionaries.sparse import Pattern
from caseback.errors import ArgumentError, OutOfRange


@architecture("matching_pursuit")
class MatchingPursuit(Dictionary):
    """One feature after the other.

    Parameters
    ----------
    k
        Features a token, at most.
    enough
        The norm of what is left, normalized, at which a token is done.
    repeat
        Whether a feature may be taken twice; if not, its second turn ends the pursuit.
    """

    options = ("k", "enough", "repeat")
    fewer_bits = False  # what is left after a step is matched again

    def __init__(
        self,
        *sizes: Any,
        k: int,
        enough: float = 1e-2,
        repeat: bool = False,
        facts: Facts | None = None,
        **options: Any,
    ):
        facts = replace(facts or Facts(), centered=True, unit_rows=True, by_norm=False)
        super().__init__(*sizes, facts=facts, **options)
        if self.d_in != self.d_out or self.W_skip is not None or facts.is_transcoder:
            raise ArgumentError("matching pursuit reads and writes the same rows: it cannot be a transcoder")
        if not (1 <= k <= self.n_features or (repeat and k >= 1)) or not enough >= 0:
            raise OutOfRange(f"k {k}, enough {enough}: expected 1 to {self.n_features} features, and enough from 0")
        self.k, self.enough, self.repeat = k, enough, repeat
        del self._parameters["W_enc"]
        self.register_parameter("b_enc", None)

    @property
    def W_enc(self) -> nn.Parameter:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What features read: what they write."""
        return self.W_dec

    def read(self, x: Tensor) -> Tensor:
        """How well each feature matches all of a state."""
        return x @ self.W_dec.T

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... feature"]:
        left = self._centered(self.normalized(self._expected(x))).reshape(-1, self.d_in)
        feature, taken = self.pursue(left)
        values, _ = self._taken(left, feature, taken)
        codes = values.new_zeros(len(left), self.n_features).scatter_add(1, feature, values)
        return codes.view(*x.shape[:-1], self.n_features)

    def codes(self, x: Float[Tensor, "token d_in"]) -> Tensor:
        with torch.no_grad():
            left = self._centered(self.normalized(self._expected(x)))
            feature, taken = self.pursue(left)
            values, _ = self._taken(left, feature, taken)
            token = torch.arange(len(left), device=left.device)[:, None].expand_as(feature)
            places, size = torch.stack([token[taken], feature[taken]]), (len(left), self.n_features)
            return torch.sparse_coo_tensor(places, values[taken], size, check_invariants=False).coalesce()

    def losses(
        self,
        x: Float[Tensor, "token d_in"],
        target: Tensor | None = None,
        *,
        coefficient: float | Tensor = 0.0,
        dead: Tensor | None = None,
    ) -> Losses:
        if target is not None:
            raise ArgumentError("matching pursuit reconstructs what it reads: give no target")
        start = self._centered(self.normalized(self._expected(x)))
        feature, taken = self.pursue(start.detach())
        _, left = self._taken(start, feature, taken)
        error, nothing = left.square().sum(-1).mean(), left.new_zeros(())
        token = taken.nonzero()[:, 0]
        fired = Pattern(token, feature[taken], len(x), self.n_features).counts()
        return Losses(error, error, nothing, nothing, fired.sum() / len(x), fired, left)

    @torch.no_grad()
    def pursue(self, left: Float[Tensor, "token d"]) -> tuple[Int[Tensor, "token k"], Bool[Tensor, "token k"]]:
        """Which feature each token takes at each step, and whether it still takes one."""
        n = len(left)
        feature = torch.zeros(n, self.k, dtype=torch.int64, device=left.device)
        taken = torch.zeros(n, self.k, dtype=torch.bool, device=left.device)
        going = left.norm(dim=-1) > self.enough
        for step in range(self.k):
            size, best = (left @ self.W_dec.T).max(-1)
            going = going & (size > 0)
            if not self.repeat:
                going = going & ~((feature[:, :step] == best[:, None]) & taken[:, :step]).any(-1)
            feature[:, step], taken[:, step] = best, going
            left = left - (size * going)[:, None] * self.W_dec[best]
            going = going & (left.norm(dim=-1) > self.enough)
            if not going.any():
                break
        return feature, taken

    def _taken(self, left: Tensor, feature: Tensor, taken: Tensor) -> tuple[Float[Tensor, "token k"], Tensor]:
        """How much is taken at each step, and what is left; as functions of the rows and the states."""
        sizes = []
        for row, going in zip(self.W_dec[feature].unbind(1), taken.unbind(1), strict=True):
            sizes.append((left * row).sum(-1) * going)
            left = left - sizes[-1][:, None] * row
        return torch.stack(sizes, 1), left
