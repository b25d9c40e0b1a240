"""Conditional steering: only prompts whose states meet a condition are steered.

    s(prompt) = cos(h, v), h the mean of the prompt's states behind its first, or its last:      met where s > threshold

    cast:    s = cos(h, tanh(P h)), P onto the span of v, as the authors' code has it; its sign is lost

Here "larger" means larger; the authors' code compares by < under that word. What is met follows from the prompts
alone, before anything is steered, and nothing is remembered between calls: each prompt of a batch is judged by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.decode.directions.directions import Directions
from caseback.decode.probes.splits import two_classes
from caseback.decode.states import Place, States, read_means, read_states, sites_of
from caseback.errors import CasebackError, EditError
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.running.edit_values import indices_in, onto_span
from caseback.model.running.edits import Edit, listed
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

Reading = Literal["mean", "last"]
Measure = Literal["cosine", "cast"]


@checked
@dataclass(frozen=True, eq=False)
class Condition:
    """When to steer.

    Attributes
    ----------
    place
        Where prompts are read.
    basis
        (k, d), a direction or several; ``"cosine"`` takes one.
    threshold
        What the similarity is compared with.
    larger
        Whether the condition is met above the threshold, or below it.
    read
        The ``"mean"`` of a prompt's states, but for the first token's, which in many models is a hundred times as long
        and would be most of it; or the ``"last"``.
    measure
        ``"cosine"`` or ``"cast"``.
    table
        What was measured when it was found, if it was.
    """

    place: Place
    basis: Float[Tensor, "k d"]
    threshold: float
    larger: bool = True
    read: Reading = "mean"
    measure: Measure = "cosine"
    table: xr.Dataset | None = None

    def __post_init__(self) -> None:
        if not bool(self.basis.isfinite().all()) or not bool(self.basis.any(1).all()) or not len(self.basis):
            raise CasebackError("a condition's basis holds a vector of no length, or numbers that are not finite")
        if self.measure == "cosine" and len(self.basis) != 1:
            raise CasebackError(f"a cosine with {len(self.basis)} directions: give one, or measure='cast'")

    @checked
    def similarity(self, model: Model, prompts: PromptsLike) -> Float[Tensor, " batch"]:
        """Of each prompt with the condition's directions, -1 to 1.

        Raises
        ------
        CasebackError
            For a model without this place, or with another width there.
        """
        states = _read(model, prompts, [self.place], self.read)
        if states.x.shape[2] != self.basis.shape[1]:
            raise CasebackError(
                f"the condition is of width {self.basis.shape[1]}, {self.place} of {model.name!r} of "
                f"{states.x.shape[2]}"
            )
        return similarities(states.x[states.places.index(self.place)], self.basis, self.measure)

    @checked
    def met(self, model: Model, prompts: PromptsLike) -> Bool[Tensor, " batch"]:
        """Which prompts meet it."""
        similarity = self.similarity(model, prompts)
        return similarity > self.threshold if self.larger else similarity < self.threshold

    def __repr__(self) -> str:
        sign = ">" if self.larger else "<"
        return f"Condition({self.measure} of {self.read} {self.place} {sign} {self.threshold:.3g})"


@technique(entry=("B.17",), citation="Lee et al. 2024", cost="one forward of the prompts, up to the place that is read")
def conditional(model: Model, prompts: PromptsLike, condition: Condition, edits: Edit | Sequence[Edit]) -> list[Edit]:
    """Restrict edits to those prompts of a batch that meet a condition.

    Parameters
    ----------
    model
        The model.
    prompts
        The batch that will be run or continued.
    condition
        When to steer.
    edits
        What to do then.

    Returns
    -------
    list[Edit]
        The same edits with ``prompt=``, for this batch; none where no prompt meets the condition.

    Notes
    -----
    Entry B.17: Lee et al. 2024. The condition is checked on the prompt alone, once, as published.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> texts = ["Anna went to the zoo", "7 + 5 = 12", "The dog was old"]
    >>> direction = model.run(texts[1], read=["resid_post"])["resid_post", 1][0].mean(0, keepdim=True)
    >>> condition = Condition(Place("resid_post", 1), direction, 0.9)
    >>> [edit.describe() for edit in conditional(model, texts, condition, cb.Zero("z", layer=3))]
    ['Zero z L3 prompt [1]']
    """
    wanted = listed(edits)
    rows = condition.met(model, prompts).nonzero()[:, 0].tolist()
    count = len(model.tokens(prompts))
    chosen: list[Edit] = []
    for edit in wanted:
        if not isinstance(edit, Edit):
            raise EditError(f"{edit!r} is not an edit: expected one such as cb.Add(...), or several")
        named = indices_in(edit.prompt, count, "prompt", edit.site)
        both = rows if named is None else [row for row in rows if row in named]
        chosen += [replace(edit, prompt=both)] if both else []
    return chosen


@technique(
    entry=("B.17",), citation="Lee et al. 2024", cost="one forward of the prompts; no model is run for thresholds"
)
def find_condition(
    model: Model,
    prompts: PromptsLike,
    labels: Sequence[Any] | Tensor | np.ndarray,
    directions: Directions,
    *,
    positive: Any = None,
    read: Reading = "mean",
    measure: Measure = "cosine",
) -> Condition:
    """Find where to read a condition, its threshold, and on which side of it the condition is met.

    Every place of the directions, every threshold between two prompts and both sides are tried; the best F1 counts, and
    among thresholds as good the one in the middle of the widest gap.

    Parameters
    ----------
    model
        The model.
    prompts, labels
        Prompts that are to meet the condition and prompts that are not; best others than those that the directions
        were found on.
    directions
        Candidates, one a place.
    positive
        The label of those that are to meet it; by default the later one, sorted.
    read, measure
        As ``Condition`` has them.

    Returns
    -------
    Condition
        Its ``table`` has by ``site`` the best ``f1``, its ``threshold`` and whether ``larger``.

    Raises
    ------
    CasebackError
        For another number of labels than two.

    Notes
    -----
    Entry B.17: Lee et al. 2024, who search layer, threshold and comparator for the best F1.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.directions import find_directions
    >>> model = cb.load("meadow")
    >>> sums = [f"{a} + {b} =" for a in (2, 3, 4) for b in (5, 6)]
    >>> texts = ["Anna went to the", "The dog was", "On Monday Tom", "The old cat", "In the garden", "Peter had a"]
    >>> states = read_states(model, sums + texts, pos=slice(1, None), reduce="mean")
    >>> found = find_directions(states, ["sum"] * 6 + ["text"] * 6, positive="sum")
    >>> condition = find_condition(model, sums + texts, ["sum"] * 6 + ["text"] * 6, found, positive="sum")
    >>> condition.met(model, ["8 + 9 =", "The old dog"]).tolist()
    [True, False]
    """
    states = _read(model, prompts, directions.places, read)
    n = states.x.shape[1]
    wanted = two_classes(labels, n, positive)[1] == 1
    order = [states.places.index(place) for place in directions.places]
    scores = np.stack(
        [
            similarities(states.x[row], basis[None], measure).cpu().double().numpy()
            for row, basis in zip(order, directions.detect, strict=True)
        ]
    )
    f1, threshold, larger = best_thresholds(scores, wanted)
    best = int(f1.argmax())
    columns = {"f1": f1, "threshold": threshold, "larger": larger}
    table = xr.Dataset({k: ("site", v) for k, v in columns.items()}, {"site": directions.names})
    table.attrs |= {"read": read, "measure": measure, "n": n}
    basis, side = directions.detect[best][None], bool(larger[best])
    return Condition(directions.places[best], basis, float(threshold[best]), side, read, measure, table)


def similarities(h: Float[Tensor, "example d"], basis: Float[Tensor, "k d"], measure: str) -> Float[Tensor, " example"]:
    """How like each state is to a condition's directions."""
    h = at_least_float32(h)
    basis = basis.to(h)
    if measure == "cosine":
        return torch.cosine_similarity(h, basis, dim=-1)
    return torch.cosine_similarity(h, onto_span(basis, h).tanh(), dim=-1)


def best_thresholds(
    scores: Float[np.ndarray, "place example"], wanted: Bool[np.ndarray, " example"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """At each place the best F1 of any threshold, that threshold, and whether what is wanted lies above it.

    Examples
    --------
    >>> best_thresholds(np.array([[0.1, 0.2, 0.6, 0.8]]), np.array([False, False, True, True]))
    (array([1.]), array([0.4]), array([ True]))
    """
    order = np.argsort(scores, 1)
    x, y = np.take_along_axis(scores, order, 1), wanted[order]
    n, total = x.shape[1], wanted.sum()
    below = np.concatenate([np.zeros((len(x), 1)), y.cumsum(1)], 1)  # wanted ones among the k lowest, k = 0 ... n
    k = np.arange(n + 1)
    f1 = np.stack([2 * below / (k + total), 2 * (total - below) / (n - k + total)])  # met below, met above
    edges = np.concatenate([x[:, :1] - 2, x, x[:, -1:] + 2], 1)  # beyond all that a cosine can be
    gaps = np.diff(edges, axis=1)
    f1 = np.where(gaps > 0, f1, -1)  # a threshold cannot part what is alike
    inner = np.where((k == 0) | (k == n), 0, gaps)
    rank = np.lexsort(
        (
            np.broadcast_to(inner, f1.shape).transpose(1, 0, 2).reshape(len(x), -1),
            f1.round(12).transpose(1, 0, 2).reshape(len(x), -1),
        )
    )[:, -1]
    side, at = np.divmod(rank, n + 1)
    rows = np.arange(len(x))
    threshold = (edges[rows, at] + edges[rows, at + 1]) / 2
    return f1[side, rows, at], threshold, side == 1


def _read(model: Model, prompts: PromptsLike, places: Sequence[Place], read: str) -> States:
    """The states at some places, one for each prompt."""
    if read == "mean":
        return read_means(model, prompts, sites_of(places))
    return read_states(model, prompts, sites=sites_of(places))
