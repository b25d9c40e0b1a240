"""Units that tell classes of documents apart: one measure a look, against the same documents with permuted labels.

    auroc       2 AUROC - 1 of the documents' means                             1: the class is above all others
    threshold   share of the class above the unit's mean, less that of others   1: told apart without an error
    precision   (AP - q) / (1 - q) of the documents' largest activations,       q the class's share
    sparsity    1 - H(p) / log K over K classes, p_k the share of tokens at which it fires, brought to sum 1

Each class against all others; a unit's class, and whether it is above or below, are those of the half that it is ranked
on. Band and control permute whole documents among the classes: documents, not tokens, are what a label is counted in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import rankdata

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look
from caseback.errors import SiteAbsent

FEWEST = 4
"""A class has so many documents in either half."""
DRAWS = 40
QUANTILE = 0.95
FIRES_FLOOR = 0.95
"""A unit's firing is specific to classes only where its largest share is above this quantile of all shares."""

Members = Float[np.ndarray, "class document"]
Scores = Float[np.ndarray, "class unit"]
Measure = Callable[["Half", "Half"], Callable[[Members], Scores]]
"""Of a half, and of that which units are ranked on; then of which documents are of which class."""


@dataclass(frozen=True)
class Half:
    """The labeled documents of a half.

    Attributes
    ----------
    members
        Which documents are of which class, zeros and ones.
    values
        By name (document, unit).
    n
        Tokens of each document.
    """

    members: Members
    values: Mapping[str, Float[np.ndarray, "document unit"]]
    n: Float[np.ndarray, " document"]


def halves_of(evidence: Evidence, table: str, label: str) -> tuple[list[str], list[Half]]:
    """The classes that both halves have enough documents of, and the documents of either half.

    Raises
    ------
    SiteAbsent
        Where documents have no such label, or hardly two classes.
    """
    names, codes = evidence.labels.coded(label)
    tables = evidence.folds(TEXT, table)
    of = [fold[places["document"].values] for fold, places in zip(codes, tables, strict=True)]
    enough = [k for k in range(len(names)) if min((own == k).sum() for own in of) >= FEWEST]
    if len(enough) < 2:
        counts = ", ".join(f"{sum((own == k).sum() for own in of)} {name!r}" for k, name in enumerate(names))
        raise SiteAbsent(
            f"documents by {label!r}: {counts}; expected two classes with {2 * FEWEST} documents each at least"
        )
    halves = []
    for own, places in zip(of, tables, strict=True):
        some = np.isin(own, enough)
        members = np.equal.outer(np.array(enough), own[some]).astype(float)
        values = {
            str(name): places[name].values.reshape(len(own), -1)[some]
            for name in places.data_vars
            if name not in ("document", "n")
        }
        halves.append(Half(members, values, places["n"].values[some].astype(float)))
    return [names[k] for k in enough], halves


def rank_sums(values: Float[np.ndarray, "document unit"]) -> Callable[[Members], Scores]:
    """2 AUROC - 1 of every class and unit."""
    ranks = rankdata(values, axis=0)

    def of(members: Members) -> Scores:
        n = members.sum(1, keepdims=True)
        others = members.shape[1] - n
        return 2 * (members @ ranks - n * (n + 1) / 2) / np.maximum(n * others, 1) - 1

    return of


def auroc(half: Half, _: Half) -> Callable[[Members], Scores]:
    """How well the mean tells the class.

    Examples
    --------
    >>> half = Half(np.eye(2).repeat(2, 1), {"mean": np.array([[1.0], [2.0], [3.0], [4.0]])}, np.ones(4))
    >>> auroc(half, half)(half.members).tolist()
    [[-1.0], [1.0]]
    """
    return rank_sums(half.values["mean"])


def threshold(half: Half, first: Half) -> Callable[[Members], Scores]:
    """How well "above the mean of the ranking half" tells the class."""
    above = (half.values["mean"] > first.values["mean"].mean(0)).astype(float)

    def of(members: Members) -> Scores:
        own, other = (m @ above / np.maximum(m.sum(1, keepdims=True), 1) for m in (members, 1 - members))
        return own - other

    return of


def precision(half: Half, _: Half) -> Callable[[Members], Scores]:
    """Average precision of the documents' largest activations."""
    order = np.argsort(-half.values["largest"], axis=0, kind="stable")
    rank = np.arange(1, len(order) + 1)[:, None]

    def of(members: Members) -> Scores:
        scores = []
        for own in members:
            hits = own[order]
            share = own.mean()
            scores.append(((hits * hits.cumsum(0) / rank).sum(0) / max(own.sum(), 1) - share) / max(1 - share, 1e-9))
        return np.stack(scores)

    return of


def look_at_classes(evidence: Evidence, table: str, label: str, measure: Measure, *, either: bool = False) -> Look:
    """A look at which units tell a class of documents from the others.

    Parameters
    ----------
    evidence
        With documents that have labels.
    table
        A table of ``stream.tables.by_document``.
    label
        The labels' name.
    measure
        What is measured.
    either
        Whether a unit may tell a class by being below.
    """
    names, halves = halves_of(evidence, table, label)
    first, second = (measure(half, halves[0]) for half in halves)
    whole = first(halves[0].members)
    best = (np.abs(whole) if either else whole).argmax(0)
    units = np.arange(whole.shape[1])
    sign = np.where(whole[best, units] < 0, -1, 1) if either else np.ones(len(units))

    def chosen(scores: Scores) -> np.ndarray:
        return sign * scores[best, units]

    rng = np.random.default_rng(evidence.seed)
    by_chance = []
    for _ in range(DRAWS):
        scores = first(halves[0].members[:, rng.permutation(len(halves[0].n))])
        by_chance.append((np.abs(scores) if either else scores).max())
    scores = second(halves[1].members)
    control = chosen(second(halves[1].members[:, rng.permutation(len(halves[1].n))]))
    beside = {f"of {name!r}": scores[k] for k, name in enumerate(names)}
    return Look(
        chosen(whole),
        chosen(scores),
        control,
        float(np.quantile(by_chance, QUANTILE)),
        beside | {"sign": sign},
        tuple(names[k] for k in best),
        sign * apart(halves[0], best),
    )


def apart(half: Half, classes: Int[np.ndarray, " unit"]) -> Float[np.ndarray, " unit"]:
    """How many standard deviations of all documents each unit's class is above the others: many are told apart alike.

    Examples
    --------
    >>> half = Half(np.eye(2).repeat(2, 1), {"mean": np.array([[0.0, 0], [0, 0], [1, 9], [1, 0]])}, np.ones(4))
    >>> apart(half, np.array([1, 1])).round(2).tolist()
    [2.0, 1.15]
    """
    values = half.values.get("mean", half.values.get("largest"))
    assert values is not None
    own = half.members[classes].T
    inside = (own * values).sum(0) / np.maximum(own.sum(0), 1)
    outside = ((1 - own) * values).sum(0) / np.maximum((1 - own).sum(0), 1)
    size = values.std(0)
    return np.divide(inside - outside, size, out=np.zeros_like(size), where=size > 0)


def sparsity(half: Half) -> Callable[[Members], Float[np.ndarray, "1 unit"]]:
    """How few classes a unit fires in (Tang et al. 2024), 0 where it hardly fires in any."""
    fires = half.values["fires"] * half.n[:, None]

    def of(members: Members) -> np.ndarray:
        p = (members @ fires) / np.maximum(members @ half.n, 1)[:, None]
        floor = np.quantile(p, FIRES_FLOOR)
        share = p / np.maximum(p.sum(0), 1e-300)
        entropy = -(share * np.log(np.where(share > 0, share, 1))).sum(0)
        return np.where(p.max(0) > floor, 1 - entropy / np.log(len(p)), 0.0)[None]

    return of


def look_at_sparsity(evidence: Evidence, table: str, label: str) -> Look:
    """A look at which units fire in few classes of documents."""
    names, halves = halves_of(evidence, table, label)
    first, second = (sparsity(half) for half in halves)
    rng = np.random.default_rng(evidence.seed)

    def permuted(half: Half) -> Members:
        return half.members[:, rng.permutation(len(half.n))]

    band = float(np.quantile([first(permuted(halves[0])).max() for _ in range(DRAWS)], QUANTILE))
    half = halves[1]
    rates = (half.members @ (half.values["fires"] * half.n[:, None])) / (half.members @ half.n)[:, None]
    beside = {f"fires in {name!r}": rates[k] for k, name in enumerate(names)}
    return Look(
        first(halves[0].members)[0],
        second(half.members)[0],
        second(permuted(half))[0],
        band,
        beside,
        tuple(names[k] for k in rates.argmax(0)),
    )


def look_at_numbers(evidence: Evidence, table: str, labels: tuple[str, ...]) -> Look:
    """A look at which units follow a number of documents: the rank correlation with their mean, whichever sign it has.

    Raises
    ------
    SiteAbsent
        For fewer than ten documents with a number in either half.
    """
    tables = evidence.folds(TEXT, table)
    ranked: list[np.ndarray] = []
    scored: list[np.ndarray] = []
    for name in labels:
        for numbers, places, into in zip(evidence.labels.numbered(name), tables, (ranked, scored), strict=True):
            own = numbers[places["document"].values]
            some = np.isfinite(own)
            if some.sum() < 10:
                raise SiteAbsent(f"{some.sum()} documents of a half have a number {name!r}: expected 10 at least")
            x = rankdata(places["mean"].values.reshape(len(own), -1)[some], axis=0)
            y = rankdata(own[some])
            rng = np.random.default_rng(evidence.seed)
            many = np.stack([y, *(rng.permutation(y) for _ in range(DRAWS))])
            x, many = x - x.mean(0), many - y.mean()
            size = np.sqrt(np.outer((many**2).sum(1), (x**2).sum(0)))
            into.append(np.divide(many @ x, size, out=np.zeros_like(size), where=size > 0))
    first, second = (np.stack(x, 1) for x in (ranked, scored))  # (draw, label, unit)
    best = np.abs(first[0]).argmax(0)
    units = np.arange(len(best))
    sign = np.where(first[0][best, units] < 0, -1, 1)
    band = float(np.quantile(np.abs(first[1:]).max((1, 2)), QUANTILE))
    beside = {name: second[0][i] for i, name in enumerate(labels)}
    return Look(
        sign * first[0][best, units], sign * second[0][best, units], sign * second[1][best, units], band, beside
    )
