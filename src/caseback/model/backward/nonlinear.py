"""The modules that are not linear: every norm, and every activation function.

The anatomy knows the norms of the stream and a dense MLP's activation. Others stand inside: norms of queries, keys and
latents, of what W_O or W_out reads, activations of experts. A norm is found as a module without parts whose class is
called one, and ``read_norm`` then checks that it is; an activation as a module of torch's or transformers' lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.norms import Norm, read_norm

_HOMES = ("transformers.activations", "torch.nn.modules.activation")
_NOT_ELEMENTWISE = (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d, nn.GLU, nn.MultiheadAttention)


def norm_modules(anatomy: Anatomy) -> Iterator[nn.Module]:
    """Every norm of the model: those of the stream, and those inside attention and MLPs."""
    for module in anatomy.hf.modules():
        named = "norm" in type(module).__name__.lower() and not any(True for _ in module.children())
        if named or module in anatomy.norms:
            yield module


def all_norms(anatomy: Anatomy) -> Iterator[tuple[nn.Module, Norm]]:
    """Every norm of the model with what it does.

    Raises
    ------
    AnatomyError
        For one that is neither LayerNorm nor RMSNorm.
    """
    for module in norm_modules(anatomy):
        weight: Any = getattr(module, "weight", None)
        width = weight.shape[-1] if isinstance(weight, Tensor) else anatomy.d_head
        yield module, anatomy.norms.get(module) or read_norm(module, width)


def activations(anatomy: Anatomy) -> Iterator[nn.Module]:
    """Every activation function of the model that is a module of its own."""
    named = {id(p.act) for p in anatomy.layers}
    for module in anatomy.hf.modules():
        listed = type(module).__module__ in _HOMES and not isinstance(module, _NOT_ELEMENTWISE)
        if listed or id(module) in named:
            yield module
