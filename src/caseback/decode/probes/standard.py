"""Features of many sites, standardized without more than one copy: (x - mean) / scale, and their mean products.

times:  (x - mean) (w / scale)        transposed:  ((x - mean)^T r) / scale        gram:  standardized x^T x / n
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.model.algebra.symmetric_product import symmetric_product


@dataclass(frozen=True)
class Standard:
    """Features about their mean, their scales, and the mean products of standardized ones.

    ``centered`` is the one copy of the data that is made, if any; scales are folded into what it is multiplied with. A
    feature that does not vary has scale 1.
    """

    centered: Float[Tensor, "site example d"]
    mean: Float[Tensor, "site d"]
    scale: Float[Tensor, "site d"]
    gram: Float[Tensor, "site d d"]

    @classmethod
    def of(cls, x: Float[Tensor, "site example d"], *, in_place: bool = False) -> Standard:
        """Of the examples that a probe is fitted to; ``in_place`` of a copy that nobody else reads."""
        n = x.shape[1]
        mean = x.mean(1)
        centered = x.sub_(mean[:, None]) if in_place else x - mean[:, None]
        gram = symmetric_product(centered) / n
        scale = gram.diagonal(dim1=1, dim2=2).sqrt()
        scale = scale.masked_fill(scale <= torch.finfo(x.dtype).eps * mean.abs() * 4, 1)
        return cls(centered, mean, scale, gram / (scale[..., None] * scale[:, None]))

    def at(self, some: slice) -> Standard:
        """Some of the sites."""
        return Standard(self.centered[some], self.mean[some], self.scale[some], self.gram[some])

    def weighted_gram(self, weight: Float[Tensor, "site example 1"]) -> Float[Tensor, "site d d"]:
        """Mean products of standardized features, each example with its weight."""
        products = symmetric_product(self.centered * weight.sqrt()) / self.centered.shape[1]
        return products / (self.scale[..., None] * self.scale[:, None])

    def times(self, w: Float[Tensor, "site d k"]) -> Float[Tensor, "site example k"]:
        """Standardized data times weights."""
        own = w / self.scale[..., None]
        if len(own) == 1:  # a batch of one is slower than none
            return (own[0].mT @ self.centered[0].mT).mT[None]
        # a matrix times one vector is half as fast the other way round
        return (own.mT @ self.centered.mT).mT

    def transposed(self, r: Float[Tensor, "site example k"]) -> Float[Tensor, "site d k"]:
        """Standardized data, transposed, times values of examples."""
        return (r.mT.contiguous() @ self.centered).mT / self.scale[..., None]

    def folded(self, w: Float[Tensor, "site d k"], b: Float[Tensor, "site k"]) -> tuple[Tensor, Tensor]:
        """Weights and intercepts of features as they are, of those of standardized ones."""
        own = w / self.scale[..., None]
        return own, b - (self.mean[:, None] @ own)[:, 0]


def loaded(matrix: Float[Tensor, "site d d"], diagonal: Float[Tensor, " site"]) -> Float[Tensor, "site d d"]:
    """A matrix with a number added to its diagonal at each site."""
    return matrix + diagonal[:, None, None] * torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
