"""The exact Gauss-Newton matrix of the loss, as products with a vector, and two ways to invert it by them.

    G v = (1/n) sum_z sum_t J^T (diag(p) - p p^T) J v         J v by forward differentiation, J^T u by backward

    conjugate gradients    minimizes |(G + lambda) x - b| over growing Krylov spaces
    LiSSA                  x <- b + (1 - (G + lambda) / sigma) x, each step with some of the examples; x / sigma

For cross-entropy G is the Fisher matrix, and the Hessian itself where logits are linear in the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from caseback.errors import OutOfRange
from caseback.jobs.progress import progress_bar
from caseback.localize.inputs.training.examples import Batch, Example, batches
from caseback.localize.inputs.training.matrices import Matrix, lookup_scale
from caseback.localize.inputs.training.per_example import factors
from caseback.localize.inputs.training.projection import Whole, width
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.model import Model
from caseback.model.running.passing import hooked, undisturbed
from caseback.model.running.run import inputs_of
from caseback.model.running.undo import as_found

Product = Callable[[Tensor, Sequence[Batch]], Tensor]


@dataclass(eq=False)
class GaussNewton:
    """G of a corpus, over some matrices laid out as whole gradients are.

    Attributes
    ----------
    model, matrices
        The model, and which of its matrices.
    batches
        The corpus.
    reduction
        ``"sum"`` or ``"mean"`` over an example's predictions.
    """

    model: Model
    matrices: Sequence[Matrix]
    batches: Sequence[Batch]
    reduction: str = "sum"
    layout: Whole = field(init=False)

    def __post_init__(self) -> None:
        self.layout = Whole(self.matrices)

    @classmethod
    def of(
        cls,
        model: Model,
        matrices: Sequence[Matrix],
        examples: Sequence[Example],
        reduction: str,
        token_budget: int | None,
    ) -> GaussNewton:
        return cls(model, matrices, list(batches(examples, model.device, token_budget=token_budget)), reduction)

    def product(
        self, vector: Float[Tensor, " parameter"], some: Sequence[Batch] | None = None
    ) -> Float[Tensor, " parameter"]:
        """G v, over all examples or over some batches of them."""
        some = self.batches if some is None else some
        total = torch.zeros_like(vector)
        for batch in some:
            total += self._of_batch(vector, batch)
        return total / sum(len(batch.numbers) for batch in some)

    @as_found
    def _of_batch(self, vector: Tensor, batch: Batch) -> Tensor:
        directions = [
            vector[segment].view(m.d_in, m.d_out)
            for segment, m in zip(self.layout.segments, self.matrices, strict=True)
        ]

        # the fused kernels of attention have no forward derivative, and some backward functions have none either
        with (
            undisturbed(self.model.anatomy, grad=False),
            forward_ad.dual_level(),
            sdpa_kernel(SDPBackend.MATH),
            _moving(self.matrices, directions),
        ):
            logits = self.model.hf(**inputs_of(batch.tokens, self.model.hf), use_cache=False).logits
            z, moved = forward_ad.unpack_dual(at_least_float32(logits))
        p = z.softmax(-1)
        moved = torch.zeros_like(p) if moved is None else moved
        pulled = p * (moved - (p * moved).sum(-1, keepdim=True))
        weight = batch.counted.to(p)
        if self.reduction == "mean":
            weight = weight / weight.sum(-1, keepdim=True)
        pulled = pulled * weight[..., None]
        gradients, _, _ = factors(
            self.model, batch, self.matrices, lambda logits, _: (at_least_float32(logits) * pulled).sum((1, 2))
        )
        return torch.cat([f.summed().flatten() for f in gradients]).to(vector)

    @property
    def width(self) -> int:
        return width(self.layout)


@contextmanager
def _moving(matrices: Sequence[Matrix], directions: Sequence[Tensor]) -> Iterator[None]:
    """Let every matrix move in a direction: what it writes carries the change as its tangent."""
    with hooked() as hooks:
        for matrix, direction in zip(matrices, directions, strict=True):
            for use in matrix.uses:
                hooks.after(use.module, _moved(matrix, use.how, direction), first=True)
        yield


def _moved(matrix: Matrix, how: str, direction: Tensor) -> Callable[..., Tensor]:
    def after(module: Any, args: tuple[Any, ...], out: Tensor) -> Tensor:
        primal, before = forward_ad.unpack_dual(out)
        direct = direction.to(primal)
        if how == "lookup":
            change = direct[args[0]] * lookup_scale(module, args[0], primal.detach())
        else:
            read = forward_ad.unpack_dual(args[0]).primal.detach()
            w = direct.T if how == "transposed" else direct
            change = read @ w[:-1] + w[-1] if matrix.bias else read @ w
        return forward_ad.make_dual(primal, change if before is None else before + change)

    return after


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], b: Tensor, *, steps: int = 100, tolerance: float = 1e-6
) -> tuple[Tensor, float]:
    """Solve M x = b for a positive definite M given as a product.

    Returns
    -------
    x, and the residual |M x - b| / |b| that is left.

    Examples
    --------
    >>> m = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
    >>> x, left = conjugate_gradients(lambda v: m @ v, torch.tensor([3.0, 4.0]))
    >>> torch.allclose(x, torch.ones(2)), left < 1e-6
    (True, True)
    """
    x, residual = torch.zeros_like(b), b.clone()
    direction, size = residual.clone(), residual @ residual
    goal = tolerance**2 * float(size)
    for _ in range(steps):
        if float(size) <= goal:
            break
        along = product(direction)
        rate = size / (direction @ along)
        x, residual = x + rate * direction, residual - rate * along
        before, size = size, residual @ residual
        direction = residual + size / before * direction
    return x, float(size.sqrt() / b.norm()) if float(b.norm()) > 0 else 0.0


def lissa(
    product: Callable[[Tensor, int], Tensor], b: Tensor, *, steps: int = 1000, scale: float
) -> Float[Tensor, " parameter"]:
    """Sum the first terms of M^-1 b = (1/sigma) sum_j (1 - M / sigma)^j b.

    Parameters
    ----------
    product
        M v in step j; it may be an estimate, another one in each step.
    b
        The right-hand side.
    steps
        Terms.
    scale
        sigma, no smaller than M's largest eigenvalue, or the sum runs away.

    Raises
    ------
    OutOfRange
        Where it did.
    """
    x = b.clone()
    for step in range(steps):
        x = b + x - product(x, step) / scale
        if not bool(x.isfinite().all()):
            raise OutOfRange(f"LiSSA ran away after {step + 1} steps: raise scale above {scale:g}, or damping")
    return x / scale


def solve(
    curvature: GaussNewton,
    queries: Float[Tensor, "query parameter"],
    lam: float,
    *,
    solver: str,
    steps: int,
    tolerance: float,
    seed: int,
    progress: bool = False,
) -> tuple[Float[Tensor, "query parameter"], list[float]]:
    """(G + lambda)^-1 q of every query, and the residual of each."""
    solutions, left = [], []

    def whole(v: Tensor) -> Tensor:
        return curvature.product(v) + lam * v

    draw = torch.Generator().manual_seed(seed)
    order = torch.randint(len(curvature.batches), (steps,), generator=draw).tolist()
    scale = 1.0
    if solver == "lissa":
        # each step sees one batch alone, whose curvature may be larger than the corpus's
        each = [_largest(lambda v, b=b: curvature.product(v, [b]), queries[0], seed) for b in curvature.batches]
        scale = 1.1 * (max(each) + lam)
    for query in progress_bar(queries, show=progress, what=solver, unit="query"):
        if solver == "cg":
            x, _ = conjugate_gradients(whole, query, steps=steps, tolerance=tolerance)
        else:
            x = lissa(
                lambda v, step: curvature.product(v, [curvature.batches[order[step]]]) + lam * v,
                query,
                steps=steps,
                scale=scale,
            )
        solutions.append(x)
        size = float(query.norm())
        left.append(float((whole(x) - query).norm()) / size if size else 0.0)
    return torch.stack(solutions), left


def _largest(product: Callable[[Tensor], Tensor], like: Tensor, seed: int, steps: int = 20) -> float:
    """The largest eigenvalue, by the power method."""
    v = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)
    size = 0.0
    for _ in range(steps):
        v = product(v / v.norm())
        size = float(v.norm())
    return size
