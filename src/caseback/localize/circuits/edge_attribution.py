"""Edge attribution patching: every edge of the graph at once, to first order (PRIMER 3.2.25, 3.2.26).

    score(u -> v) = sum over positions of  (u(source) - u(base)) . d metric / d input_v

Position by position, or summed over named spans, the same terms score edges that stand at a place (B.30).
A writer's change times the metric's gradient at one reader's own input, before that reader's norm: what the metric
would change by if v alone saw u's other value. Heads read through query, key and value apart. Summed over a writer's
edges it is that writer's node estimate; over the edges into the logits it is the metric's change with all else held.

EAP-IG averages the gradient over points between the two inputs, which helps where the metric bends in between. Prompts,
and for long prompts points, are taken as many at a time as the budget of a pass forward and back holds, once for the
pass and once for the gradients that it leaves (``gradient_tokens``); scores of several blocks of points add up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.batches import Batches
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.machinery.contraction import contracted, sites_of_reads
from caseback.localize.circuits.machinery.pulling import SLOTS, Slope
from caseback.localize.circuits.machinery.writes import sites_of_writes
from caseback.localize.circuits.selecting import name_of_reader
from caseback.localize.circuits.spans import ends_of, place_of_tokens
from caseback.localize.inputs.gradients.integrated_gradients import RULES
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.graph.graph import Graph
from caseback.model.prompts.embedding_points import prompts_at_once, room_on_the_way_back
from caseback.model.prompts.on_the_way import at_shares, gradients_on_the_way
from caseback.model.prompts.per_token import aligned, expect_metric
from caseback.model.prompts.run_pair import RunPair, base_and_source, joined, run_rows
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Replace
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run, only_sites
from caseback.model.running.tokens import PromptsLike

ALONG = ("inputs", "activations", "ends")
BOTH_ENDS = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])


@technique(
    role="circuit finder",
    entry=("3.2.25", "3.2.26", "B.30"),
    citation="Syed et al. 2023, Hanna et al. 2024, Marks et al. 2024, Haklay et al. 2025",
    cost="2 forwards + 1 backward for all edges; with steps, steps x (forward + backward)",
)
def edge_attribution(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    *,
    steps: int | None = None,
    along: str = "inputs",
    rule: str = "riemann_left",
    direction: str = "noising",
    constants: Float[Tensor, "writer d_model"] | None = None,
    inputs: tuple[str, ...] = ("embed",),
    positions: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> xr.DataArray:
    """Score every edge between components by what it would change in the metric if it carried the other run's value.

    ==================  ============================  ========================  ================================
    convention          change                        gradient at               a positive score means
    ==================  ============================  ========================  ================================
    noising (here)      corrupt - clean               the clean run             corrupting the edge raises the metric
    denoising           clean - corrupt               the corrupt run           restoring the edge raises the metric
    EAP-IG's, MIB's     corrupt - clean               the clean run, of -metric the negative of noising here
    ==================  ============================  ========================  ================================

    Writers do not include b_O. Every reader has its norm to itself. Scores are per prompt and not averaged.

    Parameters
    ----------
    model
        The model.
    clean, corrupt
        Prompts and their counterfactuals, token-aligned; one counterfactual for all, or one per prompt. Corrupt None:
        edges are cut to zero.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It must be differentiable.
    steps
        Points at which gradients are averaged (EAP-IG; the paper takes 5). None: the base run alone (EAP).
    along
        The way from base to source that the points lie on. ``"inputs"``: embeddings are interpolated and all else
        follows (Hanna et al.). ``"activations"``: one block's writes at a time, each edge with its own writer's way
        (Marks et al.); costs 2 x layers + 1 times as much. ``"ends"``: the mean of the two ends' gradients, whatever
        ``steps``.
    rule
        How points are laid: ``"riemann_left"`` has the base run's end as the first point and leaves the other end out,
        ``"riemann_right"`` the reverse; also ``"riemann_middle"``, ``"gauss_legendre"``, ``"trapezoid"``.
    direction
        ``"noising"`` or ``"denoising"``.
    constants
        What edges carry instead, where corrupt is None: one vector per writer, such as its mean (``mean_writes``) or
        what ``optimal_writes`` fits.
    inputs
        ``("embed",)``: token and position embeddings as one writer; ``("embed", "pos_embed")``: apart.
    positions
        Score edges at each place apart: a name for every token, as ``span_schema`` gives. An edge is at the place
        where it is read, which is where it was written; a head's keys and values are read there for all queries.
    batch_size
        Prompts at a time, which bounds memory; by default as many as the budget holds, 16 at most.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (writer, reader, batch), NaN where there is no edge. ``writer`` is a node's name, ``reader`` a node's with its
        slot (``L1H4.k``). Beside them the metrics ``clean`` and ``corrupt``. With ``positions`` (writer, reader, pos,
        batch), which sum over ``pos`` to those without; ``begins`` and ``ends`` (pos, batch) are the first and the
        last position of each place, -1 where a prompt lacks it.

    Raises
    ------
    TokensError
        For counterfactuals that are not token-aligned.
    CasebackError
        For a token without a name, a metric without gradient, or one whose gradient vanishes at the base run (KL
        there, always).

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> pair = "Mary gave the ball to", "John gave the ball to"
    >>> scores = edge_attribution(model, *pair, cb.logit_diff(" Mary", " John"))
    >>> scores.dims, str(scores.writer.values[1]), str(scores.reader.values[-1])
    (('writer', 'reader', 'batch'), 'L0H0', 'logits')
    """
    metric = expect_metric(metric)
    if rule not in RULES:
        raise CasebackError(f"rule {rule!r} is unknown. {did_you_mean(rule, RULES)}")
    if along not in ALONG:
        raise CasebackError(f"along {along!r} is unknown. {did_you_mean(along, ALONG)}")
    most = limit("attribution_prompts", given=batch_size)
    if (steps is not None and steps < 1) or most < 1:
        raise OutOfRange(f"steps={steps}, batch_size={most}: expected at least 1")
    averaged = steps is not None or along == "ends"
    if corrupt is None and (averaged or direction != "noising"):
        raise CasebackError("without corrupt= edges are cut to zero: there is no run to interpolate to or to restore")
    if constants is not None and corrupt is not None:
        raise CasebackError("give corrupt= or constants=, not both: an edge carries one other value")
    graph = Graph.of(model.anatomy, inputs)
    if constants is not None and constants.shape != (len(graph.writers), model.d_model):
        expected = (len(graph.writers), model.d_model)
        raise CasebackError(f"constants of shape {tuple(constants.shape)}: expected (writer, d_model), {expected}")
    points = BOTH_ENDS if along == "ends" else RULES[rule](steps or 1)
    reads = [*sites_of_writes(model, graph), Site("embed")]
    readers = sites_of_reads(model)
    tokens, source = base_and_source(model, clean, corrupt, direction)
    named = source if source is not None and direction == "denoising" else tokens  # positions name the clean prompts'
    places = None if positions is None else place_of_tokens(positions, named)
    if batch_size is None:
        batch_size = prompts_at_once(model, tokens, metric, _bytes_held(model, len(points[0])))

    def of_rows(rows: slice) -> tuple[Tensor, dict[str, Any]]:
        # the last stream is read here, since a run of a metric of all positions would not read it
        slopes = () if averaged else readers
        pair = run_rows(model, tokens, source, metric, rows, reads, direction, grad=not averaged, slopes=slopes)
        at = {} if places is None else {"places": places[rows], "count": len(positions or ())}
        if along == "activations" and averaged:
            return _along_activations(model, graph, pair, *points, at=at), pair.coords()
        if averaged:
            return _averaged(model, graph, pair, Site("embed"), points[0], points[1], at=at), pair.coords()
        slope = Slope((1.0,), pair.base, pair.gradients(readers, pull=False))
        others = constants if corrupt is None else pair.source
        return contracted(model, graph, pair.base, others, [slope], **at), pair.coords()

    batches = Batches(batch_size, "prompts").over(len(tokens), of_rows)
    total = -(-len(tokens) // batch_size)
    done = progress_bar(batches, "edge attribution", total=total, unit="batch", show=progress)
    scores, coords = zip(*(result for _, result in done), strict=True)
    patch = "resample" if corrupt is not None else "zero" if constants is None else "constants"
    placed: dict[str, Any] = {}
    if places is not None and positions is not None:
        begins, ends = ends_of(places, len(positions))
        before = (tokens.mask.cumsum(1) - 1).cpu().T  # of each column, its position in its prompt
        of = [torch.where(x < 0, -1, before.gather(0, x.clamp(min=0))) for x in (begins, ends)]
        placed = {"pos": list(positions), "begins": (("pos", "batch"), of[0]), "ends": (("pos", "batch"), of[1])}
    return _labelled(model, graph, torch.cat(scores), coords, metric, steps, along, rule, direction, patch, placed)


def _along_activations(
    model: Model, graph: Graph, pair: RunPair, points: Tensor, weights: Tensor, *, at: dict[str, Any]
) -> Float[Tensor, "batch place writer reader"]:
    """Scores of each block's writers, with gradients averaged over points between that block's two activations."""
    scores: Tensor | None = None
    for site, writers in _blocks(model, graph):
        mine = _averaged(model, graph, pair, site, points, weights, writers, at=at)
        scores = mine if scores is None else scores
        scores[:, :, writers] = mine[:, :, writers]
    assert scores is not None
    return scores


def _blocks(model: Model, graph: Graph) -> Iterator[tuple[Site, slice]]:
    """The site that a block's writers write from, and which writers these are."""
    first, *others = sites_of_writes(model, graph)
    if len(graph.inputs) == 1:
        yield first, slice(0, 1)
    else:
        yield first, slice(0, 1)
        yield others.pop(0), slice(1, 2)
    at = len(graph.inputs)
    for site in others:
        count = 1 if site.name == "mlp_out" else graph.layers[site.layer or 0].n_heads
        yield site, slice(at, at + count)
        at += count


def _own_positions(run: Run, site: Site) -> Tensor:
    """A site's values in each prompt's own positions, as an edit takes them."""
    return aligned(run[site.name, site.layer].detach(), run.tokens)


def _averaged(
    model: Model,
    graph: Graph,
    pair: RunPair,
    site: Site,
    points: Tensor,
    weights: Tensor,
    writers: slice = slice(None),
    *,
    at: dict[str, Any],
) -> Float[Tensor, "batch place writer reader"]:
    """Scores with gradients at points on one site's way, as many points together as there is room for."""
    total: Tensor | None = None
    for slopes in _slopes(model, pair, site, points, weights):
        scores = contracted(model, graph, pair.base, pair.source, slopes, writers, **at)
        total = scores if total is None else total.add_(scores)
    assert total is not None
    return total


def _bytes_held(model: Model, n_points: int) -> int:
    """What is kept of a token until its edges are scored: two runs' writes, and gradients at the points."""
    anatomy = model.anatomy
    written = sum(p.dims.n_heads * p.d_z + model.d_model for p in anatomy.layers)
    return model.dtype.itemsize * (2 * (written + model.d_model) + n_points * _numbers_of_a_point(model))


def _numbers_of_a_point(model: Model) -> int:
    """What a point leaves of a token: the stream that heads read, and gradients at projections, MLPs and the end."""
    projected = sum(
        p.dims.n_heads * p.dims.d_head + p.dims.n_kv_heads * (p.dims.d_head + p.d_z) for p in model.anatomy.layers
    )
    return projected + model.d_model * (2 * model.n_layers + 1)


def _slopes(model: Model, pair: RunPair, site: Site, points: Tensor, weights: Tensor) -> Iterator[list[Slope]]:
    """The metric's gradients at all readers, at points on the way of one site from its base to its source value.

    As many points at a time as fit the room of a pass; the last of them once it is known that the metric is not flat.

    Raises
    ------
    CasebackError
        For a metric that is flat at all points.
    """
    assert pair.source is not None
    start, end = (at_least_float32(_own_positions(run, site)) for run in (pair.base, pair.source))
    tokens, metric, reads = pair.base.tokens, pair.metric, sites_of_reads(model)

    def put(shares: Tensor) -> Replace:
        value = start.repeat_interleave(len(shares), 0) + at_shares(end - start, shares)
        return Replace(site.name, value, layer=site.layer)

    point = tokens.ids.numel() * model.dtype.itemsize * _numbers_of_a_point(model)
    count, each = room_on_the_way_back(model, tokens)
    most = max(1, count * each // point)
    heads = [read for read in reads if read.name in SLOTS]
    slopes: list[Slope] = []
    sizes: list[Tensor] = []
    for part, run, gradients in gradients_on_the_way(model, tokens, metric, points.tolist(), put, reads, pull=False):
        if slopes and sum(len(slope.weights) for slope in slopes) + len(weights[part]) > most:
            yield slopes
            slopes = []
        slopes.append(Slope(tuple(weights[part].tolist()), only_sites(run, heads), gradients))
        sizes.append(gradients[reads[-1].key].flatten(1).abs().amax(1).view(len(tokens), -1).amax(1))
    steep = torch.stack(sizes).amax(0)
    flat = ((steep == 0).nonzero()[:, 0] + pair.first).tolist()
    if flat:
        raise CasebackError(
            f"metric {metric.name!r} has no gradient at any of the {len(points)} points between the two runs (prompts "
            f"{flat}): it is flat there, as what counts or rounds is. Take one such as cb.logit_diff(target, foil)"
        )
    yield slopes


def _labelled(
    model: Model,
    graph: Graph,
    scores: Float[Tensor, "batch place writer reader"],
    coords: Sequence[dict[str, Any]],
    metric: Metric,
    steps: int | None,
    along: str,
    rule: str,
    direction: str,
    patch: str,
    placed: dict[str, Any],
) -> xr.DataArray:
    whole = joined(coords)
    return labelled(
        scores.permute(2, 3, 1, 0) if placed else scores[:, 0].permute(1, 2, 0),
        ["writer", "reader", *(["pos"] if placed else []), "batch"],
        {
            "writer": [str(node) for node in graph.writers],
            "reader": [name_of_reader(reader) for reader in graph.readers],
            **{side: whole[side] for side in ("clean", "corrupt") if side in whole},
            **placed,
        },
        name="score",
        technique=edge_attribution,
        model=model,
        metric=metric.name,
        direction=direction,
        patch=patch,
        steps=steps,
        along=along if steps is not None or along == "ends" else None,
        rule=rule if steps is not None and along != "ends" else None,
    )
