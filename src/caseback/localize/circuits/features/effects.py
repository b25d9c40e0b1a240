"""Indirect effects of features, errors, neurons and heads, at every position of every prompt (PRIMER 3.2.29).

    IE_i = metric(x | do f_i = f_i(x')) - metric(x)

    attribution             IE_i =~ (f_i(x') - f_i(x)) . d metric / d f_i
    integrated gradients    the same with the gradient averaged over points on the site's own way from x to x'
    exact                   every node patched by itself

A feature's gradient is the total one at the site that it writes, pulled back through the decoder. An error is one node
a position: its change times the gradient. On the way of a site its features and its error move together, so their
effects by integrated gradients sum to what patching the whole site does; by how much they miss it is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, did_you_mean
from caseback.jobs.batches import Batches
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.features.entries import Entries, effects_of, names_of
from caseback.localize.circuits.features.one_by_one import one_by_one
from caseback.localize.circuits.features.places import Place, gaps_of, groups_of, places_of
from caseback.localize.circuits.features.two_runs import TwoRuns
from caseback.localize.inputs.gradients.quadrature import RULES
from caseback.model.anatomy.coerce import in_float64
from caseback.model.anatomy.sites import Site
from caseback.model.prompts.embedding_points import prompts_at_once
from caseback.model.prompts.per_token import expect_metric
from caseback.model.prompts.run_pair import base_and_source, joined, run_rows
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike
from caseback.model.sweeping.room import numbers_of

METHODS = ("attribution", "integrated_gradients", "exact")


@technique(
    role="component effect",
    entry=("3.2.29", "3.2.15"),
    citation="Marks et al. 2024",
    cost="2 forwards + 1 backward; integrated gradients: steps x as much for each site; exact: 1 run a node",
)
def feature_effects(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    *,
    sites: str | Sequence[Any] = ("feature", "feature_error"),
    method: str = "attribution",
    steps: int = 10,
    rule: str = "riemann_left",
    direction: str = "noising",
    threshold: float = 0.0,
    aggregation: str = "none",
    top: int | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """The indirect effect of every feature, error, neuron or head, at every position.

    Positive: the metric would rise if the node took the other run's value.

    Parameters
    ----------
    model
        The model, with dictionaries attached (``caseback.decode.dictionaries.attach``).
    clean, corrupt
        Prompts and their counterfactuals, token-aligned, one or one per prompt. Corrupt None: nodes are set to zero.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. But for ``"exact"`` it must have a
        gradient.
    sites
        Names (all layers) or ``(name, layer)`` pairs: what dictionaries were attached as and their errors, of one or
        several names; ``"mlp_post"`` for neurons, ``"z"`` for heads, ``"mlp_out"`` for MLPs, ``"embed"``. Where errors
        are asked for by name, layers that no dictionary covers are errors as a whole.
    method
        ``"attribution"``, ``"integrated_gradients"`` or ``"exact"``.
    steps, rule
        Points of integrated gradients and how they are laid, as for ``attribution_patching``. The paper's code takes
        10 by ``"riemann_left"``, from the run that is patched; ``"gauss_legendre"`` is more exact.
    direction
        ``"noising"``: the corrupt run's values into the clean run. ``"denoising"``: the reverse.
    threshold
        Keep effects larger than this in size, in the metric's unit. It is applied at each position, before any sum.
    aggregation
        Over positions, of what passed the threshold: ``"none"``, ``"sum"`` or ``"max"`` (in size, with its sign).
    top
        Keep so many entries, the strongest of all; None for all of them.
    batch_size
        Prompts at a time, which bounds memory; None for as many as ``attribution_prompts`` and the budget of a pass
        forward and back (``gradient_tokens``) hold, with what is read at the sites.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``effect`` (entry), strongest first, with the coordinates ``node`` (``L3F7:resid_post@2``), ``kind``,
        ``layer_index``, ``unit_index``, ``batch_index`` and ``pos_index`` (-1 for all). Over (site, batch), the sites
        that nodes write: ``estimated``, the sum of all their effects, before any threshold; ``errors``, what of it
        is errors'; ``measured``, what patching all of them together does; ``gap``, estimated less measured. Beside them
        the metrics ``clean`` and ``corrupt``. The attribute ``uncovered`` lists what no dictionary covers.

    Raises
    ------
    TokensError
        For counterfactuals that are not token-aligned.
    SiteAbsent
        For sites whose parts have no names, and two dictionaries that write at one site.
    CasebackError
        For a metric without gradient.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> pair = "The key to the doors", "The keys to the doors"
    >>> effects = feature_effects(model, *pair, cb.logit_diff(" is", " are"), sites="mlp_post", top=3)
    >>> effects["effect"].shape, effects["gap"].dims
    ((3,), ('site', 'batch'))
    """
    metric = expect_metric(metric)
    expect_method(method, steps, rule)
    if threshold < 0 or (top is not None and top < 1):
        raise OutOfRange(f"threshold={threshold}, top={top}: expected a threshold of 0 or more, and 1 or more entries")
    places = places_of(model, sites)
    Entries.none().aggregated(aggregation)
    parts, sums, coords = [], [], []
    for first, runs in batches(model, clean, corrupt, metric, places, method, direction, batch_size, progress):
        entries, estimated, errors, _ = measured_effects(runs, method, steps, rule, threshold)
        entries = entries.of_prompts_from(first).aggregated(aggregation)
        parts.append(entries if top is None else entries.strongest(top))
        total = runs.with_all_changed()
        sums.append(torch.stack([estimated, errors, total, estimated - total]))
        coords.append(runs.pair.coords())
    entries = Entries.joined(parts)
    entries = entries.strongest(len(entries) if top is None else top)
    how: dict[str, Any] = {"technique": feature_effects, "model": model, "metric": metric.name, "method": method}
    how |= {"direction": direction, "patch": "zero" if corrupt is None else "resample", "threshold": threshold}
    how |= {"aggregation": aggregation, "uncovered": gaps_of(places)}
    how |= {"steps": steps, "rule": rule} if method == "integrated_gradients" else {}
    sites_and_prompts = {"site": [str(site) for site in groups_of(places)]}
    whole = joined(coords)
    sites_and_prompts |= {side: whole[side] for side in ("clean", "corrupt") if side in whole}
    table = dict(zip(("estimated", "errors", "measured", "gap"), torch.cat(sums, -1), strict=True))
    sets = {name: labelled(x, ["site", "batch"], sites_and_prompts, **how) for name, x in table.items()}
    effect = labelled(entries.effect, ["entry"], _columns(places, entries), name="effect", **how)
    return xr.Dataset({"effect": effect, **sets}, attrs=effect.attrs)


def expect_method(method: str, steps: int, rule: str) -> None:
    """Refuse an unknown method or rule, and no steps."""
    for given, known, what in ((method, METHODS, "method"), (rule, tuple(RULES), "rule")):
        if given not in known:
            raise CasebackError(f"{what} {given!r} is unknown. {did_you_mean(given, known)}")
    if steps < 1:
        raise OutOfRange(f"steps={steps}: expected at least 1")


def batches(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    places: Sequence[Place],
    method: str,
    direction: str,
    batch_size: int | None,
    progress: bool,
) -> Iterator[tuple[int, TwoRuns]]:
    """The two runs of some prompts at a time, with the number of the first."""
    if corrupt is None and direction != "noising":
        raise CasebackError("without corrupt= nodes are set to zero: there is no run to restore")
    if batch_size is not None and batch_size < 1:
        raise OutOfRange(f"batch_size={batch_size}: expected at least 1")
    base, source = base_and_source(model, clean, corrupt, direction)
    read = list(dict.fromkeys(site for place in places for site in (place.base, place.written)))
    beside = _bytes_beside(model, places, read, base.shape[1])
    at_once = batch_size or prompts_at_once(model, base, metric, beside)
    grad = method != "integrated_gradients"

    def of_rows(rows: slice) -> tuple[int, TwoRuns]:
        pair = run_rows(model, base, source, metric, rows, read, direction, grad=grad)
        return rows.start, TwoRuns(model, places, pair)

    done = (result for _, result in Batches(at_once, "prompts").over(len(base), of_rows))
    total = -(-len(base) // at_once)
    yield from progress_bar(done, "effects of nodes", total=total, unit="batch", show=progress)


def _bytes_beside(model: Model, places: Sequence[Place], read: Sequence[Site], width: int) -> int:
    """What is kept of a token: both runs' sites, gradients and changes there, and five tables of one place's nodes."""
    numbers = lambda sites: [numbers_of(model.anatomy, site, width) for site in sites]  # noqa: E731
    nodes = max(numbers(place.site for place in places))
    return max(4, model.dtype.itemsize) * (4 * sum(numbers(read)) + 5 * nodes)


def measured_effects(
    runs: TwoRuns, method: str, steps: int, rule: str, above: float
) -> tuple[Entries, Tensor, Tensor, dict[Site, Tensor]]:
    """Effects above a threshold; over (site, batch) the sum of all and of errors'; the gradients behind them."""
    gradients: dict[Site, Tensor] = {}
    if method != "exact":
        gradients = runs.averaged(steps, rule) if method == "integrated_gradients" else runs.gradients()
    groups = list(groups_of(runs.places))
    parts, n = [], len(runs.tokens)
    sums, errors = torch.zeros(len(groups), n, dtype=torch.float64), torch.zeros(len(groups), n, dtype=torch.float64)
    for index, place in enumerate(runs.places):
        x, change = runs.base(place.base), runs.change(place)
        if method == "exact":
            effects = one_by_one(runs, place, change)
        else:
            effects = effects_of(place, change, gradients[place.written], x)
        total = in_float64(effects).sum((1, 2)).cpu()
        at = groups.index(place.written)
        sums[at] += total
        errors[at] += total if place.kind == "error" else 0
        parts.append(Entries.of(index, effects, above))
    return Entries.joined(parts), sums, errors, gradients


def _columns(places: Sequence[Place], entries: Entries) -> dict[str, Any]:
    layers = torch.tensor([-1 if place.site.layer is None else place.site.layer for place in places])
    return {
        "node": ("entry", names_of(places, entries)),
        "kind": ("entry", [places[i].kind for i in entries.place.tolist()]),
        "layer_index": ("entry", layers[entries.place]),
        "unit_index": ("entry", entries.unit),
        "batch_index": ("entry", entries.prompt),
        "pos_index": ("entry", entries.pos),
    }
