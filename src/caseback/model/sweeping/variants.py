"""Variants of edits on a batch, resolved, and the unedited run that all of them start from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import EditError
from caseback.jobs.batches import Batches
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import MAPS
from caseback.model.running.edit_values import on
from caseback.model.running.edits import Edit
from caseback.model.running.metrics import Bound, Metric
from caseback.model.running.passing import undisturbed
from caseback.model.running.run import execute, resolve, with_clean
from caseback.model.running.targets import warn_of_spaces
from caseback.model.running.tokens import Tokens
from caseback.model.running.verify import unembed
from caseback.model.sweeping.clean import Clean, record
from caseback.model.sweeping.packed import Packed, Segment
from caseback.model.sweeping.room import logits_per_token, tokens_per_pass
from caseback.model.sweeping.segments import Resolved, chunks, early_enough, last_layer, plan, unchanged_positions

_UNEDITED = -1
"""The owner of a segment without an edit, which runs with the others of a chunk and shows what rounding alone does."""


class Measured(NamedTuple):
    """What one pass gave: the metric of its segments, and by how much one without an edit missed the unedited run."""

    segments: list[Segment]
    values: Tensor
    noise: Tensor | None = None


class Variants:
    """Variants on a batch, ready to be run; made and used where results are put back as found (``as_found``).

    Attributes
    ----------
    edits
        Of each variant, with their sites.
    unedited
        (batch,) the metric of the run that all start from.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        tokens: Tokens,
        variants: Sequence[Edit | Sequence[Edit]],
        metric: Metric,
        given: Edit | Sequence[Edit] = (),
    ):
        edits = [resolve(variant, anatomy, tokens, owner=i) for i, variant in enumerate(variants)]
        if any(not resolved for resolved in edits):
            raise EditError(f"variant {next(i for i, resolved in enumerate(edits) if not resolved)} has no edit")
        self.anatomy, self.tokens = anatomy, tokens
        self.edits = _cleaned(edits, anatomy, tokens)
        self.given = _at_the_start(given, anatomy, tokens)
        self.bound = metric.on(tokens, anatomy)
        with undisturbed(anatomy, grad=False):
            touched = {site for r in self.edits for _, site, _ in r if site.name in ("embed", "pos_embed")}
            self.clean = record(anatomy, tokens, sorted(touched, key=str), self.given)
            self.unedited = unedited_values(anatomy, self.clean, self.bound, metric)

    def __len__(self) -> int:
        return len(self.edits)

    @cached_property
    def segments(self) -> list[list[Segment]]:
        """Of each variant what must be run, one segment a prompt that it can change."""
        anatomy = self.anatomy
        shared = unchanged_positions(self.tokens, self.given, anatomy)
        return [plan(r, self.tokens, self.bound, anatomy, i, shared) for i, r in enumerate(self.edits)]

    def tokens_per_pass(self, given: int | None = None) -> int:
        """How many token rows of segments go through the model together: as given, else as many as there is room for.

        A metric of all positions forms its logits a segment at a time, which no smaller pass would make less.
        """
        bound, anatomy, tokens = self.bound, self.anatomy, self.tokens
        logits = 0.0 if bound.columns is None else logits_per_token(bound, anatomy.d_vocab, tokens.shape[1])
        sites = [site for resolved in self.edits for _, site, _ in resolved]
        maps = any(site.base.name in MAPS for site in (*sites, bound.site) if site is not None)
        return tokens_per_pass(anatomy, tokens, given, logits=logits, maps=maps)

    def content(self) -> list[list[tuple[str, Edit]]]:
        """The edits that all share and those of each variant, for a fingerprint.

        The unedited values depend on the edits given to all, but a metric may not see them: they count here too.
        """
        return [[(str(site), edit) for _, site, edit in resolved] for resolved in [self.given, *self.edits]]

    def run(self, segments: Sequence[Segment], token_budget: int) -> Iterator[Measured]:
        """The metric of segments, as many at a time as the budget of token rows holds; inside ``undisturbed``.

        Where memory runs out, the variants of a pass are halved once.
        """
        passes = list(chunks(segments, token_budget, self.tokens.ids.shape[1]))
        batches = Batches(max(map(len, passes), default=1), "variants")
        for chunk in passes:
            for _, measured in batches.over(len(chunk), lambda part, chunk=chunk: self._measured(chunk[part])):
                yield measured

    def _measured(self, chunk: list[Segment]) -> Measured:
        """One pass over some segments, in order of the layers that they enter."""
        edits = [edit for i in sorted({segment.variant for segment in chunk}) for edit in self.edits[i]]
        if not self.in_half_precision:
            return Measured(chunk, Packed(self.anatomy, self.clean, chunk, edits, self.bound).values())
        watched = [replace(chunk[0], variant=_UNEDITED), *chunk]
        values = Packed(self.anatomy, self.clean, watched, edits, self.bound).values()
        return Measured(chunk, values[1:], (values[0] - self.unedited[chunk[0].example]).abs())

    @property
    def in_half_precision(self) -> bool:
        """Whether the stream has so few digits that how a pass is cut changes what is measured."""
        return self.clean.stream[-1].dtype in (torch.float16, torch.bfloat16)


def put(values: Float[Tensor, "variant batch"], measured: Measured, first: int = 0) -> None:
    """Write what a pass gave into the table of values, whose first row is of variant ``first``, in one step."""
    at = np.array([(s.variant - first, s.example) for s in measured.segments], dtype=np.int64).T
    values[on(values, at[0]), on(values, at[1])] = measured.values.to(values)


def _at_the_start(given: Edit | Sequence[Edit], anatomy: Anatomy, tokens: Tokens) -> Resolved:
    """Edits that every variant starts from; only of embeddings, since a suffix would have to repeat later ones."""
    resolved = resolve(given, anatomy, tokens)
    for _, site, edit in resolved:
        if site.name not in ("embed", "pos_embed"):
            raise EditError(
                f"{edit.describe()}: edits given to all variants are of 'embed' or 'pos_embed'; "
                "put others into each variant"
            )
        if edit.awaits_clean:
            raise EditError(f"{edit.describe()} refers to the unedited run: give it a value or a run")
    return resolved


def _cleaned(per_variant: list[Resolved], anatomy: Anatomy, tokens: Tokens) -> list[Resolved]:
    """Fill in the unedited run where edits refer to it: one pass for all variants."""
    flat = with_clean([e for r in per_variant for e in r], lambda sites: execute(anatomy, tokens, read=sites))
    out: list[Resolved] = [[] for _ in per_variant]
    for item in flat:
        out[item[0]].append(item)
    return out


def unedited_values(anatomy: Anatomy, clean: Clean, bound: Bound, metric: Metric) -> Tensor:
    """The metric of the unedited run, from the recorded stream; of targets that lack their space it warns."""
    n = early_enough(last_layer(bound, anatomy.n_layers), bound)
    behind = any(site.name in ("final_norm", "logits") for site, _ in anatomy.standing)
    if bound.columns is not None and bound.site is None and not behind:
        last, columns = clean.stream[-1], bound.host_columns
        warn_of_spaces(
            anatomy, metric.target, metric.foil, len(columns), lambda b: unembed(anatomy, last[b, columns[b]][None])[0]
        )
    segments = []
    for b, (first, length) in enumerate(clean.tokens.extents):
        stop = length if bound.columns is None else bound.host_columns[b] - first + 1
        segments.append(Segment(b, b, 0 if bound.columns is None else stop - 1, stop, n))
    return Packed(anatomy, clean, segments, [], bound).values().detach()
