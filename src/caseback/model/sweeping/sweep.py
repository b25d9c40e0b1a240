"""Many edited runs, exactly, for a fraction of their cost.

Each variant is a list of edits; the result is the metric of each variant on each prompt. The planner finds the first
layer and the first position that a variant's edits can change, ``packed`` recomputes only what comes after, many
variants at a time under a token budget, and only the logits that the metric reads are formed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, EditError
from caseback.jobs.budget import limit
from caseback.jobs.checkpoint import Checkpoint
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.identity import identity_of
from caseback.model.anatomy.sites import Site
from caseback.model.running.edits import Edit
from caseback.model.running.frames import positions
from caseback.model.running.metrics import Bound, Metric
from caseback.model.running.passing import undisturbed
from caseback.model.running.run import execute, resolve, with_clean
from caseback.model.running.targets import warn_of_spaces
from caseback.model.running.tokens import Tokens
from caseback.model.running.undo import as_found
from caseback.model.running.verify import unembed
from caseback.model.sweeping.clean import Clean, record
from caseback.model.sweeping.packed import Packed, Segment

Resolved = list[tuple[int, Site, Edit]]


def entry_layer(site: Site, n_layers: int) -> int:
    """The first layer that an edit makes a difference to."""
    if site.is_module and site.layer is None:
        raise EditError(f"{site} is in no layer, so a sweep cannot start from it: use run, or a site of the model")
    site = site.base
    if site.name in ("embed", "pos_embed"):
        return 0
    if site.name in ("final_norm", "logits"):
        return n_layers
    assert site.layer is not None
    return site.layer + 1 if site.name == "resid_post" else site.layer


def last_layer(bound: Bound, n_layers: int) -> int:
    """The last layer that a metric needs to be run: that of the site it reads, or ``n_layers``, the model's end."""
    if bound.site is None or bound.site.name == "final_norm":
        return n_layers
    if bound.site.layer is None:
        raise EditError(f"{bound.site} is in no layer, so a sweep cannot end there: measure it with run")
    return bound.site.layer


def plan(
    resolved: Resolved,
    tokens: Tokens,
    bound: Bound,
    n_layers: int,
    variant: int,
    unchanged: Callable[[Edit, int], int] | None = None,
) -> list[Segment]:
    """One variant as segments, one per prompt that it can change: first token, first layer, and last token read."""
    layer, last = min(entry_layer(site, n_layers) for _, site, _ in resolved), last_layer(bound, n_layers)
    if layer > last:
        if not any(site.base == Site("resid_post", last) for _, site, _ in resolved):
            return []  # every edit comes after what is measured
        layer = last
    unchanged = unchanged or (lambda edit, b: edit.unchanged_before(tokens, b))
    segments = []
    first, lengths = tokens.first.tolist(), tokens.lengths.tolist()
    for b, length in enumerate(lengths):
        stop = length if bound.columns is None else int(bound.columns[b]) - first[b] + 1
        starts = []
        for _, _, edit in resolved:
            wanted = [p for p in positions(edit.pos, b, length) if p >= unchanged(edit, b)]
            if wanted:
                starts.append(min(wanted))
        if starts and min(starts) < stop:
            segments.append(Segment(variant, b, min(starts), stop, layer))
    return segments


def _unchanged(tokens: Tokens, given: Resolved) -> Callable[[Edit, int], int]:
    """How many leading positions an edit leaves as they are; asked of each source run once, not once per variant.

    A source may share a prompt's first tokens, but not the edits given to all variants or those of an edited model:
    nothing is shared from the first of these on.
    """
    known: dict[tuple[type, int, int], int] = {}
    own = [
        min((min(positions(e.pos, b, n), default=n) for _, _, e in given), default=n)
        for b, n in enumerate(tokens.lengths.tolist())
    ]

    def count(edit: Edit, b: int) -> int:
        source = getattr(edit, "source", None)
        key = (type(edit), id(source), b)
        if source is None or key not in known:
            known[key] = min(edit.unchanged_before(tokens, b), own[b])
        return known[key]

    return count


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


def chunks(segments: Sequence[Segment], budget: int, width: int) -> Iterator[list[Segment]]:
    """Segments in order of entry, cut so that rows, and the keys that they see, stay within the budget."""
    chunk: list[Segment] = []
    rows = 0
    for segment in sorted(segments, key=lambda s: (s.layer, s.start, s.variant, s.example)):
        if chunk and (rows + len(segment) > budget or (len(chunk) + 1) * width > 4 * budget):
            yield chunk
            chunk, rows = [], 0
        chunk.append(segment)
        rows += len(segment)
    if chunk:
        yield chunk


@as_found
def sweep(
    anatomy: Anatomy,
    tokens: Tokens,
    variants: Sequence[Edit | Sequence[Edit]],
    metric: Metric,
    *,
    labels: Sequence[str] | None = None,
    given: Edit | Sequence[Edit] = (),
    token_budget: int | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> tuple[Float[Tensor, "variant batch"], Float[Tensor, " batch"], list[str]]:
    """Values of every variant on every prompt, the unedited run's, and the variants' names; see ``Model.sweep``.

    ``given`` are edits of the embeddings that all variants share. They are made once, in the run that every variant
    starts from, and that run's values take the place of the unedited run's.
    """
    per_variant = [resolve(v, anatomy, tokens, owner=i) for i, v in enumerate(variants)]
    if any(not r for r in per_variant):
        raise EditError(f"variant {next(i for i, r in enumerate(per_variant) if not r)} has no edit")
    per_variant = _cleaned(per_variant, anatomy, tokens)
    start = _at_the_start(given, anatomy, tokens)
    bound = metric.on(tokens, anatomy)
    token_budget = limit("sweep_tokens", tokens.ids.device, given=token_budget)
    if token_budget < 1:
        raise EditError(f"token_budget={token_budget}: expected at least 1 row per pass")
    with undisturbed(anatomy, grad=False):
        touched = {site for r in per_variant for _, site, _ in r if site.name in ("embed", "pos_embed")}
        clean = record(anatomy, tokens, sorted(touched, key=str), start)
        base = unedited_values(anatomy, clean, bound, metric)
        values = base.repeat(len(per_variant), 1)
        shared = _unchanged(tokens, [*start, *((0, site, edit) for site, edit in anatomy.standing)])
        segments = [s for i, r in enumerate(per_variant) for s in plan(r, tokens, bound, anatomy.n_layers, i, shared)]
        # The base run's values depend on the edits given to all, but a metric may not see them: they count here too.
        edits_made = [[(str(site), edit) for _, site, edit in resolved] for resolved in [start, *per_variant]]
        results = Results(checkpoint, job_of(anatomy, tokens, metric, base, edits_made), values)
        todo = [s for s in segments if not results.done[s.variant, s.example]]
        with progress_bar(total=len(todo), show=progress, what="sweep", unit="variant") as bar:
            for chunk in chunks(todo, token_budget, tokens.ids.shape[1]):
                owners = {s.variant for s in chunk}
                edits = [e for i in sorted(owners) for e in per_variant[i]]
                for segment, value in Packed(anatomy, clean, chunk, edits, bound).values():
                    values[segment.variant, segment.example] = value
                results.keep([s.variant for s in chunk], [s.example for s in chunk])
                bar.update(len(chunk))
    if labels is not None and len(labels) != len(per_variant):
        raise CasebackError(f"{len(labels)} labels for {len(per_variant)} variants: expected one for each")
    if labels is None:
        labels = ["; ".join(dict.fromkeys(e.describe() for _, _, e in r)) for r in per_variant]
    return values, base, list(labels)


def _cleaned(per_variant: list[Resolved], anatomy: Anatomy, tokens: Tokens) -> list[Resolved]:
    """Fill in the unedited run where edits refer to it: one pass for all variants."""
    flat = with_clean([e for r in per_variant for e in r], lambda sites: execute(anatomy, tokens, read=sites))
    out: list[Resolved] = [[] for _ in per_variant]
    for item in flat:
        out[item[0]].append(item)
    return out


def unedited_values(anatomy: Anatomy, clean: Clean, bound: Bound, metric: Metric) -> Tensor:
    """The metric of the unedited run, from the recorded stream; of targets that lack their space it warns."""
    n, length = last_layer(bound, anatomy.n_layers), clean.tokens.lengths.tolist()
    first = clean.tokens.first.tolist()
    if bound.columns is not None and bound.site is None:
        last, columns = clean.stream[-1], bound.columns.tolist()
        warn_of_spaces(
            anatomy, metric.target, metric.foil, len(columns), lambda b: unembed(anatomy, last[b, columns[b]][None])[0]
        )
    segments = []
    for b in range(len(clean.tokens)):
        stop = length[b] if bound.columns is None else int(bound.columns[b]) - first[b] + 1
        segments.append(Segment(b, b, 0 if bound.columns is None else stop - 1, stop, n))
    return torch.stack([value for _, value in Packed(anatomy, clean, segments, [], bound).values()]).detach()


def job_of(anatomy: Anatomy, tokens: Tokens, metric: Metric, base: Tensor, edits: Any) -> dict[str, Any]:
    """What a checkpoint of a sweep depends on; the unedited run's values stand for what a metric's function holds."""
    model = identity_of(anatomy.hf, anatomy.standing)
    return {"prompts": tokens, "edits": edits, "metric": [metric, base], "model": model}


class Results:
    """Values of a sweep and which of them are known; with a path, they are written to it after every chunk.

    Parameters
    ----------
    path, job
        As for ``Checkpoint``; see ``job_of``.
    values
        (variant, batch); what the file knows is written into it.
    """

    def __init__(self, path: str | Path | None, job: Mapping[str, Any], values: Tensor):
        self.file = Checkpoint(
            path,
            job,
            what="sweep checkpoint",
            other="belongs to another sweep (other prompts, edits, metric or model)",
        )
        self.values, self.done = values, np.zeros(tuple(values.shape), dtype=bool)
        if (saved := self.file.read()) is not None:
            self.done = saved.tensors["done"].numpy()
            values.copy_(saved.tensors["values"].to(values))

    def keep(self, variants: Sequence[int], examples: Sequence[int]) -> None:
        """Note that these values are known."""
        self.done[list(variants), list(examples)] = True
        self.file.write({"values": self.values.double(), "done": self.done})
