"""What neurons write, and units to compare them with: the same layer's rows in another basis.

    control row = g W_out / sqrt(m),    g a vector of m normal numbers

Control rows have the second moment of the layer's own, so whatever a layer writes much of they write too; what only the
basis of neurons has is gone. With L L^T = W_out^T W_out / m they are d normal numbers times L^T. Where a measure is of
what neurons write at their activations, rows are those of diag(activation) W_out, as of activations that were rotated
within the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look
from caseback.errors import SiteAbsent
from caseback.model.algebra.under_edits import expect_in_weights
from caseback.model.anatomy.coerce import in_float64

DRAWS, UNITS = 20, 20_000
"""Control rows are drawn so many times, but no more than so many units."""
ONE_OF = 8
"""One control row for so many neurons, where there are more than ``UNITS`` and each is costly to measure."""
BEYOND = 0.0513
"""-log(.95): as many beyond on average, none in 95 % of cases."""
Rows = Float[Tensor, "row d_model"]
Measure = Callable[[int, Rows], Tensor]
"""Of a layer and rows that are written there: (row,), or (row, 2) where units are ranked and scored on other halves."""


def neuron_layers(evidence: Evidence) -> list[int]:
    """Layers that have neurons.

    Raises
    ------
    SiteAbsent
        For a model without any.
    """
    if not evidence.neuron_layers:
        raise SiteAbsent("this model has no neurons of its own: each expert has its own")
    return evidence.neuron_layers


def draws(evidence: Evidence) -> int:
    """How many times control rows are drawn: of few units one draw says little about the best."""
    return max(1, min(DRAWS, UNITS // max(1, len(evidence.neurons))))


def written(evidence: Evidence) -> Iterator[tuple[int, Rows]]:
    """Each layer and its W_out, as it reaches the stream.

    Raises
    ------
    EditError
        For a model under edits of what MLPs write, other than additions and side terms.
    """
    expect_in_weights(evidence.model.anatomy, "what neurons write by their weights", {"mlp_out"})
    for layer in neuron_layers(evidence):
        yield layer, evidence.folded.W_out[layer]


def in_another_basis(rows: Rows, n: int, draw: torch.Generator) -> Rows:
    """So many rows of the same second moment.

    Examples
    --------
    >>> rows = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    >>> turned = in_another_basis(rows, 10_000, torch.Generator().manual_seed(0))
    >>> bool((turned.T @ turned / 10_000 - rows.T @ rows / 2).abs().max() < 0.2)
    True
    """
    wide = in_float64(rows)
    second = wide.T @ wide / len(rows)
    size = second.diagonal()
    # rows of a centering norm span a direction less than there are
    size += 1e-9 * size.mean() + torch.finfo(size.dtype).tiny
    root = torch.linalg.cholesky(second).to(rows)
    return torch.randn(n, rows.shape[1], generator=draw, dtype=rows.dtype).to(rows.device) @ root.T


def look_at_rows(
    evidence: Evidence,
    measure: Measure,
    beside: Mapping[str, Measure] | None = None,
    activation: Float[np.ndarray, "unit fold"] | None = None,
    power: int = 2,
) -> Look:
    """A look at what neurons write, against as many rows in another basis for the band, and others for the control.

    Parameters
    ----------
    evidence
        Whose neurons.
    measure
        Of a layer's rows.
    beside
        Further numbers, of the rows themselves.
    activation
        Multiplies each neuron's row before it is measured, by fold.
    power
        As for ``best``: 2 where the measure grows with a product, 1 where with its square.
    """
    layers = np.array([layer for layer, _ in evidence.neurons])
    many_draws = draws(evidence)
    draw = torch.Generator().manual_seed(evidence.seed)
    parts: list[list[Tensor]] = [[], [], []]
    more: dict[str, list[Tensor]] = {name: [] for name in beside or {}}
    for layer, rows in written(evidence):
        halves = [rows]
        if activation is not None:
            own = torch.as_tensor(activation[layers == layer]).to(rows)
            halves = [own[:, [fold]] * rows for fold in (0, -1)]
        parts[0].append(_both([measure(layer, some) for some in halves]))
        for part in parts[1:]:
            many = many_draws if part is parts[1] else 1
            others = [in_another_basis(some, many * len(some), draw) for some in halves]
            part.append(_both([measure_in_turn(measure, layer, some, len(rows)) for some in others]))
        for name, number in (beside or {}).items():
            more[name].append(number(layer, halves[-1]))
    score, second = (torch.cat(part).cpu().double().numpy() for part in (parts[0], parts[2]))
    first = [part[:, 0].cpu().double().numpy() for part in parts[1]]
    shown = {name: torch.cat(values).cpu().double().numpy() for name, values in more.items()}
    return Look(score[:, 0], score[:, 1], second[:, 1], best(first, power, many_draws), shown)


def beside_controls(
    evidence: Evidence, measure: Measure, draw: torch.Generator, many: int = 1
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """A costly measure, (row, number), of all neurons' rows, and of two draws of control rows; few stand for many.

    The first draw is by layer, and may be of several times the units; the second has a row a neuron.
    """
    own: list[Tensor] = []
    first: list[np.ndarray] = []
    second: list[Tensor] = []
    one_of = ONE_OF if len(evidence.neurons) > UNITS else 1
    for layer, rows in written(evidence):
        some = -(-len(rows) // one_of)
        others = [in_another_basis(rows, n, draw) for n in (many * some, some)]
        parts = measure(layer, torch.cat([rows, *others])).split([len(rows), many * some, some])
        own.append(parts[0])
        of_draws = parts[1].unflatten(0, (many, some)).repeat(1, one_of, 1)[:, : len(rows)]
        first.append(of_draws.flatten(0, 1).cpu().numpy())
        second.append(parts[2].repeat(one_of, 1)[: len(rows)])
    return torch.cat(own).cpu().numpy(), first, torch.cat(second).cpu().numpy()


def measure_in_turn(measure: Measure, layer: int, rows: Rows, step: int) -> Tensor:
    """A measure of rows, as many at a time as a layer has."""
    return torch.cat([measure(layer, some) for some in rows.split(step)])


def _both(values: list[Tensor]) -> Float[Tensor, "row 2"]:
    """What a row is ranked by and what it scores."""
    return torch.stack([own if own.ndim == 1 else own[:, i] for i, own in ((0, values[0]), (-1, values[-1]))], 1)


def by_layer(evidence: Evidence, values: Float[np.ndarray, " unit"]) -> list[Float[np.ndarray, " unit"]]:
    """One number a neuron, in parts of a layer."""
    layers = [layer for layer, _ in evidence.neurons]
    return [values[np.equal(layers, layer)] for layer in evidence.neuron_layers]


def best(control: Sequence[Float[np.ndarray, " unit"]], power: int = 1, draws: int = 1) -> float:
    """What the best of all units stays below by chance in 95 % of cases.

        sum over layers of k exp(-(q^r - u) / beta) = .0513 n,    u = x_(k+1)^r,  beta = mean of the k largest x^r - u

    Layers are unlike, so each has a tail of its own, in which x^r falls exponentially; so many units of n draws are
    then beyond q that in 95 % of single draws none is.

    Parameters
    ----------
    control
        By layer one number for each unit of every draw; what is below 0 counts as 0.
    power
        r: 1 for shares of variance, whose tails are like those of squares; 2 for products, as those of normal numbers.
    draws
        How many times all units were drawn. From one draw q is its best at least.

    Examples
    --------
    >>> draws = np.random.default_rng(0).exponential(size=(200, 2, 2000)) * [[1.0], [2.0]]
    >>> bool(0.9 < np.mean(draws[1:].max((1, 2)) <= best(list(draws[0]))) < 1)
    True
    """
    lower, spread, many = [], [], []
    for values in control:
        x = np.sort(np.maximum(np.nan_to_num(values), 0))[::-1] ** power
        k = max(1, min(50, len(x) // 20))
        u = x[min(k, len(x) - 1)]
        lower.append(u)
        spread.append(max(float((x[:k] - u).mean()), 1e-12 * max(float(x[0]), 1e-12)))
        many.append(k)
    u, beta, k = np.array(lower), np.array(spread), np.array(many)
    low, high = float(u.max()), float((u + beta * np.log(k.sum() / (BEYOND * draws) + 1)).max())
    for _ in range(60):
        q = (low + high) / 2
        beyond = (k * np.exp(-np.maximum(q - u, 0) / beta)).sum()
        low, high = (q, high) if beyond > BEYOND * draws else (low, q)
    top = max(float(np.nan_to_num(values).max(initial=0)) for values in control) if draws == 1 else 0.0
    return max(top, high ** (1 / power))
