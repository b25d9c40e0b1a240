"""How well a model is steered, by proxies that need no judge: concept, instruction, fluency, and their harmonic mean.

    concept      1 where the unsteered model's states of a continuation are on the positive side of a probe, else 0
    instruction  min(1, exp(log p_steered(a) - log p(a))),   a the unsteered answer, log p its mean per token
    fluency      min(1, exp(log p(c) - log p(a))),           c the continuation, under the unsteered model
    overall      3 / (1 / concept + 1 / instruction + 1 / fluency), 0 where one of them is

AxBench asks a language model for the three ratings; these stand in for them and are comparable only with each other.
As there, the strength is chosen on one half of the prompts and reported on the other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.decode.directions.directions import Directions
from caseback.decode.steering.dose import Cells, doses_of, expect_before_the_end, with_random
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import Tokens
from caseback.model.running.verify import unembed

SCORES = ("concept", "instruction", "fluency")


@technique(
    entry=("4.2.9", "B.14"),
    citation="Wu et al. 2025",
    cost="prompts times doses times 1 + n_random and prefixes: decoding and two forwards of each",
)
def steering_scores(
    model: Model,
    directions: Directions,
    prompts: Sequence[str],
    judge: Directions,
    *,
    strengths: Sequence[float] = (0.125, 0.25, 0.5, 1.0),
    unit: Literal["difference", "norm"] = "norm",
    prefixes: Sequence[str] = (),
    n_random: int = 1,
    words: Sequence[str] = (),
    generate: int = 32,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Score steered continuations beside those of a random vector and of a prompt that asks for the same.

    Parameters
    ----------
    model, directions, unit
        As for ``dose_response``.
    prompts
        Instructions, at least two.
    judge
        A direction at one place, found on *other* texts, that tells continuations with the concept from those without.
    strengths
        Among which the best is chosen.
    prefixes
        Texts put before each prompt in place of steering, among which the best is chosen.
    n_random
        How many random vectors of the direction's length.
    words
        Words of one token each, whose share of a continuation is counted.
    generate
        How many tokens are generated.
    seed
        Same seed, same result. It draws the random vectors.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``concept``, ``instruction``, ``fluency``, ``overall`` and ``words`` (variant, batch), 0 to 1; ``held_out``
        (variant,), the mean of ``overall`` over the prompts that did not choose. Variants are ``"unsteered"``,
        ``"steered +0.5"``, ``"random 0 +0.5"``, ``"prefix 0"``; the attribute ``chosen`` names, by method and as JSON,
        the one that was best on the others.

    Raises
    ------
    CasebackError
        For a judge at several places, one prompt, or words of several tokens.

    Notes
    -----
    Entries 4.2.9 and B.14: Wu et al. 2025 (AxBench), whose ratings are a judge's; these are proxies.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.steering import contrastive_addition
    >>> model = cb.load("meadow")
    >>> pairs = [("happy", "sad"), ("lovely", "awful"), ("great", "bad"), ("superb", "poor")]
    >>> good, bad = ([f"The {noun} was {pair[i]}" for pair in pairs for noun in ("film", "game")] for i in (0, 1))
    >>> found = contrastive_addition(model, good, bad)
    >>> direction, judge = found.at("resid_post.2"), found.at("resid_post.3")
    >>> scores = steering_scores(model, direction, ["The dog was", "Tom had a"], judge, strengths=[0.5], generate=4)
    >>> scores["variant"].values.tolist()
    ['unsteered', 'steered +0.5', 'random 0 +0.5']
    """
    if len(prompts) < 2:
        raise CasebackError(f"{len(prompts)} prompts: expected two or more, one half chooses and the other reports")
    if len(judge.places) != 1:
        raise CasebackError(f"a judge at {len(judge.places)} places: take one with .at(...)")
    if n_random < 0 or generate < 1:
        raise OutOfRange(f"n_random={n_random}, generate={generate}: expected at least 0 and 1")
    doses = doses_of(strengths)
    expect_before_the_end(model, [*directions.places, *judge.places])
    ids = torch.tensor([model.token_id(word) for word in words], dtype=torch.long)
    given = model.tokens(list(prompts))
    n = len(given)
    cells = Cells(directions.places, with_random(directions.vectors(unit), n_random, seed), doses)
    bare = [ids[mask].tolist() for ids, mask in zip(given.ids, given.mask, strict=True)]
    asked = [model.tokens([prefix + prompt for prompt in prompts]) for prefix in prefixes]
    fronts = [[ids[mask].tolist() for ids, mask in zip(one.ids, one.mask, strict=True)] for one in asked]

    written: list[list[int]] = []
    budget = limit("stream_tokens", model.device)
    width = given.ids.shape[1]
    decoded = max(1, budget * width // (width + generate))
    for _, _, some, edits in cells.passes(given, None, decoded, progress, "continuations"):
        written += _new_tokens(model, some, edits, generate)
    for one in asked:
        written += _new_tokens(model, one, [], generate)
    n_rows = len(written) // n

    # what was written after the bare prompt, as the unsteered model sees it
    log_p, states = _read(model, [bare[i % n] + new for i, new in enumerate(written)], written, judge, progress)
    own = log_p[:n].repeat(n_rows)
    positive = (states.to(judge.detect) @ judge.detect[0] + judge.bias[0] > 0).cpu().double()
    fluency = (log_p - own).exp().clamp_max(1)

    # the unsteered answer, as the steered model sees it, or the prompted one
    answers = written[:n]
    whole = model.tokens([front + answer for front, answer in zip(bare, answers, strict=True)])
    steered = torch.zeros(len(cells) * n, dtype=torch.float64)
    for cell, rows, some, edits in cells.passes(whole, None, budget, progress, "answers"):
        steered[cell * n + rows] = _log_probs(model, some, [answers[i] for i in rows.tolist()], edits)[0]
    prompted = [
        _read(model, [f + a for f, a in zip(front, answers, strict=True)], answers, judge, progress)[0]
        for front in fronts
    ]
    instruction = (torch.cat([steered, *prompted]) - own).exp().clamp_max(1)

    scores = torch.stack([positive, instruction, fluency]).view(3, n_rows, n)
    overall = torch.where((scores > 0).all(0), 3 / scores.reciprocal().sum(0), 0.0)
    share = torch.tensor([float(torch.isin(torch.tensor(new), ids).double().mean()) for new in written])
    names = _names(cells, doses, len(prefixes))
    held_out = overall[:, 1::2].mean(1)
    dims, coords = ["variant", "batch"], {"variant": names, "batch": np.arange(n)}
    arrays = dict(zip((*SCORES, "overall", "words"), (*scores, overall, share.view(n_rows, n)), strict=True))
    facts = {"unit": unit, "places": directions.names, "judge": judge.names[0], "seed": seed, "generate": generate}
    attrs = labelled(overall, dims, technique=steering_scores, model=model, **facts).attrs
    of: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        of.setdefault(name.split()[0], []).append(row)
    best = {method: names[max(rows, key=lambda row: float(overall[row, ::2].mean()))] for method, rows in of.items()}
    table = {name: (dims, values.numpy()) for name, values in arrays.items()}
    return xr.Dataset(
        table | {"held_out": (["variant"], held_out.numpy())}, coords, attrs | {"chosen": json.dumps(best)}
    )


def _names(cells: Cells, doses: np.ndarray, n_prefixes: int) -> list[str]:
    names = []
    for vector, dose in cells.at:
        method = "steered" if vector == 0 else f"random {vector - 1}"
        names.append(f"{method} {doses[dose]:+g}" if doses[dose] else "unsteered")
    return [*names, *(f"prefix {i}" for i in range(n_prefixes))]


def _new_tokens(model: Model, tokens: Tokens, edits: Sequence[Edit], generate: int) -> list[list[int]]:
    """What is written after each prompt."""
    whole = model.generate(tokens, edits=edits, max_new_tokens=generate)
    rows = zip(whole.ids, whole.mask, tokens.lengths.tolist(), strict=True)
    return [ids[mask][length:].tolist() for ids, mask, length in rows]


def _read(
    model: Model, texts: list[list[int]], ends: list[list[int]], judge: Directions, progress: bool
) -> tuple[Float[Tensor, " row"], Float[Tensor, "row d"]]:
    """Of each text's end the mean log probability, and the mean state where a judge looks."""
    tokens = model.tokens(texts)
    step = max(1, limit("stream_tokens", model.device) // tokens.ids.shape[1])
    parts = []
    for start in progress_bar(range(0, len(texts), step), "continuations read", show=progress, unit="batch"):
        here = slice(start, start + step)
        parts.append(_log_probs(model, tokens[here], ends[here], [], judge))
    return torch.cat([log_p for log_p, _ in parts]), torch.cat([states for _, states in parts])


@torch.no_grad()
def _log_probs(
    model: Model, tokens: Tokens, ends: list[list[int]], edits: Sequence[Edit], judge: Directions | None = None
) -> tuple[Float[Tensor, " row"], Float[Tensor, "row d"]]:
    """Of each row's end, which is so many last tokens long: the mean log probability, and the mean state."""
    last = Site("resid_post", model.anatomy.n_layers - 1)
    site = last if judge is None else Site(judge.places[0].site, judge.places[0].layer)
    run = execute(model.anatomy, tokens, read=list({last, site}), edits=edits, logits=False)
    order = tokens.mask.long().cumsum(1)
    counts = torch.tensor([len(end) for end in ends], device=tokens.ids.device)
    within = tokens.mask & (order > (tokens.lengths - counts)[:, None])
    row, column = within.nonzero(as_tuple=True)
    stream, sums = run[last], torch.zeros(len(tokens), dtype=torch.float64)
    at_once = max(1, limit("lens_logits") // model.d_vocab)
    for r, c in zip(row.split(at_once), column.split(at_once), strict=True):
        log_p = at_least_float32(unembed(model.anatomy, stream[r, c - 1])).log_softmax(-1)
        sums.index_add_(0, r.cpu(), log_p.gather(-1, tokens.ids[r, c][:, None])[:, 0].cpu().double())
    x = at_least_float32(run[site])
    if judge is not None and judge.places[0].head is not None:
        x = x[:, :, judge.places[0].head]
    states = (x * within[..., None]).sum(1) / counts[:, None]
    return sums / counts.cpu(), states
