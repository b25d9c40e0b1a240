"""Component models: the metric as a sum over what is left in the model (PRIMER 3.2.17).

    metric(x; without S)  ~  b + sum_c w_c 1[c not in S]

Each w_c is fitted by linear regression over many random sets S, so it is the component's effect on average over what
else is missing, where an ablation alone is its effect in the whole model. Components are dropped independently: with
sets of one size the indicators would sum to a constant, and w be known only up to one. How well the sum predicts sets
that it was not fitted on is its own measure of error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from sklearn.linear_model import Lasso, LinearRegression, Ridge
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange, SiteAbsent, TokensError, did_you_mean
from caseback.model.anatomy.sites import Site
from caseback.model.graph.names import Name, head_name
from caseback.model.prompts.per_token import expect_metric
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit, Replace, Zero
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens

COMPONENTS = ("heads", "mlps", "heads and mlps", "neurons")
ABLATIONS = ("zero", "mean")
FITS = ("ols", "ridge", "lasso")


class Group(NamedTuple):
    """Components of one site of one layer, as consecutive columns of a mask."""

    site: Site
    count: int
    labels: list[str]
    kind: str


@technique(
    role="component effect",
    entry=("3.2.17",),
    citation="Shah et al. 2024",
    cost="samples x forward (from the first ablated layer on)",
)
def component_model(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    components: str = "heads and mlps",
    layers: Sequence[int] | None = None,
    ablation: str = "zero",
    over: PromptsLike | None = None,
    keep: float = 0.95,
    samples: int | None = None,
    fit: str = "ols",
    alpha: float = 1.0,
    held_out: float = 0.1,
    seed: int = 0,
    progress: bool = False,
) -> xr.DataArray:
    """Attribute each prompt's metric to components by regression over random ablations (COAR).

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    components
        ``"heads"``, ``"mlps"``, ``"heads and mlps"`` or ``"neurons"``.
    layers
        The layers whose components take part; all by default.
    ablation
        ``"zero"``, the paper's, or ``"mean"`` over the tokens of ``over``.
    over
        For the mean: reference prompts; the prompts themselves by default.
    keep
        The probability with which a component is kept; 0.95 as in the paper's vision models (0.975 for GPT-2).
    samples
        How many random sets. None: four for each component, 200 at least (the paper: 50,000 for 2,304).
    fit
        ``"ols"``, ``"ridge"`` or ``"lasso"``; with fewer sets than components one of the latter two.
    alpha
        Their penalty, in scikit-learn's scaling.
    held_out
        The share of the sets that the fit is tested on.
    seed
        Same seed, same result. The sets are drawn with it.
    progress
        Show a progress bar.

    Returns
    -------
    xr.DataArray
        (component, batch), what keeping the component adds to the metric; with ``kind``, ``layer`` and ``unit`` (head
        or neuron, -1 for an MLP) beside it, and of each prompt (batch) the ``intercept``, the unablated
        ``metric_value`` and ``held_out_correlation``, Pearson's between predicted and measured metric on the sets
        held out (NaN where these do not vary).

    Raises
    ------
    OutOfRange
        For a probability outside (0, 1), or too few sets to fit or to test.
    SiteAbsent
        For neurons in a model that has none.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> prompt, metric = "the cat and the dog", cb.logit_diff(" cat", " dog")
    >>> weights = component_model(model, prompt, metric, components="mlps", samples=40, keep=0.8)
    >>> weights.sizes["component"] == model.n_layers
    True
    """
    metric, tokens = expect_metric(metric), model.tokens(tokens)
    for name, given, known in (("components", components, COMPONENTS), ("ablation", ablation, ABLATIONS)):
        if given not in known:
            raise CasebackError(f"{name}={given!r} is unknown. {did_you_mean(given, known)}")
    if fit not in FITS:
        raise CasebackError(f"fit={fit!r} is unknown. {did_you_mean(fit, FITS)}")
    for name, value in (("keep", keep), ("held_out", held_out)):
        if not 0 < value < 1:
            raise OutOfRange(f"{name} is {value}: expected a number between 0 and 1")
    groups = _groups(model, components, layers)
    n = sum(group.count for group in groups)
    samples = max(200, 4 * n) if samples is None else samples
    tested = round(held_out * samples)
    if tested < 2 or samples - tested < 2:
        raise OutOfRange(f"{samples} samples with {held_out:g} held out: expected at least 2 to fit and 2 to test")
    if fit == "ols" and samples - tested <= n:
        raise OutOfRange(
            f"least squares for {n} components needs more than {n} sets to fit, {samples - tested} are there: raise "
            "samples, or choose fit='ridge' or 'lasso'"
        )
    present = np.random.default_rng(seed).random((samples, n)) < keep
    stuck = int((present[: samples - tested].all(0) | ~present[: samples - tested].any(0)).sum())
    if stuck:
        raise OutOfRange(
            f"{stuck} of {n} components are dropped in none, or in all, of the {samples - tested} sets to fit, so "
            "nothing tells their weight: raise samples, or move keep toward 0.5"
        )
    means = _means(model, tokens, over, groups) if ablation == "mean" else {}
    values, clean = _measured(model, tokens, metric, groups, present, means, progress)
    weights, intercept, correlation = _fitted(present, values, samples - tested, fit, alpha)
    return labelled(
        weights,
        ["component", "batch"],
        {
            "component": [label for group in groups for label in group.labels],
            "kind": ("component", [group.kind for group in groups for _ in group.labels]),
            "layer": ("component", [group.site.layer or 0 for group in groups for _ in group.labels]),
            "unit": ("component", [-1 if g.kind == "mlp" else i for g in groups for i in range(g.count)]),
            "intercept": ("batch", intercept),
            "metric_value": ("batch", clean),
            "held_out_correlation": ("batch", correlation),
        },
        name="weight",
        technique=component_model,
        model=model,
        metric=metric.name,
        target=metric.target,
        foil=metric.foil,
        ablation=ablation,
        keep=keep,
        samples=samples,
        held_out=tested,
        fit=fit,
        alpha=None if fit == "ols" else alpha,
        seed=seed,
    )


def _groups(model: Model, components: str, layers: Sequence[int] | None) -> list[Group]:
    anatomy = model.anatomy
    groups = []
    for layer in range(anatomy.n_layers) if layers is None else [anatomy.layer(i) for i in layers]:
        if "heads" in components:
            n = anatomy.layers[layer].dims.n_heads
            groups.append(Group(Site("z", layer), n, [head_name(layer, h) for h in range(n)], "head"))
        if "mlps" in components:
            groups.append(Group(Site("mlp_out", layer), 1, [f"MLP {layer}"], "mlp"))
        if components == "neurons" and anatomy.has(Site("mlp_post", layer)):
            n = model.weights.W_out[layer].shape[0]
            groups.append(
                Group(Site("mlp_post", layer), n, [str(Name("neuron", layer, i)) for i in range(n)], "neuron")
            )
    if not groups:
        why = anatomy.lacks.get("mlp_post", f"layers {layers} have none") if components == "neurons" else "no layers"
        raise SiteAbsent(f"no {components} in this model ({anatomy.model_type}): {why}")
    return groups


def _means(model: Model, tokens: Tokens, over: PromptsLike | None, groups: Sequence[Group]) -> dict[Site, Tensor]:
    reference = tokens if over is None else model.tokens(over)
    if int(reference.lengths.sum()) == 1:
        raise TokensError("the mean over a single token is what it is: give reference prompts as over=")
    run = model.run(reference, read=[group.site for group in groups])
    acts = {group.site: run[group.site.name, group.site.layer] for group in groups}
    return {site: x[reference.mask.to(x.device)].mean(0) for site, x in acts.items()}


def _measured(
    model: Model,
    tokens: Tokens,
    metric: Metric,
    groups: Sequence[Group],
    present: np.ndarray,
    means: dict[Site, Tensor],
    progress: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """The metric under every set, (sample, batch), and in the whole model."""
    columns = np.cumsum([0, *(group.count for group in groups)])
    variants = [
        [
            edit
            for group, start in zip(groups, columns, strict=False)
            for edit in _removed(group, np.flatnonzero(~row[start : start + group.count]).tolist(), means)
        ]
        for row in present
    ]
    # a set that drops nothing needs no run: its metric is the whole model's
    some = [i for i, edits in enumerate(variants) if edits]
    if not some:
        raise OutOfRange(f"none of {len(present)} sets drops a component: draw more samples, or lower keep")
    labels = [f"set {i}" for i in some]
    swept = model.sweep(tokens, [variants[i] for i in some], metric, labels=labels, progress=progress)
    clean = swept["clean"].values
    values = np.repeat(clean[None], len(present), 0)
    values[some] = swept.values
    return values, clean


def _removed(group: Group, which: list[int], means: dict[Site, Tensor]) -> list[Edit]:
    """The edit that takes some of a group's components away, if any."""
    if not which:
        return []
    address: dict[str, Any] = {"layer": group.site.layer}
    address |= {"head": {"head": which}, "neuron": {"unit": which}, "mlp": {}}[group.kind]
    if not means:
        return [Zero(group.site.name, **address)]
    mean = means[group.site]
    return [Replace(group.site.name, mean if group.kind == "mlp" else mean[which], **address)]


def _fitted(
    present: np.ndarray, values: np.ndarray, fitted: int, fit: str, alpha: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights (component, batch), intercepts and the correlation on the sets after the first ``fitted``."""
    regressor = {"ols": LinearRegression(), "ridge": Ridge(alpha), "lasso": Lasso(alpha, tol=1e-8, max_iter=100_000)}[
        fit
    ]
    x = present.astype(float)
    regressor.fit(x[:fitted], values[:fitted])
    predicted, true = regressor.predict(x[fitted:]).reshape(-1, values.shape[1]), values[fitted:]
    predicted, true = predicted - predicted.mean(0), true - true.mean(0)
    size = np.sqrt((predicted**2).sum(0) * (true**2).sum(0))
    correlation = np.divide((predicted * true).sum(0), size, out=np.full(len(size), np.nan), where=size > 0)
    weights = np.asarray(regressor.coef_).reshape(values.shape[1], -1).T
    return weights, np.broadcast_to(regressor.intercept_, values.shape[1]), correlation
