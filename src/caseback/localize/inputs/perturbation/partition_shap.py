"""Partition SHAP: Owen values of features in a binary tree of neighbors (PRIMER 3.1.9).

    phi_i = sum over contexts c of 2^-depth(i) [v(c + i) - v(c)]

A context of leaf i holds, for every step from the root to i, either the whole branch that was not taken or nothing of
it: 2^depth contexts, where the Shapley value has 2^(n - 1). That is Shapley's value of a two-player game at every fork,
played on in the winners' shares: a branch's value is what its leaves add up to, so tokens add up to words and words to
sentences. A balanced tree of n leaves takes about 2/3 n^2 calls, all of which are known beforehand and run together.

The tree decides what is shared out with whom: another one gives other values. Here sentences are split into halves,
then words within them, then features within these, neighbors always together.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from caseback.errors import CasebackError, did_you_mean
from caseback.localize.inputs.perturbation.coalitions import Game, game_of, spread_over
from caseback.localize.inputs.perturbation.lime import present_rows
from caseback.localize.inputs.perturbation.shapley import completeness
from caseback.model.prompts.granularity import LEVELS, Given, features_of
from caseback.model.registry import technique
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

Tree = int | tuple["Tree", ...]


@technique(
    role="input attribution",
    entry=("3.1.9",),
    citation="Owen 1977, Lundberg & Lee 2017",
    cost="about 2/3 n^2 forwards, shared prefixes once",
)
def partition_shap(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    features: Given = "token",
    keep: Positions = (),
    baseline: str | int | Tensor = "mean",
    levels: Sequence[str] = ("sentence", "word"),
    tree: Sequence[Any] | None = None,
    max_calls: int = 2**14,
    token_budget: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """Owen values of the features: shared out between the halves of the prompt, of its sentences, of its words.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    features, keep, baseline
        The leaves, what always plays, and what stands in an absent one's place; see ``occlusion``.
    levels
        What the tree keeps together, coarsest first; without a tokenizer give ``()``.
    tree
        A tree to use instead, the same for all prompts: nested sequences of the numbers of those features that can
        matter, such as ``((0, 1), (2, (3, 4)))``. A fork of more than two is halved.
    max_calls
        Most distinct coalitions per prompt. shap's explainer stops at its ``max_evals`` and shares the rest out evenly;
        here that is an error.
    token_budget
        As for ``Model.sweep``.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    xr.DataArray
        (batch, pos), or (batch, feature), signed. The value of a word or a sentence is the sum of its features':
        ``grouped(scores, features_of(model, tokens, "word"))``. Attributes: ``tree`` (of each prompt, as JSON) and, one
        number per prompt, ``metric_value``, ``baseline_value``, ``completeness_gap``, ``calls``.

    Raises
    ------
    CasebackError
        For a tree that takes more than ``max_calls`` calls, a tree that does not name each feature once, an unknown
        level, or no token to perturb.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> scores = partition_shap(model, "the cat and the dog", cb.logit_diff(" cat", " dog"))
    >>> scores.dims, abs(scores.attrs["completeness_gap"][0]) < 1e-4
    (('batch', 'pos'), True)
    """
    game = game_of(
        model,
        tokens,
        metric,
        features=features,
        keep=keep,
        baseline=baseline,
        token_budget=token_budget,
        progress=progress,
        checkpoint=checkpoint,
    )
    given = None if tree is None else _binary(tree)
    trees = _by_level(game, levels) if given is None else [_checked(given, len(mine)) for mine in game.players]
    planned = [_plan(t, len(mine), max_calls) for t, mine in zip(trees, game.players, strict=True)]
    drawn = [_unpacked(list(calls), len(mine)) for (calls, _), mine in zip(planned, game.players, strict=True)]
    values = game.values(present_rows(drawn, game.players, game.features.most))
    rows = []
    for b, (_, terms) in enumerate(planned):
        row = np.zeros(len(game.players[b]))
        leaf, low, high, weight = (np.array(part) for part in zip(*terms, strict=True))
        np.add.at(row, leaf, weight * (values[high, b] - values[low, b]))
        rows.append(row)
    nobody = np.array([values[calls[0], b] for b, (calls, _) in enumerate(planned)])
    return game.scores(
        spread_over(rows, game.players, game.features.most),
        partition_shap,
        **completeness(game, rows, nobody),
        tree=trees,
        calls=[len(calls) for calls, _ in planned],
    )


def _binary(tree: Any) -> Tree:
    """The same tree with every fork of more than two halved, and forks of one skipped."""
    if isinstance(tree, int | np.integer):
        return int(tree)
    if isinstance(tree, str | bytes) or not isinstance(tree, Iterable):
        raise CasebackError(f"a tree with {tree!r} in it: expected the numbers of features, in lists of lists")
    branches = [_binary(branch) for branch in tree]
    if not branches:
        raise CasebackError("a tree with an empty branch: every branch needs a feature")
    while len(branches) > 2:
        half = (len(branches) + 1) // 2
        branches = [_binary(branches[:half]), _binary(branches[half:])]
    return branches[0] if len(branches) == 1 else tuple(branches)


def _leaves(tree: Tree) -> list[int]:
    return [tree] if isinstance(tree, int) else [leaf for branch in tree for leaf in _leaves(branch)]


def _checked(tree: Tree, n: int) -> Tree:
    if sorted(_leaves(tree)) != list(range(n)):
        raise CasebackError(f"the tree has leaves {_leaves(tree)}: expected each of 0 to {n - 1} once")
    return tree


def _by_level(game: Game, levels: Sequence[str]) -> list[Tree]:
    """Each prompt's features in order, halved within the named levels."""
    for level in levels:
        if level not in LEVELS:
            raise CasebackError(f"levels has {level!r}. {did_you_mean(level, LEVELS)}")
    coarser = [features_of(game.model, game.tokens, level) for level in levels]
    trees = []
    for b, mine in enumerate(game.players):
        first = [min(game.features.groups[b][f]) for f in mine]
        within = [{p: i for i, group in enumerate(c.groups[b]) for p in group} for c in coarser]
        order = sorted(range(len(mine)), key=first.__getitem__)
        trees.append(_binary(_split(order, [[of[first[i]] for i in range(len(mine))] for of in within])))
    return trees


def _split(order: list[int], within: list[list[int]]) -> list[Any]:
    """Features in order, nested by the groups that they are in, coarsest first."""
    if not within:
        return list(order)
    groups: dict[int, list[int]] = {}
    for i in order:
        groups.setdefault(within[0][i], []).append(i)
    return [_split(group, within[1:]) for group in groups.values()]


def _plan(tree: Tree, n: int, max_calls: int) -> tuple[dict[int, int], list[tuple[int, int, int, float]]]:
    """Distinct coalitions, as bits, with their numbers, nobody's first; and (leaf, without, with, weight) of each term.

    Python's whole numbers serve as bits: there may be more features than a machine word has.
    """
    if _expected(tree) + 2 > max_calls:
        raise CasebackError(
            f"partition SHAP of {n} features takes {_expected(tree) + 2:,} calls, more than max_calls={max_calls:,}: "
            "use coarser features ('word', 'sentence'), fewer levels, shapley_sampling with nested=, or a larger "
            "max_calls"
        )
    calls, terms = {0: 0}, []
    for leaf, context, weight in _contexts(tree, 0, 1.0):
        low = calls.setdefault(context, len(calls))
        high = calls.setdefault(context | 1 << leaf, len(calls))
        terms.append((leaf, low, high, weight))
    return calls, terms


def _contexts(tree: Tree, context: int, weight: float) -> Iterator[tuple[int, int, float]]:
    """Every leaf with each of its contexts and the context's weight."""
    if isinstance(tree, int):
        yield tree, context, weight
        return
    for mine, other in (tree, tree[::-1]):
        beside = sum(1 << leaf for leaf in _leaves(other))
        # the other branch is there as a whole or not at all
        for held in (context, context | beside):
            yield from _contexts(mine, held, weight / 2)


def _expected(tree: Tree, contexts: int = 1) -> int:
    """Distinct coalitions besides nobody and everybody: each fork asks for either branch alone, in each context."""
    if isinstance(tree, int):
        return 0
    return 2 * contexts + sum(_expected(branch, 2 * contexts) for branch in tree)


def _unpacked(calls: list[int], n: int) -> np.ndarray:
    return np.array([[call >> i & 1 == 1 for i in range(n)] for call in calls])
