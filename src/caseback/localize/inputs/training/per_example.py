"""Gradients of every example of a batch by itself, in one forward and one backward pass.

    dL_b / dW = sum_t a_bt delta_bt^T         a: what the matrix read, delta: the gradient of what it wrote

Examples do not mix, so the gradient of the summed loss with respect to what a module wrote holds each example's own.
Hooks keep both factors; autograd forms no weight gradient at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from caseback.errors import AnatomyError, CasebackError
from caseback.localize.inputs.training.examples import Batch
from caseback.localize.inputs.training.matrices import Matrix, lookup_scale
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.model import Model
from caseback.model.running.passing import hooked, undisturbed
from caseback.model.running.run import inputs_of
from caseback.model.running.undo import as_found

Objective = Callable[[Tensor, Batch], Float[Tensor, " batch"]]
"""One differentiable number per example from logits (batch, pos, vocab)."""


@dataclass(frozen=True, eq=False)
class Factors:
    """A matrix's gradient in two factors, one row per example.

    Attributes
    ----------
    read
        (batch, pos, d_in), with a last entry of 1 where there is a bias.
    back
        (batch, pos, d_out), the objective's gradient at what was written.
    """

    read: Float[Tensor, "batch pos d_in"]
    back: Float[Tensor, "batch pos d_out"]

    def whole(self) -> Float[Tensor, "batch d_in d_out"]:
        """The gradient itself."""
        return self.read.transpose(1, 2) @ self.back

    def summed(self) -> Float[Tensor, "d_in d_out"]:
        """Its sum over the batch, without forming the examples' own."""
        return self.read.flatten(0, 1).T @ self.back.flatten(0, 1)


@as_found
def factors(
    model: Model, batch: Batch, matrices: Sequence[Matrix], objective: Objective
) -> tuple[list[Factors], Float[Tensor, " batch"], Tensor]:
    """Both factors of every matrix's gradient, for each example of a batch.

    Parameters
    ----------
    model
        The model.
    batch
        The examples.
    matrices
        The matrices.
    objective
        What is differentiated.

    Returns
    -------
    One ``Factors`` per matrix, the objective's values (batch,), and the logits (batch, pos, vocab), detached.

    Raises
    ------
    AnatomyError
        Where a matrix is not used as ``x @ W`` on every token, or its input is overwritten.
    """
    hf, shape = model.hf, batch.tokens.shape
    tape = _Tape(matrices, shape)
    with undisturbed(model.anatomy, grad=True), tape.hooked(), leaf(model.anatomy.embed) as start:
        logits = hf(**inputs_of(batch.tokens, hf), use_cache=False).logits
        values = objective(logits, batch)
        if values.shape != shape[:1]:
            raise CasebackError(
                f"the objective gave {tuple(values.shape)}, expected one number per example {shape[:1]}"
            )
        torch.autograd.grad(values.sum(), start[0])
    return tape.factors(batch.tokens.ids), values.detach(), logits.detach()


def rows(gradients: Sequence[Factors]) -> Float[Tensor, "batch parameter"]:
    """Whole gradients, all matrices one after another."""
    return torch.cat([f.whole().flatten(1) for f in gradients], 1)


@contextmanager
def leaf(embed: nn.Module) -> Iterator[list[Tensor]]:
    """Let the graph begin at what the embedding gives, since the parameters are frozen."""
    held: list[Tensor] = []

    def begin(_module: nn.Module, _args: Any, out: Tensor) -> Tensor:
        held.append(out.detach().requires_grad_())
        return held[-1].clone()  # what comes after may write into it

    with hooked() as hooks:
        hooks.after(embed, begin, first=True)
        yield held


class _Tape:
    """What every matrix read, and the gradient of what it wrote."""

    def __init__(self, matrices: Sequence[Matrix], shape: tuple[int, int]):
        self.matrices, self.shape = matrices, shape
        self.held: list[list[tuple[str, Tensor, int, Tensor]]] = [[] for _ in matrices]

    @contextmanager
    def hooked(self) -> Iterator[None]:
        with hooked() as hooks:
            for held, matrix in zip(self.held, self.matrices, strict=True):
                for use in matrix.uses:
                    hooks.after(use.module, self._hook(held, use.how))
            yield

    @staticmethod
    def _hook(held: list[Any], how: str) -> Callable[..., None]:
        def after(module: nn.Module, args: tuple[Any, ...], out: Tensor) -> None:
            read = args[0].detach()
            version = read._version
            scale = lookup_scale(module, read, out.detach()) if how == "lookup" else 1.0
            scaled = (lambda g: g) if scale == 1 else (lambda g: g * scale)
            if out.requires_grad:
                out.register_hook(lambda gradient: held.append((how, read, version, scaled(gradient))))

        return after

    def factors(self, ids: Tensor) -> list[Factors]:
        gradients = []
        for matrix, held in zip(self.matrices, self.held, strict=True):
            if len(held) < len(matrix.uses):
                raise AnatomyError(f"the forward pass did not use {matrix.name} as a linear map: choose other parts")
            pairs = [self._pair(matrix, *one) for one in held]
            # a model spread over devices leaves its factors where they arose
            read, back = (torch.cat([x.to(ids.device) for x in side], 1) for side in zip(*pairs, strict=True))
            gradients.append(Factors(read, back))
        return gradients

    def _pair(self, matrix: Matrix, how: str, read: Tensor, version: int, back: Tensor) -> tuple[Tensor, Tensor]:
        if read._version != version:
            raise AnatomyError(f"what {matrix.name} read was overwritten later in the pass: choose other parts")
        back = at_least_float32(self._by_token(matrix, back))
        if how == "lookup":
            return nn.functional.one_hot(read, matrix.d_in).to(back), back
        read = at_least_float32(self._by_token(matrix, read))
        if how == "transposed":
            return back, read
        if matrix.bias:
            read = torch.cat([read, read.new_ones(*read.shape[:-1], 1)], -1)
        return read, back

    def _by_token(self, matrix: Matrix, x: Tensor) -> Tensor:
        """(batch, pos, width), also where the model flattens batch and positions."""
        if x.ndim < 2 or x.numel() != x.shape[-1] * self.shape[0] * self.shape[1]:
            raise AnatomyError(
                f"{matrix.name} read {tuple(x.shape)} in a batch of {self.shape} tokens: it is not used once on "
                "every token, so its gradient has no share for each example. Choose other parts"
            )
        return x.reshape(*self.shape, -1)
