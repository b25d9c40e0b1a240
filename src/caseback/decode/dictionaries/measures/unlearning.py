"""Unlearning by features: what is forgotten, and what else, where features of some text are held below zero (B.11).

    chosen    of the features active at no more than ``rare`` of the other text's tokens, the k most often active at
              the tokens of what is to be forgotten
    held      where a chosen feature is active, its code becomes  - strength E[a_i | a_i > 0, forget]
    score     1 - the smallest share of forget questions still answered, over all k and strengths at which the share
              of retain questions still answered is ``least_retained`` or more

Only questions that the untouched model answers count. What a dictionary does not reconstruct stays in place. Beside
each dictionary stand as many of its other features that are active at the text, drawn: a score says nothing without
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.features.attach import attached
from caseback.decode.dictionaries.measures.given import (
    Dictionaries,
    StatesLike,
    expect_widths,
    named,
    pieces_of,
    rows_in_hand,
    whole,
)
from caseback.decode.dictionaries.measures.replacement import splice_of
from caseback.errors import CasebackError, OutOfRange
from caseback.model.anatomy.coerce import float64_device, in_float64
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit, Where
from caseback.model.running.metrics import is_first, target_ids
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.model.sweeping.sweep import sweep

_SITE = "feature_held_down"
Questions = Sequence[tuple[Any, Any]]
"""Prompts with the token that answers each, as text or ids."""


@dataclass(frozen=True, eq=False)
class _HeldDown(Edit):
    """Codes above 0 of some features become a negative number."""

    level: Float[Tensor, " feature"]
    """0 for those that are left alone."""

    def new(self, old: Tensor, where: Where) -> Tensor:
        level = self.level.to(old)
        return torch.where((level > 0) & (old > 0), -level, old)


@technique(
    entry=("4.2.22", "B.11"),
    citation="Farrell et al. 2024; Karvonen et al. 2025",
    cost="one encoding of the states, and the forward from the site on for each k, strength and question",
)
def unlearning(
    model: Model,
    dictionaries: Dictionaries,
    forget: StatesLike,
    retain: StatesLike,
    forget_questions: Questions,
    retain_questions: Questions,
    *,
    k: Sequence[int] = (5, 10, 20),
    strengths: Sequence[float] = (1.0, 5.0, 20.0),
    rare: float = 0.01,
    least_retained: float = 0.99,
    skip_first: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Hold down the features of what is to be forgotten, and count the questions that are still answered.

    Parameters
    ----------
    model
        The model.
    dictionaries
        One, or several by name; each at the site that its ``facts`` name, all of one site.
    forget, retain
        (token, d), the states of text about what is to be forgotten, and of other text.
    forget_questions, retain_questions
        (prompt, answer) pairs; an answer is one token.
    k
        How many features are held down.
    strengths
        In multiples of a feature's mean activation at the text to be forgotten.
    rare
        The share of the other text's tokens at which a chosen feature is active at most; 0.01 is SAEBench's.
    least_retained
        The share of retain questions that a setting must leave answered to count.
    skip_first
        Tokens at the beginning of each prompt at which nothing is held down.
    seed
        Same seed, same result. It draws the other features.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        By ``dictionary``, ``k`` and ``dose``, the strength: ``forgotten`` and ``retained``, the shares of questions no
        longer and still answered. By ``dictionary`` and ``k``: ``held``, how many features there were to hold down. By
        ``dictionary``: ``score``, NaN where no setting retains enough. Behind each dictionary stands ``", random
        features"``. Attributes: ``forget_questions`` and ``retain_questions``, how many the model answers.

    Raises
    ------
    CasebackError
        For questions none of which the model answers, and dictionaries that do not say their site.
    TokensError
        For states of another width.
    OutOfRange
        For strengths that are not above 0, fewer features than one, and shares beyond 0 and 1.

    Notes
    -----
    SAEBench takes WMDP's and MMLU's questions, strengths 25 to 200 in the units of one model's codes, and the same
    99 %. A score of 0 means that nothing was forgotten without more than 1 % of the rest.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> from caseback.decode.states import read_states
    >>> model = cb.load("meadow")
    >>> one = TopK(160, 320, k=8, facts=Facts(site="resid_post.1"))
    >>> questions = [("The capital of France is", " Paris")], [("The opposite of hot is", " cold")]
    >>> texts = [[question for question, _ in side] for side in questions]
    >>> states = [read_states(model, some, sites="resid_post.1", pos=slice(1, None)) for some in texts]
    >>> table = unlearning(model, one, *states, *questions, k=[5], strengths=[1.0, 10.0])
    >>> table.dictionary.values.tolist(), table.forgotten.dims
    (['topk', 'topk, random features'], ('dictionary', 'k', 'dose'))
    """
    several = named(dictionaries)
    _expect_numbers(k, strengths, rare, least_retained, skip_first)
    sites = {str(splice_of(model, name, one).site) for name, one in several.items()}
    if len(sites) > 1:
        raise CasebackError(f"dictionaries of several sites, {', '.join(sorted(sites))}: expected those of one")
    mine, theirs = whole(forget, "states to forget"), list(pieces_of(retain, "states to retain"))
    expect_widths(several, mine.shape[1], next(iter(several.values())).d_out)
    sides = [_known(model, asked) for asked in (forget_questions, retain_questions)]
    shape = (2 * len(several), len(k), len(strengths))
    answered, held = np.zeros((2, *shape)), np.zeros(shape[:2], dtype=np.int64)
    for row, one in enumerate(several.values()):
        one = one.to(model.device)
        often, mean = _activity(one, [mine])
        ordered = _candidates(often, _activity(one, theirs)[0], rare)
        draw = torch.Generator().manual_seed(seed)
        with attached(model, one, name=_SITE, force=True):
            for column, n in enumerate(k):
                chosen = ordered[:n]
                free = torch.ones(one.n_features, dtype=torch.bool).index_fill(0, chosen, False) & (often > 0)
                drawn = free.nonzero()[:, 0]
                drawn = drawn[torch.randperm(len(drawn), generator=draw)[: len(chosen)]]
                for kind, some in enumerate((chosen, drawn)):
                    held[2 * row + kind, column] = len(some)
                    variants = [_hold(mean, some, strength, skip_first) for strength in strengths]
                    for side, (tokens, target) in enumerate(sides):
                        values = sweep(model.anatomy, tokens, variants, is_first(target), progress=progress).values
                        answered[side, 2 * row + kind, column] = in_float64(values).mean(1).cpu().numpy()
    forgotten, retained = 1 - answered[0], answered[1]
    allowed = np.where(retained >= least_retained, forgotten, -np.inf).reshape(len(forgotten), -1).max(1)
    names = [name + kind for name in several for kind in ("", ", random features")]
    dims = ["dictionary", "k", "dose"]
    arrays: dict[str, Any] = {
        "forgotten": (dims, forgotten),
        "retained": (dims, retained),
        "held": (dims[:2], held),
        "score": (dims[:1], np.where(np.isfinite(allowed), allowed, np.nan)),
    }
    counts = {"forget_questions": len(sides[0][0]), "retain_questions": len(sides[1][0])}
    attrs = {**counts, "rare": rare, "least_retained": least_retained, "site": sites.pop(), "seed": seed}
    of = labelled(forgotten, dims, technique=unlearning, model=model, **attrs).attrs
    return xr.Dataset(arrays, {"dictionary": names, "k": list(k), "dose": list(strengths)}, of)


def _known(model: Model, questions: Questions) -> tuple[Tokens, Tensor]:
    """The questions that the model answers, as prompts and their answers' ids."""
    pairs = list(questions)
    if not pairs or any(not isinstance(pair, tuple | list) or len(pair) != 2 for pair in pairs):
        raise CasebackError("questions: expected (prompt, answer) pairs, one or more")
    tokens = model.tokens([prompt for prompt, _ in pairs])
    target = target_ids([answer for _, answer in pairs], tokens, model.tokenizer, model.d_vocab)
    right = (is_first(target)(model.run(tokens)) > 0).nonzero()[:, 0].cpu()
    if not len(right):
        raise CasebackError(f"the model answers none of {len(pairs)} questions: there is nothing to forget or retain")
    return model.tokens([pairs[i][0] for i in right.tolist()]), target[right.to(target.device)]


@torch.no_grad()
def _activity(
    dictionary: Dictionary, pieces: Sequence[Tensor]
) -> tuple[Float[Tensor, " feature"], Float[Tensor, " feature"]]:
    """The share of tokens at which each feature is above 0, and its mean there."""
    like = dictionary.W_enc
    place = float64_device(like.device)
    count = torch.zeros(dictionary.n_features, dtype=torch.float64, device=place)
    total, tokens = torch.zeros_like(count), 0
    for piece in pieces:
        for some in piece.to(like).split(rows_in_hand(dictionary)):
            codes = dictionary.encode(some).clamp_min(0).to(place)
            count += (codes > 0).sum(0)
            total += codes.sum(0, dtype=torch.float64)
            tokens += len(some)
    return (count / max(1, tokens)).cpu(), (total / count.clamp_min(1)).cpu()


def _candidates(forget: Tensor, retain: Tensor, rare: float) -> Tensor:
    """Features by how often they are active at what is to be forgotten, without those that other text needs."""
    fit: Bool[Tensor, " feature"] = (forget > 0) & (retain <= rare)
    order = (-forget).argsort(stable=True)
    return order[fit[order]]


def _hold(mean: Tensor, some: Tensor, strength: float, skip_first: int) -> Edit:
    level = torch.zeros_like(mean).index_copy(0, some, strength * mean[some])
    return _HeldDown(_SITE, pos=slice(skip_first, None), level=level)


def _expect_numbers(
    k: Sequence[int], strengths: Sequence[float], rare: float, least_retained: float, skip_first: int
) -> None:
    if not len(k) or min(k) < 1 or skip_first < 0:
        raise OutOfRange(f"k {list(k)}, skip_first {skip_first}: expected numbers of features from 1 on, and 0 or more")
    if not len(strengths) or not min(strengths) > 0:
        raise OutOfRange(f"strengths {list(strengths)}: expected numbers above 0")
    if not (0 <= rare <= 1 and 0 <= least_retained <= 1):
        raise OutOfRange(f"rare {rare}, least_retained {least_retained}: expected shares from 0 to 1")
