"""Steering, as a document that can be drawn: continuations with and without it, and the curve of dose and response.

Plain JSON data. Continuations at all strengths are decoded in few batches, the unsteered ones among them; the curve is
``dose_response``'s, with null where a number does not exist.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import xarray as xr

from caseback.decode.directions import Directions
from caseback.decode.steering import dose_response
from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.arguments import checked
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts

__all__ = ["STEERING", "WHERE", "steering_document"]

WHERE = {"all": None, "prompt": "prompt", "generated": "generated"}


def _lengths(document: Mapping[str, Any]) -> None:
    n = len(document["strengths"])
    for row in document["continuations"]:
        if len(row["steered"]) != n:
            raise CasebackError(f"{len(row['steered'])} steered continuations for {n} strengths")
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
    n_random: int = 3,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Steer some prompts at some strengths, and measure the curve.

    Parameters
    ----------
    model, directions, prompts, metric, strengths, unit, n_random, seed, progress
        As for ``dose_response``.
    words
        The metric in words.
    where
        Which tokens are steered: ``"all"``, those of the ``"prompt"``, or those that are ``"generated"``. The curve is
        of the next token, so for the last the prompt's last token is steered in it.
    generate
        How many tokens are generated.
    plain_text
        Texts whose perplexity is the cost; by default the prompts with their unsteered continuations.

    Raises
    ------
    CasebackError
        As ``dose_response``.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.steering import contrastive_addition
    >>> model = cb.load("meadow")
    >>> found = contrastive_addition(model, "The film was great", "The film was awful").at("resid_post.2")
    >>> document = steering_document(model, found, "The dog was", cb.logit(" happy"), "happy", strengths=[0.5])
    >>> list(document["continuations"][0])
    ['prompt', 'unsteered', 'steered']
    """
    tokens = model.tokens(prompts)
    rows = [0.0, *strengths]
    pos = WHERE[where]
    texts, whole = _continued(model, directions, tokens, rows, unit, pos, generate, progress)
    curve = dose_response(
        model,
        directions,
        tokens,
        metric,
        strengths=strengths,
        unit=unit,
        pos=-1 if where == "generated" else pos,
        plain_text=whole if plain_text is None and generate else plain_text,
        n_random=n_random,
        seed=seed,
        progress=progress,
    )
    given = model.text(tokens)
    direction = {
        "places": directions.names,
        "classes": [str(name) for name in directions.classes],
        "auroc": [_number(value) for value in directions.table.auroc.values],
        "length": [float(x) for x in directions.write.norm(dim=1)],
        "norm": [float(x) for x in directions.norm],
    }
    return STEERING.document(
        model_facts(model),
        direction=direction,
        unit=unit,
        where=where,
        strengths=[float(s) for s in strengths],
        continuations=[
            {"prompt": text, "unsteered": texts[0][b], "steered": [row[b] for row in texts[1:]]}
            for b, text in enumerate(given)
        ],
        metric=words,
        dose=_curve(curve),
        provenance={name: str(curve.attrs[name]) for name in ("technique", "entry", "citation")} | {"seed": seed},
    )


def _continued(
    model: Model,
    directions: Directions,
    tokens: Tokens,
    rows: Sequence[float],
    unit: Literal["difference", "norm"],
    pos: Any,
    generate: int,
    progress: bool,
) -> tuple[list[list[str]], list[list[int]]]:
    """What is written at each strength after each prompt, and the ids of prompts with what follows the first."""
    n = len(tokens)
    if not generate:
        return [[""] * n for _ in rows], []
    amounts = torch.tensor(rows, dtype=torch.float64).repeat_interleave(n)
    prompt = torch.arange(n).repeat(len(rows))
    step = max(1, limit("stream_tokens", model.device) // (tokens.ids.shape[1] + generate))
    texts: list[str] = []
    ids: list[list[int]] = []
    parts = list(zip(amounts.split(step), prompt.split(step), strict=True))
    for some, at in progress_bar(parts, "continuations", show=progress, unit="batch"):
        batch = Tokens(tokens.ids[at], tokens.mask[at], [tokens.text[i] for i in at.tolist()])
        edits = directions.edits(some, unit=unit, pos=pos)
        whole = model.generate(batch, edits=edits, max_new_tokens=generate)
        for row, i in enumerate(at.tolist()):
            own = whole.ids[row][whole.mask[row]]
            new = Tokens(own[None], torch.ones_like(own[None], dtype=torch.bool), [whole.text[row]])
            full, given = model.text(new)[0], model.text(tokens[i])[0]
            texts.append(full[len(given) :] if full.startswith(given) else full)
            ids.append(own.tolist())
    return [texts[i * n : (i + 1) * n] for i in range(len(rows))], ids[:n]


def _curve(curve: xr.Dataset) -> dict[str, Any]:
    """A curve as lists over doses, means over prompts and draws."""
    columns: dict[str, Any] = {"dose": curve.dose.values.tolist()}
    for name in ("effect", "control_effect", "kl", "control_kl", "perplexity", "control_perplexity"):
        if name in curve and curve[name].size:
            values = curve[name].mean([dim for dim in curve[name].dims if dim != "dose"])
            columns[name] = [_number(value) for value in values.values]
    for name in ("doubles_above", "doubles_below"):
        columns[name] = _number(curve[name]) if name in curve else None
    return columns | {"monotone": bool(curve.attrs["monotone"]), "n_random": curve.sizes["draw"]}


def _number(value: Any) -> float | None:
    return float(value) if math.isfinite(float(value)) else None
