"""What erasing a label from a model's states does, as plain data: to probes of it, to the states, and to the model.

An eraser is fitted to some of the texts. The others say how well the label is read before and after, and what the
model's predictions lose, beside random concepts of equal rank and of equal variance.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from caseback.decode.erasure import (
    Eraser,
    OracleEraser,
    QuadraticEraser,
    amnesic,
    inlp,
    leace,
    mean_projection,
    oracle_leace,
    quadratic_leace,
    rlace,
    sal,
    scrub,
)
from caseback.decode.erasure.amnesic import kl_from_clean
from caseback.decode.erasure.classifiers import split_of
from caseback.decode.probes import linear_probe
from caseback.decode.states import States, read_states
from caseback.errors import CasebackError, did_you_mean
from caseback.model.arguments import checked
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Metric, loss
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.reports.concepts.labeled_erasure import labeled_effects, ranks_of, shares_removed
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.tasks.labeled_texts import LabeledTexts

__all__ = ["ERASURE", "METHODS", "erasure_report"]

ERASURE = DocumentKind(
    "caseback.erasure",
    1,
    "a document of an erasure",
    "erasure_report",
    sections=("texts", "method", "metric", "clean", "majority", "places", "together"),
)
METHODS: dict[str, Callable[..., Any]] = {
    "leace": leace,
    "orth": partial(leace, method="orth"),
    "sal": sal,
    "mean": mean_projection,
    "inlp": inlp,
    "rlace": rlace,
    "oracle": oracle_leace,
    "quadratic": quadratic_leace,
}
WITH_LABELS = ("oracle", "quadratic")
"""Those that take a text's label when they erase."""
TRAINED = ("inlp", "rlace")
"""Those that hold out examples of their own, by group, and draw at random."""


@checked
def erasure_report(
    model: Model,
    labeled: LabeledTexts,
    *,
    sites: str | Sequence[Any] = "resid_post",
    method: str = "leace",
    scrubbed: bool = False,
    everywhere: bool = False,
    metric: Literal["kl", "loss"] = "kl",
    draws: int = 20,
    seed: int = 0,
    progress: bool = False,
) -> tuple[dict[str, Any], Eraser | OracleEraser | QuadraticEraser]:
    """Fit an eraser to three of four parts of some texts, and judge it on the fourth.

    Parameters
    ----------
    model
        The model.
    labeled
        Texts with labels; texts of one group are fitted to or judged on together.
    sites
        As for ``read_states``.
    method
        One of ``METHODS``.
    scrubbed
        Whether each site is fitted to states from which the label is already erased below.
    everywhere
        Whether it is erased at every position, each of which is an example; otherwise at the last.
    metric
        ``"kl"``, from the clean run's next token, or ``"loss"``, of all tokens, which needs ``everywhere``.
    draws
        Random concepts of each kind.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    dict, and an eraser
        The document, and what was fitted, which takes labels where the method does. ``texts`` has how many there are,
        how many of them were ``held_out``, and the ``classes``; ``clean`` the metric of the clean run. ``places`` has a
        row for each: probes' accuracy ``before`` and ``after`` with its interval ``low`` and ``high``, on held-out
        texts; ``rank``; ``removed``, the share of the variance; and ``effects``, of erasing there alone, beside random
        concepts, or for a method that takes labels beside itself fitted to and given labels dealt at random.
        ``together`` has the effects of erasing at all places, None where there is one.

    Raises
    ------
    CasebackError
        For an unknown method, one that takes labels with ``scrubbed``, one label, too few texts of a label, and a
        metric that cannot see the erasure.

    Examples
    --------
    >>> import caseback as cb
    >>> names = {"Mary": "she", "Anna": "she", "John": "he", "Tom": "he"}
    >>> texts = [f"{name} went to the {place}" for name in names for place in ("store", "park", "house", "city")]
    >>> labeled = LabeledTexts(texts, [names[text.split()[0]] for text in texts])
    >>> document, eraser = erasure_report(cb.load("meadow"), labeled, sites="resid_post.1", draws=5)
    >>> document["texts"]["held_out"], document["places"][0]["rank"], sorted(document["places"][0]["effects"])
    (4, 1, ['erased', 'label given back', 'random of equal rank', 'random of equal variance'])
    """
    if method not in METHODS:
        raise CasebackError(f"method {method!r} is unknown. {did_you_mean(method, list(METHODS))}")
    with_labels = method in WITH_LABELS
    if with_labels and scrubbed:
        raise CasebackError(f"{method} takes labels, which scrubbing layer by layer does not: scrub with leace, say")
    if metric == "loss" and not everywhere:
        raise CasebackError(
            "the loss is of a text's own tokens, which come before what its last position says: erase everywhere, or "
            "measure the next token's kl"
        )
    pos = None if everywhere else -1
    tokens = model.tokens(labeled.texts)
    states = read_states(model, tokens, sites=sites, pos=pos, progress=progress)
    of = states.prompt.tolist()
    labels = [labeled.labels[i] for i in of]
    groups = (of if everywhere else None) if labeled.groups is None else [labeled.groups[i] for i in of]
    split = split_of(labels, len(of), groups, 4, seed, torch.device("cpu"))
    if missing := set(labels) - {label for label, held in zip(labels, split.held.tolist(), strict=True) if held}:
        raise CasebackError(f"no held-out text is {min(map(str, missing))!r}: give more groups with that label")
    fit = partial(METHODS[method], seed=seed) if method in TRAINED else METHODS[method]
    known = tokens[~_prompts(states, split.held, len(tokens))]
    rest = _prompts(states, split.held, len(tokens)).nonzero().flatten().tolist()
    own = ~split.held
    given = States(states.x[:, own], states.places, states.prompt[own])
    few = [label for label, mine in zip(labels, own.tolist(), strict=True) if mine]
    if scrubbed:
        of_known = [labeled.labels[i] for i in sorted(set(range(len(tokens))) - set(rest))]
        eraser = scrub(model, known, of_known, sites=sites, pos=pos, fit=fit, progress=progress)
        after = _ordered(read_states(model.edited(eraser.edits(pos)), tokens, sites=sites, pos=pos), eraser.places)
        states = _ordered(states, eraser.places)
    else:
        by_group = {"groups": None if groups is None else [g for g, mine in zip(groups, own, strict=True) if mine]}
        eraser = fit(given, few, **(by_group if method in TRAINED else {}))
        after = eraser.apply(states, labels) if with_labels else eraser.apply(states)
    probing = {"groups": groups, "n_folds": 4, "seed": seed, "sites": states.names}
    tables = [linear_probe(x.x, labels, **probing).table for x in (states, after)]
    judged, truth = tokens[rest], [labeled.labels[i] for i in rest]
    if isinstance(eraser, Eraser):
        measured = _measured(model, judged, truth, eraser, metric, pos, draws, seed, progress)
        clean, ranks, removed = float(measured.clean.mean()), eraser.checks["rank"], eraser.checks["removed"]
        effects = [_effects(measured, i) for i in range(measured.sizes["variant"])]
    else:
        measure = loss() if metric == "loss" else kl_from_clean(model, judged)
        chance = {"draws": draws, "seed": seed, "progress": progress}
        clean, effects = labeled_effects(model, judged, truth, fit, given, few, eraser, measure, pos, **chance)
        ranks, removed = ranks_of(eraser), shares_removed(given, eraser.apply(given, few))
    document = ERASURE.document(
        model_facts(model),
        texts={"count": len(tokens), "held_out": len(rest), "classes": _counts(labeled.labels)},
        method=eraser.method if isinstance(eraser, Eraser) else METHODS[method].__name__,
        metric=metric,
        clean=clean,
        majority=float(tables[0].majority),
        places=[
            _row(i, str(place), tables, int(ranks[i]), removed[i], effects[i]) for i, place in enumerate(eraser.places)
        ],
        together=effects[-1] if len(eraser.places) > 1 else None,
        provenance=model.provenance(),
    )
    return document, eraser


def _prompts(states: States, held: Bool[Tensor, " example"], n: int) -> Bool[Tensor, " prompt"]:
    """The prompts of the examples that are held out."""
    of = torch.zeros(n, dtype=torch.bool)
    of[states.prompt[held]] = True
    return of


def _ordered(states: States, places: list[Any]) -> States:
    return replace(states, x=states.x[[states.places.index(place) for place in places]], places=list(places))


def _counts(labels: list[Any]) -> dict[str, int]:
    return {str(label): n for label, n in sorted(Counter(labels).items(), key=lambda item: str(item[0]))}


def _measured(
    model: Model,
    tokens: Tokens,
    labels: list[Any],
    eraser: Eraser,
    metric: str,
    pos: Positions,
    draws: int,
    seed: int,
    progress: bool,
) -> xr.Dataset:
    """Effects of erasing at each place, and last at all of them."""
    erasers = eraser.each() | ({"together": eraser} if len(eraser.places) > 1 else {})
    of: Metric | None = loss() if metric == "loss" else None
    return amnesic(model, tokens, labels, erasers, of, pos=pos, draws=draws, seed=seed, progress=progress)


def _row(
    i: int, place: str, tables: list[xr.Dataset], rank: int, removed: float, effects: dict[str, Any]
) -> dict[str, Any]:
    before, after = tables
    return {
        "place": place,
        "before": float(before.accuracy[i]),
        "after": float(after.accuracy[i]),
        "low": float(after.low[i]),
        "high": float(after.high[i]),
        "rank": rank,
        "removed": removed,
        "effects": effects,
    }


def _effects(measured: xr.Dataset, i: int) -> dict[str, Any]:
    """What an eraser changes of the metric, and the middle 95 % of what its controls do."""
    own = measured.isel(variant=i)
    bands = {
        f"random of {kind}": [float(own[edge].sel(control=kind)) for edge in ("low", "high")]
        for kind in measured.control.values
    }
    return {"erased": float(own.effect), **bands, "label given back": float(own.gold_effect)}
