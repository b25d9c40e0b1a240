"""Dose and response: what more of a direction does, what it costs, and what a random vector as long does.

    effect(a) = metric(prompt, x + a v)            KL(a) = KL(p_0 || p_a) of the next token
    perplexity(a) of plain text                    the same for random vectors of the length of v

All doses of all vectors on all prompts are rows of a few batches. A strength is worth quoting only with its curve: the
effect may turn round, and beyond some dose the model writes no language any more; where the perplexity of plain text
has doubled is a mark for that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.decode.directions.directions import Directions, additions
from caseback.decode.states import Place
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.classes import expect_tokens_out
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit
from caseback.model.running.frames import Positions
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.model.running.verify import unembed
from caseback.tasks.prompts import Prompts

STRENGTHS = (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0)
_BEHIND = ("final_norm", "final_norm.scale", "logits")


@technique(
    entry=("4.2.9", "B.36"),
    citation="Turner et al. 2023; Arditi et al. 2024",
    cost="prompts and plain texts, each times doses times 1 + n_random, as rows of batches",
)
def dose_response(
    model: Model,
    directions: Directions,
    prompts: PromptsLike,
    metric: Metric,
    *,
    strengths: Sequence[float] = STRENGTHS,
    unit: Literal["difference", "norm"] = "norm",
    pos: Positions = None,
    plain_text: PromptsLike | None = None,
    n_random: int = 3,
    side_effects: Sequence[Prompts] = (),
    batch_tokens: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Measure a steering vector at several strengths, beside random vectors of its length.

    Parameters
    ----------
    model
        The model.
    directions
        Where and what is added; at several places at once if there are several: ``.at(...)`` takes some.
    prompts
        What is steered, up to the prompt's last token.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    strengths
        The doses; 0 is always among them.
    unit
        ``"norm"``: a dose of 1 is as long as a state is on average; ``"difference"``: as long as ``write``.
    pos
        Which positions of the prompts are steered; all by default. Plain text is steered at all of its positions.
    plain_text
        Texts whose perplexity is the cost, of two tokens or more each.
    n_random
        How many random vectors; each has the length of the direction's at every place.
    side_effects
        Prompts of tasks (``caseback.tasks.get("ioi").prompts(model)``), each measured by its own metric under steering.
    batch_tokens
        Tokens of a pass, padding included; by default as the budget has it.
    seed
        Same seed, same result. It draws the random vectors.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``effect`` and ``kl`` (dose, batch); ``control_effect`` and ``control_kl`` (draw, dose, batch); with
        ``plain_text`` ``perplexity`` (dose,), ``control_perplexity`` (draw, dose), and ``doubles_above`` and
        ``doubles_below``, the positive and the negative dose at which perplexity is twice that of no steering (NaN
        where it is not within the doses); ``on_TASK`` (dose,) for each of ``side_effects``. The attribute ``monotone``
        says whether the mean effect rises, or falls, throughout the doses up to where perplexity doubles.

    Raises
    ------
    OutOfRange
        For strengths that are not finite, none, or ``n_random`` below 0.
    CasebackError
        For directions behind the last layer, or positions that are only generated.

    Notes
    -----
    Entries 4.2.9 and B.36. Doses between which perplexity doubles are interpolated in its logarithm.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.steering import contrastive_addition
    >>> model = cb.load("meadow")
    >>> review = "Review: The {} was {} and the show was {}. Sentiment:"
    >>> good = [review.format("film", "great", "lovely"), review.format("game", "charming", "superb")]
    >>> bad = [review.format("film", "awful", "boring"), review.format("game", "ugly", "terrible")]
    >>> found = contrastive_addition(model, good, bad).at("resid_post.2")
    >>> curve = dose_response(model, found, bad, cb.logit_diff(" positive", " negative"))
    >>> [bool(difference > 0) for difference in curve.effect.mean("batch").sel(dose=[-1.0, 0.0, 1.0])]
    [False, False, True]
    """
    expect_tokens_out(model.anatomy, "a dose's effect on the next token")
    doses = doses_of(strengths)
    if n_random < 0:
        raise OutOfRange(f"n_random={n_random}: expected 0 or more")
    expect_before_the_end(model, directions.places)
    if isinstance(pos, slice) and pos.start is not None and pos.start > 2**31:
        raise CasebackError("pos='generated': doses are measured on given text; leave pos out, or name positions")
    vectors = with_random(directions.vectors(unit), n_random, seed)
    cells = Cells(directions.places, vectors, doses)
    how = {"budget": batch_tokens or limit("stream_tokens", model.device), "progress": progress}
    tokens = model.tokens(prompts)
    effect, kl = _on_prompts(model, tokens, metric, cells, pos, **how)
    dims = ["draw", "dose", "batch"]
    arrays: dict[str, tuple[list[str], np.ndarray]] = {}
    for name, values in (("effect", effect), ("kl", kl)):
        arrays[name] = dims[1:], values[0]
        arrays[f"control_{name}"] = dims, values[1:]
    edge: dict[str, float] = {}
    if plain_text is not None:
        perplexity = _perplexity(model, model.tokens(plain_text), cells, **how)
        arrays["perplexity"] = ["dose"], perplexity[0]
        arrays["control_perplexity"] = ["draw", "dose"], perplexity[1:]
        edge = {f"doubles_{side}": doubling(doses, perplexity[0], sign) for side, sign in (("above", 1), ("below", -1))}
        arrays |= {name: ([], np.array(value)) for name, value in edge.items()}
    alone = Cells(directions.places, vectors[:1], doses)
    for number, task in enumerate(side_effects):
        values, _ = _on_prompts(model, task.clean, task.metric, alone, None, **how)
        arrays[f"on_{task.task or number}"] = ["dose"], values[0].mean(-1)
    facts = {"unit": unit, "places": directions.names, "seed": seed, "metric": metric.name}
    of = labelled(kl[0], dims[1:], technique=dose_response, model=model, **facts).attrs
    within = (doses >= _or(edge.get("doubles_below"), -np.inf)) & (doses <= _or(edge.get("doubles_above"), np.inf))
    steps = np.diff(effect[0].mean(-1)[within])
    coords = {"dose": doses, "batch": np.arange(len(tokens)), "draw": np.arange(n_random)}
    return xr.Dataset(arrays, coords, of | {"monotone": int((steps >= 0).all() or (steps <= 0).all())})


class Cells:
    """Each vector at each dose, the undisturbed one first; random vectors have no cell at the dose 0."""

    def __init__(self, places: Sequence[Place], vectors: Float[Tensor, "vector place d"], doses: np.ndarray):
        self.places, self.vectors, self.doses = places, vectors, doses
        zero = int(np.flatnonzero(doses == 0)[0])
        others = [i for i in range(len(doses)) if i != zero]
        self.at = [(0, zero), *((v, i) for v in range(len(vectors)) for i in others)]

    def __len__(self) -> int:
        return len(self.at)

    def edits(self, cells: Int[Tensor, " row"], pos: Positions) -> list[Edit]:
        """What is added in rows that are of these cells."""
        which, dose = torch.tensor(self.at)[cells].T
        amounts = torch.from_numpy(self.doses)[dose].to(self.vectors)
        values = amounts[:, None, None] * self.vectors[which.to(self.vectors.device)]
        return additions(self.places, values.transpose(0, 1), pos=pos)

    def table(self, values: Float[Tensor, "cell *rest"]) -> np.ndarray:
        """(vector, dose, ...) from one value a cell; at the dose 0 all vectors have the same."""
        numbers = values.cpu().double().numpy()
        table = np.repeat(numbers[:1], len(self.vectors) * len(self.doses), 0)
        table = table.reshape(len(self.vectors), len(self.doses), *numbers.shape[1:])
        for (vector, dose), value in zip(self.at, numbers, strict=True):
            if self.doses[dose]:
                table[vector, dose] = value
        return table

    def passes(
        self, tokens: Tokens, pos: Positions, budget: int, progress: bool, what: str
    ) -> Iterator[tuple[Tensor, Tensor, Tokens, list[Edit]]]:
        """Cell and prompt of some rows, their tokens and edits, until all prompts are done in all cells."""
        cell = torch.arange(len(self)).repeat_interleave(len(tokens))
        prompt = torch.arange(len(tokens)).repeat(len(self))
        step = max(1, budget // tokens.ids.shape[1])
        chunks = list(zip(cell.split(step), prompt.split(step), strict=True))
        for cells, rows in progress_bar(chunks, what, show=progress, unit="batch"):
            mine = pos.cpu()[rows] if isinstance(pos, Tensor) and pos.ndim else pos
            yield cells, rows, tokens[rows], self.edits(cells, mine)


def with_random(vectors: Float[Tensor, "place d"], n: int, seed: int) -> Float[Tensor, "vector place d"]:
    """The vectors, and as many random ones as are asked for, each as long at every place."""
    draw = torch.Generator().manual_seed(seed)
    random = torch.randn(n, *vectors.shape, generator=draw, dtype=torch.float64).to(vectors)
    random = random / random.norm(dim=2, keepdim=True) * vectors.norm(dim=1)[None, :, None]
    return torch.cat([vectors[None], random])


def doubling(doses: np.ndarray, perplexity: np.ndarray, sign: int) -> float:
    """The first dose on one side of 0 at which perplexity is twice that of no steering; NaN where it is at none.

    Examples
    --------
    >>> doubling(np.array([0.0, 1.0, 3.0]), np.array([10.0, 10.0, 40.0]), 1)
    2.0
    """
    order = np.argsort(sign * doses)
    order = order[sign * doses[order] >= 0]
    x, more = doses[order], np.log2(perplexity[order] / perplexity[order[0]])
    over = np.flatnonzero(~(more < 1))
    if not len(over):
        return float("nan")
    after = int(over[0])
    if not np.isfinite(more[after]):
        return float(x[after])
    share = (1 - more[after - 1]) / (more[after] - more[after - 1])
    return float(x[after - 1] + share * (x[after] - x[after - 1]))


@torch.no_grad()
def _on_prompts(
    model: Model, tokens: Tokens, metric: Metric, cells: Cells, pos: Positions, *, budget: int, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The metric and the divergence of each prompt's last token, (vector, dose, batch)."""
    last = Site("resid_post", model.anatomy.n_layers - 1)
    effect = torch.zeros(len(cells), len(tokens), dtype=torch.float64)
    kl, plain = torch.zeros_like(effect), {}
    for cell, rows, some, edits in cells.passes(tokens, pos, budget, progress, "doses"):
        run, values = measured(model.anatomy, some, metric.of_rows(tokens, rows), read=[last], edits=edits)
        effect[cell, rows] = values.cpu().double()
        columns = some.column(-1)
        stream = run[last]
        final = stream[torch.arange(len(rows), device=stream.device), columns.to(stream.device)]
        log_q = at_least_float32(unembed(model.anatomy, final)).log_softmax(-1)
        plain |= {int(row): log_q[i] for i, row in enumerate(rows[cell == 0])}  # the first rows of a pass
        log_p = torch.stack([plain[row] for row in rows.tolist()])
        kl[cell, rows] = (log_p.exp() * (log_p - log_q)).sum(-1).cpu().double()
    return cells.table(effect), cells.table(kl)


@torch.no_grad()
def _perplexity(model: Model, tokens: Tokens, cells: Cells, *, budget: int, progress: bool) -> np.ndarray:
    """Exp of the mean surprise over all tokens but each text's first, (vector, dose)."""
    if int(tokens.lengths.min()) < 2:
        raise TokensError("a plain text of one token has no next token: expected two tokens or more in each")
    last = Site("resid_post", model.anatomy.n_layers - 1)
    surprise = torch.zeros(len(cells), dtype=torch.float64)
    at_once = max(1, limit("lens_logits") // model.d_vocab)
    for cell, _, some, edits in cells.passes(tokens, None, budget, progress, "plain text"):
        stream = execute(model.anatomy, some, read=[last], edits=edits, logits=False)[last]
        both = some.mask[:, 1:] & some.mask[:, :-1]
        row, column = both.nonzero(as_tuple=True)
        of = cell[row.cpu()]
        parts = []
        for r, c in zip(row.split(at_once), column.split(at_once), strict=True):
            log_p = at_least_float32(unembed(model.anatomy, stream[r, c])).log_softmax(-1)
            parts.append(-log_p.gather(-1, some.ids[r, c + 1][:, None])[:, 0].cpu().double())
        surprise.index_add_(0, of, torch.cat(parts))
    n_tokens = int((tokens.mask[:, 1:] & tokens.mask[:, :-1]).sum())
    return cells.table((surprise / n_tokens).exp())


def doses_of(strengths: Sequence[float]) -> np.ndarray:
    """Strengths in order, each once, 0 among them.

    Raises
    ------
    OutOfRange
        For none but 0, and numbers that are not finite.
    """
    doses = np.array(sorted({0.0, *(float(s) for s in strengths)}))
    if len(doses) < 2 or not np.isfinite(doses).all():
        raise OutOfRange(f"strengths {list(strengths)}: expected finite numbers, at least one of them not 0")
    return doses


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None or np.isnan(value) else value


def expect_before_the_end(model: Model, places: Sequence[Place]) -> None:
    """Refuse places behind the last layer, whose stream is all that is read here.

    Raises
    ------
    CasebackError
    """
    standing: list[Any] = [site.name for site, _ in model.anatomy.standing]
    for name in (*(place.site for place in places), *standing):
        if name in _BEHIND:
            raise CasebackError(f"edits at {name!r} stand behind the last layer: expected places of the layers")
