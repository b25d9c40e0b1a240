"""The weights that can be read as words, by name, and what stands on either side of each.

    in, gate   d_model x neuron    the left side is read from the stream: in the tokens' embeddings, W_E
    out        neuron x d_model    the right side is written to the stream: in the unembedding, W_U
    q, k, v    d_model x d_head    the left side is read from the stream
    o          d_head x d_model    the right side is written to the stream
    ov, qk     d_model x d_model   read and written; read as a query and read as a key

One head's matrix is meant throughout; a key/value head that several query heads share is given under each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, SiteAbsent, did_you_mean
from caseback.model.algebra.factored import Factored
from caseback.model.algebra.weights import Weights
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.model import Model

Side = Literal["in", "out"]


@dataclass(frozen=True)
class Kind:
    """One sort of weight.

    Attributes
    ----------
    weight
        Its name in ``Weights``.
    left, right
        ``"in"`` for a side in the stream that is read, ``"out"`` for one that is written, and the dimension's name
        for a side that is not a direction of the stream.
    """

    weight: str
    left: str
    right: str

    @property
    def of_head(self) -> bool:
        return "neuron" not in (self.left, self.right)

    @property
    def circuit(self) -> bool:
        """Whether both sides are directions of the stream."""
        return self.weight in ("OV", "QK")

    @property
    def unit(self) -> str:
        """The dimension of the side that is not a direction of the stream."""
        return self.left if self.left not in ("in", "out") else self.right

    @property
    def side(self) -> Side:
        """How the side that is a direction of the stream is read as words."""
        return "out" if self.right == "out" else "in"


MATRICES = {
    "in": Kind("W_in", "in", "neuron"),
    "gate": Kind("W_gate", "in", "neuron"),
    "out": Kind("W_out", "neuron", "out"),
    "q": Kind("W_Q", "in", "d_head"),
    "k": Kind("W_K", "in", "d_head"),
    "v": Kind("W_V", "in", "d_head"),
    "o": Kind("W_O", "d_head", "out"),
    "ov": Kind("OV", "in", "out"),
    "qk": Kind("QK", "in", "in"),
}


def kind_of(name: str) -> Kind:
    """The sort of weight that a name means.

    Raises
    ------
    CasebackError
        For a name that is not in ``MATRICES``.
    """
    if name not in MATRICES:
        raise CasebackError(f"matrix {name!r} is unknown. {did_you_mean(str(name), list(MATRICES))}")
    return MATRICES[name]


def weights_of(model: Model, folded: bool) -> Weights:
    """The model's weights, with the norms and multipliers beside them folded in or without them."""
    return model.weights.folded() if folded else model.weights


def matrix_of(
    model: Model, weights: Weights, name: str, layer: int, head: int | None = None, expert: int | None = None
) -> Float[Tensor, "n m"] | Factored:
    """One matrix, in float32 at least; ``ov`` and ``qk`` as their factors.

    Parameters
    ----------
    model, weights
        The model, and its weights or a folding of them.
    name
        A key of ``MATRICES``.
    layer
        Which layer; negative ones from the last.
    head
        Which head, for all but ``in``, ``gate`` and ``out``.
    expert
        Which expert, in a layer whose MLP is a mixture of them.

    Raises
    ------
    CasebackError
        For an unknown name, or a head or an expert that is given or left out wrongly.
    UnknownSite
        For a layer that the model does not have.
    OutOfRange
        For a head or expert that it does not have.
    SiteAbsent
        For a weight that the model does not have.
    """
    kind, layer = kind_of(name), model.anatomy.layer(layer)
    if not kind.of_head:
        if head is not None:
            raise CasebackError(f"head={head}: {name!r} is the MLP's, which has no heads. Leave it out")
        return _of_mlp(model, getattr(weights, kind.weight)[layer], name, layer, expert)
    if expert is not None:
        raise CasebackError(f"expert={expert}: {name!r} is a head's, and experts are of MLPs. Leave it out")
    n_heads = model.anatomy.layers[layer].dims.n_heads
    if head is None:
        raise CasebackError(f"{name!r} is one head's: say which with head=0 to {n_heads - 1}")
    if not -n_heads <= head < n_heads:
        raise OutOfRange(f"head {head} is not there: layer {layer} has {n_heads}, 0 to {n_heads - 1}")
    weight: Any = getattr(weights, kind.weight).per_head[layer]
    if isinstance(weight, Factored):
        return Factored(at_least_float32(weight.left[head]), at_least_float32(weight.right[head]))
    return at_least_float32(weight[head])


def _of_mlp(model: Model, weight: Tensor, name: str, layer: int, expert: int | None) -> Tensor:
    if weight.ndim == 2:
        if expert is not None:
            raise SiteAbsent(f"expert={expert}: layer {layer} has no mixture of experts. Leave it out")
        return at_least_float32(weight)
    if expert is None:
        raise CasebackError(
            f"layer {layer} has {len(weight)} experts with a {name!r} each: say which with expert=0 to "
            f"{len(weight) - 1}"
        )
    if not -len(weight) <= expert < len(weight):
        raise OutOfRange(f"expert {expert} is not there: layer {layer} has {len(weight)}, 0 to {len(weight) - 1}")
    return at_least_float32(weight[expert])


def table_of(weights: Weights, side: str) -> Float[Tensor, "d_model vocab"]:
    """What a direction of the stream is multiplied by to become words: W_U, or W_E transposed."""
    return at_least_float32(weights.W_U if side == "out" else weights.W_E.mT)


def finite(vectors: Tensor, what: str) -> Tensor:
    """The vectors, in float32 at least.

    Raises
    ------
    CasebackError
        Where a number of them is NaN or infinite.
    """
    vectors = at_least_float32(vectors)
    if not bool(torch.isfinite(vectors).all()):
        raise CasebackError(f"{what} hold NaN or infinite numbers, which no words can be read from")
    return vectors
