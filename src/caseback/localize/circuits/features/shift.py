"""SHIFT: features that a classifier should not use are taken out of it, and what it does then is measured (3.2.29).

    accuracy_v(y) = mean over prompts of ([metric_v > boundary] = y)       v: whole, ablated, random features ablated

A classifier that was trained where a shortcut always agreed with the label may have learned the shortcut. Prompts on
which the two are independent tell: its answers are compared with the label and with the shortcut, before and after
chosen features are ablated, and beside ablations of as many random features that are active there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.errors import ArgumentError, OutOfRange
from caseback.localize.circuits.features.outside import NodeRuns
from caseback.localize.circuits.features.places import Place, places_of
from caseback.model.circuit import Circuit, Node
from caseback.model.prompts.per_token import expect_metric
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens

GROUPS = tuple(f"label {label}, shortcut {shortcut}" for label in (0, 1) for shortcut in (0, 1))


@technique(
    role="judgement",
    entry=("3.2.29",),
    citation="Marks et al. 2024",
    cost="2 + draws forwards",
)
def shift(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    labels: Int[Tensor, " batch"] | Sequence[int],
    shortcut: Int[Tensor, " batch"] | Sequence[int],
    nodes: Circuit | Sequence[str | Node],
    *,
    sites: str | Sequence[Any] = ("feature",),
    boundary: float = 0.0,
    ablation: str = "zero",
    over: PromptsLike | None = None,
    draws: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Ablate features that a classifier should not depend on, and test whether its bias goes with them.

    Parameters
    ----------
    model
        The model, with dictionaries attached.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes. A balanced test set, on which label and shortcut
        are as good as independent.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. The classifier's score, which of a linear
        probe is ``cb.activation(site, direction=...)``.
    labels, shortcut
        (batch), 0 or 1: what the classifier should tell, and what it should not use.
    nodes
        What is ablated, at all positions: names such as ``"L3F7:resid_post"``, or a circuit's nodes. Chosen by looking
        at what ``feature_effects`` of the metric finds and at what these features react to.
    sites
        What dictionaries were attached as, of which these are nodes.
    boundary
        The classifier says 1 where the metric is larger than this.
    ablation, over
        ``"zero"`` or ``"mean"``, as for ``feature_faithfulness``.
    draws
        Random sets of as many nodes of the same places, drawn from those active on the prompts that were not chosen.
    seed
        Same seed, same result. Of the random sets.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        Over variant (``"whole"``, ``"ablated"``): ``accuracy`` at the label, ``shortcut_accuracy`` (0.5 where the
        classifier does not follow the shortcut), ``worst``, the accuracy of the worst group, and ``group_accuracy``
        (variant, group), NaN for a group without prompts. Over draw: ``random_accuracy`` and
        ``random_shortcut_accuracy``. ``values`` (variant, batch) is the score.

    Raises
    ------
    ArgumentError
        For labels other than 0 and 1, of another number than prompts, or all the same.
    CasebackError
        For a node that the sites do not have.

    Examples
    --------
    >>> import torch, caseback as cb
    >>> model = cb.load("meadow")
    >>> prompts = ["Mary saw the dog", "Mary saw the cat", "John saw the dog", "John saw the cat"]
    >>> probe = cb.activation("resid_post", layer=1, direction=torch.ones(model.d_model))
    >>> test = shift(model, prompts, probe, [1, 0, 1, 0], [1, 1, 0, 0], ["L1N3"], sites="mlp_post", draws=2)
    >>> test["group_accuracy"].shape, test["random_accuracy"].shape
    ((2, 4), (2,))
    """
    metric, places, prompts = expect_metric(metric), places_of(model, sites), model.tokens(tokens)
    target, other = (_binary(given, len(prompts), name) for given, name in ((labels, "labels"), (shortcut, "shortcut")))
    if draws < 0:
        raise OutOfRange(f"draws={draws}: expected 0 or more")
    if ablation not in ("zero", "mean"):
        raise ArgumentError(f"ablation {ablation!r}: expected 'zero' or 'mean', there is no counterfactual")
    chosen = sorted(nodes.nodes) if isinstance(nodes, Circuit) else [_node(node) for node in nodes]
    if not chosen:
        raise ArgumentError("no node is given: expected some, such as 'L3F7:resid_post'")
    runs = NodeRuns.of(model, prompts, None, metric, places, ablation, over)
    ablated = runs.masks([chosen])
    random = _drawn(runs.model, prompts, places, ablated, draws, seed)
    masks = [~torch.cat([torch.zeros_like(mask), mask, drawn]) for mask, drawn in zip(ablated, random, strict=True)]
    values = runs.metrics(masks, progress=progress)
    says = values > boundary
    right, follows = (says == truth for truth in (target, other))
    groups = torch.stack([(target == label) & (other == kind) for label in (0, 1) for kind in (0, 1)])
    by_group = right[:2].double() @ groups.double().T / groups.sum(1)
    variants = {"variant": ["whole", "ablated"]}
    how: dict[str, Any] = {"technique": shift, "model": model, "metric": metric.name, "ablation": ablation}
    how |= {"seed": seed, "nodes": [str(node) for node in chosen], "boundary": boundary}

    def table(x: Tensor, *dims: str, **coords: Any) -> xr.DataArray:
        return labelled(x, dims, coords, **how)

    return xr.Dataset(
        {
            "accuracy": table(right[:2].double().mean(1), "variant", **variants),
            "shortcut_accuracy": table(follows[:2].double().mean(1), "variant", **variants),
            "worst": table(by_group.nan_to_num(2.0).amin(1), "variant", **variants),
            "group_accuracy": table(by_group, "variant", "group", **variants, group=list(GROUPS)),
            "random_accuracy": table(right[2:].double().mean(1), "draw"),
            "random_shortcut_accuracy": table(follows[2:].double().mean(1), "draw"),
            "values": table(values[:2], "variant", "batch", **variants),
        },
        attrs=table(values[:2], "variant", "batch").attrs,
    )


def _node(given: str | Node) -> Node:
    return Node.parse(given) if isinstance(given, str) else given


def _binary(given: Any, count: int, name: str) -> Bool[Tensor, " batch"]:
    numbers = torch.as_tensor(given).cpu()
    if numbers.shape != (count,):
        raise ArgumentError(f"{name} of shape {tuple(numbers.shape)}: expected one for each of {count} prompts")
    if bool(((numbers != 0) & (numbers != 1)).any()):
        raise ArgumentError(f"{name} hold other numbers than 0 and 1")
    if bool((numbers == numbers[0]).all()):
        raise ArgumentError(f"{name} are all {int(numbers[0])}: expected both 0 and 1")
    return numbers.bool()


def _drawn(
    model: Model, prompts: Tokens, places: Sequence[Place], ablated: Sequence[Tensor], draws: int, seed: int
) -> list[Bool[Tensor, "draw pos unit"]]:
    """Random nodes of the same places, as many as are ablated there, active on the prompts; fewer where there are."""
    run = model.run(prompts, read=list(dict.fromkeys(place.base for place in places)))
    generator = torch.Generator().manual_seed(seed)
    sets = []
    for place, mask in zip(places, ablated, strict=True):
        active: Float[Tensor, " unit"] = place.value(run[place.base.key][prompts.mask]).any(-1).any(0).cpu()
        taken = mask.any(1)[0]
        free = (active & ~taken).nonzero()[:, 0]
        drawn = torch.zeros(draws, mask.shape[1], mask.shape[2], dtype=torch.bool)
        for row in drawn:
            row[:, free[torch.randperm(len(free), generator=generator)[: int(taken.sum())]]] = True
        sets.append(drawn)
    return sets
