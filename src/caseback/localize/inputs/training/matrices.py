"""Which of a model's weights a gradient is taken of: its linear maps, each as one matrix (d_in, d_out), ``x @ W``.

A bias is a further row of its matrix, read by an input of 1. A fused projection is one matrix. A matrix that is used
twice (tied embeddings) is one matrix with two uses, whose gradient is the sum of both. What has no matrix in ``x @ W``
is left out and counted: norms' gains, learned positions. Mixtures of experts route each token to other matrices:
their experts are refused, their attention is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from caseback.errors import AnatomyError, CasebackError, did_you_mean
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.dense import is_packed, weight_shape
from caseback.model.anatomy.parameters import expect_own_numbers

PARTS = ("attn", "mlp", "embed", "unembed")
DEFAULT_PARTS = ("attn", "mlp")


@dataclass(frozen=True, eq=False)
class Use:
    """One module that reads a matrix: as ``x @ W`` (linear), ``W[token]`` (lookup) or ``x @ W.T`` (transposed)."""

    module: nn.Module
    how: str = "linear"


@dataclass(frozen=True, eq=False)
class Matrix:
    """One matrix of weights, with its bias as a last row.

    Attributes
    ----------
    name
        The Hugging Face path of its module.
    d_in, d_out
        Its size, the bias's row included.
    bias
        Whether it has one.
    uses
        Who reads it.
    """

    name: str
    d_in: int
    d_out: int
    bias: bool
    uses: tuple[Use, ...]

    @property
    def size(self) -> int:
        return self.d_in * self.d_out


def is_linear(module: nn.Module) -> bool:
    """Whether a module is ``x @ W + b``: torch's Linear, or the Conv1D of GPT-2."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def matrices_of(anatomy: Anatomy, parts: str | Sequence[str] = DEFAULT_PARTS) -> list[Matrix]:
    """The matrices that some parts of a model are made of.

    Parameters
    ----------
    anatomy
        Of the model.
    parts
        ``"attn"`` and ``"mlp"`` of every layer, ``"embed"``, ``"unembed"``, or a pattern of Hugging Face module paths
        such as ``"model.layers.3.*"``. Of tied embeddings, ``"embed"`` with ``"unembed"`` is one matrix with both
        uses, either alone its own use of it.

    Raises
    ------
    CasebackError
        For a model under edits, an unknown part, or a pattern that no linear module answers to.
    AnatomyError
        Where a part holds experts or weights that are not linear maps.

    Examples
    --------
    >>> import caseback as cb
    >>> [m.name for m in matrices_of(cb.load("meadow").anatomy, "mlp")][:2]
    ['transformer.h.0.mlp.c_fc', 'transformer.h.0.mlp.c_proj']
    """
    expect_tokens_out(anatomy, "influence of training texts")
    if anatomy.standing:
        raise CasebackError(
            "this model stands under edits, and gradients of its matrices are of the model without them: give the "
            "model itself, or a copy with other weights, as caseback.edit.applied makes it of a fact's edit"
        )
    wanted = [parts] if isinstance(parts, str) else list(parts)
    if not wanted:
        raise CasebackError(f"parts is empty: expected some of {', '.join(PARTS)}, or patterns of module paths")
    names = {id(module): name for name, module in anatomy.hf.named_modules()}
    chosen: dict[int, nn.Module] = {}
    for part in wanted:
        modules = list(_of_part(anatomy, part, names))
        if not modules:
            near = did_you_mean(part, [*PARTS, *names.values()])
            raise CasebackError(f"no linear module answers to {part!r}. {near}")
        chosen.update((id(module), module) for module in modules)
    order = {key: place for place, key in enumerate(names)}
    ordered = sorted(chosen.values(), key=lambda m: (not isinstance(m, nn.Embedding), order[id(m)]))
    by_weight: dict[int, Matrix] = {}
    for module in ordered:
        expect_own_numbers(module, f"a gradient of {names[id(module)]}")
        weight: Any = module.weight
        one, held = _matrix(module, names[id(module)]), by_weight.get(id(weight))
        by_weight[id(weight)] = one if held is None else _shared(held, one)
    return list(by_weight.values())


def _shared(held: Matrix, other: Matrix) -> Matrix:
    """One matrix that another module reads too; an embedding's is a linear map's turned round."""
    if held.bias or other.bias:
        raise AnatomyError(f"{held.name} and {other.name} share weights but not a bias: choose one of them")
    how, use = held.uses[0].how, other.uses[0]
    if how == "lookup" and use.how == "linear":
        use = Use(use.module, "transposed")
    return Matrix(held.name, held.d_in, held.d_out, False, (*held.uses, use))


def _matrix(module: nn.Module, name: str) -> Matrix:
    if isinstance(module, nn.Embedding):
        return Matrix(name, module.num_embeddings, module.embedding_dim, False, (Use(module, "lookup"),))
    if isinstance(module, nn.Linear) and not _plain(module):
        raise AnatomyError(f"{name} ({type(module).__name__}) does more than x @ W + b: choose parts that leave it out")
    d_in, d_out = weight_shape(module)
    bias = getattr(module, "bias", None) is not None
    return Matrix(name, d_in + bias, d_out, bias, (Use(module),))


@torch.no_grad()
def _plain(module: nn.Linear) -> bool:
    """Whether a module is what its class says; a subclass of its own is tried on two rows."""
    if type(module).forward is nn.Linear.forward:
        return True
    rows = torch.linspace(-1, 1, 2 * module.in_features).sin().view(2, -1).to(module.weight)
    return torch.allclose(module.forward(rows), nn.functional.linear(rows, module.weight, module.bias), rtol=1e-2)


def _of_part(anatomy: Anatomy, part: str, names: dict[int, str]) -> Iterator[nn.Module]:
    if part == "embed":
        yield anatomy.embed
    elif part == "unembed":
        yield anatomy.unembed
    elif part in ("attn", "mlp"):
        for number, parts in enumerate(anatomy.layers):
            inside = [parts.attn] if part == "attn" else [parts.mlp, parts.mlp_beside, parts.w_in, parts.w_out]
            if part == "mlp" and parts.experts is not None:
                raise AnatomyError(
                    f"the MLP of layer {number} is a mixture of experts: its tokens go through different matrices, so "
                    "it has no per-example gradient of one linear map. Take parts=['attn']"
                )
            for root in inside:
                yield from () if root is None else _linear(root, names)
    else:
        if not any(character in part for character in "*?[."):
            raise CasebackError(f"part {part!r} is unknown. {did_you_mean(part, PARTS)}")
        for module in anatomy.hf.modules():
            if is_linear(module) and fnmatchcase(names[id(module)], part):
                yield module


def _linear(root: nn.Module, names: dict[int, str]) -> Iterator[nn.Module]:
    """The linear maps inside a module; refuses matrices of any other kind, rather than leave them out unsaid."""
    for module in root.modules():
        if is_linear(module) or is_packed(module):
            yield module
        elif "Norm" not in type(module).__name__ and any(p.ndim > 1 for p in module.parameters(recurse=False)):
            raise AnatomyError(
                f"{names[id(module)]} ({type(module).__name__}) has weights that are not a linear map: choose other "
                "parts, or patterns of module paths that leave it out"
            )


def matrix_attrs(matrices: Sequence[Matrix], hf: nn.Module) -> dict[str, Any]:
    """How much of the model is included, for attributes."""
    whole = sum({id(p): p.numel() for p in hf.parameters()}.values())
    size = sum(m.size for m in matrices)
    return {
        "parameters": float(size),
        "share_of_parameters": size / whole,
        "matrices": len(matrices),
        "tied": any(len(m.uses) > 1 for m in matrices),
    }


@torch.no_grad()
def lookup_scale(module: nn.Module, ids: Int[Tensor, "batch pos"], out: Float[Tensor, "batch pos d"]) -> float:
    """What an embedding module multiplies the rows it looks up by.

    Raises
    ------
    AnatomyError
        Where what it gives is not in proportion to its rows.
    """
    weight: Any = module.weight
    rows, out = in_float64(weight[ids]), in_float64(out)
    scale = float((rows * out).sum() / rows.square().sum())
    if not torch.allclose(out, scale * rows, rtol=2e-2 if weight.element_size() < 4 else 1e-4, atol=1e-6):
        raise AnatomyError(f"{type(module).__name__} does more than look rows up: leave 'embed' out of the parts")
    return scale
