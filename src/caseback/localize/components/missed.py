"""How large an effect an estimate can have missed: a bound by patching random subsets (PRIMER 3.2.16).

    delta_c = mean metric change of subsets with c  -  of subsets without c
    bound   = max_c ( |delta_c| + t_{1-alpha, nu_c} se_c )      over all parts c not yet verified

Verifying every part costs a run each. A random subset is one run, too, and tells of all its parts: over many subsets
each part is in about half and not in the others, and the difference of the two means is its effect on average over
what else is patched. Welch's t-test rejects "|effect of c| >= theta" at level alpha for every theta above c's own
bound; "some part has it" is rejected only where every part rejects, so that the largest bound holds at level alpha
with no correction for their number. What it bounds are effects amid other patches: an effect that shows only where
all else is clean stays unseen, and so does one that the subsets' own interactions hide.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy import stats
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.localize.components.verify_top import UNITS, patched_pair, ranked
from caseback.model.anatomy.anatomy import Anatomy
from caseback.model.prompts.per_token import expect_metric
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Edit, Resample, Where, Zero
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike, Tokens


@dataclass(frozen=True, eq=False)
class Among(Edit):
    """Another edit of the same address, made only where ``mask`` (pos, [head or unit]) is set; the rest stays."""

    edit: Edit
    mask: Tensor = field(repr=False)

    def unchanged_before(self, tokens: Tokens, example: int, anatomy: Anatomy) -> int:
        return self.edit.unchanged_before(tokens, example, anatomy)

    def new(self, old: Tensor, where: Where) -> Tensor:
        mask = self.mask[where.rows.order].to(old.device)
        while mask.ndim < old.ndim:
            mask = mask.unsqueeze(-1)
        return torch.where(mask, self.edit.new(old, where), old)


@technique(role="judgement", entry=("3.2.16",), citation="Kramár et al. 2024", cost="subsets x forward")
def missed_effects(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike | None,
    metric: Metric,
    estimates: xr.DataArray,
    *,
    verified: int = 20,
    subsets: int = 200,
    probability: float = 0.5,
    confidence: float = 0.99,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Bound the largest effect of the parts that an estimate did not rank high enough to be verified.

    Parameters
    ----------
    model
        The model.
    clean, corrupt, metric, estimates
        As for ``verify_top``.
    verified
        How many of the highest are known already; they are left clean.
    subsets
        How many random subsets of the others are patched; each takes a forward pass.
    probability
        With which each part is in a subset.
    confidence
        That the bound holds, for each prompt by itself.
    seed
        Same seed, same result. The subsets are drawn with it.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``bound`` (batch): with this confidence no unverified part changes the metric by more, amid such subsets;
        ``mean`` and ``standard_error`` of each part's change, in the estimates' dimensions, NaN for those verified.

    Raises
    ------
    CasebackError
        For an array that is not an estimate, or where nothing is left to bound.
    OutOfRange
        For a probability or confidence outside (0, 1), or fewer than 8 subsets.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.components.attribution_patching import attribution_patching
    >>> model = cb.load("meadow")
    >>> pair = "the cat and the dog", "the dog and the dog"
    >>> heads = attribution_patching(model, *pair, cb.logit(" cat"))["z"]
    >>> missed_effects(model, *pair, cb.logit(" cat"), heads, verified=10, subsets=20).bound.dims
    ('batch',)
    """
    metric = expect_metric(metric)
    for name, value in (("probability", probability), ("confidence", confidence)):
        if not 0 < value < 1:
            raise OutOfRange(f"{name} is {value}: expected a number between 0 and 1")
    if subsets < 8:
        raise OutOfRange(f"subsets is {subsets}: expected at least 8, for a mean with and without each part")
    dims, ordered = ranked(estimates)
    sizes = np.nan_to_num(np.abs(ordered.values)).mean(-1)
    open_ = np.ones(sizes.size, bool)
    open_[np.argsort(-sizes.ravel(), kind="stable")[:verified]] = False
    if not open_.any():
        raise CasebackError(f"nothing is left to bound: all {sizes.size} parts count as verified")
    masks = np.random.default_rng(seed).random((subsets, open_.sum())) < probability
    whole = np.zeros((subsets, sizes.size), bool)
    whole[:, open_] = masks
    layers: list[int | None] = ordered["layer"].values.tolist() if "layer" in dims else [None]
    base, source = patched_pair(model, clean, corrupt, ordered, layers)
    picked = torch.from_numpy(whole.reshape(subsets, *sizes.shape))
    variants = [_edits(ordered, dims, layers, mask, source) for mask in picked]
    some = [i for i, edits in enumerate(variants) if edits]
    swept = model.sweep(base, [variants[i] for i in some], metric, labels=[str(i) for i in some], progress=progress)
    changes = np.zeros((subsets, len(base)))
    changes[some] = swept.values - swept["clean"].values
    delta, error, freedom = _welch(masks, changes)
    there = ~np.isnan(ordered.values.reshape(sizes.size, -1))[open_]
    reach = np.abs(delta) + stats.t.ppf(confidence, freedom) * error
    attrs = {
        "technique": missed_effects,
        "model": model,
        "site": ordered.attrs["site"],
        "metric": metric.name,
        "verified": verified,
        "subsets": subsets,
        "probability": probability,
        "confidence": confidence,
        "seed": seed,
    }
    coords = {d: ordered[d].values for d in dims if d in ordered.coords}
    arrays = {"bound": labelled(np.where(there, reach, 0.0).max(0), ["batch"], name="bound", **attrs)}
    for name, x in {"mean": delta, "standard_error": error}.items():
        full = np.full((sizes.size, len(base)), np.nan)
        full[open_] = np.where(there, x, np.nan)
        arrays[name] = labelled(full.reshape(ordered.shape), [*dims, "batch"], coords, name=name, **attrs)
    return xr.Dataset(arrays, attrs=arrays["bound"].attrs)


def _edits(
    estimates: xr.DataArray, dims: list[str], layers: list[int | None], mask: Tensor, source: Run | None
) -> list[Edit]:
    """One subset, as one edit per layer; ``mask`` is ([layer,] [unit,] pos) over the estimates' labels."""
    site = estimates.attrs["site"]
    at = torch.tensor(estimates["pos"].values.tolist())
    first, last = int(at.min()), int(at.max())
    where: dict[str, Any] = {"pos": slice(first, last + 1)}
    for dim in set(dims) & set(UNITS):
        where["head" if dim in ("head", "kv_head") else "unit"] = estimates[dim].values.tolist()
    edits: list[Edit] = []
    for layer, here in zip(layers, mask if "layer" in dims else [mask], strict=True):
        if bool(here.any()):
            # the edit addresses a stretch of positions, the estimates may have some of them only
            spread = torch.zeros(last + 1 - first, *here.shape[:-1], dtype=torch.bool)
            spread[at - first] = here.movedim(-1, 0)
            address = {**where, "layer": layer}
            edit = Zero(site, **address) if source is None else Resample(site, source, **address)
            edits.append(Among(site, edit, spread, **address))
    return edits


def _welch(masks: np.ndarray, changes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Difference of means with and without each part, its standard error and degrees of freedom: (part, batch)."""
    means, spreads, counts = [], [], []
    for inside in (masks.astype(float), (~masks).astype(float)):
        n = inside.sum(0)[:, None]
        if bool((n < 2).any()):
            raise OutOfRange(
                f"a part is in {int(n.min())} of the subsets or in all but so many, too few for a mean and its spread: "
                "draw more subsets, or with a probability nearer to 0.5"
            )
        # centered first: the spread is of what subsets change, however large the metric is
        center = changes.mean(0)
        total, square = inside.T @ (changes - center), inside.T @ (changes - center) ** 2
        means.append(total / n + center)
        spreads.append(np.maximum(square - total**2 / n, 0) / (n - 1) / n)
        counts.append(n)
    (with_, without), (a, b) = means, spreads
    both = a + b
    tiny = np.finfo(float).tiny
    freedom = both**2 / np.maximum(a**2 / (counts[0] - 1) + b**2 / (counts[1] - 1), tiny)
    return with_ - without, np.sqrt(both), np.where(both > 0, freedom, 1.0)
