"""Many versions of the same prompts, each with other embeddings at some of its tokens: a sweep as a tree.

    version v of prompt b at token p:   embed_p                 where choice[v, b, p] = 0
                                        values[choice - 1]_bp    else

Positions stay. What is computed at a token depends on it and on the tokens before, so versions that agree up to a token
share all that is computed there: in order of their choices they are a tree, whose first branch is the clean prompt, and
each branch is run once. n single replacements cost about n / 2 prompts, n nested ones at random places as much, and all
2^n versions of n tokens 2^(n + 1) tokens instead of n 2^n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from caseback.errors import EditError
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Site
from caseback.model.running.edit_values import on
from caseback.model.running.metrics import Bound, Metric
from caseback.model.running.passing import undisturbed
from caseback.model.running.tokens import Tokens
from caseback.model.running.undo import as_found
from caseback.model.sweeping.clean import Clean, record
from caseback.model.sweeping.packed import Packed, Segment
from caseback.model.sweeping.packed_attention import Bucket
from caseback.model.sweeping.room import logits_per_token, tokens_per_pass
from caseback.model.sweeping.sweep import Results, job_of
from caseback.model.sweeping.variants import unedited_values


@dataclass(frozen=True)
class Version:
    """One distinct version of a prompt, up to the last token that the metric reads, and the variants equal to it."""

    example: int
    choice: np.ndarray
    variants: np.ndarray


@dataclass
class _Branches:
    """One pass: segments as in a sweep, the choice in each row, and the rows that a segment takes from others.

    ``borrowed[i]`` are the rows of the tokens from the first one that segment i's version changes up to its start.
    """

    segments: list[Segment]
    versions: list[Version]
    borrowed: list[np.ndarray]
    choice: np.ndarray


@as_found
def replaced(
    anatomy: Anatomy,
    tokens: Tokens,
    choice: Int[Tensor, "variant batch pos"] | np.ndarray,
    values: Float[Tensor, "k batch pos d_model"],
    metric: Metric,
    *,
    token_budget: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> tuple[Float[Tensor, "variant batch *entry"], Float[Tensor, "batch *entry"]]:
    """Measure versions of prompts.

    Parameters
    ----------
    anatomy, tokens
        The model and its prompts.
    choice
        For each version and token (by each prompt's own positions) 0 to leave it as it is, or j to put ``values[j-1]``
        in its place. Entries past a prompt's end, or past the position that the metric reads, do not matter.
    values
        Embeddings as the site ``embed`` has them; broadcast over prompts and positions.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    token_budget, progress, checkpoint
        As for ``Model.sweep``.

    Returns
    -------
    The metric of each version on each prompt, and of the prompts as they are; where the metric gives a vector for each
    prompt, its entries are the last dimension.

    Raises
    ------
    EditError
        For shapes that do not fit, or a choice that is not among the values.

    Examples
    --------
    >>> import torch
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> tokens = model.tokens("Mary and John went to")
    >>> one_at_a_time = torch.eye(tokens.ids.shape[1], dtype=torch.long)[:, None]
    >>> nothing = torch.zeros(1, 1, 1, model.d_model)
    >>> without, clean = replaced(model.anatomy, tokens, one_at_a_time, nothing, cb.logit(" the"))
    >>> without.shape[0] == tokens.ids.shape[1], clean.shape
    (True, torch.Size([1]))
    """
    choice, values = _checked(choice, values, anatomy, tokens)
    bound = metric.on(tokens, anatomy)
    logits = 0.0 if bound.columns is None else logits_per_token(bound, anatomy.d_vocab, tokens.shape[1])
    budget = tokens_per_pass(anatomy, tokens, token_budget, logits=logits)
    if budget < 1:
        raise EditError(f"token_budget={token_budget}: expected at least 1 row per pass")
    with undisturbed(anatomy, grad=False):
        clean = record(anatomy, tokens, [Site("embed")])
        base = unedited_values(anatomy, clean, bound, metric)
        measured = base.expand(len(choice), *base.shape).clone()
        versions = _distinct(choice, stops(tokens, bound))
        results = Results(checkpoint, job_of(anatomy, tokens, metric, base, [choice, values]), measured)
        versions = [v for v in versions if not results.done[v.variants, v.example].all()]
        with progress_bar(total=len(versions), show=progress, what="sweep", unit="version") as bar:
            # A metric of all positions needs every row of a version from its first change on, so none is shared.
            for part in _passes(versions, budget, tokens.ids.shape[1], share=bound.columns is not None):
                of = np.repeat(np.arange(len(part.versions)), [len(v.variants) for v in part.versions])
                variants = np.concatenate([v.variants for v in part.versions])
                examples = np.array([v.example for v in part.versions])[of]
                by_version = _Tree(anatomy, clean, part, bound, values).values()
                measured[on(measured, variants), on(measured, examples)] = by_version[on(by_version, of)]
                results.keep(variants, examples)
                bar.update(len(part.versions))
    return measured, base


def _checked(choice, values: Tensor, anatomy: Anatomy, tokens: Tokens) -> tuple[np.ndarray, Tensor]:
    choice = choice.cpu().numpy() if isinstance(choice, Tensor) else np.asarray(choice)
    batch, width = tokens.shape
    if choice.ndim != 3 or choice.shape[1:] != (batch, width) or not len(choice):
        raise EditError(f"choices of shape {choice.shape}: expected (variant, {batch}, {width}), one variant at least")
    if values.ndim != 4:
        raise EditError(f"values of shape {tuple(values.shape)}: expected (k, batch, pos, d_model)")
    try:
        values = values.to(anatomy.hf.device).expand(-1, batch, width, anatomy.d_model)
    except RuntimeError:
        raise EditError(
            f"values of shape {tuple(values.shape)} do not fit (k, {batch}, {width}, {anatomy.d_model})"
        ) from None
    if choice.min() < 0 or choice.max() > len(values):
        raise EditError(f"choices go from {choice.min()} to {choice.max()}: expected 0 to {len(values)}")
    return choice.astype(np.int32), values


def stops(tokens: Tokens, bound: Bound) -> list[int]:
    """For each prompt, one past the last token that the metric reads."""
    last = tokens.lengths if bound.columns is None else bound.columns.to(tokens.first.device) - tokens.first + 1
    return last.tolist()


def _distinct(choice: np.ndarray, stops: Sequence[int]) -> list[Version]:
    """Every prompt's versions that differ before its stop, in order of their choices; the clean one is left out."""
    versions = []
    for b, stop in enumerate(stops):
        rows, which = np.unique(choice[:, b, :stop], axis=0, return_inverse=True)
        order = np.argsort(which.ravel(), kind="stable")
        variants = np.split(order, np.cumsum(np.bincount(which.ravel(), minlength=len(rows)))[:-1])
        versions += [Version(b, row, mine) for row, mine in zip(rows, variants, strict=True) if row.any()]
    return versions


def _passes(versions: Sequence[Version], budget: int, width: int, *, share: bool) -> Iterator[_Branches]:
    """Versions in order, cut into passes whose rows, and the keys that they see, stay within the budget."""
    part = _Branches([], [], [], np.empty(0, dtype=np.int64))
    rows, chosen = 0, []
    path = np.zeros(width, dtype=np.int64)
    for version in versions:
        changed, stop = int((version.choice != 0).argmax()), len(version.choice)
        before = part.versions[-1] if part.versions else None
        start = _branch(before, version, changed) if share else changed
        if before is not None and (rows + stop - start > budget or (len(part.versions) + 1) * width > 4 * budget):
            yield replace(part, choice=np.concatenate(chosen))
            part, rows, chosen, start = _Branches([], [], [], part.choice), 0, [], changed
        part.segments.append(Segment(len(part.versions), version.example, start, stop, 0))
        part.versions.append(version)
        part.borrowed.append(path[changed:start].copy())
        path[start:stop] = np.arange(rows, rows + stop - start)
        chosen.append(version.choice[start:])
        rows += stop - start
    if part.versions:
        yield replace(part, choice=np.concatenate(chosen))


def _branch(before: Version | None, version: Version, changed: int) -> int:
    """The token where a version parts from the one before it, or from the clean prompt if that is later."""
    if before is None or before.example != version.example:
        return changed
    return max(changed, int((before.choice != version.choice).argmax()))


class _Tree(Packed):
    """A pass over segments that share rows: each sees the keys and values of the branch that it starts from."""

    def __init__(self, anatomy: Anatomy, clean: Clean, part: _Branches, bound: Bound, values: Tensor):
        super().__init__(anatomy, clean, part.segments, [], bound)
        self.borrowed = part.borrowed
        self.chosen = np.flatnonzero(part.choice)
        at, choice = self.chosen, part.choice[self.chosen] - 1
        token = self.places[at] - np.array(self.first)[self.examples[at]]
        self.replaced = self._put(at), self._put(self.examples[at]), self._put(self.places[at])
        self.instead = values[self._put(choice.astype(np.int64)), self.replaced[1], self._put(token)]

    def _entering(self, layer: int, before: int, after: int) -> Tensor:
        fresh = super()._entering(layer, before, after)
        at, example, column = self.replaced
        was = self.clean.starts["embed"].expand(*self.clean.tokens.ids.shape, -1)[example, column]
        fresh[at] += self.instead.to(was) - was
        return fresh

    def _mark_unchanged(self, before: int, after: int, layer: int) -> None:
        super()._mark_unchanged(before, after, layer)
        self.unchanged[self.chosen] = False

    def _bucket(self, members: list[int]) -> Bucket:
        bucket = super()._bucket(members)
        n_clean = self.width * len(self.clean.tokens)
        for keys, i in zip(bucket.keys, members, strict=True):
            rows, start = self.borrowed[i], self.first[self.segments[i].example] + self.segments[i].start
            keys[start - len(rows) : start] = n_clean + rows
        return bucket
