"""Paths from token to logit through the weights alone (PRIMER 2.7).

With attention patterns held fixed, an attention-only model is an ensemble of shallow ones, one for every choice of
heads in ascending layers, in which a token passes from W_E through their OV circuits to W_U:

    direct path W_E W_U       full OV circuit W_E W_OV W_U       virtual head W_E W_OV^1 W_OV^2 W_U

Each is V x V and never formed: ``Factored`` holds it as two thin matrices, from which its largest entries, its rows for
chosen tokens and its eigenvalues are computed. Weights are folded, so a path is what the model computes up to the
norms' denominators, which are positive numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.model.algebra.factored import Factored
from caseback.model.algebra.under_edits import expect_in_weights
from caseback.model.algebra.weights import Weights
from caseback.model.anatomy.coerce import as_integer
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model

Head = tuple[int, int]
"""A head as (layer, head)."""


@dataclass(frozen=True)
class Path:
    """A way from token to logit.

    Attributes
    ----------
    heads
        The heads on the path, in the order of their layers; none for the direct path.
    matrix
        (vocab, vocab), factored: rows are tokens read, columns are logits.
    """

    heads: tuple[Head, ...]
    matrix: Factored

    def __str__(self) -> str:
        return " ".join(["W_E", *(f"OV[L{layer}H{head}]" for layer, head in self.heads), "W_U"])


@technique(
    role="decomposition",
    entry=("2.7",),
    citation="Elhage et al. 2021",
    cost="weights only: vocabulary x d_model x d_head per path",
)
def paths(model: Model, heads: Sequence[Head] = (), *, depth: int = 2, folded: bool = True) -> list[Path]:
    """The direct path and every path through some of these heads, in ascending layers.

    Parameters
    ----------
    model
        The model.
    heads
        Heads to route through, as (layer, head).
    depth
        At most so many heads per path.
    folded
        Fold norms into the matrices; False takes the parameters as they are.

    Returns
    -------
    list of Path
        Shortest first. For an attention-only model without norms whose layers have only these heads, the matrices sum
        to W_E (I + OV_1)(I + OV_2) ... W_U, each term weighted by its heads' patterns.

    Raises
    ------
    OutOfRange
        For a head that the model does not have.

    Examples
    --------
    ::

        for path in paths(model, [(0, 4), (1, 7)]):
            print(path, path.matrix.norm())
    """
    weights = _weights(model, folded)
    wanted = sorted({_head(model, head) for head in heads})
    start = Factored(at_least_float32(weights.W_E), at_least_float32(weights.W_U))
    listed = []
    for length in range(min(depth, len(wanted)) + 1):
        for chosen in combinations(wanted, length):
            if all(a[0] < b[0] for a, b in zip(chosen, chosen[1:], strict=False)):
                listed.append(Path(chosen, _through(weights, start, chosen)))
    return listed


def _through(weights: Weights, start: Factored, heads: Sequence[Head]) -> Factored:
    """W_E, the heads' OV circuits, W_U: thin after the first head."""
    if not heads:
        return start
    chain = weights.OV[heads[0]]
    for head in heads[1:]:
        chain = chain @ weights.OV[head]
    return start.left @ chain @ start.right


@technique(role="decomposition", entry=("2.7",), citation="Elhage et al. 2021", cost="weights only: d_model x d_head^2")
def virtual_head(model: Model, first: Head, second: Head, *, folded: bool = True) -> Factored:
    """One head's OV followed by another's, W_OV^1 W_OV^2: what the pair moves from where the first attends.

    Returns
    -------
    Factored
        (d_model, d_model) through the smaller of the two heads' widths.

    Raises
    ------
    OutOfRange
        For a head that the model does not have, or a second head that is not in a later layer.

    Examples
    --------
    ::

        virtual_head(model, (0, 4), (1, 7)).svd()
    """
    first, second = _head(model, first), _head(model, second)
    if first[0] >= second[0]:
        raise OutOfRange(f"head {second} cannot read head {first}: expected a later layer than {first[0]}")
    weights = _weights(model, folded)
    return weights.OV[first] @ weights.OV[second]


@technique(
    role="decomposition", entry=("2.7",), citation="Elhage et al. 2021", cost="weights only: rows x vocabulary x rank"
)
def top_tokens(
    model: Model, path: Path, tokens: str | int | Sequence[str | int], *, k: int = 10, largest: bool = True
) -> xr.DataArray:
    """The logits that a path raises (or lowers) most for each of some tokens: rows of its V x V matrix.

    Parameters
    ----------
    model
        The model.
    path
        One of ``paths``.
    tokens
        The tokens read, as text or ids; not prompts.
    k
        How many logits to keep per token.
    largest
        False for those that the path lowers most.

    Returns
    -------
    xr.DataArray
        (vocab, rank), with each entry's ``target`` and ``target_id`` as coordinates.

    Raises
    ------
    TargetError
        For text that is not one token.

    Examples
    --------
    ::

        direct = paths(model)[0]
        top_tokens(model, direct, [" Barack"]).to_dataframe()       # bigrams, from the weights
    """
    given = [tokens] if isinstance(tokens, str | int) else list(tokens)
    if not given or k < 1:
        raise OutOfRange(f"{k} logits for each of {len(given)} tokens: expected 1 or more of both")
    ids = [model.token_id(token, "token") for token in given]
    entries = path.matrix.rows(ids).dense()
    top = entries.topk(min(k, entries.shape[-1]), largest=largest)
    text = [[model.token_text(i) for i in row] for row in top.indices.tolist()]
    coords = {
        "vocab": ids,
        "token": ("vocab", [model.token_text(i) for i in ids]),
        "target": (("vocab", "rank"), text),
        "target_id": (("vocab", "rank"), top.indices),
    }
    attrs = {"name": "logit", "technique": top_tokens, "model": model, "path": str(path)}
    return labelled(top.values, ["vocab", "rank"], coords, **attrs)


def top_entries(
    matrix: Factored,
    k: int = 20,
    *,
    rows: Tensor | None = None,
    cols: Tensor | None = None,
    largest: bool = True,
    block: int | None = None,
) -> tuple[Float[Tensor, " k"], Tensor, Tensor]:
    """The largest entries of one factored matrix, with their rows and columns.

    Parameters
    ----------
    matrix
        A single matrix, such as ``path.matrix``.
    k
        How many entries.
    rows, cols
        Look only at these, (n,) ids; all unless given.
    largest
        False for the smallest.
    block
        How many rows are formed at once.

    Returns
    -------
    Values, row ids and column ids, largest first (smallest first with ``largest=False``).

    Examples
    --------
    >>> matrix = Factored(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0, -1.0]]))
    >>> top_entries(matrix, 2, block=2)
    (tensor([3., 2.]), tensor([2, 1]), tensor([0, 0]))
    """
    if matrix.batch:
        raise CasebackError(f"top_entries takes one matrix at a time, not the batch {matrix!r}: index it first")
    device = matrix.left.device
    rows = torch.arange(matrix.shape[0], device=device) if rows is None else rows.to(device)
    cols = torch.arange(matrix.shape[1], device=device) if cols is None else cols.to(device)
    sign = 1.0 if largest else -1.0
    best_so_far: tuple[list[Tensor], ...] = ([], [], [])
    right = matrix.right[:, cols]
    for chunk in rows.split(limit("path_rows", given=block)):
        entries = (matrix.left[chunk] @ right) * sign
        # The k best entries are in the k rows with the best maxima, and a maximum is cheaper than a sort.
        high = entries.amax(1).topk(min(k, len(chunk))).indices
        best = entries[high].flatten().topk(min(k, len(high) * len(cols)))
        block_best = best.values, chunk[high[best.indices // len(cols)]], cols[best.indices % len(cols)]
        for column, new in zip(best_so_far, block_best, strict=True):
            column.append(new)
        order = torch.cat(best_so_far[0]).argsort(descending=True, stable=True)[:k]
        for column in best_so_far:
            column[:] = [torch.cat(column)[order]]
    values, row, col = (column[0] for column in best_so_far)
    return values * sign, row, col


def copying_score(matrix: Factored) -> Float[Tensor, "*batch"]:
    """The sum of the eigenvalues divided by the sum of their moduli: 1 copies every token, -1 suppresses every token.

    Examples
    --------
    >>> float(copying_score(Factored(torch.eye(3), 2 * torch.eye(3))))
    1.0
    """
    values = matrix.eigenvalues()
    return values.real.sum(-1) / values.abs().sum(-1).clamp_min(torch.finfo(values.real.dtype).tiny)


@technique(
    role="decomposition", entry=("2.7",), citation="Elhage et al. 2021", cost="weights only: vocabulary x d_model^2"
)
def copying_scores(model: Model, *, folded: bool = True) -> xr.DataArray:
    """The copying score of every head's full OV circuit W_E W_OV W_U, by its eigenvalues.

    Besides zeros, W_E W_V W_O W_U has the d_head eigenvalues of W_O (W_U W_E) W_V.

    Returns
    -------
    xr.DataArray
        (layer, head), from -1 to 1; see ``copying_score``.

    Examples
    --------
    ::

        copying_scores(model).to_series().nlargest(10)
    """
    weights = _weights(model, folded)
    w_e, w_u = at_least_float32(weights.W_E), at_least_float32(weights.W_U)
    shared = min(len(w_e), w_u.shape[1])
    back = w_u[:, :shared] @ w_e[:shared]
    scores = [
        copying_score(Factored(at_least_float32(ov.right) @ back, at_least_float32(ov.left))) for ov in weights.OV
    ]
    coords = {"layer": range(model.n_layers), "head": range(model.n_heads)}
    attrs = {"name": "copying", "technique": copying_scores, "model": model, "folded": folded}
    return labelled(torch.stack(scores), ["layer", "head"], coords, **attrs)


def _weights(model: Model, folded: bool) -> Weights:
    expect_in_weights(model.anatomy, "what is said of weights alone")
    weights = Weights(model.anatomy)
    return weights.folded() if folded else weights


def _head(model: Model, head: Head) -> Head:
    if not isinstance(head, Sequence) or isinstance(head, str | bytes) or len(head) != 2:
        raise OutOfRange(f"a head is {head!r}: expected its layer and its number, such as (3, 2)")
    head = as_integer(head[0], "a head's layer", OutOfRange), as_integer(head[1], "a head's number", OutOfRange)
    layer = model.anatomy.layer(head[0])
    n_heads = model.anatomy.layers[layer].dims.n_heads
    if not -n_heads <= head[1] < n_heads:
        raise OutOfRange(f"layer {layer} has no head {head[1]}: its heads are 0 to {n_heads - 1}")
    return layer, int(head[1]) % n_heads
