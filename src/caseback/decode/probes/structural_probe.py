"""Structural probes: is there a linear map after which squared distances between words are those in the parse tree?

    distance   |B (h_i - h_j)|^2  ~  edges between i and j           loss  sum_ij |d_T - d_B| / words^2
    depth      |B h_i|^2          ~  edges between i and the root    loss  sum_i  |d_T - d_B| / words

Distances come from the Gram matrix of projected words, G_ii + G_jj - 2 G_ij, so that differences of words are never
formed. Beside each probe stands one of the same size for trees whose words are shuffled. Hewitt & Manning 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.decode.probes.judged import interval
from caseback.decode.probes.sentences import TASKS, ParsedSentences
from caseback.decode.probes.setting import Labels, site_names
from caseback.decode.probes.splits import folds, numbered
from caseback.decode.probes.training import expect_training, trained
from caseback.decode.probes.trees import LENGTHS, checked_heads, rank_correlation, spanning_trees
from caseback.decode.representations import expect_fitting, representations
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.model.registry import technique

START = 0.01
"""A small start: directions that trees say nothing of stay small, and are not there to be unlearned."""


@dataclass(frozen=True)
class StructuralProbe:
    """A structural probe at each site.

    Attributes
    ----------
    weight
        B, (site, d_model, rank), of features as they are.
    table
        What was measured, by site.
    """

    weight: Float[Tensor, "site d rank"]
    table: xr.Dataset

    def distances(self, x: Float[Tensor, "site word d"]) -> Float[Tensor, "site word word"]:
        """Squared distances between the words of a sentence, which stand for edges of its tree."""
        expect_fitting(x, *self.weight.shape[:2])
        return _squared_distances(x.to(self.weight) @ self.weight)

    def depths(self, x: Float[Tensor, "site word d"]) -> Float[Tensor, "site word"]:
        """Squared lengths of words, which stand for their depth where the probe is one of depth."""
        expect_fitting(x, *self.weight.shape[:2])
        return (x.to(self.weight) @ self.weight).square().sum(-1)

    def trees(self, x: Float[Tensor, "site word d"]) -> list[list[tuple[int, int]]]:
        """The edges of a sentence's minimum spanning tree, by site."""
        distances = self.distances(x)
        edges = spanning_trees(distances, torch.ones(distances.shape[:-1], dtype=torch.bool, device=x.device))
        return [[(i, j) for i, j in site.nonzero().tolist() if i < j] for site in edges]


@technique(
    entry=("4.1.2",),
    citation="Hewitt & Manning 2019",
    cost="epochs passes over the words, each a product with two projections; no model is run",
)
def structural_probe(
    x: Any,
    y: Sequence[Any] | Tensor | np.ndarray,
    *,
    kind: Literal["distance", "depth"] = "distance",
    rank: int = 64,
    mask: Sequence[bool] | Tensor | np.ndarray | None = None,
    groups: Labels | None = None,
    sites: Sequence[Any] | None = None,
    epochs: int = 40,
    batch_size: int = 20,
    learning_rate: float = 1e-3,
    n_folds: int = 4,
    resamples: int = 1000,
    seed: int = 0,
) -> StructuralProbe:
    """Fit structural probes at many sites at once, and judge them on sentences that were held out.

    Parameters
    ----------
    x
        Representations (site, word, d_model) of all sentences' words, one sentence after another; (word, d_model) of
        one site. A word of several tokens is their mean, or its last.
    y
        For each sentence the heads of its words, counted from 0 within the sentence, -1 for the root: what
        ``caseback.tasks.formats.conllu`` gives as ``heads``.
    kind
        ``"distance"`` between words or ``"depth"`` below the root.
    rank
        Columns of B. The paper's probes gain nothing beyond 64.
    mask
        Which words are scored in trees and roots, one truth value for each word: without punctuation in the paper. By
        default all. All words are trained on, and rank correlations are of all.
    groups
        What each *sentence* belongs to (its document).
    sites
        Names of the sites; by default their numbers.
    epochs, batch_size, learning_rate
        Of Adam, in passes, sentences and its step. The paper divides the step by 10 at plateaus; here it falls along
        half a cosine, and the epoch that an inner fold likes best counts, as in the paper.
    n_folds
        Into how many parts groups are dealt.
    resamples
        Resamples of the held-out groups for the 95 % interval.
    seed
        Same seed, same result.

    Returns
    -------
    StructuralProbe
        ``table`` has by site, for distances: ``uuas`` (the share of the trees' edges, either way, in the minimum
        spanning tree), its interval ``low`` and ``high``, ``shuffled`` (of the same probe fitted to trees whose words
        are shuffled), and ``chain`` (of joining neighbors); for depths ``root_accuracy`` likewise and its ``chance``.
        ``spearman`` is the mean over words (depths: sentences) of rank correlations with the tree's, then over lengths
        of sentences from 5 to 50; NaN where no held-out sentence is of such a length. A word's distance to itself is
        among those that are ranked, as in the paper, so that chance is ``shuffled_spearman`` and not 0.

    Raises
    ------
    CasebackError
        For heads that form no tree, counts that differ, too few groups, numbers that are not finite, and features that
        never vary.

    Notes
    -----
    Entry 4.1.2: Hewitt & Manning 2019. Features are divided by their standard deviation before training, which B takes
    up.

    Examples
    --------
    >>> from caseback.decode.probes.trees import ancestors
    >>> trees = [[1, -1, 1, 2], [-1, 0, 0, 1]] * 20
    >>> x = torch.tensor(ancestors(np.array(trees))).flatten(0, 1)  # words as what is above them
    >>> probe = structural_probe(x, trees, rank=4, learning_rate=0.02)
    >>> float(probe.table.uuas[0]), bool(probe.table.chain < 0.7)
    (1.0, True)
    """
    data = representations(x, "(site, word, d_model)")
    heads = checked_heads(y)
    names = site_names(sites, len(data))
    lengths = np.array([len(h) for h in heads])
    if lengths.sum() != data.shape[1]:
        raise CasebackError(f"{lengths.sum()} heads for {data.shape[1]} words: expected one for each")
    if lengths.max() < 2:
        raise CasebackError("all sentences have one word: expected some with more")
    scored = _scored(mask, data.shape[1])
    if not 1 <= rank <= 2**16:
        raise OutOfRange(f"rank {rank}: expected from 1 to 65536")
    if n_folds < 2:
        raise OutOfRange(f"n_folds {n_folds}: expected at least 2")
    if len(heads) < 2 * n_folds:
        raise CasebackError(f"{len(heads)} sentences: expected {2 * n_folds} or more, twice n_folds")
    expect_training(epochs, batch_size, learning_rate)
    of = None if groups is None else numbered(groups, "groups", len(heads))[1]
    alike = np.zeros(len(heads), dtype=int)
    held = folds(alike, of, n_folds, seed)[0]
    others = np.setdiff1d(np.arange(len(heads)), held)
    validation = others[folds(alike[others], None if of is None else of[others], n_folds, seed)[0]]
    sentences = ParsedSentences(heads, kind, np.random.default_rng(seed))
    step = max(1, limit("probe_numbers", data.device) // data[0].numel())
    options = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed}
    parts = []
    for some in data.split(step):
        weight = _fitted(some, sentences, np.setdiff1d(others, validation), validation, rank, options)
        parts.append((weight, *_judged(some, weight, sentences, scored, held)))
    weight, right, correlation = (torch.cat(part) for part in zip(*parts, strict=True))
    sizes, baseline = sentences.scorable(scored, held)
    random = np.random.default_rng(seed)
    low, high = interval(right[:, 0].numpy(), sizes, None if of is None else of[held], random, resamples)
    share = right.sum(-1).numpy() / max(sizes.sum(), 1)
    what, beside = ("uuas", "chain") if kind == "distance" else ("root_accuracy", "chance")
    columns = {what: share[:, 0], "low": low, "high": high, "shuffled": share[:, 1]}
    columns |= {"spearman": correlation[:, 0].numpy(), "shuffled_spearman": correlation[:, 1].numpy()}
    table = xr.Dataset({name: ("site", values) for name, values in columns.items()}, {"site": names})
    table[beside] = baseline
    table.attrs |= {"kind": kind, "rank": rank, "seed": seed, "n_train": len(others), "n_test": len(held)}
    return StructuralProbe(weight[:, 0], table)


def _scored(mask: Any, n: int) -> Bool[np.ndarray, " word"]:
    if mask is None:
        return np.ones(n, dtype=bool)
    values = np.asarray(mask.cpu() if isinstance(mask, Tensor) else mask)
    if values.shape != (n,) or values.dtype != bool:
        raise CasebackError(f"mask of shape {values.shape} and {values.dtype}: expected {n} truth values, one a word")
    if not values.any():
        raise CasebackError("mask leaves no word to score")
    return values


def _squared_distances(z: Float[Tensor, "*batch word rank"]) -> Float[Tensor, "*batch word word"]:
    gram = z @ z.mT
    own = gram.diagonal(dim1=-2, dim2=-1)
    return (own[..., None] + own[..., None, :] - 2 * gram).clamp_min(0)


def _numbers(z: Float[Tensor, "*batch word rank"], kind: str) -> Tensor:
    return _squared_distances(z) if kind == "distance" else z.square().sum(-1)


def _projected(x: Tensor, weight: Tensor, places: Tensor) -> Float[Tensor, "site task sentence word rank"]:
    """All tasks' projections in one product."""
    site, task, d, rank = weight.shape
    wide = x[:, places.flatten()] @ weight.movedim(1, 2).reshape(site, d, task * rank)
    return wide.view(site, *places.shape, task, rank).movedim(3, 1)


def _fitted(
    x: Tensor, sentences: ParsedSentences, rows: np.ndarray, validation: np.ndarray, rank: int, options: dict[str, Any]
) -> Float[Tensor, "site task d rank"]:
    scale = x[:, torch.from_numpy(sentences.words_of(rows)).to(x.device)].std(1, correction=0)
    scale = torch.where(scale > 0, scale, 1)
    draw = torch.Generator().manual_seed(options["seed"])
    start = torch.randn(x.shape[-1], rank, generator=draw, dtype=torch.float64).to(x)
    weight = (start / scale[..., None])[:, None].expand(-1, len(TASKS), -1, -1)

    def loss(parameters: list[Tensor], some: Tensor, noise: torch.Generator | None) -> Tensor:
        del noise
        places, inside, targets = sentences.padded(some.cpu().numpy(), x)
        own = parameters[0] / scale[:, None, :, None]
        difference = (_numbers(_projected(x, own, places), sentences.kind) - targets).abs()
        if sentences.kind == "distance":
            weighing = (inside[..., None] & inside[:, None]) / inside.sum(1)[:, None, None] ** 2
            return (difference * weighing).sum((-1, -2)).mean(-1)
        return (difference * (inside / inside.sum(1)[:, None])).sum(-1).mean(-1)

    # a first length at which the probe's numbers are START of the trees'
    places, inside, targets = sentences.padded(rows[: options["batch_size"]], x)
    numbers = _numbers(_projected(x, weight, places), sentences.kind)
    inside = inside[..., None] & inside[:, None] if sentences.kind == "distance" else inside
    ratio = (targets * inside).sum() / len(TASKS) / (numbers * inside).flatten(2).sum(-1).clamp_min(1e-30)
    own = start * (START * ratio).sqrt()[..., None, None]
    (best,) = trained([own], loss, rows, validation, **options)
    return best / scale[:, None, :, None]


def _judged(
    x: Tensor, weight: Tensor, sentences: ParsedSentences, scored: np.ndarray, held: np.ndarray
) -> tuple[Float[Tensor, "site task sentence"], Float[Tensor, "site task"]]:
    """How many edges or roots of each held-out sentence are right, and the mean rank correlation."""
    right = torch.zeros(len(x), len(TASKS), len(held), dtype=torch.float64)
    correlations = []
    most = limit("probe_numbers", x.device)
    for same in sentences.of_each_length(held):
        n = int(sentences.lengths[held[same[0]]])
        of_length = []
        numbers_each = len(x) * len(TASKS) * n * max(n, weight.shape[-1])
        for some in np.array_split(same, min(len(same), -(-len(same) * numbers_each // most))):
            rows = held[some]
            places, _, targets = sentences.padded(rows, x)
            numbers = _numbers(_projected(x, weight, places), sentences.kind)
            golden, counted = (torch.from_numpy(part).to(x.device) for part in sentences.golden(rows, scored))
            if sentences.kind == "distance":
                hits = spanning_trees(numbers, counted.expand(numbers.shape[:-1])) & golden
                right[..., some] = hits.sum((-1, -2)).cpu().double() / 2
            else:
                guess = numbers.masked_fill(~counted, torch.inf).argmin(-1, keepdim=True)
                hits = golden.expand(numbers.shape).gather(-1, guess)
                right[..., some] = hits[..., 0].cpu().double()
            if n in LENGTHS:
                own = rank_correlation(*(part.cpu().double().numpy() for part in (numbers, targets)))
                of_length.append(own.reshape(len(x), len(TASKS), -1))
        if of_length:
            correlations.append(np.concatenate(of_length, 2).mean(2))
    nothing = np.full((len(x), len(TASKS)), np.nan)
    return right, torch.from_numpy(np.mean(correlations, 0) if correlations else nothing)
