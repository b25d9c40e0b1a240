"""Weight edits in closed form, dW = R^T A: what is written beside what is read, one row a fact.

Keys K (fact, neuron), residuals R (fact, d_model) = wanted values minus present ones, C = E[k k^T]. dW acts as dW k.

    least      A = (lambda I + K C^-1 K^T)^-1 K C^-1
                 lambda = 0: dW K^T = R^T, and E |dW k|^2 minimal among all that do (ROME of one fact, EMMET of many)
                 lambda > 0: minimal |dW K^T - R^T|^2 + lambda E |dW k|^2 (MEMIT), since
                 K (lambda C + K^T K)^-1 = (lambda I + K C^-1 K^T)^-1 K C^-1
    two keys   A = u / (k . u), u = C^-1 k',  with k the bare prompt's key and k' the mean one (ROME as published)
    null       A^T = P x, (P (K^T K + K_p^T K_p) P + ridge I) x = K^T, P onto the directions that keys hardly use
                 (AlphaEdit): keys outside that space are left as they are, whatever the facts
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import EditError
from caseback.model.anatomy.coerce import in_float64

Keys = Float[Tensor, "fact neuron"]


def least(keys: Keys, whitened: Keys, weight: float = 0.0) -> Keys:
    """What is read: exact at every key for ``weight`` 0, else least in E |dW k|^2 with that weight.

    ``whitened`` is K C^-1, or K itself where all directions count alike.

    Examples
    --------
    >>> read = least(torch.eye(2, 3).double(), torch.eye(2, 3).double())
    >>> (read @ torch.eye(2, 3).double().T).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    gram = in_float64(keys) @ in_float64(whitened).T
    gram = gram + weight * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    solution, failed = torch.linalg.solve_ex(gram, in_float64(whitened))
    if int(failed) or not bool(solution.isfinite().all()):
        raise EditError("two facts have the same key, so both cannot be written exactly: give other facts, or memit")
    return solution


def two_keys(bare: Keys, whitened_mean: Keys) -> Keys:
    """What published ROME reads: the mean key's direction, divided by the bare prompt's key along it, fact by fact."""
    return whitened_mean / (in_float64(bare) * whitened_mean).sum(-1, keepdim=True)


def spectrum(moment: Float[Tensor, "neuron neuron"]) -> tuple[Float[Tensor, " neuron"], Float[Tensor, "neuron neuron"]]:
    """Eigenvalues of the keys' second moment, ascending, and its eigenvectors as columns, in float64."""
    sizes, vectors = torch.linalg.eigh(in_float64(moment))
    return sizes, vectors


def null_space(
    spectrum: tuple[Float[Tensor, " neuron"], Float[Tensor, "neuron neuron"]], share: float
) -> Float[Tensor, "neuron free"]:
    """An orthonormal basis of the directions that together hold at most a share of the keys' second moment.

    Raises
    ------
    EditError
        Where no direction is free.

    Examples
    --------
    >>> null_space(spectrum(torch.diag(torch.tensor([1.0, 0.02, 0.001]))), 0.03).shape
    torch.Size([3, 2])
    """
    if not 0 < share < 1:
        raise EditError(f"share is {share}: expected a share of the keys' second moment, between 0 and 1")
    sizes, vectors = spectrum
    held = sizes.clamp_min(0).cumsum(0) / sizes.clamp_min(0).sum()
    n = int((held <= share).sum())
    if not n:
        raise EditError(
            f"no direction holds a share of {share} of the keys' second moment or less: give a larger share"
        )
    return vectors[:, :n]


def in_null_space(keys: Keys, free: Float[Tensor, "neuron free"], past: Keys | None, ridge: float) -> Keys:
    """What AlphaEdit reads, in the span of ``free`` whatever the keys; ``past`` are the keys of earlier edits.

    With B = [K; K_p] free, x = (B^T B + ridge I)^-1 (K free)^T are the columns of B^T (B B^T + ridge I)^-1 that belong
    to K: a system of as many equations as there are keys, or as free directions, whichever are fewer.
    """
    k = in_float64(keys) @ free
    all_keys = k if past is None else torch.cat([k, in_float64(past) @ free])
    few = len(all_keys) < all_keys.shape[1]
    gram = all_keys @ all_keys.T if few else all_keys.T @ all_keys
    gram = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return (torch.linalg.solve(gram, all_keys)[: len(k)] if few else torch.linalg.solve(gram, k.T).T) @ free.T
