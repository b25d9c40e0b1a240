"""Cross-layer transcoders: a feature reads at one layer and writes at that one and all after it (Ameisen et al. 2025).

    a^s = select(W_enc^s (x^s) + b_enc^s)                 x^s: what the MLP of layer s reads
    y^t = sum_{s <= t} a^s W_dec^{s -> t} + b_dec^t       what the MLP of layer t writes
    L   = sum_t |y^t - y^t'|^2 + lambda penalty           |d_i| = |W_dec^{s -> .}_i|, of all that feature i writes

Features are numbered through the layers: those of layer s are s F to (s + 1) F - 1, and ``W_enc`` (feature, d_in) has a
row for each. ``W_dec`` has as many rows for a feature as layers that it writes to, side by side: ``decoder(s)`` is
(F, L - s, d_out).

A feature of layer s writes L - s rows at once: entries are ordered by layer and token, each layer's are one sum over
bags whose rows are (L - s) d_out wide, and these sums are added. Beyond the scores, a step costs little more than its
entries do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from caseback.decode.dictionaries.architectures.batch_topk import BatchTopK
from caseback.decode.dictionaries.architectures.jump_relu import JumpReLU
from caseback.decode.dictionaries.architectures.several_sources import SeveralSources, expect_sources
from caseback.decode.dictionaries.architectures.standard import Standard
from caseback.decode.dictionaries.architectures.topk import TopK
from caseback.decode.dictionaries.facts import Facts
from caseback.decode.dictionaries.registry import architecture
from caseback.decode.dictionaries.sparse import Pattern, pattern_of_rows, sparse_decode, with_gradient
from caseback.errors import ArgumentError, OutOfRange
from caseback.model.arguments import checked

OWN = ("n_layers", "start_across", "shared")


@checked
class CrossLayerTranscoder(SeveralSources):
    """A dictionary of all layers' MLPs.

    Parameters
    ----------
    d_in, d_out
        Widths of what each layer's MLP reads and writes.
    n_features
        All features, of all layers: a multiple of ``n_layers``.
    n_layers
        How many layers.
    start_across
        Whether features write to later layers at the start; if not, training starts from a set of transcoders.
    shared
        Whether a feature writes one and the same row to all its layers.
    facts
        What the weights do not tell. Nothing is subtracted from what is read.
    """

    k_aux: int

    def __init__(
        self,
        d_in: int,
        n_features: int,
        d_out: int | None = None,
        *,
        n_layers: int,
        start_across: bool = True,
        shared: bool = False,
        facts: Facts | None = None,
        **more: Any,
    ):
        expect_sources(n_layers)
        if n_features % n_layers:
            raise OutOfRange(f"{n_features} features of {n_layers} layers: expected a multiple of the layers")
        facts = replace(facts or Facts(site="mlp_in", target="mlp_out"), centered=False, unit_rows=False)
        super().__init__(d_in, n_features, d_out, facts=facts, **more)
        self._set_sources(n_layers)
        self.n_layers, self.start_across, self.shared = n_layers, start_across, shared
        self.per_layer = n_features // n_layers
        self.reach = [1] * n_layers if shared else list(range(n_layers, 0, -1))  # rows of a feature of each layer
        rows = self.W_dec.detach().view(n_layers, self.per_layer, self.d_out)
        blocks = []
        for own, reach in zip(rows, self.reach, strict=True):
            block = torch.zeros(self.per_layer, reach, self.d_out, dtype=rows.dtype)
            block[:] = own[:, None] / reach**0.5 if start_across else 0
            if not start_across:
                block[:, 0] = own
            blocks.append(block.flatten(0, 1))
        self.W_dec = nn.Parameter(torch.cat(blocks))
        self.b_dec = nn.Parameter(torch.zeros(n_layers, self.d_out, dtype=rows.dtype))

    def decoder(self, layer: int) -> Float[Tensor, "feature target d_out"]:
        """What each feature of a layer writes there and at each layer after it; one row if that is shared."""
        return self._blocks()[layer].unflatten(-1, (self.reach[layer], self.d_out))

    def reads(self, x: Float[Tensor, "token layer d_in"], token: Tensor, feature: Tensor) -> Tensor:
        """As of one layer's dictionary, each feature of its own layer's states."""
        rows, layer = self.W_enc[feature] * self.slopes(feature)[:, None], feature // self.per_layer
        if self.facts.normalization == "none":
            return rows
        _, factor = self._factors(self._expected(x))
        assert factor is not None
        rows = rows * factor.expand(len(x), -1, -1)[token, layer]
        return rows - rows.mean(-1, keepdim=True) if self.facts.normalization == "layer_norm" else rows

    def writes(
        self, x: Float[Tensor, "token layer d_in"], token: Tensor, feature: Tensor
    ) -> Float[Tensor, "entry target d_out"]:
        """What one unit of some features of one layer writes to that layer and each after it.

        Raises
        ------
        ArgumentError
            For features of several layers, which write to different numbers of them.
        """
        layers = (feature // self.per_layer).unique().tolist()
        if len(layers) > 1:
            raise ArgumentError(f"features of layers {layers}: ask for those of one layer at a time")
        if not layers:
            return self.W_dec.new_zeros(0, 1, self.d_out)
        (layer,) = layers
        rows = self.decoder(layer)[feature - layer * self.per_layer].expand(-1, self.n_layers - layer, -1)
        match self.facts.normalization:
            case "none" | "scale":
                return rows / self.out_scale.expand(self.n_layers, 1)[layer:]
            case "layer_norm":
                return rows * self._expected(x).std(-1, keepdim=True)[token, layer:]
        _, factor = self._factors(self._expected(x))
        assert factor is not None
        return rows / factor[token, layer:]

    def _blocks(self) -> list[Tensor]:
        parts = self.W_dec.split([self.per_layer * reach for reach in self.reach])
        return [part.view(self.per_layer, -1) for part in parts]

    def norms(self) -> Float[Tensor, " feature"]:
        """The norm of all that each feature writes."""
        if self.shared:
            writes = torch.arange(self.n_layers, 0, -1, device=self.W_dec.device).sqrt()
            return (self.W_dec.norm(dim=1).view(self.n_layers, -1) * writes[:, None].to(self.W_dec.dtype)).flatten()
        return torch.cat([block.norm(dim=1) for block in self._blocks()])

    def by_row(self, features: Float[Tensor, " feature"]) -> Float[Tensor, " row"]:
        """A number of each feature, for each of its rows in ``W_dec``."""
        layers = features.view(self.n_layers, -1)
        return torch.cat([own.repeat_interleave(reach) for own, reach in zip(layers, self.reach, strict=True)])

    def fold_out(self, out: Float[Tensor, "layer 1"]) -> None:
        """Divide what is written to each layer by a number of the layer."""
        if self.shared and out.unique().numel() > 1:
            raise ArgumentError("rows that all layers share cannot be divided by another scale at each")
        rows = [out[-reach:].repeat(self.per_layer, 1) for reach in self.reach]
        self.W_dec.div_(torch.cat(rows))
        self.b_dec.div_(out)

    def read(self, x: Float[Tensor, "... layer d_in"]) -> Float[Tensor, "... feature"]:
        rows = self.W_enc.view(self.n_layers, self.per_layer, self.d_in)
        states = x.reshape(-1, self.n_layers, self.d_in).transpose(0, 1)
        scores = torch.baddbmm(self.b_enc.view(self.n_layers, 1, -1), states, rows.transpose(1, 2))
        return scores.transpose(0, 1).reshape(*x.shape[:-2], self.n_features)

    def read_entries(self, x: Tensor, scores: Tensor, pattern: Pattern) -> Tensor:
        values = scores.detach()[pattern.token, pattern.feature]
        row = pattern.token * self.n_layers + pattern.feature // self.per_layer  # the state that an entry reads
        rows = Pattern(row, pattern.feature, len(x) * self.n_layers, self.n_features)
        return with_gradient(values, x.flatten(0, 1), self.W_enc, self.b_enc, rows)

    def write(self, codes: Tensor, pattern: Pattern | None = None) -> Float[Tensor, "... layer d_out"]:
        if pattern is None and codes.layout == torch.strided:
            parts = codes.reshape(-1, self.n_layers, self.per_layer).unbind(1)
            written = self._added([part @ block for part, block in zip(parts, self._blocks(), strict=True)])
            return written.view(*codes.shape[:-1], self.n_layers, self.d_out)
        if pattern is None:
            codes = codes.coalesce()
            (token, feature), (n, width) = codes.indices(), codes.shape
            pattern, codes = Pattern(token, feature, n, width), codes.values()
        layer = pattern.feature // self.per_layer
        order = layer.argsort(stable=True)  # by layer, then by token
        counts = torch.bincount(layer, minlength=self.n_layers).tolist()
        own = [each[order].split(counts) for each in (codes, pattern.token, pattern.feature - layer * self.per_layer)]
        parts = []
        for block, values, token, feature in zip(self._blocks(), *own, strict=True):
            parts.append(sparse_decode(values, block, Pattern(token, feature, pattern.n_tokens, self.per_layer)))
        return self._added(parts)

    def _added(self, parts: list[Tensor]) -> Float[Tensor, "token layer d_out"]:
        """The sum of what features of each layer write, each to its own layers."""
        if self.shared:
            return torch.stack(parts, 1).cumsum(1)
        total = parts[0].clone()
        for layer, part in enumerate(parts[1:], 1):
            total[:, layer * self.d_out :] += part
        return total.view(-1, self.n_layers, self.d_out)

    def errors(self, codes: Tensor, pattern: Pattern | None, wanted: Tensor) -> tuple[Tensor, Tensor]:
        errors = wanted - self.write(codes, pattern) - self.b_dec
        return errors, errors.square().sum((-1, -2)).mean()

    def auxiliary(self, x: Tensor, error: Tensor, dead: Tensor | None) -> Tensor:
        """As ``Revived`` has it, with the best dead features of all layers at each token."""
        coefficient = getattr(self, "aux_coefficient", 0.0)
        if dead is None or not coefficient or not (some := dead.nonzero()[:, 0]).numel():
            return error.new_zeros(())
        with torch.no_grad():
            scores = self.read(x).to(x.dtype)
            best = scores[:, some].topk(min(max(1, self.k_aux), len(some)), dim=-1).indices
            pattern = pattern_of_rows(some[best], self.n_features)
        codes = self.read_entries(x, scores, pattern).relu()
        left = (error - self.write(codes, pattern)).square().sum((-1, -2)).mean()
        spread = (error - error.mean(0)).square().sum((-1, -2)).mean()
        return coefficient * torch.where(spread > 0, left / spread.clamp_min(1e-30), 0)


@architecture("cross_layer")
class CrossLayerStandard(CrossLayerTranscoder, Standard):
    """Rectified scores with an L1 penalty."""

    options = (*OWN, *Standard.options)


@architecture("cross_layer_topk")
class CrossLayerTopK(CrossLayerTranscoder, TopK):
    """The k highest scores of each token: of all layers, or of each.

    Parameters
    ----------
    k
        Active features a token, of all layers together, or of each layer.
    each_layer
        Whether every layer has its own k.
    """

    options = (*OWN, "each_layer", *TopK.options)

    def __init__(self, *sizes: Any, k: int, each_layer: bool = False, **options: Any):
        super().__init__(*sizes, k=k, **options)
        self.each_layer = each_layer
        if each_layer and k > self.per_layer:
            raise OutOfRange(f"k is {k}: expected at most {self.per_layer}, the features of a layer")

    def highest(self, ranked: Tensor, k: int) -> Tensor:
        if not self.each_layer:
            return super().highest(ranked, k)
        layers = ranked.unflatten(-1, (self.n_layers, self.per_layer))
        starts = torch.arange(self.n_layers, device=ranked.device)[:, None] * self.per_layer
        return (super().highest(layers, k) + starts).flatten(-2)


@architecture("cross_layer_batch_topk")
class CrossLayerBatchTopK(CrossLayerTranscoder, BatchTopK):
    """The highest scores of a batch, of all layers."""

    options = (*OWN, *BatchTopK.options)


@architecture("cross_layer_jump_relu")
class CrossLayerJumpReLU(CrossLayerTranscoder, JumpReLU):
    """Thresholds that learn."""

    options = (*OWN, *JumpReLU.options)
