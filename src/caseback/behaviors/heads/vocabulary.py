"""Heads that raise or lower what they look at, and those that write what comes next in a series (5.1.5, 5.1.7, 5.1.8).

    copying         share of tokens whose own logit is among the highest 5 % of what the head writes, less .05
    anti-copying    the same of the lowest 5 %
    successor       share of members of ordered series whose successor the head raises most of the series

Controls: another token in place of its own; the predecessor in place of the successor. Rows are read on a sample of the
vocabulary, whose error on a share is below .02. A head that lowers what it looks at suppresses copies only where it
looks at what is already predicted, which the proof asks: without it, repeated tokens become likelier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.heads.early_words import most_written, written_words
from caseback.behaviors.kinds import Look, halves, kind, look_at
from caseback.errors import SiteAbsent, TokensError
from caseback.tasks.facts import SERIES
from caseback.tasks.standard.repeats import ordinary_tokens

TAIL = 0.05
LOWERS = 0.5
FOLDS = 4
WORDS = 400
SAMPLE = 4000
LEAST = 20


def _sampled(evidence: Evidence) -> tuple[list[int], list[int]]:
    """Tokens looked at, and a sample of the vocabulary that holds them."""
    rng = np.random.default_rng(evidence.seed)
    ids = rng.permutation(ordinary_tokens(evidence.model))[:SAMPLE].tolist()
    if len(ids) < LEAST:
        raise SiteAbsent(f"a vocabulary of {len(ids)} ordinary tokens: expected {LEAST}, of which 5 % are one or more")
    return ids[:WORDS], ids


def exceeded(written: Float[Tensor, "head token target"], own: Sequence[int]) -> Int[Tensor, "head token"]:
    """How many targets each token's own target exceeds."""
    at = torch.as_tensor(list(own), device=written.device)
    return (written < written.gather(-1, at.expand(written.shape[:-1])[..., None])).sum(-1)


def _own_and_other(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles of each token's own logit, and of another token's, (head, token)."""
    key = ("weights", "own token")
    if key not in evidence.computed:
        words, sample = _sampled(evidence)
        own = list(range(len(words)))
        counts = [
            [exceeded(written, each) for each in (own, own[-1:] + own[:-1])]
            for written in written_words(evidence.model, words, sample)
        ]
        own_share, other_share = (torch.cat(of).cpu().numpy() / len(sample) for of in zip(*counts, strict=True))
        evidence.computed[key] = (own_share, other_share)
    return evidence.computed[key]


def _by_fold(values: Float[np.ndarray, "head token"]) -> Float[np.ndarray, "head fold"]:
    return np.stack([values[:, fold::FOLDS].mean(1) for fold in range(FOLDS)], axis=1)


@kind(
    "copying",
    "head",
    entry="5.1.5",
    citation="Elhage et al. 2021",
    looks_at="share of tokens that the head, looking at them, raises among its highest 5 %",
    control_is="another token's place in the same rows",
    threshold=0.5,
    needs={},
    works=("tokens that heads write",),
    proof="second copy",
)
def copying(evidence: Evidence) -> Look:
    """Heads that write what they look at."""
    own, other = _own_and_other(evidence)
    return look_at(*(_by_fold(x > 1 - TAIL) - TAIL for x in (own, other)), percentile=own)


@kind(
    "anti-copying",
    "head",
    entry="5.1.7",
    citation="McDougall et al. 2023",
    looks_at="share of tokens that the head, looking at them, lowers among its lowest 5 %",
    control_is="another token's place in the same rows",
    threshold=0.5,
    needs={},
    works=("tokens that heads write",),
    proof="second copy",
    sign=1,
)
def anti_copying(evidence: Evidence) -> Look:
    """Heads that write against what they look at."""
    own, other = _own_and_other(evidence)
    return look_at(*(_by_fold(x < TAIL) - TAIL for x in (own, other)), percentile=own)


def lowered(evidence: Evidence) -> Float[np.ndarray, " head"]:
    """Of the tokens that a head looks at, the share that it lowers among its lowest 5 %."""
    own, _ = _own_and_other(evidence)
    return (own < TAIL).mean(1)


def of_lowering(evidence: Evidence, own: Float[np.ndarray, "head fold"], other: Float[np.ndarray, "head fold"]) -> Look:
    """A look at heads that lower more than half of what they look at; the others are ranked by how much they do."""
    share = lowered(evidence)[:, None]
    look = look_at(own * (share > LOWERS), other * (share > LOWERS), lowered=np.broadcast_to(share, own.shape))
    return replace(look, ranked_by=halves(own * share)[0].mean(1))


def single_members(evidence: Evidence) -> list[list[int]]:
    """The series whose members are single tokens with a leading space, as ids; runs of six or more.

    Raises
    ------
    SiteAbsent
        Where the tokenizer has none.
    """
    tokenizer = evidence.model.tokenizer
    runs: list[list[int]] = []
    for members, _ in SERIES.values() if tokenizer is not None else ():
        ids = list(takewhile(lambda one: one is not None, (single_token(tokenizer, member) for member in members)))
        if len(ids) >= 6:
            runs.append([token for token in ids if token is not None])
    if not runs:
        raise SiteAbsent("no ordered series of six words that are one token each in this tokenizer")
    return runs


def single_token(tokenizer: Any, word: str) -> int | None:
    """A word's token, with its leading space; None where it has several or none."""
    try:
        ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
    except TokensError:
        return None
    return ids[0] if len(ids) == 1 else None


@kind(
    "successor",
    "head",
    entry="5.1.8",
    citation="Gould et al. 2024",
    looks_at="share of members of series whose successor the head raises most among the series",
    control_is="their predecessor",
    threshold=0.5,
    needs={},
    works=("attributes that heads write",),
    proof="succession",
)
def successor(evidence: Evidence) -> Look:
    """Heads that write the next member of a series."""
    hits: list[np.ndarray] = []
    before: list[np.ndarray] = []
    for run in single_members(evidence):
        best = most_written(evidence.model, run, run)
        inner = np.arange(1, len(run) - 1)
        hits.append(best[:, inner] == inner + 1)
        before.append(best[:, inner] == inner - 1)
    return look_at(*(_by_fold(np.concatenate(x, axis=1).astype(float)) for x in (hits, before)))
