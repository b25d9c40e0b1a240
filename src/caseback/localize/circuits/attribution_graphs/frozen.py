"""A model on one prompt with attention patterns and norms' denominators held: linear between its MLPs.

    attention   x_q += sum_h sum_k a_hqk (N(x_k) W_V + b_V) W_O + b_O         N: the norm, its denominator frozen
    MLP         x_q += m_q                                                    m: given, not computed

A direction that is read of the stream above a layer is pulled down to one of the stream below it by a product with the
transposes, for many directions at once: no graph is kept and no forward pass is copied. A write is pushed up likewise.
Clipped values keep the slope that they have on the prompt, norms behind attention their denominator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Float
from torch import Tensor

from caseback.errors import SiteAbsent, TokensError
from caseback.model.algebra.under_edits import expect_followed
from caseback.model.algebra.writes import Branch, attention_branch
from caseback.model.anatomy.norms import Norm, at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.anatomy.stream import expect_sums
from caseback.model.backward.linearised import value_slopes
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike

_OUTSIDE = {"embed", "pos_embed", "q", "k", "scores", "pattern"}
_OUTSIDE |= {"mlp_pre", "mlp_gate", "mlp_post", "mlp_out"}
"""Sites that are given, not computed: a model under edits of these has a graph."""

Rows = Float[Tensor, "pos row d_model"]
"""Directions, or streams, at every position: positions first, since attention mixes these."""


@dataclass(frozen=True)
class Attention:
    """One layer's attention on the prompt, as a linear map of the stream."""

    pattern: Float[Tensor, "head query key"]
    slopes: Float[Tensor, "key head d_head"] | None
    branch: Branch
    values: Float[Tensor, "kv_head d_model d_head"]
    values_bias: Float[Tensor, "kv_head d_head"]
    norm: Norm | None
    scale: Float[Tensor, "pos 1"]

    def pull(self, above: Rows) -> Rows:
        """Directions read of what attention writes, as directions of the stream that it reads."""
        return self.pull_values(self.pull_z(above))

    def pull_z(self, above: Rows) -> Float[Tensor, "head query row d_head"]:
        """Directions read of what attention writes, as directions of each head's z."""
        above = self.branch.pull(above)
        if self.branch.scale is not None:
            above = above / self.branch.scale[0, :, None]
        heads, width, d_model = self.branch.weight.shape
        z = above @ self.branch.weight.reshape(heads * width, d_model).T
        return z.unflatten(-1, (heads, width)).permute(2, 0, 1, 3)

    def pull_values(self, z: Float[Tensor, "head query row d_head"]) -> Rows:
        """Directions of each head's z as directions of the stream."""
        heads, n, rows, width = z.shape
        v = (self.pattern.mT @ z.reshape(heads, n, rows * width)).view(heads, n, rows, width)
        if self.slopes is not None:
            v = v * self.slopes.transpose(0, 1)[:, :, None]
        groups = len(self.values)
        v = v.view(groups, heads // groups, n, rows, width).sum(1).permute(1, 2, 0, 3)
        below = v.reshape(n, rows, groups * width) @ self.values.transpose(1, 2).reshape(groups * width, -1)
        return below if self.norm is None else self.norm.pull(below, self.scale[:, None])

    def push(self, below: Rows, *, biases: bool = False) -> Rows:
        """What attention writes of streams, or of the constants that are added on the way besides."""
        written = self.push_z(self.push_values(below, biases=biases))
        constant = self.branch.constant(written.transpose(0, 1)) if biases else None
        return written if constant is None else written + constant.transpose(0, 1)

    def push_values(self, below: Rows, *, biases: bool = False) -> Float[Tensor, "head query row d_head"]:
        """Each head's z of streams."""
        v = self.values_of(below, biases=biases)
        (groups, _, rows, width), (heads, n, _) = v.shape, self.pattern.shape
        z = self.pattern.reshape(groups, heads // groups * n, n) @ v.reshape(groups, n, rows * width)
        return z.view(heads, n, rows, width)

    def moved(
        self, z: Float[Tensor, "head query row d_head"], values: Float[Tensor, "kv_head key row d_head"]
    ) -> Float[Tensor, "head query key"]:
        """What directions of each head's z read, by where it comes from, summed over rows."""
        (groups, n, _, _), heads = values.shape, len(z)
        read = z.reshape(groups, heads // groups * n, -1) @ values.reshape(groups, n, -1).mT
        return read.view(heads, n, n) * self.pattern

    def values_of(self, below: Rows, *, biases: bool = False) -> Float[Tensor, "kv_head key row d_head"]:
        """Values of streams, before a pattern mixes them: of each head, or of each group of heads that share them."""
        if self.norm is not None:
            below = self.norm.frozen(below, self.scale[:, None])
            below = below if not biases or self.norm.beta is None else below + self.norm.beta
        n, rows, _ = below.shape
        groups, _, width = self.values.shape
        v = below @ self.values.transpose(0, 1).reshape(-1, groups * width)
        v = v.view(n, rows, groups, width)
        v = v + self.values_bias if biases else v
        if self.slopes is not None:  # of each head
            v = v.repeat_interleave(len(self.pattern) // groups, 2) * self.slopes[:, None]
        return v.permute(2, 0, 1, 3)

    def push_z(self, z: Float[Tensor, "head query row d_head"]) -> Rows:
        """What attention writes of each head's z."""
        heads, width, d_model = self.branch.weight.shape
        written = z.permute(1, 2, 0, 3).reshape(*z.shape[1:3], -1) @ self.branch.weight.reshape(heads * width, d_model)
        return self.branch.push(written.transpose(0, 1)).transpose(0, 1)


class Frozen:
    """A model on one prompt, linear between its MLPs.

    Parameters
    ----------
    model
        The model.
    tokens
        One prompt.
    also
        Further sites that its run reads.

    Raises
    ------
    TokensError
        For several prompts.
    EditError
        For a model under edits of what is linear here: values, what heads write, the stream.
    SiteAbsent
        For families whose values are not linear in the stream, or whose heads do not write z W_O.
    """

    def __init__(self, model: Model, tokens: PromptsLike, also: tuple[Site, ...] = ()):
        anatomy = model.anatomy
        expect_followed(anatomy, "an attribution graph", _OUTSIDE)
        expect_sums(anatomy, "an attribution graph")
        for lacking in ("v_in", "z"):
            if lacking in anatomy.lacks:
                raise SiteAbsent(
                    f"this model ({anatomy.model_type}) has no attribution graph: {anatomy.lacks[lacking]}"
                )
        prompts = model.tokens(tokens)
        if len(prompts) != 1:
            raise TokensError(f"{len(prompts)} prompts: an attribution graph is of one")
        prompts = prompts.padded_on("left")  # of one prompt, no padding is left
        reads = [("resid_pre", 0), ("resid_post", -1), "attn_in", "pattern", "v", "z", "mlp_in", "mlp_out", *also]
        self.model = model
        self.run: Run = model.run(prompts, read=reads)
        self.tokens = self.run.tokens
        self.n_layers, self.n_positions = model.n_layers, self.tokens.shape[1]

    def at(self, name: str, layer: int | None = None) -> Float[Tensor, "pos ..."]:
        """A site of the prompt, in float32 at least."""
        return at_least_float32(self.run[name, layer][0].detach())

    @cached_property
    def attention(self) -> list[Attention]:
        """Every layer's."""
        return [self._attention(layer) for layer in range(self.n_layers)]

    def _attention(self, layer: int) -> Attention:
        model, p = self.model, self.model.anatomy.layers[layer]
        norm = None if p.attn_norm is None else model.anatomy.norms[p.attn_norm]
        read = self.at("attn_in", layer)
        slopes = value_slopes(model, self.run, layer)[0]
        return Attention(
            self.at("pattern", layer),
            None if bool((slopes == 1).all()) else slopes,
            attention_branch(model.anatomy, layer, self.run["z", layer].detach()),
            at_least_float32(model.weights.W_V[layer].detach()),
            at_least_float32(model.weights.b_V[layer].detach()),
            norm,
            read.new_ones(len(read), 1) if norm is None else norm.scale(read),
        )

    def parallel(self, layer: int) -> bool:
        """Whether a layer's MLP reads the stream that its attention reads."""
        return self.model.anatomy.layers[layer].parallel

    def mlp_norm(self, layer: int) -> tuple[Norm | None, Float[Tensor, "pos 1"]]:
        """The norm that a layer's MLP reads through, and its denominators."""
        module = self.model.anatomy.layers[layer].mlp_norm
        read = self.at("mlp_in", layer)
        if module is None:
            return None, read.new_ones(len(read), 1)
        norm = self.model.anatomy.norms[module]
        return norm, norm.scale(read)

    def final_norm(self) -> tuple[Norm | None, Float[Tensor, "pos 1"]]:
        """The norm before the logits, and its denominators."""
        module, stream = self.model.anatomy.final_norm, self.at("resid_post", self.n_layers - 1)
        if module is None:
            return None, stream.new_ones(len(stream), 1)
        norm = self.model.anatomy.norms[module]
        return norm, norm.scale(stream)
