"""What an edit is worth, as CounterFact and zsRE define it, and by what the model generates. (PRIMER 5.4.26)

For a prompt and an answer: nll = -mean over pieces of log p(piece | prompt, pieces before it).

    efficacy ES, paraphrase PS    share with nll(new) < nll(true)
    neighborhood NS               share of neighbors with nll(own answer) < nll(new)
    magnitudes EM, PM, NM         mean of the difference of exp(-nll) in the same senses
    accuracy                      share of pieces that are the argmax, teacher-forced (zsRE; rewrite_acc)
    exact                         share of prompts whose greedy continuation begins with the answer, generated
    S                             3 / (1/ES + 1/PS + 1/NS)

Teacher forcing is far kinder than generation (Yang et al. 2025), so both stand beside each other. No score says where
a fact is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.edit.facts import Fact, Question, spaced
from caseback.edit.places import pieces_of
from caseback.edit.rome import listed_facts
from caseback.errors import EditError
from caseback.jobs.budget import limit
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.arguments import checked
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model

_PARTS = ("prompt", "paraphrases", "neighbors", "portability")
MEASURES = (
    *("efficacy", "paraphrase", "neighborhood", "score"),
    *("efficacy_magnitude", "paraphrase_magnitude", "neighborhood_magnitude"),
    *("efficacy_accuracy", "paraphrase_accuracy", "neighborhood_accuracy", "portability_accuracy"),
    *("efficacy_exact", "paraphrase_exact", "neighborhood_exact", "portability_exact"),
)


@technique(
    entry=("5.4.26",),
    citation="Meng et al. 2022; Meng et al. 2023; Levy et al. 2017",
    cost="one pass over every prompt with each of its answers, and a greedy continuation of each",
)
def scores(
    model: Model,
    facts: Sequence[Fact],
    *,
    context: str | Sequence[str] = "",
    generated: bool = True,
) -> xr.DataArray:
    """Score what a model, under an edit or not, answers to facts, their paraphrases and their neighbors.

        ES, PS: nll(new) < nll(true)     NS: nll(own) < nll(new)     S = 3 / (1/ES + 1/PS + 1/NS)

    Parameters
    ----------
    model
        The model: ``edit.on(model)`` after an edit, the model itself before.
    facts
        What was written.
    context
        A text before every prompt, one for all or one for each fact, for editing in context.
    generated
        Whether greedy continuations are compared too.

    Returns
    -------
    xr.DataArray
        (batch, measure), a fact a row; not a number where the fact has no such prompts or no true answer. Its mean over
        ``batch`` gives the table's numbers, but for the score S, which ``summary`` takes of the means.

    Notes
    -----
    Entry 5.4.26. Each fact's prompts are averaged before facts are, as the reference does.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> spain = [("The capital of Spain is", "Madrid")]
    >>> fact = Fact("The capital of {} is", "France", "Rome", "Paris", neighbors=spain)
    >>> before = scores(model, [fact])
    >>> before.sel(measure=["efficacy", "neighborhood", "neighborhood_exact"]).values.tolist()
    [[0.0, 1.0, 1.0]]
    """
    facts = listed_facts(facts)
    before = [context] * len(facts) if isinstance(context, str) else list(context)
    if len(before) != len(facts):
        raise EditError(f"{len(before)} contexts for {len(facts)} facts: give one, or one for each")
    asked: dict[tuple[str, str], None] = {}
    put = [lambda text, c=c: f"{c} {text}" if c else text for c in before]
    for fact, behind in zip(facts, put, strict=True):
        for part in _PARTS:
            for text, answer, other in _questions(fact, part):
                asked[behind(text), answer] = None
                if other is not None:
                    asked[behind(text), other] = None
    forced = dict(zip(asked, teacher_forced(model, list(asked)), strict=True))
    to_generate = {
        (behind(text), answer): None
        for fact, behind in zip(facts, put, strict=True)
        for part in _PARTS
        for text, answer, _ in _questions(fact, part)
    }
    exact = dict(zip(to_generate, begins_with(model, list(to_generate)), strict=True)) if generated else {}
    rows = [_row(fact, behind, forced, exact) for fact, behind in zip(facts, put, strict=True)]
    return labelled(
        [[row.get(name, np.nan) for name in MEASURES] for row in rows],
        ("batch", "measure"),
        {"measure": list(MEASURES), "fact": ("batch", [str(fact) for fact in facts])},
        name="score",
        technique=scores,
        model=model,
    )


@checked
def summary(table: xr.DataArray) -> xr.DataArray:
    """The means over facts, with S from the means of efficacy, paraphrase and neighborhood.

    Parameters
    ----------
    table
        What ``scores`` gave.

    Returns
    -------
    xr.DataArray
        (measure,).
    """
    if table.dims != ("batch", "measure") or not {"efficacy", "score"} <= set(table["measure"].values.tolist()):
        raise EditError(f"a table with the dimensions {table.dims}: expected what scores gave")
    means = table.mean("batch", skipna=True, keep_attrs=True)
    three = [float(means.sel(measure=name)) for name in ("efficacy", "paraphrase", "neighborhood")]
    means.loc[{"measure": "score"}] = harmonic(three)
    return means


def harmonic(values: Sequence[float]) -> float:
    """The harmonic mean; 0 where a value is 0.

    Examples
    --------
    >>> round(harmonic([1.0, 0.964, 0.754]), 3)
    0.892
    """
    given = np.asarray(values, float)
    return (
        float("nan") if np.isnan(given).any() else 0.0 if (given <= 0).any() else float(len(given) / (1 / given).sum())
    )


def _questions(fact: Fact, part: str) -> list[tuple[str, str, str | None]]:
    """Prompts of a part, each with the answer that is wanted and the one that it is compared with."""
    if part == "prompt":
        return [(fact.text, fact.new, fact.true)]
    if part == "paraphrases":
        return [(text, fact.new, fact.true) for text in fact.paraphrases]
    if part == "neighbors":
        # an answer beside itself says nothing
        return [(text, own, None if spaced(own) == spaced(fact.new) else fact.new) for text, own in fact.neighbors]
    return [(text, answer, None) for text, answer in fact.portability]


def _row(
    fact: Fact,
    behind: Callable[[str], str],
    forced: dict[Question, tuple[float, float]],
    exact: dict[Question, bool],
) -> dict[str, float]:
    row: dict[str, float] = {}
    for part, name in zip(_PARTS, ("efficacy", "paraphrase", "neighborhood", "portability"), strict=True):
        questions = [(behind(text), answer, other) for text, answer, other in _questions(fact, part)]
        if not questions:
            continue
        row[f"{name}_accuracy"] = float(np.mean([forced[text, answer][1] for text, answer, _ in questions]))
        if exact:
            row[f"{name}_exact"] = float(np.mean([exact[text, answer] for text, answer, _ in questions]))
        pairs = [
            (forced[text, answer][0], forced[text, other][0]) for text, answer, other in questions if other is not None
        ]
        if pairs:
            row[name] = float(np.mean([a < b for a, b in pairs]))
            row[f"{name}_magnitude"] = float(np.mean([np.exp(-a) - np.exp(-b) for a, b in pairs]))
    if {"efficacy", "paraphrase", "neighborhood"} <= row.keys():
        row["score"] = harmonic([row["efficacy"], row["paraphrase"], row["neighborhood"]])
    return row


def teacher_forced(model: Model, questions: Sequence[Question]) -> list[tuple[float, float]]:
    """Of each prompt and answer: -mean log p of its pieces, and the share of pieces that are the argmax."""
    prompts = model.tokens([text for text, _ in questions])
    pieces = pieces_of(model, [answer for _, answer in questions])
    rows = [ids[mask].tolist() + more for ids, mask, more in zip(prompts.ids, prompts.mask, pieces, strict=True)]
    out: list[tuple[float, float]] = [(0.0, 0.0)] * len(rows)
    for block in blocks(model, [len(row) for row in rows]):
        tokens = model.tokens([rows[i] for i in block])
        logits = at_least_float32(model.run(tokens).logits)
        for b, i in enumerate(block):
            end = int(tokens.first[b]) + len(rows[i])
            out[i] = _of_pieces(logits[b, end - len(pieces[i]) - 1 : end - 1], pieces[i])
    return out


def _of_pieces(logits: Tensor, pieces: list[int]) -> tuple[float, float]:
    ids = torch.tensor(pieces, device=logits.device)
    log_p = logits.log_softmax(-1).gather(-1, ids[:, None])
    return float(-log_p.mean()), float((logits.argmax(-1) == ids).float().mean())


def begins_with(model: Model, questions: Sequence[Question]) -> list[bool]:
    """Whether the greedy continuation of each prompt begins with its answer, piece by piece."""
    pieces = pieces_of(model, [answer for _, answer in questions])
    prompts = model.tokens([text for text, _ in questions])
    rows = [ids[mask].tolist() for ids, mask in zip(prompts.ids, prompts.mask, strict=True)]
    out = [False] * len(rows)
    for block in blocks(model, [len(row) for row in rows]):
        longest = max(len(pieces[i]) for i in block)
        whole = model.generate(model.tokens([rows[i] for i in block]), max_new_tokens=longest)
        for b, i in enumerate(block):
            own = whole.ids[b][whole.mask[b]].tolist()
            out[i] = own[len(rows[i]) : len(rows[i]) + len(pieces[i])] == pieces[i]
    return out


def blocks(model: Model, lengths: Sequence[int]) -> list[list[int]]:
    """Rows in order of length, as many together as the budget for tokens holds."""
    budget, out = limit("stream_tokens", model.device), [[]]
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if out[-1] and (len(out[-1]) + 1) * lengths[i] > budget:
            out.append([])
        out[-1].append(i)
    return out
