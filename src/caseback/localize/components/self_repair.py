"""Self-repair: what later parts make up for when a component is ablated (PRIMER 3.2.18).

    effect(c) = direct(c) - repair(c),      repair(c) = norm(c) + sum_d change(d | c ablated)

The effect of an ablation is what is left of a component's direct effect once everything after it has answered. The
final norm divides by less where less was written, which alone raises what the others wrote; later heads and MLPs write
something else. Both are told apart exactly: the norm's share is the metric of the ablated run less the same with the
final norm's denominator held at the clean run's, and under that denominator the rest is a sum over components.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import xarray as xr

from caseback.errors import CasebackError, did_you_mean
from caseback.localize.components.ablation import component_places, edits_of
from caseback.localize.components.machinery.ablation_responses import answers
from caseback.model.algebra.direct import direction_attrs, direction_of
from caseback.model.graph.units import Components, components_of, name_of
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike

KINDS = ("mean", "zero", "resample")


@technique(
    role="component effect",
    entry=("3.2.18",),
    citation="McGrath et al. 2023, Rushing & Nanda 2024",
    cost="one forward + one forward per component, side by side",
)
def self_repair(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    components: Components = None,
    layers: Sequence[int] | None = None,
    kind: str = "mean",
    over: PromptsLike | None = None,
    per_position: bool = False,
    corrupt: PromptsLike | None = None,
    everywhere: bool = False,
) -> xr.Dataset:
    """How much of a component's direct effect is made up for when it is ablated, and by what.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It must be linear in the logits of one
        position, as for ``logit_attribution``.
    components, layers
        Which to ablate, one at a time, as for ``ablate``; all heads and MLPs by default.
    kind, over, per_position, corrupt
        What is put in a write's place, as for ``ablate``: ``"mean"``, ``"zero"`` or ``"resample"``.
    everywhere
        Ablate at every position, as ``ablate`` does, instead of at the metric's alone, as the papers do. What the
        other positions then no longer bring to this one counts against the repair.

    Returns
    -------
    xr.Dataset
        (component, batch): ``direct``, the metric that the component's write gives less what its replacement would;
        ``effect``, the metric lost when it is ablated, as ``ablate`` has it; ``self_repair``, the first less the
        second; ``norm``, the final norm's share of that; ``repaired``, the repair as a fraction of the direct effect
        (NaN where that is 0; beyond 1 the ablation helps, below 0 it costs more than the write gave).
        (component, path, batch): ``compensation``, by how much each part's direct effect grows, by the ``path``'s
        last component: with the norm's share they sum to the repair. Beside ``path``: ``path_kind``, ``path_layer``
        and ``path_head``. The attribute ``gap`` is by how much that sum misses the repair that was measured, at most.
        All is of the logits before a soft-cap, ``softcap``.

    Raises
    ------
    CasebackError
        For an unknown kind or component, and a metric that is not linear in the logits of one position.
    OutOfRange
        For a layer, head or neuron that the model lacks.
    TokensError
        For resampling without counterfactuals, or with some that are not aligned.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> repair = self_repair(model, "the cat and the dog", cb.logit(" cat"), components=["L0H0"], kind="zero")
    >>> bool(abs(repair.norm + repair.compensation.sum("path") - repair.self_repair).max() < 1e-3)
    True
    """
    if kind not in KINDS:
        raise CasebackError(f"ablation kind {kind!r} is not one that self-repair takes. {did_you_mean(kind, KINDS)}")
    tokens = model.tokens(tokens)
    direction = direction_of(model, tokens, metric)
    chosen = components_of(model, components, layers)
    pos = None if everywhere else direction.pos
    edits = edits_of(model, tokens, chosen, kind, over=over, per_position=per_position, corrupt=corrupt, pos=pos)
    responses = answers(direction, chosen, edits, tokens)
    repair = responses.direct - responses.effect
    values = {
        "direct": responses.direct,
        "effect": responses.effect,
        "self_repair": repair,
        "norm": responses.norm,
        "repaired": torch.where(responses.direct == 0, torch.nan, repair / responses.direct),
        "compensation": responses.change,
    }
    name, *beside = (list(column) for column in zip(*responses.paths, strict=True))
    of_path = dict(zip(("path_kind", "path_layer", "path_head"), (("path", x) for x in beside), strict=True))
    attrs = {
        "technique": self_repair,
        "model": model,
        "ablation": kind,
        "everywhere": everywhere,
        "gap": float((responses.norm + responses.change.sum(1) - repair).abs().max()),
        **direction_attrs(direction, metric),
    }
    components_at = {"component": [name_of(c) for c in chosen], **component_places(chosen)}
    arrays = {
        key: labelled(
            x,
            ["component", "path", "batch"] if x.ndim == 3 else ["component", "batch"],
            {**components_at, **({"path": name, **of_path} if x.ndim == 3 else {})},
            name=key,
            **attrs,
        )
        for key, x in values.items()
    }
    dataset = xr.Dataset(arrays, attrs=arrays["direct"].attrs)
    return dataset.assign_coords(metric_value=("batch", responses.metric.cpu().numpy()))
