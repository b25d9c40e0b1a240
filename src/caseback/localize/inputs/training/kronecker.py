"""EK-FAC: curvature as a Kronecker product whose eigenvalues are fitted anew (PRIMER 3.1.24).

    A = E_t[a a^T]     S = E_z[sum_t delta delta^T]     A = Q_A diag(alpha) Q_A^T,   S = Q_S diag(sigma) Q_S^T
    K-FAC     G = A (x) S, eigenvalues alpha_i sigma_j
    EK-FAC    the same eigenvectors, eigenvalues Lambda_ij = E_z[(Q_A^T dW Q_S)_ij^2]

E_t is over the tokens that predict, E_z over examples, dW an example's gradient: both estimate the second moment of an
example's gradient. With labels that the model draws itself that is the Fisher matrix, which for cross-entropy is the
Gauss-Newton matrix; with the corpus's own it is the empirical Fisher.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import MemoryShortage
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.localize.inputs.training.examples import Example, batches
from caseback.localize.inputs.training.matrices import Matrix
from caseback.localize.inputs.training.per_example import Factors, Objective, factors
from caseback.localize.inputs.training.projection import TwoSided, width
from caseback.model.anatomy.coerce import float64_device, in_float64
from caseback.model.running.model import Model


@dataclass(eq=False)
class Kronecker:
    """Curvature in the eigenbases of its factors.

    Attributes
    ----------
    basis
        Writes gradients in the eigenvectors kept, a segment per matrix.
    eigenvalues
        (k,) one per entry of such a row: Lambda, or alpha sigma without the correction.
    mean
        (matrix,) the mean over all eigenvalues of each matrix, also those that were not kept.
    share_kept
        The share of the eigenvalues' sum that is kept.
    """

    basis: TwoSided
    eigenvalues: Float[Tensor, " k"]
    mean: Float[Tensor, " matrix"]
    share_kept: float

    def solve(self, queries: Float[Tensor, "query k"], damping: float) -> Float[Tensor, "query k"]:
        """(G + lambda)^-1 q, lambda being ``damping`` times the mean eigenvalue of each matrix."""
        solved = torch.empty_like(queries)
        for segment, mean in zip(self.basis.segments, self.mean, strict=True):
            solved[:, segment] = queries[:, segment] / (self.eigenvalues[segment] + damping * mean).to(queries)
        return solved

    def tensors(self) -> dict[str, Tensor]:
        """All of it, to be written to a file."""
        sides = {
            f"{number}.{side}": x
            for number, pair in enumerate(self.basis.sides)
            for side, x in zip(("in", "out"), pair, strict=True)
        }
        return {**sides, "eigenvalues": self.eigenvalues, "mean": self.mean, "kept": torch.tensor(self.share_kept)}

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor], device: torch.device) -> Kronecker:
        """The same, read from a file."""
        held = {name: x.to(device) for name, x in tensors.items()}
        n = len(held["mean"])
        basis = TwoSided([(held[f"{i}.in"], held[f"{i}.out"]) for i in range(n)])
        return cls(basis, held["eigenvalues"], held["mean"], float(held["kept"]))


def fit(
    model: Model,
    examples: Sequence[Example],
    matrices: Sequence[Matrix],
    objective: Objective,
    *,
    corrected: bool = True,
    rank: int | None = None,
    token_budget: int | None,
    progress: bool = False,
) -> Kronecker:
    """Fit curvature to a corpus: one pass for the factors, one for the eigenvalues.

    Parameters
    ----------
    model, examples, matrices, objective
        What the gradients are taken of; the curvature is their second moment.
    corrected
        EK-FAC; else K-FAC.
    rank
        Eigenvectors kept on each side, those of the largest eigenvalues; all by default.
    token_budget, progress
        As for ``influence_functions``.

    Raises
    ------
    MemoryShortage
        For a matrix with a side above 16384, such as an embedding's vocabulary.
    """
    for matrix in matrices:
        if max(matrix.d_in, matrix.d_out) > (widest := limit("factor_side")):
            raise MemoryShortage(
                f"{matrix.name} is {matrix.d_in} x {matrix.d_out}: a factor of more than {widest} squared is not "
                "formed. Leave it out of the parts, or use a projection"
            )
    reads, backs = covariances(model, examples, matrices, objective, token_budget=token_budget, progress=progress)
    pairs = [(_eigen(a, rank), _eigen(s, rank)) for a, s in zip(reads, backs, strict=True)]
    dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
    basis = TwoSided([(a[1].to(model.device, dtype), s[1].to(model.device, dtype)) for a, s in pairs])
    sizes = torch.tensor([float(m.size) for m in matrices], dtype=torch.float64, device=reads[0].device)
    if not corrected:
        values = torch.cat([torch.outer(a[0], s[0]).flatten() for a, s in pairs])
        traces = torch.stack([a.trace() * s.trace() for a, s in zip(reads, backs, strict=True)])
    else:
        values = torch.zeros(width(basis), dtype=torch.float64, device=sizes.device)
        traces = torch.zeros(len(matrices), dtype=torch.float64, device=sizes.device)
        with progress_bar(total=len(examples), show=progress, what="eigenvalues", unit="example") as bar:
            for batch in batches(examples, model.device, token_budget=token_budget):
                gradients, _, _ = factors(model, batch, matrices, objective)
                for segment, piece in basis.pieces(gradients):
                    values[segment] += in_float64(piece).square().sum(0).to(values)
                traces += torch.stack([_squared(f) for f in gradients]).to(traces)
                bar.update(len(batch.numbers))
        values, traces = values / len(examples), traces / len(examples)
    return Kronecker(basis, values, traces / sizes, float(values.sum() / traces.sum()))


def covariances(
    model: Model,
    examples: Iterable[Example],
    matrices: Sequence[Matrix],
    objective: Objective,
    *,
    token_budget: int | None,
    progress: bool = False,
) -> tuple[list[Float[Tensor, "d_in d_in"]], list[Float[Tensor, "d_out d_out"]]]:
    """A and S of every matrix."""
    device = model.device
    at: dict[str, Any] = {"dtype": torch.float64, "device": float64_device(device)}
    reads = [torch.zeros(m.d_in, m.d_in, **at) for m in matrices]
    backs = [torch.zeros(m.d_out, m.d_out, **at) for m in matrices]
    n_tokens, n_examples = [0] * len(matrices), 0
    with progress_bar(show=progress, what="factors", unit="example") as bar:
        for batch in batches(examples, device, token_budget=token_budget):
            gradients, _, _ = factors(model, batch, matrices, objective)
            n_examples += len(batch.numbers)
            for i, f in enumerate(gradients):
                counted = batch.counted.to(f.read.device).repeat(1, f.read.shape[1] // batch.counted.shape[1])
                n_tokens[i] += int(counted.sum())
                read, back = f.read[counted], f.back.flatten(0, 1)
                reads[i] += (read.T @ read).to(reads[i])
                backs[i] += (back.T @ back).to(backs[i])
            bar.update(len(batch.numbers))
    return [a / n for a, n in zip(reads, n_tokens, strict=True)], [s / n_examples for s in backs]


def _eigen(moment: Float[Tensor, "d d"], rank: int | None) -> tuple[Float[Tensor, " k"], Float[Tensor, "d k"]]:
    """Eigenvalues from the largest down, none below 0, and their vectors."""
    values, vectors = torch.linalg.eigh(moment)
    return values.flip(0)[:rank].clamp_min(0), vectors.flip(1)[:, :rank].contiguous()


def _squared(f: Factors) -> Float[Tensor, ""]:
    """Sum over a batch of the squared size of the gradients, which need not be formed for that."""
    read, back = in_float64(f.read), in_float64(f.back)
    return ((read @ read.transpose(1, 2)) * (back @ back.transpose(1, 2))).sum()
