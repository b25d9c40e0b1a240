"""ReAGent: replace random tokens by plausible others, and see when the target suffers (PRIMER 3.1.10).

    each step:   R random tokens are replaced from a sampler,   delta = p(w | x) - p(w | x')
                 s_i <- s_i + logit(1/2 + delta / 2)  for i in R,   s_i <- s_i - logit(1/2 + delta / 2)  else
    stop when    w is among the k most probable with all but the top tokens of softmax(s) replaced
    score        softmax(s), averaged over probes that start from different s

What a step adds depends on what is replaced, not on the scores so far. So a block of steps of all probes is measured at
once, the stop is tried for each step in a second call, and what comes after a probe's stop is thrown away: the numbers
are those of going step by step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.localize.inputs.perturbation.coalitions import Game, at_least, feature_scores, game_of
from caseback.localize.inputs.perturbation.samplers import Sampler, frequency_sampler
from caseback.model.prompts.baselines import written
from caseback.model.prompts.granularity import Given
from caseback.model.registry import technique
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Bound, Metric, expect_logits, target_ids
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.model.sweeping.embedding_tree import replaced


@technique(
    role="input attribution",
    entry=("3.1.10",),
    citation="Zhao & Shan 2024",
    cost="2 x probes x steps forwards, shared prefixes once",
)
def reagent(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    features: Given = "token",
    keep: Positions = (),
    sampler: Sampler | None = None,
    replace: float = 0.3,
    top: int | float = 5,
    rank: int = 3,
    probes: int = 16,
    max_steps: int = 3000,
    seed: int = 0,
    token_budget: int | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """A distribution over the prompt's tokens: how much of the prediction hangs on each.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It says which token is explained, its
        ``target``, and at which position. The number itself is the target's probability whatever the metric, except
        with ``cb.logit_diff``: there it is p(target) / (p(target) + p(foil)), which makes the scores contrastive.
    features, keep
        What is replaced together, and what never is; see ``occlusion``.
    sampler
        What tokens are replaced by: ``masked_sampler(lm, tokenizer)`` (the paper's, of RoBERTa),
        ``causal_sampler(model)``, or ``frequency_sampler(texts)``. By default frequencies as the model expects them.
    replace
        Share of the features that a step replaces, one at least.
    top
        How many features the stop keeps, or which share of them if below 1.
    rank
        The stop wants the target among so many most probable tokens. The paper reports several; 5 of the top and 3 of
        the rank are inseq's.
    probes
        Runs from different random starts, which are averaged.
    max_steps
        Where a probe that does not stop is cut.
    seed
        Same seed, same result. It draws the starts, what is replaced, and by what.
    token_budget
        As for ``Model.sweep``.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (batch, pos), or (batch, feature), above 0, adding up to 1 over a prompt. Coordinate ``std_error``: one
        standard error of the mean over probes. Attributes, one number per prompt: ``stopped`` (share of the probes that
        found their stop), ``steps`` (their mean), ``metric_value`` (of what was measured).

    Raises
    ------
    OutOfRange
        For a share, rank, or number of probes or steps out of range.
    CasebackError
        For a metric without a target, a sampler of another shape, or no token to perturb.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = reagent(model, "the cat and the dog", cb.prob(" and"), probes=2, max_steps=8)
    >>> abs(float(scores.sum()) - 1) < 1e-6, scores.attrs["steps"][0] <= 8
    (True, True)
    """
    if not 0 < replace < 1:
        raise OutOfRange(f"replace is {replace}: expected a share between 0 and 1, such as 0.3")
    if not top > 0:
        raise OutOfRange(f"top is {top}: expected a number of features, or a share of them below 1")
    for name, value in (("rank", rank), ("probes", probes), ("max_steps", max_steps)):
        at_least(name, value)
    game = game_of(model, tokens, metric, features=features, keep=keep, token_budget=token_budget)
    if metric.target is None or not isinstance(metric.pos, int | Tensor):
        raise CasebackError(f"ReAGent explains a token, and {metric.name} has no target: use cb.prob(target)")
    run = _Probes(game, sampler or frequency_sampler(), probes, seed, token_budget)
    n_replaced = [max(1, round(replace * len(mine))) for mine in game.players]
    n_top = [min(len(mine), max(1, round(top * len(mine) if top < 1 else top))) for mine in game.players]
    with progress_bar(total=max_steps, show=progress, what="ReAGent", unit="step") as bar:
        while not run.stopped.all() and run.taken < max_steps:
            block = min(limit("reagent_steps"), max_steps - run.taken)
            run.advance(block, n_replaced, n_top, rank)
            bar.update(block)
    scores = run.distributions()
    spread = scores.std(0, ddof=1) / probes**0.5 if probes > 1 else np.full(scores.shape[1:], np.nan)
    return feature_scores(
        scores.mean(0),
        model,
        game.tokens,
        metric,
        game.features,
        reagent,
        {"std_error": spread},
        metric_value=run.clean.tolist(),
        stopped=run.stopped.mean(0).tolist(),
        steps=run.steps.mean(0).tolist(),
        replace=replace,
        top=top,
        rank=rank,
        probes=probes,
        max_steps=max_steps,
        seed=seed,
    )


class _Probes:
    """Probes of prompts on their way; scores are logits (probe, batch, feature)."""

    def __init__(self, game: Game, sampler: Sampler, probes: int, seed: int, budget: int | None):
        self.game, self.seed, self.budget = game, seed, budget
        batch, most = len(game.tokens), game.features.most
        self.member = game.features.membership(game.tokens.ids.shape[1]).numpy()
        self.playing = np.zeros((batch, most), dtype=bool)
        self.score = np.full((probes, batch, most), -np.inf)
        for b, mine in enumerate(game.players):
            self.playing[b, mine] = True
            self.score[:, b, mine] = np.random.default_rng(seed).standard_normal((probes, len(mine)))
        self.stopped = np.zeros((probes, batch), dtype=bool)
        self.steps = np.zeros((probes, batch))
        self.taken = 0
        p = sampler(game.model, game.tokens)
        if not isinstance(p, Tensor) or p.shape != (*game.tokens.shape, game.model.d_vocab):
            got = tuple(p.shape) if isinstance(p, Tensor) else type(p).__name__
            raise CasebackError(
                f"the sampler gave {got}: expected (batch, pos, vocab) = {(*game.tokens.shape, game.model.d_vocab)}"
            )
        self.p = p.detach().cpu()
        self.probability, self.ranking = _probability(game.metric), _ranking(game.metric)
        self.clean = np.zeros(batch)

    def advance(self, block: int, n_replaced: list[int], n_top: list[int], rank: int) -> None:
        """Take a block of steps: (step, probe, batch, ...)."""
        keys, first, second = (np.stack(part) for part in zip(*map(self._random, range(block)), strict=True))
        # argsort twice gives ranks: the features with the smallest numbers are replaced
        chosen = (keys.argsort(-1).argsort(-1) < np.array(n_replaced)[:, None]) & self.playing
        value = self._measured(chosen, first, self.probability)
        delta = self.clean - value
        step = _logit(0.5 + delta / 2)[..., None]
        # scores after each step of the block, and of each the features that the stop keeps
        scores = self.score + np.cumsum(np.where(chosen, step, -step), 0)
        behind = np.where(self.playing, -scores, np.inf).argsort(-1).argsort(-1)
        on_top = (behind < np.array(n_top)[:, None]) & self.playing
        predicted = self._measured(~on_top & self.playing, second, self.ranking) < rank
        # the first step at which each probe stops, or the block's last
        at = np.where(predicted.any(0), predicted.argmax(0), block - 1)
        ends = np.take_along_axis(scores, at[None, ..., None], 0)[0]
        self.score = np.where(self.stopped[..., None], self.score, ends)
        self.steps = np.where(self.stopped, self.steps, self.taken + at + 1)
        self.stopped |= predicted.any(0)
        self.taken += block

    def _random(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A step's random numbers: one per feature, to choose by, and two per token, to draw by.

        They depend on the seed and the step alone, not on the block or on the other prompts.
        """
        probes, batch, _ = self.score.shape
        keys = np.full(self.score.shape, np.inf)
        draws = np.zeros((2, probes, batch, self.game.tokens.ids.shape[1]))
        for b, (mine, text) in enumerate(zip(self.game.players, self.game.tokens.text, strict=True)):
            rng = np.random.default_rng([self.seed, self.taken + step])
            keys[:, b, mine] = rng.random((probes, len(mine)))
            draws[:, :, b, : len(text)] = rng.random((2, probes, len(text)))
        return keys, draws[0], draws[1]

    def _measured(self, absent: np.ndarray, draw: np.ndarray, metric: Metric) -> np.ndarray:
        """A metric (step, probe, batch) with features replaced by draws; probes that have stopped are not run."""
        game = self.game
        batch, width = game.tokens.shape
        absent = absent & ~self.stopped[..., None]
        gone = np.einsum("spbf,bfq->spbq", absent, self.member).reshape(-1, batch, width) > 0
        draw = draw.reshape(gone.shape)
        drawn = np.zeros(gone.shape, dtype=np.int64)
        for b in range(batch):
            for q in np.flatnonzero(gone[:, b].any(0)):
                # a token is drawn where the cumulative distribution passes a random number
                row = self.p[b, q].double().cumsum(-1).numpy()
                drawn[:, b, q] = np.minimum(np.searchsorted(row, draw[:, b, q] * row[-1], "right"), len(row) - 1)
        # each token that was drawn is embedded once; 0 stands for the prompt's own
        tokens, which = np.unique(drawn[gone], return_inverse=True)
        choice = np.zeros(gone.shape, dtype=np.int64)
        choice[gone] = which.ravel() + 1
        values = written(game.model, torch.from_numpy(tokens))[:, None, None]
        value, clean = replaced(game.model.anatomy, game.tokens, choice, values, metric, token_budget=self.budget)
        if metric is self.probability:
            self.clean = clean.cpu().double().numpy()
        return value.cpu().double().numpy().reshape(*absent.shape[:2], batch)

    def distributions(self) -> np.ndarray:
        """Softmax of each probe's scores, over the features that can matter."""
        weights = np.exp(self.score - self.score.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)


def _logit(p: np.ndarray) -> np.ndarray:
    """Log p / (1 - p), finite at 0 and 1."""
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return np.log(p) - np.log1p(-p)


def _probability(metric: Metric) -> Metric:
    """The target's probability; against its foil alone where the metric is a logit difference."""
    expect_logits(metric, "ReAGent")

    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        inner = metric.bind(tokens, tokenizer, d_vocab)
        if metric.name == "logit_diff":
            return Bound(inner.columns, inner.vocab, lambda x, rows: inner.value(x, rows).sigmoid())
        ids = target_ids(metric.target, tokens, tokenizer, d_vocab)
        return Bound(inner.columns, None, lambda x, rows: _p(x).gather(-1, ids.to(x.device)[rows][:, None])[:, 0])

    return Metric("probability", bind, metric.target, metric.foil, metric.pos)


def _ranking(metric: Metric) -> Metric:
    """How many tokens are more probable than the target."""

    def bind(tokens: Tokens, tokenizer: Any, d_vocab: int) -> Bound:
        inner = metric.bind(tokens, tokenizer, d_vocab)
        ids = target_ids(metric.target, tokens, tokenizer, d_vocab)
        return Bound(
            inner.columns,
            None,
            lambda x, rows: (x > x.gather(-1, ids.to(x.device)[rows][:, None])).sum(-1).to(x.dtype),
        )

    return Metric("rank", bind, metric.target, metric.foil, metric.pos)


def _p(logits: Tensor) -> Tensor:
    return (logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits).softmax(-1)
