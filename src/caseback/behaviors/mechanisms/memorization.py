"""Text known by heart: what a model continues word for word, and how its layers come to it (PRIMER 5.4.23).

    verbatim   every piece of the continuation is the first choice behind the pieces before it
    rank       of the continuation's first piece by the logit lens, at the prompt's last token, after each layer
    settled    the first layer from which on that rank is 1
    gradient   |dL/dW_l|^2 / sum over layers,    L = mean log p(piece | prompt, pieces before it)

Beside each stand the same continuation behind the same words in another order, and another text that the model
continues as surely without knowing it by heart.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.decode.vocabulary.lenses.logit_lens import logit_lens
from caseback.errors import CasebackError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.localize.inputs.training.examples import Batch, batches, queries_of
from caseback.localize.inputs.training.matrices import Matrix, matrices_of
from caseback.localize.inputs.training.objectives import log_likelihood
from caseback.localize.inputs.training.per_example import Factors, factors
from caseback.model.registry import technique
from caseback.model.results import labelled_set
from caseback.model.running.model import Model

Texts = Sequence[tuple[str, str]]
VARIANTS = ("prompt", "shuffled", "matched")
LEAST = 3
"""Words of a prompt at least, so that all but the last can stand in another order."""


@technique(
    entry=("5.4.23",),
    citation="Haviv et al. 2023, Stoehr et al. 2024",
    cost="a forward, a lens over all layers and a backward of each text, of its shuffled prompt and of each other text",
)
def memorization(
    model: Model,
    texts: Texts,
    *,
    others: Texts | None = None,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Which texts a model continues verbatim, through which layers, and which layers' weights answer for it.

    Parameters
    ----------
    model
        The model.
    texts
        Prompts and what may follow them by heart, a space between: an idiom and its last word, the beginning of a
        paragraph and the rest of it.
    others
        Prompts and continuations that nobody knows by heart. None: those of ``texts`` that are not continued verbatim.
    seed
        Same seed, same result. Words are dealt into another order with it.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        By text (batch): ``verbatim`` 0 or 1, and ``written``, how many of its ``pieces`` come before the first that the
        model would write otherwise. With ``variant`` (the prompt; its words but the last in another order, the same
        continuation behind them; and, of texts continued verbatim, the other text whose first piece is the first choice
        too, each one taken once, at the nearest log probability): ``rank`` and ``log_prob`` (variant, layer, batch) of
        the first piece by the lens after each layer, in nats; ``settled`` (variant, batch), the first layer from which
        on it is the first choice, NaN where it is not in the end; ``loss`` (variant, batch), nats a piece;
        ``gradient`` (variant, layer, batch), each layer's share of the squared norm of the gradient of the weights and
        biases of its attention and MLP. NaN where there is no matched text.

    Raises
    ------
    CasebackError
        For no text, or a prompt of fewer than three words.
    TokensError
        For an empty continuation, or a text longer than the model's context.
    AnatomyError
        For weights that are no linear maps of all tokens, as experts' are.

    References
    ----------
    Haviv et al. 2023, "Understanding transformer memorization recall through idioms"; Stoehr et al. 2024, "Localizing
    paragraph memorization in language models".

    Examples
    --------
    >>> import caseback as cb
    >>> texts = [("The capital of France is", "Paris"), ("The capital of France is", "Rome")]
    >>> known = memorization(cb.load("meadow"), texts)
    >>> known["verbatim"].values.tolist(), known["rank"].dims
    ([1.0, 0.0], ('variant', 'layer', 'batch'))
    """
    if not texts:
        raise CasebackError("no text: expected prompts, each with what may follow it by heart")
    rng = random.Random(f"memorization {seed}")
    asked = [*texts, *((_shuffled(prompt, rng), continuation) for prompt, continuation in texts), *(others or ())]
    layers = _layers(model)
    of = _measured(
        model, asked, [matrix for some in layers for matrix in some], [len(some) for some in layers], progress
    )
    n = len(texts)
    verbatim = (of["written"] == of["pieces"]).astype(float)
    settled = _settled(of["rank"])
    pool = np.arange(2 * n, len(asked)) if others is not None else np.flatnonzero(verbatim[:n] == 0)
    match = _matched(np.flatnonzero(verbatim[:n]), pool, settled, of["log_prob"][-1], n)
    rows = np.stack([np.arange(n), np.arange(n, 2 * n), match])
    beside = {
        "prompt": [prompt for prompt, _ in texts],
        "continuation": [continuation.strip() for _, continuation in texts],
        "matched": ["" if i < 0 else " ".join(part.strip() for part in asked[i]) for i in match.tolist()],
    }
    by_layer = {name: _taken(of[name], rows) for name in ("rank", "log_prob", "gradient")}
    values: dict[str, tuple[Any, list[str]]] = {
        **{name: (table, ["variant", "layer", "batch"]) for name, table in by_layer.items()},
        **{
            name: (_taken(table[None], rows)[:, 0], ["variant", "batch"])
            for name, table in (("settled", settled), ("loss", of["loss"]))
        },
        **{
            name: (table[:n], ["batch"])
            for name, table in (("verbatim", verbatim), ("written", of["written"]), ("pieces", of["pieces"]))
        },
    }
    coords: dict[str, Any] = {"variant": list(VARIANTS), "layer": list(range(model.n_layers))}
    coords |= {key: ("batch", some) for key, some in beside.items()}
    return labelled_set(values, coords, technique=memorization, model=model, others=len(pool), seed=seed)


def _shuffled(prompt: str, rng: random.Random) -> str:
    """A prompt's words but the last in another order."""
    *words, last = prompt.split()
    if len(words) < LEAST - 1:
        raise CasebackError(
            f"the prompt {prompt!r} has fewer than {LEAST} words: expected more, to be put in another order"
        )
    order = rng.sample(words, len(words))
    return " ".join([*(order if order != words else [*words[1:], words[0]]), last])


def _layers(model: Model) -> list[list[Matrix]]:
    """The matrices of each layer's attention and MLP."""
    whole = matrices_of(model.anatomy)
    inside = [{id(module) for module in parts.layer.modules()} for parts in model.anatomy.layers]
    return [[matrix for matrix in whole if id(matrix.uses[0].module) in some] for some in inside]


def _measured(
    model: Model, texts: Texts, matrices: list[Matrix], counts: list[int], progress: bool
) -> dict[str, np.ndarray]:
    """What is measured of each text: by text, or by layer and text."""
    n, n_layers = len(texts), model.n_layers
    out = {name: np.zeros(n) for name in ("written", "pieces", "loss")}
    out |= {name: np.zeros((n_layers, n)) for name in ("rank", "log_prob", "gradient")}
    examples = queries_of(model, [(prompt.rstrip(), f" {continuation.strip()}") for prompt, continuation in texts])
    objective = log_likelihood("mean")
    with progress_bar(total=n, show=progress, what="texts") as bar:
        tokens = sum(len(one.ids) for one in examples)  # in ten batches or more, since each is a step of the bar
        budget = min(limit("influence_tokens"), max(1, tokens // 10))
        for batch in batches(examples, model.device, token_budget=budget):
            some = [examples[i] for i in batch.numbers]
            # what follows does not reach a prompt's last token
            asked = model.tokens([list(one.ids[: one.first]) for one in some])
            lens = logit_lens(model, asked, targets=[[one.ids[one.first] for one in some]], pos=-1, k=1)
            lens = lens.isel(layer=slice(1, None), vocab=0)
            out["rank"][:, batch.numbers] = lens["rank"].values
            out["log_prob"][:, batch.numbers] = np.log(lens["prob"].values)
            gradients, likelihood, logits = factors(model, batch, matrices, objective)
            out["pieces"][batch.numbers] = batch.counted.sum(1).cpu().numpy()
            out["written"][batch.numbers] = _written(logits, batch).cpu().numpy()
            out["loss"][batch.numbers] = -likelihood.cpu().numpy()
            squares = torch.stack([squared_norm(one) for one in gradients]).split(counts)
            out["gradient"][:, batch.numbers] = torch.stack([one.sum(0) for one in squares]).cpu().numpy()
            bar.update(len(some))
    whole = out["gradient"].sum(0)
    out["gradient"] = out["gradient"] / np.where(whole > 0, whole, np.nan)
    return out


def _written(logits: Float[Tensor, "batch pos vocab"], batch: Batch) -> Int[Tensor, " batch"]:
    """Pieces that are the first choice before the first that is not."""
    counted = batch.counted[:, :-1]
    right = (logits[:, :-1].argmax(-1) == batch.tokens.ids[:, 1:]) | ~counted
    return (right.cumprod(1).bool() & counted).sum(1)


def squared_norm(gradient: Factors) -> Float[Tensor, " batch"]:
    """The squared norm of each example's gradient, without forming it: sum of (A A^T) * (D D^T).

    Examples
    --------
    >>> one = Factors(torch.ones(1, 2, 3), torch.ones(1, 2, 4))
    >>> squared_norm(one).tolist(), float(one.whole().square().sum())
    ([48.0], 48.0)
    """
    read, back = gradient.read, gradient.back
    return ((read @ read.transpose(1, 2)) * (back @ back.transpose(1, 2))).sum((1, 2))


def _settled(rank: np.ndarray) -> np.ndarray:
    """The first layer from which on the rank is 1; NaN where it is not after the last."""
    first = np.logical_and.accumulate((rank == 1)[::-1], axis=0).sum(0)
    return np.where(first > 0, len(rank) - first, np.nan)


def _matched(known: np.ndarray, pool: np.ndarray, settled: np.ndarray, final: np.ndarray, n: int) -> np.ndarray:
    """For each text of those known, one of the pool, the nearest in log probability in all; -1 for the rest."""
    from scipy.optimize import linear_sum_assignment

    match = np.full(n, -1)
    pool = pool[~np.isnan(settled[pool])]
    mine, other = linear_sum_assignment(abs(final[known][:, None] - final[pool]))
    match[known[mine]] = pool[other]
    return match


def _taken(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(variant, layer, batch) of a table (layer, row); NaN where a row is -1."""
    return np.where(rows[:, None] < 0, np.nan, np.moveaxis(table[:, rows], 1, 0))
