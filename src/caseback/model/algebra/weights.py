"""The model's weights under the names used in formulas, in the orientation ``x @ W``.

    q = n W_Q + b_Q        z = pattern (n W_V + b_V)        attn = sum_h z_h W_O[h] + b_O        n = norm(x)
    mlp = (act(n W_gate + b_gate) * (n W_in + b_in)) W_out + b_out, or act(n W_in + b_in) W_out + b_out
    OV = W_V W_O           QK = W_Q W_K^T                   logits = final_norm(x) W_U + b_U

Each is a view of the parameters wherever the layout allows it, so looking copies nothing. Norms and multipliers stay
separate, in the anatomy; ``folded`` gives the weights with those multiplied in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from caseback.errors import AnatomyError, CasebackError, SiteAbsent
from caseback.model.algebra.factored import Factored
from caseback.model.algebra.under_edits import (
    edited_norm,
    edits_in_unembedding,
    expect_unedited_logits,
    pulled_through_end,
    with_side_terms,
)
from caseback.model.anatomy.anatomy import Anatomy, LayerParts
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.dense import Projection, bias_of, computes_in, weight_matrix
from caseback.model.anatomy.norms import Norm, at_least_float32
from caseback.model.anatomy.parameters import device_of, is_plain, parameter

if TYPE_CHECKING:
    from caseback.model.algebra.folding import Folded

T = TypeVar("T")
_SITE_OF = {"q": "q_in", "k": "k_in", "v": "v_in"}


class PerLayer(Generic[T]):
    """One weight of every layer: ``[5]`` is layer 5's, ``[5, 3]`` its head 3, ``stack()`` all layers in one.

    A slice or a list as first index, as in ``[:, 3]``, stacks the layers that it takes. Stacking copies; a single
    layer's weight is a view.
    """

    def __init__(self, name: str, read: Callable[[int], T], anatomy: Anatomy, repeats: bool = False):
        self.name, self._read, self._anatomy, self._repeats = name, read, anatomy, repeats

    def __len__(self) -> int:
        return self._anatomy.n_layers

    def __iter__(self) -> Iterator[T]:
        return (self._read(layer) for layer in range(len(self)))

    def __repr__(self) -> str:
        return f"<{self.name} of {len(self)} layers>"

    def __getitem__(self, index: Any) -> Any:
        first, *rest = index if isinstance(index, tuple) else (index,)
        if isinstance(first, slice | list):
            layers = range(len(self))[first] if isinstance(first, slice) else first
            taken = self._stack([self._anatomy.layer(i) for i in layers])
            return taken[(slice(None), *rest)] if rest else taken
        item = self._read(self._anatomy.layer(first))
        return cast(Any, item)[tuple(rest)] if rest else item

    def stack(self) -> T:
        """All layers in one tensor (layer, ...), or one ``Factored`` with ``layer`` as its first dimension.

        Raises
        ------
        CasebackError
            If layers differ in shape, with the shapes.
        """
        return self._stack(list(range(len(self))))

    def _stack(self, layers: list[int]) -> Any:
        items: list[Any] = [self._read(layer) for layer in layers]
        shapes = {tuple(item.shape) for item in items}
        if len(shapes) != 1:
            raise CasebackError(
                f"{self.name} cannot be stacked over layers {layers}: its shapes are {sorted(shapes)}. "
                f"Take one layer at a time, {self.name}[layer]"
            )
        return Factored.stack(items) if isinstance(items[0], Factored) else torch.stack(items)

    @property
    def per_head(self) -> PerLayer[T]:
        """The same with each key/value head repeated for every query head that it serves."""
        return PerLayer(f"{self.name}.per_head", self._per_head, self._anatomy) if self._repeats else self

    def _per_head(self, layer: int) -> Any:
        x: Any = self._read(layer)
        n_heads = self._anatomy.layers[layer].dims.n_heads
        return x if len(x) == n_heads else x.repeat_interleave(n_heads // len(x), 0)


def _layered(name: str, shape: str, repeats: bool = False) -> Any:
    def get(self: Weights) -> PerLayer[Tensor]:
        return PerLayer(name, lambda layer: self._at(name, layer), self.anatomy, repeats)

    return property(get, doc=f"{name} of a layer: {shape}.")


class Weights:
    """The weights of one model, read off its anatomy, as ``model.weights`` gives them; the model is never changed.

    Of a model under edits, side terms are in W_O and W_out, and edits of the final norm's output in its gain and bias,
    or in W_U and b_U where they mix units (refused where they are not affine, or not the same at all positions). Other
    edits are of activations, and in no weight.

    Names are W_E, W_pos, W_U, b_U and, one per layer, W_Q, W_K, W_V, W_O, W_in, W_gate, W_out with their biases
    b_Q ... b_out (zeros where the model has none, so that ``x @ W + b`` holds everywhere), the norms, and the circuits
    OV and QK. In layers with a mixture of experts, W_in, W_gate and W_out are the routed experts' (expert, ...) stacks.
    What a family does not have raises ``SiteAbsent`` with the reason.

    Examples
    --------
    ::

        weights = model.weights
        weights.W_Q[5]                     # (head, d_model, d_head), a view
        weights.W_K.per_head.stack()       # (layer, head, d_model, d_head), grouped heads repeated
        weights.OV[9, 6].svd()             # of a d_model x d_model matrix that is never formed
    """

    W_Q = _layered("W_Q", "(head, d_model, d_head)")
    W_K = _layered("W_K", "(kv_head, d_model, d_head)", repeats=True)
    W_V = _layered("W_V", "(kv_head, d_model, d_head)", repeats=True)
    W_O = _layered("W_O", "(head, d_head, d_model)")
    b_Q = _layered("b_Q", "(head, d_head)")
    b_K = _layered("b_K", "(kv_head, d_head)", repeats=True)
    b_V = _layered("b_V", "(kv_head, d_head)", repeats=True)
    b_O = _layered("b_O", "(d_model,)")
    W_in = _layered("W_in", "(d_model, neuron), with experts (expert, d_model, neuron)")
    W_gate = _layered("W_gate", "as W_in")
    W_out = _layered("W_out", "(neuron, d_model), with experts (expert, neuron, d_model)")
    b_in = _layered("b_in", "(neuron,), with experts (expert, neuron)")
    b_gate = _layered("b_gate", "as b_in")
    b_out = _layered("b_out", "(d_model,), with experts (expert, d_model)")

    def __init__(self, anatomy: Anatomy):
        self.anatomy = anatomy

    @property
    def W_E(self) -> Float[Tensor, "vocab d_model"]:
        """Token embeddings as the parameters have them, through their projection where there is one.

        Edits of ``embed`` are not in it: they act on what the embedding writes, as ``folded()`` has it.
        """
        weight, project = _of(self.anatomy.embed, "weight"), self.anatomy.embed_project
        whole = weight if project is None else weight @ _read(weight_matrix(project))
        return whole.to(self.anatomy.device)

    @property
    def W_pos(self) -> Float[Tensor, "pos d_model"]:
        """Position embeddings: row p is what position p adds."""
        module = self.anatomy.pos_embed
        if module is None:
            raise self._absent("W_pos", self.anatomy.lacks["pos_embed"])
        # OPT and similar families keep their first rows for padding.
        table = parameter(module, "weight")
        if table is None:
            raise self._absent("W_pos", "positions are computed (sinusoids), not learned")
        return _read(table)[int(getattr(module, "offset", 0)) :].to(self.anatomy.device)

    @property
    def W_U(self) -> Float[Tensor, "d_model vocab"]:
        """The unembedding, with the projection before it where there is one; without the logit scale.

        Raises
        ------
        EditError
            For a model under edits of ``logits``, which no matrix has made.
        """
        expect_tokens_out(self.anatomy, "W_U")
        expect_unedited_logits(self.anatomy, "W_U")
        whole = self._unembedded
        return pulled_through_end(self.anatomy, whole.T)[0].T if edits_in_unembedding(self.anatomy) else whole

    @property
    def b_U(self) -> Float[Tensor, " vocab"]:
        """The unembedding's bias."""
        bias = _bias(self.anatomy.unembed, self.anatomy.d_logits).to(self.anatomy.device)
        if not edits_in_unembedding(self.anatomy):
            return bias
        of_edits = pulled_through_end(self.anatomy, self._unembedded.T)[1]
        return bias if of_edits is None else bias + of_edits.to(bias)

    @property
    def _unembedded(self) -> Float[Tensor, "d_model vocab"]:
        """The unembedding's own matrix, behind the edits of what it reads."""
        project, matrix = self.anatomy.unembed_project, _read(weight_matrix(self.anatomy.unembed))
        whole = matrix if project is None else _read(weight_matrix(project)).to(matrix) @ matrix
        return whole.to(self.anatomy.device)

    attn_norm = property(lambda self: self._norms("attn_norm"), doc="The norm that attention reads through, or None.")
    mlp_norm = property(lambda self: self._norms("mlp_norm"), doc="The norm that the MLP reads through, or None.")
    attn_post_norm = property(lambda self: self._norms("attn_post_norm"), doc="The norm after attention, or None.")
    mlp_post_norm = property(lambda self: self._norms("mlp_post_norm"), doc="The norm after the MLP, or None.")

    @property
    def final_norm(self) -> Norm | None:
        """The norm before the unembedding."""
        return edited_norm(self.anatomy)

    @property
    def OV(self) -> PerLayer[Factored]:
        """W_V W_O of a layer's heads, (head, d_model, d_model) factored: what a head moves.

        Where a norm follows (Gemma-2, OLMo-2), the write is this up to the norm; ``folded().OV`` has its gain.
        """
        return PerLayer("OV", lambda i: Factored(self.W_V.per_head[i], self.W_O[i]), self.anatomy)

    @property
    def QK(self) -> PerLayer[Factored]:
        """W_Q W_K^T of a layer's heads, (head, d_model, d_model) factored: where a head attends.

        Biases and the scaling are left out. With rotary embeddings this is the part at distance 0, and ``qk`` gives the
        others; where queries and keys are normed, each score is this divided by two norms, times the norms' gains.
        """
        return PerLayer("QK", lambda i: Factored(self.W_Q[i], self.W_K.per_head[i].mT), self.anatomy)

    def qk(self, layer: int, head: int, offset: int = 0) -> Factored:
        """W_Q R W_K^T of one head, with R the rotation of a query at ``offset`` against a key at position 0.

        R is measured with the model's own rotary code (``rotary.rotation``), in one short forward pass, so it covers
        partial, interleaved and scaled rotary embeddings; it is the identity for a model without them.

        Raises
        ------
        CasebackError
            If queries or keys are normed or clipped on their way, so that no matrix gives the scores.
        """
        from caseback.model.algebra.rotary import rotation

        layer = self.anatomy.layer(layer)
        turn = rotation(self.anatomy, layer, offset)
        w_q, w_k = (at_least_float32(w[layer][head]) for w in (self.W_Q, self.W_K.per_head))
        return Factored(w_q @ turn, w_k.mT)

    def folded(self, *, value_bias: bool = False, centre_vocab: bool = False) -> Folded:
        """The same weights with norms, centering and multipliers folded in; the model is not changed.

        Parameters
        ----------
        value_bias
            Move b_V into b_O: a pattern's rows sum to one, so b_V W_O is added exactly once at every position.
        centre_vocab
            Center W_U and b_U over the vocabulary, which changes no probability.

        Raises
        ------
        CasebackError
            For ``value_bias`` if attention has a sink, so that the pattern's rows do not sum to one.
        """
        from caseback.model.algebra.folding import Folded

        return Folded(self.anatomy, value_bias=value_bias, centre_vocab=centre_vocab)

    def _norms(self, name: str) -> PerLayer[Norm | None]:
        return PerLayer(name, lambda layer: self._norm(name, layer), self.anatomy)

    def _norm(self, name: str, layer: int) -> Norm | None:
        module = getattr(self.anatomy.layers[layer], name)
        return None if module is None else self.anatomy.norms[module]

    def _at(self, name: str, layer: int) -> Tensor:
        """One layer's weight by its name, where prompts go: a copy only where a spread model has it elsewhere."""
        return self.in_place(name, layer).to(self.anatomy.device)

    def in_place(self, name: str, layer: int) -> Tensor:
        """One layer's weight on that layer's own device, a view of the parameter wherever the model allows."""
        kind, part = name.split("_")
        p = self.anatomy.layers[layer]
        if part in ("Q", "K", "V"):
            projection = self._projection(p, part.lower())
            if kind == "W":
                return _read(projection.weight())
            bias = projection.bias()
            return _zeros(projection.module, *projection.rows.shape) if bias is None else bias.detach()
        if part == "O":
            matrix = with_side_terms(self.anatomy, p.o, _read(weight_matrix(p.o)))
            if kind == "b":
                return _bias(p.o, matrix.shape[1])
            return matrix.unflatten(0, (p.dims.n_heads, p.d_z))
        return _read(self._experts(p, name) if p.experts is not None else self._dense(p, name))

    def _projection(self, p: LayerParts, which: str) -> Projection:
        projection = getattr(p, which)
        if projection is None:
            raise self._absent(f"W_{which.upper()}", self.anatomy.lacks[_SITE_OF[which]])
        return projection

    def _dense(self, p: LayerParts, name: str) -> Tensor:
        kind, part = name.split("_")
        if part == "gate" and p.w_gate is None and p.gate_up is None:
            raise self._absent(name, "the MLP has no gate")
        module = p.w_out if part == "out" else p.gate_up or (p.w_in if part == "in" else p.w_gate)
        if module is None:
            raise self._absent(name, "this layer has no dense MLP that its anatomy knows")
        matrix = weight_matrix(module)
        if part == "out" and kind == "W":
            return with_side_terms(self.anatomy, module, matrix)
        whole = matrix if kind == "W" else _bias(module, matrix.shape[1])
        if part == "out" or p.gate_up is None:
            return whole
        family = self.anatomy.family
        return _half(whole, part, family.gate_first, family.gate_interleaved)

    def _experts(self, p: LayerParts, name: str) -> Tensor:
        """The routed experts' stack, under the names that transformers uses for such parameters."""
        kind, part = name.split("_")
        experts = cast(nn.Module, p.experts)
        held = {name: _of(experts, name) for name, _ in experts.named_parameters(recurse=False)}
        fused = "gate_up_proj" in held and part != "out"
        own = {"in": "up_proj", "gate": "gate_proj", "out": "down_proj"}[part]
        key = "gate_up_proj" if fused else own
        if key not in held or held[key].ndim != 3:
            raise self._absent(name, f"its experts keep {', '.join(held) or 'no stacked parameters'}, no {key}")
        if not is_plain(held[key]):
            raise AnatomyError(
                f"{type(experts).__name__} keeps {key} quantized, so its experts' matrices cannot be read: load the "
                "model without quantization (for MXFP4: quantization_config=Mxfp4Config(dequantize=True))"
            )
        matrix = held[key] if self._reads_rows(p, held) else held[key].mT
        if kind == "b":
            bias = held.get(f"{key}_bias")
            matrix = matrix.new_zeros(len(matrix), matrix.shape[-1]) if bias is None else bias
        concatenated = getattr(p.experts, "is_concatenated", True)
        return _half(matrix, part, self.anatomy.family.gate_first, not concatenated) if fused else matrix

    def _reads_rows(self, p: LayerParts, held: dict[str, Any]) -> bool:
        """Whether experts' matrices are stored as (d_in, d_out): as the module says, or by which side is d_model."""
        transposed = getattr(p.experts, "is_transposed", None)
        if transposed is not None:
            return bool(transposed)
        d_model, (rows, cols) = self.anatomy.d_model, held["down_proj"].shape[1:]
        if rows != cols:
            return cols == d_model
        return "gate_up_proj" in held and held["gate_up_proj"].shape[1] == d_model

    def _absent(self, name: str, why: str) -> SiteAbsent:
        return SiteAbsent(f"this model ({self.anatomy.model_type}) has no {name}: {why}")


def _half(x: Tensor, part: str, gate_first: bool, interleaved: bool) -> Tensor:
    """The gate's or the input's columns, of a projection that holds both."""
    index = 0 if (part == "gate") == gate_first else 1
    return x[..., index::2] if interleaved else x.chunk(2, -1)[index]


def _of(module: nn.Module, name: str) -> Tensor:
    """A parameter that is known to be there."""
    return _read(parameter(module, name))


def _read(x: Any) -> Tensor:
    """A parameter without its gradient, sharing its storage."""
    return x.detach()


def _zeros(module: nn.Module, *shape: int) -> Tensor:
    return torch.zeros(shape, dtype=computes_in(module), device=device_of(module))


def _bias(module: nn.Module, size: int) -> Tensor:
    bias = bias_of(module)
    return _zeros(module, size) if bias is None else bias.detach()
