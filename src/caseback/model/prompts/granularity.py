"""Granularity: the features that an attribution speaks of are groups of tokens (PRIMER 3.1).

    token      every token by itself
    word       tokens by the word where their text begins: letters and digits, joined by ' or -; or a run of other signs
    sentence   tokens by the sentence where their text begins: it ends with . ! or ? before a space, or with a line

Words and sentences are found in the prompt's text by the offsets of its tokens; white space belongs to what comes after
it. A special token is always by itself. "Mr. Smith" is two sentences here: give groups where that matters.

A group's score is an aggregation of its tokens' scores, as a token's is one of its embedding's dimensions. Which one
changes the ranking, so each has a name.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.model.arguments import checked
from caseback.model.running.frames import Positions, positions
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

LEVELS = ("token", "word", "sentence")
_WORD = re.compile(r"\w+(?:['’\-]\w+)*|[^\w\s]+")
_SENTENCE = re.compile(r"\S.*?(?:[.!?…]+[\"'”’)\]]*(?=\s)|[。！？]+|\n|\Z)", re.DOTALL)

Groups = Sequence[Sequence[int]]
Given = str | Groups | Sequence[Groups]
"""A level by name, groups of positions for every prompt, or one list of groups per prompt."""


def _largest(x: Tensor, dim: int) -> Tensor:
    return x.gather(dim, x.abs().argmax(dim, keepdim=True)).squeeze(dim)


AGGREGATIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "sum": lambda x, dim: x.sum(dim),
    "mean": lambda x, dim: x.mean(dim),
    "max": lambda x, dim: x.amax(dim),
    "min": lambda x, dim: x.amin(dim),
    "max_abs": _largest,
    "norm": lambda x, dim: x.norm(dim=dim),
}
"""``max_abs`` is the entry furthest from 0, with its sign; ``norm`` is Euclidean. Only ``sum`` keeps completeness."""


@dataclass(frozen=True)
class Features:
    """Groups of tokens, which share no token; one list per prompt.

    Attributes
    ----------
    level
        ``"token"``, ``"word"``, ``"sentence"`` or ``"given"``.
    groups
        For each prompt its features, each a list of the prompt's own positions. Tokens that are kept are in none.
    text
        The features' text, in the same order.
    """

    level: str
    groups: list[list[list[int]]]
    text: list[list[str]]

    @property
    def most(self) -> int:
        """Features of the prompt that has most."""
        return max(len(row) for row in self.groups)

    def membership(self, n_positions: int) -> Bool[Tensor, "batch feature pos"]:
        """Which positions each feature has; nothing for the features that a prompt lacks."""
        member = torch.zeros(len(self.groups), self.most, n_positions, dtype=torch.bool)
        for b, row in enumerate(self.groups):
            for f, group in enumerate(row):
                member[b, f, group] = True
        return member


@checked
def features_of(model: Model, tokens: Tokens, features: Given = "token", *, keep: Positions = ()) -> Features:
    """Group the tokens of prompts.

    Parameters
    ----------
    model
        The model. Its tokenizer says which tokens are special.
    tokens
        The prompts.
    features
        ``"token"``, ``"word"``, ``"sentence"``; groups of positions, which hold for every prompt; or one list of
        groups per prompt. A position that no group names is never perturbed.
    keep
        Positions that are in no feature: never perturbed, without a score.

    Raises
    ------
    CasebackError
        For an unknown level, words without a tokenizer, an empty group, a position in two groups, or a prompt in
        which nothing is left to perturb.
    OutOfRange
        For a position that a prompt lacks.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> tokens = model.tokens("Mary went home. John stayed.")
    >>> features_of(model, tokens, "sentence").text
    [['<|endoftext|>', 'Mary went home.', ' John stayed.']]
    >>> features_of(model, tokens, [[1, 2], [-1]]).groups
    [[[1, 2], [9]]]
    """
    if isinstance(features, str):
        if features not in LEVELS:
            raise CasebackError(f"features {features!r} are unknown. {did_you_mean(features, LEVELS)}")
        if features != "token" and model.tokenizer is None:
            raise CasebackError(f"features {features!r} need text, and this model has no tokenizer: give groups")
        special = set(getattr(model.tokenizer, "all_special_ids", ()))
        rows = [
            _at_level(features, text, [i in special for i in ids[mask].tolist()])
            for text, ids, mask in zip(tokens.text, tokens.ids, tokens.mask, strict=True)
        ]
        level = features
    else:
        rows, level = _given(features, tokens), "given"
    groups = []
    for b, row in enumerate(rows):
        fixed = set(positions(keep, b, len(tokens.text[b])))
        left = [[p for p in group if p not in fixed] for group in row]
        groups.append([group for group in left if group])
        if not groups[-1]:
            raise CasebackError(
                f"prompt {b} has no token to perturb: its {len(tokens.text[b])} tokens are all kept; leave out some "
                f"of keep={keep}"
            )
    text = [["".join(tokens.text[b][p] for p in group) for group in row] for b, row in enumerate(groups)]
    return Features(level, groups, text)


def _at_level(level: str, text: list[str], special: list[bool]) -> list[list[int]]:
    """One prompt's tokens by the span of its text that their own begins in."""
    if level == "token":
        return [[i] for i in range(len(text))]
    groups: list[list[int]] = []
    pattern = _WORD if level == "word" else _SENTENCE
    for alone, run in itertools.groupby(range(len(text)), lambda i: special[i]):
        places = list(run)
        groups += [[i] for i in places] if alone else _spans(pattern, [text[i] for i in places], places[0])
    return groups


def _spans(pattern: re.Pattern[str], text: list[str], first: int) -> list[list[int]]:
    """Tokens of running text, the first of which is number ``first``, by the match that they begin in."""
    ends = [match.end() for match in pattern.finditer("".join(text))]
    groups: dict[int, list[int]] = {}
    offset = 0
    for i, piece in enumerate(text):
        # Where the token's own text begins, past its leading white space: that belongs to the same word.
        begins = offset + len(piece) - len(piece.lstrip())
        offset += len(piece)
        which = sum(end <= begins for end in ends)
        groups.setdefault(min(which, max(len(ends) - 1, 0)), []).append(first + i)
    return list(groups.values())


def _given(features: Sequence, tokens: Tokens) -> list[list[list[int]]]:
    """Groups as given, for each prompt, checked."""
    try:
        listed = [[item] if isinstance(item, int) else list(item) for item in features]
        if any(isinstance(p, str | bytes) for group in listed for p in group):
            raise TypeError
    except (TypeError, RuntimeError):
        raise CasebackError(
            f"features are a {type(features).__name__}: expected 'token', 'word', 'sentence', or groups of positions, "
            "such as [[0, 1], [2]]"
        ) from None
    if all(isinstance(p, int) for group in listed for p in group):
        listed = [listed] * len(tokens)
    if len(listed) != len(tokens):
        raise CasebackError(f"{len(listed)} lists of groups for {len(tokens)} prompts: give one per prompt")
    rows = []
    for b, row in enumerate(listed):
        groups = []
        for f, group in enumerate(row):
            if not len(group):
                raise CasebackError(f"feature {f} of prompt {b} is empty: a feature needs at least one position")
            groups.append(list(positions(list(group), b, len(tokens.text[b]))))
        flat = [p for group in groups for p in group]
        twice = [p for p in flat if flat.count(p) > 1]
        if twice:
            raise CasebackError(f"position {twice[0]} of prompt {b} is in two features: groups may share no token")
        if not groups:
            raise CasebackError(f"prompt {b} has no features: give at least one group of positions")
        rows.append(groups)
    return rows


@checked
def aggregate(values: Float[Tensor, "..."], how: str, dim: int = -1) -> Tensor:
    """Make one score of many.

    Parameters
    ----------
    values
        Scores.
    how
        ``"sum"``, ``"mean"``, ``"max"``, ``"min"``, ``"max_abs"`` (the one furthest from 0, with its sign) or
        ``"norm"`` (Euclidean).
    dim
        The dimension that is aggregated away.

    Examples
    --------
    >>> aggregate(torch.tensor([[1.0, -3.0]]), "max_abs").tolist()
    [-3.0]
    """
    if how not in AGGREGATIONS:
        raise CasebackError(f"aggregation {how!r} is unknown. {did_you_mean(how, AGGREGATIONS)}")
    if not -values.ndim <= dim < values.ndim:
        raise OutOfRange(f"dim={dim}: scores of shape {tuple(values.shape)} have dimensions 0 to {values.ndim - 1}")
    if values.shape[dim] == 0:
        raise OutOfRange(f"nothing to aggregate: shape {tuple(values.shape)} has no entry in dimension {dim}")
    return AGGREGATIONS[how](values, dim)


@checked
def grouped(scores: xr.DataArray, features: Features, how: str = "sum") -> xr.DataArray:
    """Scores of tokens as scores of the features that they make up.

    Parameters
    ----------
    scores
        (batch, pos, ...), as the techniques of ``localize.inputs`` return them.
    features
        Groups of the same prompts' tokens.
    how
        The aggregation; see ``aggregate``. Only ``"sum"`` keeps the total.

    Returns
    -------
    xr.DataArray
        (batch, feature, ...) with the features' text in the coordinate ``token`` and the attributes of ``scores``;
        NaN where a prompt has fewer features.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> tokens = model.tokens("Mary went home. John stayed.")
    >>> scores = cb.localize.inputs.gradient_x_input(model, tokens, cb.logit(" The"))
    >>> grouped(scores, features_of(model, tokens, "word")).token.values[0].tolist()
    ['<|endoftext|>', 'Mary', ' went', ' home', '.', ' John', ' stayed', '.']
    """
    if scores.dims[:2] != ("batch", "pos") or len(scores) != len(features.groups):
        raise CasebackError(
            f"scores of dimensions {scores.dims} and shape {scores.shape} for {len(features.groups)} prompts: expected "
            "(batch, pos, ...) of the same prompts"
        )
    values = torch.from_numpy(scores.values)
    aggregated = values.new_full((len(values), features.most, *values.shape[2:]), float("nan"))
    for b, row in enumerate(features.groups):
        for f, group in enumerate(row):
            aggregated[b, f] = aggregate(values[b, group], how, 0)
    return xr.DataArray(
        aggregated.numpy(),
        dims=["batch", "feature", *scores.dims[2:]],
        coords={"token": (("batch", "feature"), padded_text(features))},
        name=scores.name,
        attrs={**scores.attrs, "features": features.level, "aggregation": how},
    )


def padded_text(features: Features) -> list[list[str]]:
    """The features' text with empty text where a prompt has fewer, for a coordinate."""
    return [row + [""] * (features.most - len(row)) for row in features.text]
