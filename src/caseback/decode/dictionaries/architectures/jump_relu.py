"""JumpReLU: scores above a threshold of the feature's own are active; thresholds learn (entry 4.2.20).

    a = z H(z - theta)          L = |x - x^|^2 + lambda sum_i H(z_i - theta_i)

H's derivative is 0 almost everywhere. With a kernel K of width eps in its place (a rectangle: 1 on [-1/2, 1/2]), as if
scores were a little blurred,

    dH/dtheta = -K((z - theta) / eps) / eps          da/dtheta = -theta K((z - theta) / eps) / eps

the thresholds' gradient is right on average (Rajamanoharan et al. 2024b). H sees scores, not codes: of codes only the
half of the window above theta would count. ``penalty="tanh"`` is Anthropic's (January 2025): sum_i tanh(c a_i |d_i|),
with the kernel's gradients to the scores as well (``to_scores``). Thresholds are float32 at least and never below 0.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.registry import architecture
from caseback.errors import OutOfRange

Penalty = Literal["l0", "quadratic", "tanh"]


@architecture("jump_relu")
class JumpReLU(Dictionary):
    """Thresholds that learn.

    Parameters
    ----------
    bandwidth
        eps, in units of the normalized score: a tenth of what a code is where states have the norm sqrt(d). With .05
        few tokens teach a threshold, and planted features are missed; published ones of states of norm 1 have .001.
    threshold
        Where thresholds start.
    sparsity
        What is penalized: ``"l0"``, active features; ``"quadratic"``, (L0 / l0 - 1)^2 of a target ``l0``; ``"tanh"``.
    l0
        The target of the quadratic penalty.
    steepness
        c of the tanh.
    to_scores
        Whether the kernel's gradients also reach the scores.
    """

    options = ("bandwidth", "sparsity", "l0", "steepness", "to_scores")

    def __init__(
        self,
        *sizes: Any,
        bandwidth: float = 0.5,
        threshold: float = 0.01,
        sparsity: Penalty = "l0",
        l0: float = 32.0,
        steepness: float = 4.0,
        to_scores: bool = False,
        **options: Any,
    ):
        super().__init__(*sizes, **options)
        if not bandwidth > 0 or not l0 > 0 or not 0 <= threshold < 1e30:
            raise OutOfRange(
                f"bandwidth {bandwidth}, l0 {l0}, threshold {threshold}: expected more than 0, and a threshold from 0"
            )
        self.bandwidth, self.sparsity, self.l0 = bandwidth, sparsity, l0
        self.steepness, self.to_scores = steepness, to_scores
        dtype = torch.promote_types(self.W_enc.dtype, torch.float32)
        self.threshold = nn.Parameter(torch.full((self.n_features,), float(threshold), dtype=dtype))

    def keep(self, scores: Tensor) -> Tensor:
        return scores > self.threshold

    def select(self, scores: Tensor) -> Tensor:
        return scores > self.threshold - self.bandwidth / 2

    def activate(self, scores: Tensor, at: Tensor | slice) -> Tensor:
        return jump(scores, self.threshold[at], self.bandwidth, to_scores=self.to_scores)

    def penalty(self, scores: Tensor, codes: Tensor, at: Tensor | slice, n_tokens: int) -> Tensor:
        if self.sparsity == "tanh":
            return torch.tanh(self.steepness * codes * self.norms()[at]).sum() / n_tokens
        l0 = step(scores, self.threshold[at], self.bandwidth, to_scores=self.to_scores).sum() / n_tokens
        return l0 if self.sparsity == "l0" else (l0 / self.l0 - 1).square()

    def after_step(self) -> None:
        super().after_step()
        self.threshold.clamp_min_(0)

    def start_active(self, scores: Tensor, active: float) -> None:
        """Start all thresholds where so many features a token are active: from near 0 they would take long to rise."""
        count = round(active * len(scores))
        if 0 < count < scores.numel():
            self.threshold.fill_(max(float(self.threshold[0]), float(scores.flatten().topk(count).values.min())))


def step(z: Tensor, threshold: Tensor, width: float, *, to_scores: bool = False) -> Tensor:
    """H(z - theta), whose gradient is the kernel's."""
    return _Kernel.apply(z, threshold, width, to_scores, False)  # pyright: ignore[reportReturnType]


def jump(z: Tensor, threshold: Tensor, width: float, *, to_scores: bool = False) -> Tensor:
    """Z H(z - theta), whose gradient to theta is the kernel's times theta."""
    return _Kernel.apply(z, threshold, width, to_scores, True)  # pyright: ignore[reportReturnType]


class _Kernel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, threshold: Tensor, width: float, to_scores: bool, times_z: bool) -> Tensor:
        ctx.save_for_backward(z, threshold)
        ctx.width, ctx.to_scores, ctx.times_z = width, to_scores, times_z
        above = (z > threshold).to(z.dtype)
        return above * z if times_z else above

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        z, threshold = ctx.saved_tensors
        window = ((z - threshold).abs() <= ctx.width / 2).to(grad.dtype) * grad / ctx.width
        if ctx.times_z:
            window = window * threshold
        to_threshold = -window
        while to_threshold.ndim > threshold.ndim:  # whole rows: one threshold a column
            to_threshold = to_threshold.sum(0)
        to_z = (z > threshold).to(grad.dtype) * grad if ctx.times_z else None
        if ctx.to_scores:
            to_z = window if to_z is None else to_z + window
        return to_z, to_threshold.to(threshold.dtype), None, None, None
