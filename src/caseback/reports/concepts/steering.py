"""Steering, as a document that can be drawn: continuations with and without it, and the curve of dose and response.

    toward(token) = (x . detect - mean) / (write . detect)      x the plain model's state of the token,
                                                               mean over the unsteered texts but their first tokens

Plain JSON data. Continuations at all strengths are decoded in few batches, the unsteered ones among them; the curve is
``dose_response``'s, with null where a number does not exist. What is written is read back by the model without the
direction: ``toward`` says where the text itself lies along it, in units of the distance between the classes, not what
was added.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr

from caseback.decode.directions import Directions, find_directions
from caseback.decode.probes.splits import held_out, numbered, two_classes
from caseback.decode.states import read_means, read_states, sites_of
from caseback.decode.steering import Condition, dose_response, find_condition
from caseback.decode.steering.dose import STRENGTHS
from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.arguments import checked
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts

__all__ = ["STEERING", "WHERE", "find_when", "steering_document"]

WHERE = {"all": None, "prompt": "prompt", "generated": "generated"}


_FOLDS = 2
FARTHEST = 2.0
"""Of the strongest strength: how far the curve goes to both sides, since a curve must show where it ends."""


def _lengths(document: Mapping[str, Any]) -> None:
    n, condition = len(document["strengths"]), document.get("condition")
    if condition and not len(condition["met"]) == len(condition["similarity"]) == len(document["continuations"]):
        raise CasebackError(f"{len(condition['met'])} prompts judged of {len(document['continuations'])}")
    for row in document["continuations"]:
        if len(row["steered"]) != n:
            raise CasebackError(f"{len(row['steered'])} steered continuations for {n} strengths")
        if len(row["read"]) != n + 1:
            raise CasebackError(f"{len(row['read'])} texts that were read for {n} strengths and none")
        for text in row["read"]:
            if len(text["tokens"]) != len(text["toward"]):
                raise CasebackError(f"{len(text['toward'])} numbers for {len(text['tokens'])} tokens")
    doses = len(document["dose"]["dose"])
    for name, values in document["dose"].items():
        if isinstance(values, list) and len(values) != doses:
            raise CasebackError(f"{len(values)} values of {name} for {doses} doses")


STEERING = DocumentKind(
    "caseback.steering",
    1,
    "a document of steering",
    "steering_document",
    sections=("direction", "unit", "where", "strengths", "continuations", "metric", "dose", "provenance"),
    lengths=_lengths,
)


@checked
def steering_document(
    model: Model,
    directions: Directions,
    prompts: PromptsLike,
    metric: Metric,
    words: str,
    *,
    strengths: Sequence[float],
    unit: Literal["difference", "norm"] = "norm",
    where: Literal["all", "prompt", "generated"] = "all",
    generate: int = 20,
    plain_text: PromptsLike | None = None,
    doses: Sequence[float] | None = None,
    condition: Condition | None = None,
    n_random: int = 3,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Steer some prompts at some strengths, and measure the curve.

    Parameters
    ----------
    model, directions, prompts, metric, unit, n_random, seed, progress
        As for ``dose_response``.
    strengths
        At which texts are written.
    words
        The metric in words.
    where
        Which tokens are steered: ``"all"``, those of the ``"prompt"``, or those that are ``"generated"``. The curve is
        of the next token, so for the last the prompt's last token is steered in it.
    generate
        How many tokens are generated.
    plain_text
        Texts whose perplexity is the cost; by default the prompts with their unsteered continuations.
    doses
        Strengths of the curve, beside ``strengths`` and 0; by default those of ``dose_response``, stretched to twice
        the strongest of ``strengths`` on both sides.
    condition
        Which prompts are steered, all by default: the others are continued as they are, and the curve is of those that
        meet it.

    Returns
    -------
    dict
        ``continuations`` has for each prompt the texts, and as ``read`` the tokens of the unsteered one and of each
        steered one with their ``toward``. ``dose`` has the curve, means over prompts, and for random vectors their
        mean (``control_effect``) and their band (``control_effect_low``, ``control_effect_high``). With a
        condition ``condition`` has what it is, each prompt's ``similarity`` and whether it is ``met``.

    Raises
    ------
    CasebackError
        As ``dose_response``, and where no prompt meets the condition.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.steering import contrastive_addition
    >>> model = cb.load("meadow")
    >>> found = contrastive_addition(model, "The film was great", "The film was awful").at("resid_post.2")
    >>> document = steering_document(model, found, "The dog was", cb.logit(" happy"), "happy", strengths=[0.5])
    >>> list(document["continuations"][0])
    ['prompt', 'unsteered', 'steered', 'read']
    """
    tokens = model.tokens(prompts)
    rows = [0.0, *strengths]
    pos = WHERE[where]
    judged = None if condition is None else _judged(model, tokens, condition)
    met = [True] * len(tokens) if judged is None else judged["met"]
    steered = [b for b, one in enumerate(met) if one]
    ids = _continued(model, directions, tokens, rows, unit, pos, met, generate, progress)
    given = model.text(tokens)
    texts = [[_text(model, whole, given[b]) for b, whole in enumerate(row)] for row in ids]
    farthest = FARTHEST * max(abs(float(s)) for s in rows)
    curve = dose_response(
        model,
        directions,
        tokens[steered],
        metric.of_rows(tokens, torch.tensor(steered)),
        strengths=[*rows, *([farthest * s for s in STRENGTHS] if doses is None else doses)],
        unit=unit,
        pos=-1 if where == "generated" else pos,
        plain_text=ids[0] if plain_text is None and generate else plain_text,
        n_random=n_random,
        seed=seed,
        progress=progress,
    )
    read = _read_back(model, directions, ids, tokens.lengths.tolist(), progress)
    direction = {
        "places": directions.names,
        "classes": [str(name) for name in directions.classes],
        "auroc": [_number(value) for value in directions.table.auroc.values],
        "length": [float(x) for x in directions.write.norm(dim=1)],
        "norm": [_number(x) for x in directions.norm],
        "difference": _difference(directions),
    }
    return STEERING.document(
        model_facts(model),
        direction=direction,
        unit=unit,
        where=where,
        strengths=[float(s) for s in strengths],
        continuations=[
            {
                "prompt": text,
                "unsteered": texts[0][b],
                "steered": [row[b] for row in texts[1:]],
                "read": [row[b] for row in read],
            }
            for b, text in enumerate(given)
        ],
        metric=words,
        dose=_curve(curve),
        **({} if judged is None else {"condition": judged}),
        provenance=model.provenance()
        | {name: str(curve.attrs[name]) for name in ("technique", "entry", "citation")}
        | {"seed": str(seed)},
    )


@checked
def find_when(
    model: Model, texts: Sequence[str], labels: Sequence[Any], groups: Sequence[Any] | None = None, label: Any = None
) -> Condition:
    """A condition that prompts like those of one label meet: directions of one half, thresholds of the other.

    Parameters
    ----------
    model
        The model.
    texts, labels
        Prompts and their labels, of two classes.
    groups
        Which prompts belong together; a group is in one of the halves.
    label
        Of the prompts that are to meet it; by default the later one, sorted.

    Raises
    ------
    CasebackError
        As ``find_directions`` and ``find_condition``, for one of the halves.
    """
    classes, own = two_classes(labels, len(texts), label)
    of = None if groups is None else numbered(groups, "groups", len(texts))[1]
    held = held_out(own, classes, of, 2, seed=0)
    first, second = np.flatnonzero(~held).tolist(), np.flatnonzero(held).tolist()
    known, judged = ([labels[i] for i in side] for side in (first, second))
    counted = Counter(known)
    if len(counted) == 2 and min(counted.values()) < _FOLDS:
        raise CasebackError(
            f"half of the labeled prompts, on which directions are found, has {min(counted.values())} of a label: "
            f"expected {_FOLDS} or more, so {2 * _FOLDS} prompts of each label"
        )
    states = read_means(model, [texts[i] for i in first])
    together = None if of is None else of[first]
    every = find_directions(states, known, groups=together, positive=label, n_folds=_FOLDS)
    return find_condition(model, [texts[i] for i in second], judged, every, positive=label)


def _difference(directions: Directions) -> str:
    """What ``write`` as it is moves states by, in words."""
    deviations = directions.table.attrs.get("strength")
    if deviations is None:
        return "the distance of the classes"
    return "a standard deviation of each head" if deviations == 1 else f"{deviations:g} deviations of each head"


def _judged(model: Model, tokens: Tokens, condition: Condition) -> dict[str, Any]:
    """Which prompts are steered, and why."""
    similarity = condition.similarity(model, tokens)
    met = (similarity > condition.threshold) == condition.larger
    if not bool(met.any()):
        sign, values = "above" if condition.larger else "below", ", ".join(f"{x:.3f}" for x in similarity.tolist())
        raise CasebackError(
            f"no prompt meets the condition, so that none would be steered: expected a similarity {sign} "
            f"{condition.threshold:.3f} at {condition.place}, they have {values}"
        )
    return {
        "place": str(condition.place),
        "read": condition.read,
        "measure": condition.measure,
        "threshold": condition.threshold,
        "larger": condition.larger,
        "f1": None if condition.table is None else _number(condition.table.f1.max()),
        "similarity": similarity.tolist(),
        "met": met.tolist(),
    }


def _continued(
    model: Model,
    directions: Directions,
    tokens: Tokens,
    rows: Sequence[float],
    unit: Literal["difference", "norm"],
    pos: Any,
    met: Sequence[bool],
    generate: int,
    progress: bool,
) -> list[list[list[int]]]:
    """The ids of each prompt with what is written after it, at each strength."""
    n = len(tokens)
    if not generate:
        return [[tokens[b].ids[0][tokens[b].mask[0]].tolist() for b in range(n)] for _ in rows]
    amounts = (torch.tensor(rows, dtype=torch.float64)[:, None] * torch.tensor(met)).flatten()
    prompt = torch.arange(n).repeat(len(rows))
    step = max(1, limit("stream_tokens", model.device) // (tokens.ids.shape[1] + generate))
    ids: list[list[int]] = []
    parts = list(zip(amounts.split(step), prompt.split(step), strict=True))
    for some, at in progress_bar(parts, "continuations", show=progress, unit="batch"):
        edits = directions.edits(some, unit=unit, pos=pos)
        whole = model.generate(tokens[at], edits=edits, max_new_tokens=generate)
        ids += [row[own].tolist() for row, own in zip(whole.ids, whole.mask, strict=True)]
    return [ids[i * n : (i + 1) * n] for i in range(len(rows))]


def _text(model: Model, ids: list[int], prompt: str) -> str:
    """What stands after the prompt."""
    whole = model.text(model.tokens([ids]))[0]
    return whole[len(prompt) :] if whole.startswith(prompt) else whole


def _read_back(
    model: Model, directions: Directions, ids: list[list[list[int]]], lengths: list[int], progress: bool
) -> list[list[dict[str, Any]]]:
    """The tokens after each prompt at each strength, and where the plain model's states of them lie."""
    texts = [text for row in ids for text in row]
    sites = sites_of(directions.places)
    states = read_states(model, model.tokens(texts), sites=sites, pos=slice(None), progress=progress)
    x = states.x[[states.places.index(place) for place in directions.places]].to(directions.detect)
    gap = (directions.write * directions.detect).sum(1)
    toward = ((x @ directions.detect[..., None])[..., 0] / gap[:, None]).mean(0).cpu()  # of several places the mean
    n_tokens = torch.tensor([len(text) for text in texts])
    starts = n_tokens.cumsum(0) - n_tokens
    plain = torch.ones(int(n_tokens[: len(lengths)].sum()), dtype=torch.bool)
    plain[starts[: len(lengths)]] = len(plain) == len(lengths)  # a text's first token is often an attention sink
    toward = (toward - toward[: len(plain)][plain].mean()).tolist()
    rows = []
    special = set(getattr(model.tokenizer, "all_special_ids", ()))
    for i, text in enumerate(texts):
        first = lengths[i % len(lengths)]
        own = toward[int(starts[i]) + first : int(starts[i]) + len(text)]
        shown = [(token, x) for token, x in zip(text[first:], own, strict=True) if token not in special]
        rows.append({"tokens": [model.token_text(token) for token, _ in shown], "toward": [x for _, x in shown]})
    return [rows[i : i + len(lengths)] for i in range(0, len(rows), len(lengths))]


def _curve(curve: xr.Dataset) -> dict[str, Any]:
    """A curve as lists over doses, means over prompts and draws."""
    columns: dict[str, Any] = {"dose": curve.dose.values.tolist()}
    for name in ("effect", "control_effect", "kl", "control_kl", "perplexity", "control_perplexity"):
        if name in curve and curve[name].size:
            values = curve[name].mean([dim for dim in curve[name].dims if dim != "dose"])
            columns[name] = [_number(value) for value in values.values]
            if name.startswith("control"):
                draws = curve[name].mean([dim for dim in curve[name].dims if dim not in ("dose", "draw")])
                for end, edge in (("low", draws.min("draw")), ("high", draws.max("draw"))):
                    columns[f"{name}_{end}"] = [_number(value) for value in edge.values]
    for name in ("doubles_above", "doubles_below"):
        columns[name] = _number(curve[name]) if name in curve else None
    return columns | {"monotone": bool(curve.attrs["monotone"]), "n_random": curve.sizes["draw"]}


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(float(value)) else None
