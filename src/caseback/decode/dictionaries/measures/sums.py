"""Sums over tokens that all measures of a reconstruction are made of, by length of what is reconstructed.

    |t|^2,  |t - t^|^2,  |t^|^2,  <t, t^>,  cos(t, t^),  |t^| / |t|,  1,        and the vectors t and t - t^

Sums add up over batches and over machines. They are kept apart by the token's norm, in steps of 2^(1/4), so that a pass
that has ended can still leave long tokens out: the median norm, which says what is long, is known only then.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.measures.given import rows_in_hand
from caseback.model.anatomy.coerce import in_float64

STEPS = 4  # bins of the norm to a doubling
N_BINS = 64 * STEPS
_LOWEST = -32 * STEPS

NAMES = ("count", "target", "error", "written", "product", "cosine", "norm_ratio")


@dataclass
class Sums:
    """What is summed up of one dictionary.

    Attributes
    ----------
    numbers
        (bin, len(NAMES)), by the norm of what is reconstructed.
    target, error
        (bin, d), what is reconstructed and what is left of it.
    fired
        (feature), at how many tokens each is active.
    tokens
        How many there were.
    ratios
        1 - error / variance, summed over tokens and over blocks, each with the number that there was of them.
    """

    numbers: Float[Tensor, "bin name"]
    target: Float[Tensor, "bin d"]
    error: Float[Tensor, "bin d"]
    fired: Int[Tensor, " feature"]
    tokens: int
    ratios: Float[Tensor, "kind 2"]

    @classmethod
    def of(cls, dictionary: Dictionary) -> Sums:
        """Sums of nothing."""
        like = in_float64(dictionary.W_enc.new_zeros(()))
        return cls(
            like.new_zeros(N_BINS, len(NAMES)),
            like.new_zeros(N_BINS, dictionary.d_out),
            like.new_zeros(N_BINS, dictionary.d_out),
            like.new_zeros(dictionary.n_features, dtype=torch.int64),
            0,
            like.new_zeros(2, 2),
        )

    def add(self, target: Float[Tensor, "token d"], written: Float[Tensor, "token d"], fired: Tensor) -> None:
        """One block: what was to be reconstructed, what was, and how often each feature was active."""
        t, w = in_float64(target), in_float64(written)
        e = t - w
        square_t, square_e, square_w = (x.square().sum(1) for x in (t, e, w))
        product = (t * w).sum(1)
        length = square_t.sqrt().clamp_min(1e-300)
        cosine = product / (length * square_w.sqrt().clamp_min(1e-300))
        some = square_t > 0
        parts = (torch.ones_like(product), square_t, square_e, square_w, product, cosine, square_w.sqrt() / length)
        numbers = torch.where(some[:, None] | (torch.arange(len(NAMES), device=t.device) < 5), torch.stack(parts, 1), 0)
        bins = bin_of(length)
        self.numbers.index_add_(0, bins, numbers)
        self.target.index_add_(0, bins, t)
        self.error.index_add_(0, bins, e)
        self.fired += fired.to(self.fired.device)
        self.tokens += len(t)
        spread = (t - t.mean(0)).square().sum(1)
        varies = spread > 0
        by_token = torch.where(varies, 1 - square_e / spread.clamp_min(1e-300), 0).sum()
        self.ratios[0] += torch.stack([by_token, varies.sum().double()])
        if bool(varies.any()):
            self.ratios[1] += torch.stack([1 - square_e.sum() / spread.sum(), by_token.new_ones(())])

    def median_norm(self) -> float:
        """The middle of the bin in which the median norm is."""
        counts = self.numbers[:, 0].cumsum(0)
        return edge(int((counts < counts[-1] / 2).sum()) + 0.5)

    def total(self, up_to: int | None = None) -> dict[str, float]:
        """The sums over the bins below ``up_to``, all by default, with the squares of the vectors' sums."""
        numbers = self.numbers[:up_to].sum(0).tolist()
        squares = {name: float(x[:up_to].sum(0).square().sum()) for name, x in self.vectors().items()}
        return dict(zip(NAMES, numbers, strict=True)) | squares

    def vectors(self) -> dict[str, Tensor]:
        """The sums of vectors, by name."""
        return {"square_of_target": self.target, "square_of_error": self.error}


def bin_of(norm: Float[Tensor, " token"]) -> Int[Tensor, " token"]:
    """The number of the bin of each norm."""
    return ((norm.log2() * STEPS).floor().long() - _LOWEST).clamp(0, N_BINS - 1)


def edge(number: float) -> float:
    """The norm at which a bin begins.

    Examples
    --------
    >>> edge(int(bin_of(torch.tensor([1.0], dtype=torch.float64))))
    1.0
    """
    return 2.0 ** ((number + _LOWEST) / STEPS)


@torch.no_grad()
def coded(dictionary: Dictionary, x: Float[Tensor, "token d_in"]) -> tuple[Tensor, Tensor]:
    """The reconstruction of some tokens, and at how many of them each feature is active, a few rows at a time."""
    x = x.to(dictionary.W_enc.device)
    written, fired = [], torch.zeros(dictionary.n_features, dtype=torch.int64, device=x.device)
    for some in x.split(rows_in_hand(dictionary)):
        codes = dictionary.codes(some)
        written.append(dictionary.decode(codes, some.to(dictionary.W_enc.dtype)))
        fired += torch.bincount(codes.indices()[1], minlength=dictionary.n_features)
    return torch.cat(written), fired
