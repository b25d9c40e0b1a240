"""Ablation: a component's effect is what the metric loses without it (PRIMER 3.2.8, 3.2.9, 3.2.10).

    effect(c) = metric(x) - metric(x | do(c = h)),    h = 0,  E c(x~),  or c(x~) of one counterfactual x~

Positive: the component works for the metric. This is the total effect: later components answer to the change, some
of them make up for it (self-repair), so small effects of several parts may hide a large one of their sum. Zero is
foreign to a component that always writes something; a mean and a counterfactual keep what does not depend on the
prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import xarray as xr
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, TokensError, did_you_mean
from caseback.model.edits import Edit, Mean, Resample, Zero
from caseback.model.frames import Positions
from caseback.model.metrics import Metric
from caseback.model.model import Model
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.tokens import Tokens

KINDS = ("mean", "zero", "resample")
_NAME = re.compile(r"L(?P<layer>\d+)H(?P<head>\d+)|MLP (?P<mlp>\d+)")

Component = tuple[int, int | None]
"""A layer and a head in it, or None for its MLP."""


@technique(
    entry=("3.2.8", "3.2.9", "3.2.10"),
    citation="Michel et al. 2019, Wang et al. 2023, Zhang & Nanda 2024",
    cost="a sweep: components x (the forward pass from there on)",
)
def ablate(
    model: Model,
    tokens: Any,
    metric: Metric,
    *,
    components: str | Sequence[str | tuple[int, int | None]] | None = None,
    kind: str = "mean",
    over: Any = None,
    per_position: bool = False,
    corrupt: Any = None,
    pos: Positions = None,
    progress: bool = False,
) -> xr.DataArray:
    """What the metric loses when a head's or an MLP's write is replaced: one component at a time, exactly.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured.
    components
        ``"heads"``, ``"mlps"``, or a list of names (``"L3H2"``, ``"MLP 4"``) or (layer, head) pairs, head None for
        the MLP. None: all heads and MLPs.
    kind
        ``"mean"``: the mean of a reference (3.2.9). ``"zero"`` (3.2.10). ``"resample"``: what the component writes at
        the same position of a counterfactual prompt (3.2.8).
    over
        For the mean: the reference prompts; the prompts themselves by default, which says little where there is only
        one, and nothing where that has one token.
    per_position
        For the mean: at each position over prompts, instead of over both; the prompts should share a template.
    corrupt
        For resampling: the counterfactuals, token-aligned, one or one a prompt.
    pos
        Where the write is replaced, by each prompt's own positions; everywhere by default.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (component, batch), the metric less that of the ablated run; with the ``kind`` (head, mlp), ``layer`` and
        ``head`` (-1 for an MLP) of each component beside it, and the unablated ``metric_value`` of each prompt.

    Raises
    ------
    OutOfRange
        For a layer or head that the model lacks.
    TokensError
        For resampling without counterfactuals, or with some that are not aligned.
    CasebackError
        For an unknown kind or component.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> effects = ablate(model, "the cat and the dog", cb.logit_diff(" cat", " dog"), kind="zero")
    >>> effects.sizes["component"] == model.n_layers * (model.n_heads + 1)
    True
    >>> largest = effects.isel(batch=0).to_series().abs().idxmax()
    """
    tokens = model.tokens(tokens)
    if kind not in KINDS:
        raise CasebackError(f"ablation kind {kind!r} is unknown. {did_you_mean(kind, KINDS)}")
    chosen = list(_chosen(model, components))
    if not chosen:
        raise CasebackError("no component to ablate: the list is empty")
    edits = edits_of(model, tokens, chosen, kind, over=over, per_position=per_position, corrupt=corrupt, pos=pos)
    names = [name_of(c) for c in chosen]
    measured = model.sweep(tokens, [[e] for e in edits], metric, labels=names, progress=progress)
    return labelled(
        measured["clean"].values[None] - measured.values,
        ["component", "batch"],
        {
            "component": names,
            "kind": ("component", ["mlp" if head is None else "head" for _, head in chosen]),
            "layer": ("component", [layer for layer, _ in chosen]),
            "head": ("component", [-1 if head is None else head for _, head in chosen]),
            "metric_value": ("batch", measured["clean"].values),
        },
        name="effect",
        technique=ablate,
        model=model,
        metric=metric.name,
        target=_plain(metric.target),
        foil=_plain(metric.foil),
        ablation=kind,
        per_position=per_position if kind == "mean" else None,
    )


def name_of(component: Component) -> str:
    """A component as people write it.

    Examples
    --------
    >>> name_of((3, 2)), name_of((4, None))
    ('L3H2', 'MLP 4')
    """
    layer, head = component
    return f"MLP {layer}" if head is None else f"L{layer}H{head}"


def site_of(component: Component) -> tuple[str, int]:
    """Where a component's write is cut: a head at its z, so that what its values' bias writes goes too."""
    layer, head = component
    return ("mlp_out" if head is None else "z", layer)


def _chosen(model: Model, components: Any) -> Iterator[Component]:
    """The components asked for, each checked against the model."""
    parts = model.anatomy.layers
    heads = [(i, h) for i, p in enumerate(parts) for h in range(p.dims.n_heads)]
    mlps: list[Component] = [(i, None) for i in range(len(parts))]
    if components is None:
        yield from (c for i in range(len(parts)) for c in (*(h for h in heads if h[0] == i), mlps[i]))
        return
    if isinstance(components, str):
        groups = {"heads": heads, "mlps": mlps}
        if components in groups:
            yield from groups[components]
            return
        components = [components]
    for given in components:
        layer, head = _parsed(given) if isinstance(given, str) else given
        if not 0 <= layer < len(parts):
            raise OutOfRange(f"{given!r}: this model has layers 0 to {len(parts) - 1}")
        if head is not None and not 0 <= head < parts[layer].dims.n_heads:
            raise OutOfRange(f"{given!r}: layer {layer} of this model has heads 0 to {parts[layer].dims.n_heads - 1}")
        yield layer, head


def _parsed(name: str) -> Component:
    found = _NAME.fullmatch(name)
    if found is None:
        raise CasebackError(
            f"component {name!r} is unknown: expected 'heads', 'mlps', a head such as 'L3H2' or 'MLP 4'"
        )
    return (int(found["mlp"]), None) if found["mlp"] else (int(found["layer"]), int(found["head"]))


def edits_of(
    model: Model,
    tokens: Tokens,
    chosen: Sequence[Component],
    kind: str,
    *,
    over: Any = None,
    per_position: bool = False,
    corrupt: Any = None,
    pos: Positions = None,
) -> list[Edit]:
    """The edit that ablates each of the components; what they need of a reference run is read once.

    Parameters
    ----------
    model, tokens, kind, over, per_position, corrupt, pos
        As for ``ablate``.
    chosen
        Components as (layer, head), head None for an MLP.
    """
    at = [{"site": site_of(c)[0], "layer": c[0], "head": c[1], "pos": pos} for c in chosen]
    if kind == "zero":
        return [Zero(**where) for where in at]
    sites = sorted({site_of(c) for c in chosen})
    if kind == "resample":
        if corrupt is None:
            raise TokensError("resampling needs corrupt=, counterfactual prompts aligned with the clean ones")
        source = model.run(_matched(model, tokens, corrupt), read=sites)
        return [Resample(source=source, **where) for where in at]
    reference = tokens if over is None else model.tokens(over)
    if int(reference.lengths.sum()) == 1:
        raise TokensError(
            "the mean over a single token is what it is: give reference prompts as over=, or ablate with kind='zero'"
        )
    source = model.run(reference, read=sites)
    if per_position:
        return [Mean(over=source, per_position=True, **where) for where in at]
    # averaged once a layer, not once for each of its heads
    means = {site: source[site][reference.mask.to(source[site].device)].mean(0) for site in sites}
    mine = (means[site_of(c)] for c in chosen)
    return [Mean(over=m if c[1] is None else m[c[1]], **where) for m, c, where in zip(mine, chosen, at, strict=True)]


def _matched(model: Model, tokens: Tokens, corrupt: Any) -> Tokens:
    made = model.tokens(corrupt)
    if len(made) not in (1, len(tokens)):
        raise TokensError(f"{len(made)} counterfactuals for {len(tokens)} prompts: give one, or one a prompt")
    for b, row in enumerate(tokens.text):
        other = made.text[b if len(made) > 1 else 0]
        if len(other) != len(row):
            raise TokensError(
                f"prompt {b} and its counterfactual are not token-aligned: {len(row)} tokens {row} and "
                f"{len(other)} tokens {other}"
            )
    return made


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value
