"""Real patches on what an estimate ranked highest, and how well the two agree.

    exact(c) = metric(base | do(c = c(source))) - metric(base)

An estimate of every part costs three passes; an exact effect of a single part costs the forward pass from there on. So
the estimate chooses and the sweep decides; a random sample of the rest shows what the choice has missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from caseback.errors import CasebackError, OutOfRange
from caseback.model.anatomy.sites import SITES
from caseback.model.prompts.per_token import expect_metric
from caseback.model.prompts.run_pair import base_and_source
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit, Resample, Zero
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike, Tokens

UNITS = ("head", "kv_head", "neuron", "expert")
Node = dict[str, int]
"""A part by its labels along the estimate's dimensions."""


@technique(
    role="judgement",
    entry=("3.2.15", "3.2.16", "B.9"),
    citation="Kramár et al. 2024",
    cost="a sweep of the parts that are verified",
)
def verify_top(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    estimates: xr.DataArray | xr.Dataset,
    *,
    top: int = 20,
    sample: int = 0,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Patch the parts that an estimate ranked highest for real, and measure the agreement.

    Parameters
    ----------
    model
        The model.
    clean, corrupt, metric
        Those that the estimate was made with.
    estimates
        One site of what ``attribution_patching`` or ``atp_star`` returned, or a selection of it that keeps its
        dimensions. Parts are ranked by their mean size over prompts.
    top
        How many of the highest to verify.
    sample
        How many of the rest to verify besides, drawn at random.
    seed
        Same seed, same result. The sample is drawn with it.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``estimate`` and ``exact`` (component, batch), by rank and then the sample, with the parts' ``layer``,
        ``head``, ``neuron`` and ``pos`` and whether each was among the ``top`` beside them. Of each prompt (batch):
        ``spearman`` and ``kendall``, the rank correlations of sizes, and ``sign_agreement``, the share of parts whose
        estimate has the effect's sign (not for estimates that are sizes). NaN where fewer than two parts vary.

    Raises
    ------
    CasebackError
        For an array that is not an estimate.
    OutOfRange
        For ``top`` below 1 or a negative ``sample``.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.components.attribution_patching import attribution_patching
    >>> model = cb.load("meadow")
    >>> pair = "the cat and the dog", "the dog and the dog"
    >>> heads = attribution_patching(model, *pair, cb.logit(" cat"))["z"]
    >>> verified = verify_top(model, *pair, cb.logit(" cat"), heads, top=5)
    >>> verified.exact.sizes["component"]
    5
    """
    metric = expect_metric(metric)
    if top < 1 or sample < 0:
        raise OutOfRange(f"top is {top} and sample {sample}: expected at least 1 and at least 0")
    dims, estimates = ranked(estimates)
    flat = estimates.stack(component=dims).transpose("component", "batch")
    sizes = np.nan_to_num(np.abs(flat.values)).mean(1)
    order = np.argsort(-sizes, kind="stable")
    first, rest = order[:top], order[top:]
    drawn = np.random.default_rng(seed).choice(rest, min(sample, len(rest)), replace=False)
    chosen = np.concatenate([first, drawn]).astype(int)
    at = [dict(zip(dims, labels, strict=True)) for labels in flat["component"].values[chosen]]
    base, source = patched_pair(model, clean, corrupt, estimates, [node.get("layer") for node in at])
    site = estimates.attrs["site"]
    names = [name_of(site, node) for node in at]
    swept = model.sweep(base, [edit_of(site, n, source) for n in at], metric, labels=names, progress=progress)
    estimate = flat.values[chosen]
    # a shorter prompt has no such part: nothing was patched there, and nothing is known
    exact = np.where(np.isnan(estimate), np.nan, swept.values - swept["clean"].values)
    coords = {
        "component": names,
        **{dim: ("component", [node[dim] for node in at]) for dim in dims},
        "top": ("component", np.arange(len(chosen)) < len(first)),
    }
    attrs = {"technique": verify_top, "model": model, "site": site, "metric": metric.name, "seed": seed}
    attrs |= {"direction": estimates.attrs["direction"], "of": estimates.attrs["technique"]}
    attrs |= {"noise_floor": swept.attrs.get("noise_floor")}
    signed = bool(estimates.attrs.get("signed", True))
    arrays = {
        name: labelled(x, ["component", "batch"], coords, name=name, **attrs)
        for name, x in {"estimate": estimate, "exact": exact}.items()
    }
    for name, x in _agreement(estimate, exact, signed).items():
        arrays[name] = labelled(x, ["batch"], name=name, **attrs)
    return xr.Dataset(arrays, attrs=arrays["exact"].attrs)


def ranked(estimates: xr.DataArray | xr.Dataset) -> tuple[list[str], xr.DataArray]:
    """The dimensions that parts are counted along, and the estimates in that order, less layers without the site.

    Raises
    ------
    CasebackError
        For an array that no estimate of this package made.
    """
    site = getattr(estimates, "attrs", {}).get("site")
    if not isinstance(estimates, xr.DataArray) or site not in SITES or "patch" not in estimates.attrs:
        raise CasebackError(
            "expected one site of what attribution_patching or atp_star returned, such as estimates['z'], with its "
            f"attributes; got a {type(estimates).__name__} without them"
        )
    kind = SITES[site]
    dims = [*(["layer"] if kind.layered else []), *(d for d in kind.dims if d in UNITS), "pos"]
    if {str(d) for d in estimates.dims} != {*dims, "batch"}:
        raise CasebackError(f"expected the dimensions {(*dims, 'batch')} of {site!r}, got {estimates.dims}: keep them")
    ordered = estimates.transpose(*dims, "batch")
    return dims, ordered.dropna("layer", how="all") if kind.layered else ordered


def patched_pair(
    model: Model, clean: PromptsLike, corrupt: PromptsLike | None, estimates: xr.DataArray, layers: Sequence[int | None]
) -> tuple[Tokens, Run | None]:
    """The prompts that are patched and the run that patches come from, None where they are zeros."""
    if estimates.attrs["patch"] == "zero":
        return model.tokens(clean), None
    if corrupt is None:
        raise CasebackError("corrupt is None, but the estimate is of patches from counterfactuals: give them")
    base, source = base_and_source(model, clean, corrupt, estimates.attrs["direction"])
    site = estimates.attrs["site"]
    if len(base) != estimates.sizes["batch"]:
        raise CasebackError(f"the estimate is of {estimates.sizes['batch']} prompts, {len(base)} are given")
    return base, model.run(source, read=[site if layer is None else (site, layer) for layer in dict.fromkeys(layers)])


def edit_of(site: str, node: Node, source: Run | None) -> Edit:
    """The patch of one part; a slice of one position, since a shorter prompt may lack it."""
    heads, units = ([node[d] for d in pair if d in node] for pair in (("head", "kv_head"), ("neuron", "expert")))
    where: dict[str, Any] = {"site": site, "layer": node.get("layer"), "pos": slice(node["pos"], node["pos"] + 1)}
    where |= {"head": heads[0] if heads else None, "unit": units[0] if units else None}
    return Zero(**where) if source is None else Resample(source=source, **where)


def name_of(site: str, node: Node) -> str:
    """A part as people write it.

    Examples
    --------
    >>> name_of("z", {"layer": 3, "head": 2, "pos": 7}), name_of("mlp_post", {"layer": 4, "neuron": 31, "pos": 0})
    ('z L3H2 @7', 'mlp_post L4 31 @0')
    """
    layer = f" L{node['layer']}" if "layer" in node else ""
    head = "".join(f"H{node[d]}" for d in ("head", "kv_head") if d in node)
    unit = "".join(f" {node[d]}" for d in ("neuron", "expert") if d in node)
    return f"{site}{layer}{head}{unit} @{node['pos']}"


def _agreement(estimate: np.ndarray, exact: np.ndarray, signed: bool) -> dict[str, list[float]]:
    """Rank correlations of sizes and the share of equal signs, for each prompt."""
    agreement: dict[str, list[float]] = {"spearman": [], "kendall": []} | ({"sign_agreement": []} if signed else {})
    correlations: dict[str, Any] = {"spearman": stats.spearmanr, "kendall": stats.kendalltau}
    for a, b in zip(estimate.T, exact.T, strict=True):
        a, b = a[~np.isnan(a)], b[~np.isnan(a)]
        sizes = np.abs(a), np.abs(b)
        varied = len(a) > 1 and all(np.ptp(x) > 0 for x in sizes)
        for name, correlation in correlations.items():
            agreement[name].append(float(correlation(*sizes).statistic) if varied else np.nan)
        if signed:
            agreement["sign_agreement"].append(float((np.sign(a) == np.sign(b)).mean()) if len(a) else np.nan)
    return agreement
