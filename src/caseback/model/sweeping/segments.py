"""What of a variant must be run: from the first layer and position that its edits can change to what is read.

variant -> one segment a prompt: tokens start .. stop, entering before a layer
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from caseback.errors import EditError
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.anatomy.sites import Site
from caseback.model.running.edits import Edit
from caseback.model.running.frames import positions
from caseback.model.running.metrics import Bound
from caseback.model.running.tokens import Tokens
from caseback.model.sweeping.packed import Segment

Resolved = list[tuple[int, Site, Edit]]


def entry_layer(site: Site, n_layers: int) -> int:
    """The first layer that an edit makes a difference to."""
    if site.is_module and site.layer is None:
        raise EditError(f"{site} is in no layer, so a sweep cannot start from it: use run, or a site of the model")
    if site.sources:
        return _first_source(site)
    site = site.base
    if site.name in ("embed", "pos_embed"):
        return 0
    if site.name in ("final_norm", "logits"):
        return n_layers
    assert site.layer is not None
    return site.layer + 1 if site.name == "resid_post" else site.layer


def _first_source(site: Site) -> int:
    return min(source.layer for source in site.sources if source.layer is not None)


def early_enough(layer: int, bound: Bound) -> int:
    """The layer, or an earlier one where what is measured is computed from several layers, all of which are run."""
    return layer if bound.site is None or not bound.site.sources else min(layer, _first_source(bound.site))


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
    anatomy: Anatomy,
    variant: int,
    unchanged: Callable[[Edit, int], int] | None = None,
) -> list[Segment]:
    """One variant as segments, one per prompt that it can change: first token, first layer, and last token read."""
    n_layers = anatomy.n_layers
    layer, last = min(entry_layer(site, n_layers) for _, site, _ in resolved), last_layer(bound, n_layers)
    layer = early_enough(layer, bound)
    if layer > last:
        if not any(site.base == Site("resid_post", last) for _, site, _ in resolved):
            return []  # every edit comes after what is measured
        layer = last
    unchanged = unchanged or (lambda edit, b: edit.unchanged_before(tokens, b, anatomy))
    segments = []
    for b, (first, length) in enumerate(tokens.extents):
        stop = length if bound.columns is None else bound.host_columns[b] - first + 1
        starts = []
        for _, _, edit in resolved:
            if not edit.edits_prompt(b, len(tokens)):
                continue
            wanted = [p for p in positions(edit.pos, b, length) if p >= unchanged(edit, b)]
            if wanted:
                starts.append(min(wanted))
        if starts and min(starts) < stop:
            segments.append(Segment(variant, b, min(starts), stop, layer))
    return segments


def unchanged_positions(tokens: Tokens, given: Resolved, anatomy: Anatomy) -> Callable[[Edit, int], int]:
    """How many leading positions an edit leaves as they are; asked of each source run once, not once per variant.

    A source may share a prompt's first tokens, but not the edits given to all variants or those of an edited model:
    nothing is shared from the first of these on.
    """
    known: dict[tuple[type, int, int], int] = {}
    everywhere = [*(edit for _, _, edit in given), *(edit for _, edit in anatomy.standing)]
    own = [
        min((min(positions(e.pos, b, n), default=n) for e in everywhere), default=n)
        for b, (_, n) in enumerate(tokens.extents)
    ]

    def count(edit: Edit, b: int) -> int:
        source = getattr(edit, "source", None)
        key = (type(edit), id(source), b)
        if source is None or key not in known:
            known[key] = min(edit.unchanged_before(tokens, b, anatomy), own[b])
        return known[key]

    return count


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
