"""Find a direction at every place at once, and judge it where it was not found.

    write = C w (s1 - s0) / (w C w)      w the read-out, C the covariance, s_c = m_c . w:   w . write = s1 - s0

(Haufe et al. 2014; of the mean difference it is the difference itself, by definition.) Held-out groups tell how well
the classes are apart along w; beside it stand a random direction and one found for shuffled labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from scipy.stats import rankdata
from torch import Tensor

from caseback.decode.directions.directions import Directions
from caseback.decode.directions.estimators import read_out
from caseback.decode.moments import ClassMoments, class_moments
from caseback.decode.probes.splits import folds, numbered, say_repeated, two_classes
from caseback.decode.representations import representations
from caseback.decode.states import Place, States
from caseback.errors import CasebackError, OutOfRange
from caseback.model.anatomy.sites import as_site
from caseback.model.registry import technique

Way = Literal["mean_difference", "lda", "logistic", "ridge", "pca", "kmeans", "random"]


@technique(
    entry=("4.2.2",),
    citation="Kim et al. 2018; Zou et al. 2023; Marks & Tegmark 2023; Haufe et al. 2014",
    cost="a product of the features with themselves; no model is run",
)
def find_directions(
    x: Any,
    y: Sequence[Any] | Tensor | np.ndarray,
    *,
    method: Way = "mean_difference",
    positive: Any = None,
    pairs: Sequence[Any] | Tensor | np.ndarray | None = None,
    groups: Sequence[Any] | Tensor | np.ndarray | None = None,
    sites: Sequence[Any] | None = None,
    shrinkage: float = 0.1,
    penalty: float = 1e-2,
    n_folds: int = 4,
    seed: int = 0,
) -> Directions:
    """Find the direction from one class to another, at all places at once.

    Parameters
    ----------
    x
        ``States``, or representations (place, example, d), or (example, d) of one place.
    y
        A label for each example, of two classes.
    method
        ``"mean_difference"``, ``"lda"``, ``"logistic"``, ``"ridge"``, ``"pca"``, ``"kmeans"`` or ``"random"``; see
        ``estimators`` for what each is.
    positive
        The class that the direction points to; by default the later one, sorted.
    pairs
        Of each example the pair that it is in, one of each class: ``"pca"`` is then of the differences (RepE).
    groups
        What each example belongs to (its document, its template); by default its pair, or itself. A group is never on
        both sides of the split.
    sites
        Names of the places, where ``x`` does not bring them: such as ``"resid_post.5"`` or ``("z", 3)``.
    shrinkage
        Of LDA's covariance, towards its mean variance.
    penalty
        Of logistic regression and ridge, per example; ``linear_probe`` chooses one.
    n_folds
        One of so many parts is held out for judging.
    seed
        Same seed, same result.

    Returns
    -------
    Directions
        ``table`` has by place: ``auroc`` and ``accuracy`` (by the midpoint) on held-out examples, ``shuffled`` and
        ``random`` (the AUROC of directions for shuffled labels and of random ones; PCA and k-means do not see labels
        but for the sign), ``separation`` (between the
        classes' means in units of the standard deviation within), ``length`` (of ``write``, relative to the states'
        mean length) and ``cosine`` (of ``detect`` and ``write``).

    Raises
    ------
    CasebackError
        For another number of classes than two, pairs that are none, too few groups, and numbers that are not finite.

    Notes
    -----
    Entry 4.2.2. Held-out examples that are the same at every place as one of the others are counted in a warning.
    The mean of a class is over its examples: of documents with many tokens each, average these first
    (``read_states(..., pos=slice(1, None), reduce="mean")``, without the sink that a first token often is), or long
    documents count for more.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> y = torch.arange(200) % 2
    >>> x = torch.randn(1, 200, 6, generator=draw) + 3 * y[:, None] * torch.eye(6)[2]
    >>> found = find_directions(x, y, sites=["resid_post.1"])
    >>> found
    Directions(0 to 1; resid_post.1, AUROC 0.986)
    >>> int(found.write[0].abs().argmax())
    2
    """
    data = representations(x)
    n = data.shape[1]
    classes, labels = two_classes(y, n, positive)
    if not 0 <= shrinkage <= 1 or not 0 <= penalty <= 1e30:
        raise OutOfRange(f"shrinkage {shrinkage}, penalty {penalty}: expected 0 to 1, and 0 or more")
    if n_folds < 2:
        raise OutOfRange(f"n_folds {n_folds}: expected at least 2")
    pair_of = None if pairs is None else numbered(pairs, "pairs", n)[1]
    of = pair_of if groups is None else numbered(groups, "groups", n)[1]
    places = places_of(x, data, sites)
    test = np.zeros(n, dtype=bool)
    test[folds(labels, of, n_folds, seed)[0]] = True
    held = torch.from_numpy(test).to(data.device)
    is_positive = torch.from_numpy(labels == 1).to(data.device)
    for name, part in (("found on", ~test), ("judged by", test)):
        if len(set(labels[part])) < 2:
            raise CasebackError(f"one class is not among the examples that directions are {name}: give more groups")
    say_repeated(data, held, stacklevel=4)
    joined = None if pair_of is None else _joined(pair_of, labels, test)
    options = {"pairs": joined, "shrinkage": shrinkage, "penalty": penalty, "seed": seed}
    known = data[:, ~held]
    moments = class_moments(known, labels[~test], classes=[0, 1])
    w = read_out(method, known, is_positive[~held], moments, **options)
    random = np.random.default_rng(seed)
    mixed = random.permutation(labels[~test])
    by_chance = {
        "shuffled": read_out(
            method,
            known,
            torch.from_numpy(mixed == 1).to(data.device),
            class_moments(known, mixed, classes=[0, 1]),
            **options,
        ),
        "random": read_out("random", known, is_positive[~held], moments, **options),
    }
    write, bias = written(method, w, moments, places)
    norm = known.double().norm(dim=2).mean(1)
    columns = _judged(data[:, held].double(), is_positive[held], w, bias, by_chance, moments)
    columns |= {"length": write.norm(dim=1) / norm, "cosine": torch.cosine_similarity(w, write, dim=1)}
    arrays = {name: ("site", torch.as_tensor(values).cpu().numpy()) for name, values in columns.items()}
    table = xr.Dataset(arrays, {"site": [str(place) for place in places]})
    table.attrs |= {"method": method, "seed": seed, "n_train": int((~test).sum()), "n_test": int(test.sum())}
    return Directions(w, write, bias, norm, places, (classes[0], classes[1]), table)


def _judged(
    x: Float[Tensor, "place example d"],
    positive: Bool[Tensor, " example"],
    w: Float[Tensor, "place d"],
    bias: Float[Tensor, " place"],
    by_chance: dict[str, Float[Tensor, "place d"]],
    moments: ClassMoments,
) -> dict[str, Any]:
    """How well examples that were held out are told apart, beside directions by chance."""
    scores = (x @ w[..., None])[..., 0] + bias[:, None]
    return {
        "auroc": auroc(scores, positive),
        "accuracy": ((scores > 0) == positive).double().mean(1),
        **{name: auroc((x @ chance[..., None])[..., 0], positive) for name, chance in by_chance.items()},
        "separation": separation(w, moments),
    }


def written(
    method: str, w: Float[Tensor, "place d"], moments: ClassMoments, places: list[Place]
) -> tuple[Float[Tensor, "place d"], Float[Tensor, " place"]]:
    """What is added for a read-out, and the bias with which its score is 0 halfway between the classes.

    Raises
    ------
    CasebackError
        Where a read-out is 0 or not finite.
    """
    lengths = w.norm(dim=1)
    if bool((lengths == 0).any()) or not bool(lengths.isfinite().all()):
        name = str(places[int((~(lengths > 0)).nonzero()[0, 0])])
        raise CasebackError(f"{method} finds no direction at {name}: the classes are alike there")
    write = moments.means[:, 1] - moments.means[:, 0] if method == "mean_difference" else pattern(w, moments)
    return write, -(moments.means.mean(1) * w).sum(1)


def separation(w: Float[Tensor, "place d"], moments: ClassMoments) -> Float[Tensor, " place"]:
    """Between the classes' mean scores, in units of the standard deviation within."""
    spread = (w[:, None] @ moments.within @ w[..., None])[:, 0, 0].clamp_min(0).sqrt()
    return ((moments.means[:, 1] - moments.means[:, 0]) * w).sum(1) / spread


def places_of(x: Any, data: Tensor, sites: Sequence[Any] | None) -> list[Place]:
    """What the first dimension of representations is called.

    Raises
    ------
    CasebackError
        For another number of names, or of names where the states bring their own.
    """
    if isinstance(x, States):
        if sites is not None:
            raise CasebackError("the states bring their places: leave out sites=")
        return list(x.places)
    if sites is None:
        return [Place("place", i) for i in range(len(data))]
    if len(sites) != len(data):
        raise CasebackError(f"{len(sites)} names for {len(data)} places: expected one for each")
    return [site if isinstance(site, Place) else Place(*as_site(site)) for site in sites]


def pattern(w: Float[Tensor, "place d"], moments: ClassMoments) -> Float[Tensor, "place d"]:
    """What changes along a read-out when its score goes from one class's mean to the other's: C w (s1 - s0) / w C w."""
    through = (moments.covariance @ w[..., None])[..., 0]
    gap = ((moments.means[:, 1] - moments.means[:, 0]) * w).sum(1)
    return through * (gap / (through * w).sum(1))[:, None]


def auroc(scores: Float[Tensor, "place example"], positive: Bool[Tensor, " example"]) -> np.ndarray:
    """How often a positive example scores higher than a negative one; ties count half."""
    ranks = rankdata(scores.cpu().numpy(), axis=1)
    of = positive.cpu().numpy()
    n, m = of.sum(), (~of).sum()
    return (ranks[:, of].sum(1) - n * (n + 1) / 2) / (n * m)


def _joined(pair_of: np.ndarray, labels: np.ndarray, test: np.ndarray) -> tuple[Tensor, Tensor]:
    """The examples of each pair that is not held out: its negative, its positive."""
    counts = np.bincount(pair_of)
    sums = np.bincount(pair_of, weights=labels)
    if (counts != 2).any() or (sums != 1).any():
        pair = int(((counts != 2) | (sums != 1)).argmax())
        raise CasebackError(
            f"pair {pair} has {counts[pair]} examples, {int(sums[pair])} positive: expected one of each"
        )
    own = np.flatnonzero(~test)
    place = np.full(len(test), -1)
    place[own] = np.arange(len(own))
    whole = [[place[i] for i in np.flatnonzero(pair_of == pair)] for pair in np.unique(pair_of[own])]
    if any(-1 in pair for pair in whole):
        raise CasebackError("groups tear pairs apart: give both examples of a pair the same group")
    negative = [a if labels[own[a]] == 0 else b for a, b in whole]
    other = [b if labels[own[a]] == 0 else a for a, b in whole]
    return torch.tensor(negative), torch.tensor(other)
