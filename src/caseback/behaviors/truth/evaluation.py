"""One evaluation for every detector of truth: fitted to some topics, calibrated on others, judged on the rest.

    fit on F  ->  place = argmax AUROC on C,   p = Platt(score on C)   ->  judge on J        F, C, J of different topics

Each topic is in J once. A detector of affirmative statements is also judged on negated ones, beside itself fitted to
both. Beside every detector stand the length, the statement's own log probability, a bag of its tokens, and the same
detector fitted to shuffled labels.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.behaviors.truth.answers import Samples
from caseback.behaviors.truth.detectors import Detector, chosen_detectors, has
from caseback.behaviors.truth.eigenscore import eigenscore
from caseback.behaviors.truth.features import Features, read_features
from caseback.behaviors.truth.fitting import Known, negation_pairs
from caseback.behaviors.truth.measures import auroc, platt
from caseback.behaviors.truth.plane import truth_plane
from caseback.behaviors.truth.report import Judged, TruthReport, table_of
from caseback.behaviors.truth.semantic_entropy import entropy_threshold, semantic_entropy
from caseback.decode.probes.splits import folds, numbered
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import float64_device
from caseback.model.registry import technique
from caseback.model.running.model import Model
from caseback.tasks.statements import Statements

HoldOut = Literal["topics", "facts"]


@technique(
    entry=("5.4.20",),
    citation="Azaria & Mitchell 2023; Burns et al. 2023; Marks & Tegmark 2023; Buerger et al. 2024; Li et al. 2023a",
    cost="one pass over the statements; then fits on the states, n_folds x 2 a detector; no model is run for these",
)
def truth_detection(
    model: Model,
    statements: Statements,
    *,
    methods: Sequence[str] | None = None,
    samples: Samples | None = None,
    hold_out: HoldOut = "topics",
    n_folds: int = 5,
    untrained: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> TruthReport:
    """Judge detectors of truth on statements of topics that they have not seen, beside what tells without knowing.

    Parameters
    ----------
    model
        The model.
    statements
        What is told apart, as ``statements_of``, ``load_statements``, ``world_statements`` or ``model_answers`` give
        them.
    methods
        Names of ``DETECTORS``; by default all that these statements allow. Baselines always stand beside them.
    samples
        Several answers to each statement's question, as ``sample_answers`` draws them, for detectors that compare them.
    hold_out
        ``"topics"``: a topic is never fitted to and judged. ``"facts"``: of each fact that holds, not of each topic.
    n_folds
        Into how many parts topics (or facts) are dealt; at most as many as there are, which leaves out one at a time.
    untrained
        Add a linear probe of the same architecture with the weights that training starts from, for one more pass.
    resamples
        Resamples of the facts for 95 % intervals.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    TruthReport
        ``table`` with a row for each detector and what it was fitted to, ``probability`` of each statement by each, and
        ``plane``, the held-out statements of one part in two dimensions with the line that divides them.

    Raises
    ------
    CasebackError
        For statements of one class, of one topic with ``hold_out="topics"``, too few facts, an unknown method, and one
        whose needs these statements do not have.
    EditError, TokensError
        For a subject without a token, and a statement beyond the context.
    OutOfRange
        For fewer than two parts or one resample.

    Notes
    -----
    Entry 5.4.20. Scores of different parts are compared after a shift and a scale that the choosing topics give, so
    that no part's offset counts; probabilities are Platt's. ``within`` is the mean over topics of each topic's AUROC.

    Examples
    --------
    >>> import caseback as cb
    >>> statements = cb.behaviors.world_statements(["capital", "language", "continent"], each=10)
    >>> report = truth_detection(cb.load("meadow"), statements, methods=["mass_mean", "answer_log_prob"], resamples=50)
    >>> row = report.row("answer_log_prob")
    >>> bool(row["auroc"] > 0.9), report.table.group.values.tolist()
    (True, ['affirmative', 'negated'])
    """
    expect_statements(statements, hold_out)
    if n_folds < 2 or resamples < 1:
        raise OutOfRange(f"n_folds {n_folds}, resamples {resamples}: expected at least 2 and 1")
    if samples is not None and len(samples) != len(statements):
        raise CasebackError(
            f"samples of {len(samples)} questions for {len(statements)} statements: expected one for each"
        )
    taken, left = chosen_detectors(methods, statements, untrained, samples is not None)
    wanted = [one.reads for one in taken]
    features = read_features(model, statements, wanted, seed=seed, progress=progress)
    if samples is not None:
        scores = {"eigenscore": eigenscore(samples.states)}
        scores["semantic_entropy"] = semantic_entropy(samples.texts, samples.mean_log_prob)["entropy"]
        for name, value in scores.items():
            features[name] = [""], -torch.from_numpy(value.values)[None, :, None]
    return judged(
        features,
        statements,
        taken,
        how={"hold_out": hold_out, "n_folds": n_folds, "resamples": resamples, "seed": seed},
        left=left,
        model=model,
        progress=progress,
    )


def judged(
    features: Features,
    statements: Statements,
    detectors: Sequence[Detector],
    *,
    how: dict[str, Any],
    left: dict[str, str] | None = None,
    model: Model | None = None,
    progress: bool = False,
) -> TruthReport:
    """Judge detectors on features that were read."""
    task = _Task.of(statements)
    splits = parts_of(statements, how["hold_out"], how["n_folds"], how["seed"])
    both = has(statements, "negated")
    jobs: list[tuple[Detector, str]] = []
    for one in detectors:
        kinds = ["both"] if "negated" in one.needs else ["affirmative", "both"] if both and one.fit else ["affirmative"]
        jobs += [(one, kind) for kind in kinds]
    rows = [
        _judge(features[one.reads], task, one, kind, splits, how["seed"], features.get(str(one.teacher)))
        for one, kind in progress_bar(jobs, "judge", show=progress, unit="detector")
    ]
    table, probability = table_of(rows, statements, how["resamples"], how["seed"])
    attrs = {**how, "n_folds": len(splits), "left_out": dict(left or {})}
    return TruthReport(statements, table, probability, _plane(features, task, rows, splits), attrs, model)


def expect_statements(statements: Statements, hold_out: str) -> None:
    """Refuse what nothing can be judged on.

    Raises
    ------
    CasebackError
    """
    if hold_out not in ("topics", "facts"):
        raise CasebackError(f"hold_out={hold_out!r}: expected 'topics' or 'facts'")
    if not len(statements):
        raise CasebackError("no statements are given: expected true and false ones")
    if empty := [i for i, text in enumerate(statements.texts) if not text.strip()]:
        raise CasebackError(f"statement {empty[0]} is empty: expected words")
    if len(set(statements.true.tolist())) < 2:
        raise CasebackError(
            f"all {len(statements)} statements are {'true' if statements.true[0] else 'false'}: expected both kinds"
        )
    if hold_out == "topics" and len(set(statements.topics)) < 2:
        raise CasebackError(
            f"all statements are of the topic {statements.topics[0]!r}, so none can be held out: give others (a file "
            "has them in the column topic), or hold out facts"
        )


@dataclass(frozen=True, eq=False)
class _Task:
    """Statements as numbers."""

    true: Bool[Tensor, " example"]
    negated: Bool[Tensor, " example"]
    topic: Int[Tensor, " example"]
    pair: Int[Tensor, " example"]

    @classmethod
    def of(cls, statements: Statements) -> _Task:
        n = len(statements)
        true, negated = (np.asarray(x, bool) for x in (statements.true, statements.negated))
        fact = numbered(statements.facts, "facts", n)[1]
        topic = numbered(statements.topics, "topics", n)[1]
        return cls(*map(torch.from_numpy, (true, negated, topic, negation_pairs(true, negated, fact))))


Split = tuple[np.ndarray, np.ndarray, np.ndarray]


def parts_of(statements: Statements, hold_out: str, n_folds: int, seed: int) -> list[Split]:
    """Of each part the statements that are fitted to, those that choose, and those that are judged, by number.

    Raises
    ------
    CasebackError
        For too few facts of a class.
    """
    n, y = len(statements), np.asarray(statements.true, int)
    topic, fact = (numbered(values, "groups", n)[1] for values in (statements.topics, statements.facts))
    group = topic if hold_out == "topics" else fact
    parts: list[Split] = []
    for test in folds(y, group, min(n_folds, len(set(group.tolist()))), seed):
        known = np.setdiff1d(np.arange(n), test)
        own = group[known] if len(set(group[known].tolist())) > 2 else fact[known]
        inner = folds(y[known], own, min(4, len(set(own.tolist()))), seed)[0]
        choosing = known[inner]
        fitting = np.setdiff1d(known, choosing)
        for name, some in (("fitted to", fitting), ("chosen on", choosing)):
            if len(set(y[some].tolist())) < 2:
                raise CasebackError(f"one class is not among the statements that are {name}: give more facts or topics")
        parts.append((fitting, choosing, test))
    return parts


def _judge(
    features: tuple[list[str], Tensor],
    task: _Task,
    detector: Detector,
    kind: str,
    splits: list[Split],
    seed: int,
    teacher: tuple[list[str], Tensor] | None,
) -> Judged:
    """Standardized scores and probabilities of every statement, each by the part that has not seen it."""
    names, x = features
    n = x.shape[1]
    scores, chance, probability = (np.full(n, np.nan) for _ in range(3))
    places: list[str] = []
    at = spread(len(names), detector.most)
    names, x = [names[i] for i in at], x[at]
    for number, (fitting, choosing, test) in enumerate(splits):
        own = [some if kind == "both" else some[~task.negated.numpy()[some]] for some in (fitting, choosing)]
        part = [torch.from_numpy(some) for some in own]
        draw = np.random.default_rng((seed, number, zlib.crc32(f"{detector.name} {kind}".encode())))
        for mixed in (False, True) if detector.fit else (False,):
            labels = task.true if teacher is None else _taught(teacher[1][0, :, 0], fitting, choosing)
            if mixed:
                labels = labels.clone()
                for some in part:
                    labels[some] = labels[some][torch.from_numpy(draw.permutation(len(some)))]
            own, place = _scores(x, task, labels, detector, part, seed)
            choose = own[part[1]]
            own = (own - choose.mean()) / choose.std().clamp_min(1e-12)
            judging = torch.from_numpy(test)
            if mixed:
                chance[test] = own[judging].numpy()
                continue
            a, b = platt(own[part[1]], task.true[part[1]])
            scores[test] = own[judging].numpy()
            probability[test] = (a * own[judging] + b).sigmoid().numpy()
            places.append(names[place])
    return Judged(detector, kind, scores, probability, chance if detector.fit else None, places)


def _taught(values: Tensor, fitting: np.ndarray, choosing: np.ndarray) -> Bool[Tensor, " example"]:
    """Which scores are high, by the cut that leaves least within the two groups of what is fitted to.

    Raises
    ------
    CasebackError
        For scores that are all the same there.
    """
    cut = entropy_threshold(values[fitting].cpu().numpy())
    high = values.cpu() > cut
    for some in (fitting, choosing):
        if len(set(high[some].tolist())) < 2:
            raise CasebackError(
                "the semantic entropy of all questions is on one side of its cut: give more, or leave out entropy_probe"
            )
    return high


def _scores(
    x: Tensor, task: _Task, labels: Tensor, detector: Detector, part: list[Tensor], seed: int
) -> tuple[Float[Tensor, " example"], int]:
    """Scores of all statements by the best place."""
    if detector.fit is None:
        return x[0, :, 0].cpu().double(), 0
    x = x.to(float64_device(x.device))
    fitting, choosing = (some.to(x.device) for some in part)
    on = [values.to(x.device) for values in (labels, task.negated, task.topic, task.pair)]
    true, negated, topic, pair = on
    known = Known(x[:, fitting], true[fitting], negated[fitting], topic[fitting], pair[fitting], seed)
    scores = detector.fit(known)(x, negated).cpu().double().numpy()
    place = 0
    if len(scores) > 1:
        chosen, right = choosing.cpu().numpy(), labels[part[1]].numpy()
        place = int(np.nanargmax([auroc(row[chosen], right)[0] for row in scores]))
    return torch.from_numpy(scores[place]), place


def spread(count: int, most: int | None) -> list[int]:
    """At most so many of the first numbers, at even distances, the last among them.

    Examples
    --------
    >>> spread(5, None), spread(10, 3)
    ([0, 1, 2, 3, 4], [0, 4, 9])
    """
    if most is None or count <= most:
        return list(range(count))
    return [int(i) for i in np.linspace(0, count - 1, most)]


def _plane(features: Features, task: _Task, rows: list[Judged], splits: list[Split]) -> xr.Dataset | None:
    """The judged statements of the first part in the plane of truth at its place, and the line where odds are even."""
    row = next((row for row in rows if row.detector.name == "two_dimensional"), None)
    if row is None:
        return None
    names, x = features["stream"]
    fitting, _, test = splits[0]
    at = x[names.index(row.places[0])][None]
    known = truth_plane(at[:, fitting], task.true[fitting], task.negated[fitting], task.topic[fitting])
    points = known.coordinates(at[:, test])[0].cpu().numpy()
    coords = {
        "batch": test,
        "true": ("batch", task.true.numpy()[test]),
        "negated": ("batch", task.negated.numpy()[test]),
    }
    arrays = {"general": ("batch", points[:, 0]), "polarity": ("batch", points[:, 1])}
    return xr.Dataset(
        arrays,
        coords,
        attrs={
            "place": row.places[0],
            "weight_general": float(known.weight[0, 0]),
            "weight_polarity": float(known.weight[0, 1]),
            "bias": float(known.bias[0]),
        },
    )
