"""Ablation: a component's effect is what the metric loses without it (PRIMER 3.2.8 to 3.2.11).

    effect(c) = metric(x) - metric(x | do(c = h)),    h = 0,  E c(x~),  c(x~) of one counterfactual x~,
                                                      c(x + e) under noise e,  or the constant that costs least

Positive: the component works for the metric. This is the total effect: later components answer to the change, some
of them make up for it (self-repair), so small effects of several parts may hide a large one of their sum. Zero is
foreign to a component that always writes something; a mean and a counterfactual keep what does not depend on the
prompt; an optimal constant is the least foreign of all.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from caseback.errors import CasebackError, TokensError, did_you_mean
from caseback.localize.components.machinery.noise import noised, sigma_of
from caseback.localize.components.machinery.reference_means import mean_run
from caseback.localize.components.machinery.repair_warning import self_repair_warning
from caseback.localize.components.optimal_constants import optimal_constants
from caseback.model.graph.units import Component as Component
from caseback.model.graph.units import Components, Neuron, address_of, components_of, site_of
from caseback.model.graph.units import name_of as name_of
from caseback.model.prompts.pairs import counterfactuals
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit, Mean, Replace, Resample, Zero
from caseback.model.running.frames import Positions
from caseback.model.running.metrics import Metric, kl
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike, Tokens

KINDS = ("mean", "zero", "resample", "noise", "optimal")


@technique(
    role="component effect",
    entry=("3.2.8", "3.2.9", "3.2.10", "3.2.11"),
    citation="Michel et al. 2019, Wang et al. 2023, Zhang & Nanda 2024, Li & Janson 2024",
    cost="a sweep: components x (the forward pass from there on); optimal: steps x components x forward + backward",
)
def ablate(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    components: Components = None,
    layers: Sequence[int] | None = None,
    kind: str = "mean",
    over: PromptsLike | None = None,
    per_position: bool = False,
    groups: Sequence[Hashable] | None = None,
    over_groups: Sequence[Hashable] | None = None,
    corrupt: PromptsLike | None = None,
    sigma: float | None = None,
    samples: int = 10,
    loss: Metric | None = None,
    steps: int = 100,
    lr: float = 0.05,
    pos: Positions = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.DataArray:
    """What the metric loses when a head's, an MLP's or a neuron's write is replaced: one at a time, exactly.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    components
        ``"heads"``, ``"mlps"``, ``"neurons"``, or a list of names (``"L3H2"``, ``"MLP 4"``, ``"L3N17"``), (layer, head)
        pairs, head None for the MLP, and ``Neuron``. None: all heads and MLPs.
    layers
        The layers of a group of components; all by default.
    kind
        ``"mean"``: the mean of a reference (3.2.9). ``"zero"`` (3.2.10). ``"resample"``: what the component writes at
        the same position of a counterfactual prompt (3.2.8). ``"noise"``: what it writes when the embeddings are
        noisy (3.2.11). ``"optimal"``: the constant that keeps ``loss`` least, fitted over the reference.
    over
        For the mean and the optimum: the reference prompts; the prompts themselves by default, which says little
        where there is only one, and nothing of the mean where that has one token.
    per_position
        For the mean: at each position over prompts, instead of over both; the prompts should share a template.
    groups, over_groups
        For the mean: the template of each prompt, and of each reference prompt (the same labels by default where
        ``over`` is None); a prompt gets its own template's mean.
    corrupt
        For resampling: the counterfactuals, token-aligned, one or one per prompt.
    sigma, samples
        For noise: its standard deviation, three times the embeddings' by default, and how many draws.
    loss, steps, lr
        For the optimum: what is minimized, KL from the unedited model at the metric's position by default; Adam's
        steps, and its rate in standard deviations of the component's write.
    pos
        Where the write is replaced, by each prompt's own positions; everywhere by default.
    seed
        Same seed, same result. Noise and the optimum's minibatches are drawn with it.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    xr.DataArray
        (component, batch), the metric less that of the ablated run; with the ``kind`` (head, mlp, neuron), ``layer``,
        ``head`` and ``neuron`` (-1 where there is none) of each component beside it, and the unablated ``metric_value``
        of each prompt. For noise the mean over draws, with the standard deviation as ``spread`` (component, batch).
        For the optimum ``loss_mean`` and ``loss_optimal`` (component), what is lost before and after fitting. Where
        the metric is linear in the logits also ``direct``, each component's direct effect, and ``repaired``, the share
        of it that the effect does not show (3.2.18); the attribute ``self_repair`` says it in a sentence.

    Raises
    ------
    OutOfRange
        For a layer, head or neuron that the model lacks.
    TokensError
        For resampling without counterfactuals, or with some that are not aligned; for a template without reference.
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
    chosen = components_of(model, components, layers)
    names = [name_of(c) for c in chosen]
    coords: dict[str, Any] = {
        "component": names,
        "kind": ("component", [_kind(c) for c in chosen]),
        **component_places(chosen),
    }
    attrs: dict[str, Any] = {"ablation": kind}
    draws = 1
    if kind == "noise":
        attrs |= {"sigma": sigma_of(model, sigma), "samples": samples, "seed": seed}
        sites = sorted({site_of(c) for c in chosen})
        sources = _noisy(model, tokens, sites, attrs["sigma"], samples, seed)
        edits = [Resample(source=s, pos=pos, **address_of(c)) for c in chosen for s in sources]
        names, draws = [f"{name} draw {s}" for name in names for s in range(samples)], samples
    elif kind == "optimal":
        reference = tokens if over is None else model.tokens(over)
        if loss is None:
            at = metric.pos if over is None and metric.pos is not None else -1
            loss = kl(model.run(reference), pos=at)
        fitted = optimal_constants(
            model, reference, chosen, loss, pos=pos, steps=steps, lr=lr, seed=seed, progress=progress
        )
        edits = [Replace(value=v, pos=pos, **address_of(c)) for v, c in zip(fitted.values, chosen, strict=True)]
        coords |= {"loss_mean": ("component", fitted.of_mean), "loss_optimal": ("component", fitted.of_optimum)}
        attrs |= {"loss": loss.name, "steps": steps, "lr": lr, "seed": seed}
    else:
        edits = edits_of(
            model,
            tokens,
            chosen,
            kind,
            over=over,
            per_position=per_position,
            groups=groups,
            over_groups=over_groups,
            corrupt=corrupt,
            pos=pos,
        )
        attrs |= {"per_position": per_position if kind == "mean" else None, "groups": groups}
    measured = model.sweep(tokens, [[e] for e in edits], metric, labels=names, progress=progress, checkpoint=checkpoint)
    each = (measured["clean"].values[None] - measured.values).reshape(len(chosen), draws, len(tokens))
    if kind == "noise":
        coords["spread"] = (("component", "batch"), each.std(1))
    effects = each.mean(1)
    beside, warning = self_repair_warning(model, tokens, metric, chosen, edits, effects)
    return labelled(
        effects,
        ["component", "batch"],
        {**coords, **beside, "metric_value": ("batch", measured["clean"].values)},
        name="effect",
        technique=ablate,
        model=model,
        metric=metric.name,
        target=metric.target,
        foil=metric.foil,
        self_repair=warning,
        noise_floor=measured.attrs.get("noise_floor"),
        **attrs,
    )


def edits_of(
    model: Model,
    tokens: Tokens,
    chosen: Sequence[Component],
    kind: str,
    *,
    over: PromptsLike | None = None,
    per_position: bool = False,
    groups: Sequence[Hashable] | None = None,
    over_groups: Sequence[Hashable] | None = None,
    corrupt: PromptsLike | None = None,
    pos: Positions = None,
) -> list[Edit]:
    """The edit that ablates each of the components; what they need of a reference run is read once.

    Parameters
    ----------
    model, tokens, over, per_position, groups, over_groups, corrupt, pos
        As for ``ablate``.
    chosen
        Components as (layer, head), head None for an MLP, or ``Neuron``.
    kind
        ``"zero"``, ``"mean"`` or ``"resample"``: those that take one edit.
    """
    at = [{**address_of(c), "pos": pos} for c in chosen]
    if kind == "zero":
        return [Zero(**where) for where in at]
    sites = sorted({site_of(c) for c in chosen})
    if kind == "resample":
        if corrupt is None:
            raise TokensError("resampling needs corrupt=, counterfactual prompts aligned with the clean ones")
        source = model.run(counterfactuals(model, tokens, corrupt), read=sites)
        return [Resample(source=source, **where) for where in at]
    reference = tokens if over is None else model.tokens(over)
    if int(reference.lengths.sum()) == 1:
        raise TokensError(
            "the mean over a single token is what it is: give reference prompts as over=, or ablate with kind='zero'"
        )
    source = model.run(reference, read=sites)
    if groups is not None or over_groups is not None:
        theirs = groups if over_groups is None and over is None else over_groups
        if groups is None or theirs is None:
            raise TokensError("means by template need groups=, and over_groups= for the prompts of over=")
        means = mean_run(model, tokens, source, groups=groups, over_groups=theirs, per_position=per_position)
        return [Resample(source=means, **where) for where in at]
    if per_position:
        return [Mean(over=source, per_position=True, **where) for where in at]
    # averaged once per layer, not once for each of its heads
    averages = {site: source[site][reference.mask.to(source[site].device)].mean(0) for site in sites}
    mine = (averages[site_of(c)] for c in chosen)
    return [Mean(over=m if c[1] is None else m[c[1]], **w) for m, c, w in zip(mine, chosen, at, strict=True)]


def _noisy(
    model: Model, tokens: Tokens, sites: list[tuple[str, int]], sigma: float, samples: int, seed: int
) -> list[Run]:
    """Runs of the prompts with noise on every embedding, one per draw."""
    spans = [list(range(n)) for n in tokens.lengths.tolist()]
    copies, noise = noised(model, tokens, spans, sigma=sigma, samples=samples, seed=seed)
    run = model.run(copies, read=sites, edits=noise)
    return [
        Run(run.anatomy, tokens, {site: run[site][s::samples] for site in run.sites}, None, edited=True)
        for s in range(samples)
    ]


def component_places(chosen: Sequence[Component]) -> dict[str, Any]:
    """Where components are, as coordinates along ``component``: ``layer``, ``head`` and ``neuron``, -1 for none."""
    return {
        "layer": ("component", [c[0] for c in chosen]),
        "head": ("component", [-1 if isinstance(c, Neuron) or c[1] is None else c[1] for c in chosen]),
        "neuron": ("component", [c.neuron if isinstance(c, Neuron) else -1 for c in chosen]),
    }


def _kind(component: Component) -> str:
    if isinstance(component, Neuron):
        return "neuron"
    return "mlp" if component[1] is None else "head"
