"""Activation patching: one part of one run put into another (PRIMER 3.2.7, 3.2.8, 3.2.12).

    denoising   m(x~ | do(c = c(x)))   which parts suffice to bring the clean behavior back
    noising     m(x  | do(c = c(x~)))  which parts are needed for it
    recovery  = (m_patched - m_corrupt) / (m_clean - m_corrupt)

Recovery reads the same either way: 1 as clean, 0 as corrupt. Effects are total: what the part changes downstream is on
its account. Denoising finds every input of an OR and no single one of an AND, noising the reverse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError, EditError, did_you_mean
from caseback.localize.components.machinery.site_grid import Parts, sizes_in
from caseback.model.anatomy.coerce import in_float64
from caseback.model.prompts.pairs import pairs
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Resample
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import PromptsLike, Tokens

DIRECTIONS = ("denoising", "noising")


@technique(
    role="component effect",
    entry=("3.2.7", "3.2.8", "3.2.12"),
    citation="Vig et al. 2020, Geiger et al. 2021, Heimersheim & Nanda 2024",
    cost="a sweep: parts x (the forward pass from there on)",
)
def patch(
    model: Model,
    clean: PromptsLike,
    corrupt: PromptsLike,
    metric: Metric,
    *,
    site: str = "resid_pre",
    by: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    pos: Any = None,
    units: Sequence[int] | None = None,
    direction: str = "denoising",
    window: int = 1,
    normalise: bool = True,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.Dataset:
    """Put each part of one run into the other, one part at a time, and measure: exactly, by one sweep.

    Parameters
    ----------
    model
        The model.
    clean, corrupt
        Prompts and their counterfactuals, token-aligned, one or one per prompt: ``Tokens``, or anything that
        ``Model.tokens`` takes. Prompts may differ in length from pair to pair.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. It is measured on both prompts of a pair.
    site
        Where: any site that can be edited.
    by
        The dimensions that parts are taken along: ``"layer"``, then those of the site, such as ``"pos"``, ``"head"``,
        ``"neuron"``. What is not named is patched together. None: the site's heads where it has some, else positions,
        each by layer.
    layers, heads, pos, units
        The layers, heads, positions and entries of the last dimension (neurons, keys of a pattern ...) that are
        taken one at a time where ``by`` names them and together where it does not. None: all of them. ``pos`` is
        a list of positions, or a mapping from names to positions, several positions or the text that stands there;
        where ``by`` has no position, what an edit takes or a text.
    direction
        ``"denoising"``: clean parts into the corrupt run. ``"noising"``: corrupt parts into the clean run.
    window
        How many layers are patched together around each, cut off at the model's ends: of 10, five before a layer,
        itself and four after it.
    normalise
        Give the recovery too, which needs clean and corrupt metrics that differ.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    xr.Dataset
        ``metric`` of the patched runs, ``effect`` (that less the metric of the run patched into) and ``recovery``,
        each (*by, batch), NaN where a shorter prompt or a narrower layer has no such part. Beside them the metrics
        ``clean`` and ``corrupt`` (batch), and along positions the ``clean_token`` and ``corrupt_token`` (batch, pos).

    Raises
    ------
    TokensError
        Where clean and corrupt are not aligned: both tokenisations are shown, the first difference marked.
    UnknownSite, EditError, OutOfRange
        For a site that the model lacks, or parts that the site lacks; for a window larger than the model.
    CasebackError
        Where clean and corrupt have the same metric, so that a recovery is not defined.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> pair = "Mary gave the ball to", "John gave the ball to"
    >>> patched = patch(model, *pair, cb.logit_diff(" Mary", " John"), layers=[0, 1])
    >>> patched.recovery.dims
    ('layer', 'pos', 'batch')
    >>> bool(abs(patched.recovery.sel(layer=0).max() - 1) < 1e-3)  # at the only token that differs, before all layers
    True
    >>> heads = patch(model, *pair, cb.logit_diff(" Mary", " John"), site="z", pos=-1, direction="noising")
    """
    if direction not in DIRECTIONS:
        raise CasebackError(f"direction {direction!r} is unknown. {did_you_mean(direction, DIRECTIONS)}")
    clean, corrupt = pairs(model, clean, corrupt)
    base, other = (corrupt, clean) if direction == "denoising" else (clean, corrupt)
    sites = list(model.anatomy.sites(site))
    if not sites[0].kind.editable:
        raise EditError(f"{sites[0].name!r} is read-only and cannot be patched")
    source, there = measured(model.anatomy, other, metric, read=sites)
    _, here = measured(model.anatomy, base, metric)
    there, here = in_float64(there).cpu(), in_float64(here).cpu()
    of_clean, of_corrupt = (there, here) if direction == "denoising" else (here, there)
    if normalise:
        expect_difference(of_clean, of_corrupt, model.dtype)
    parts = Parts(
        model,
        clean,  # the texts that places are named by are the clean prompts'
        sites,
        sizes_in(source),
        by=by,
        layers=layers,
        heads=heads,
        pos=pos,
        units=units,
        window=window,
    )
    return swept_parts(
        patch,
        model,
        parts,
        base,
        source,
        metric,
        {"clean": of_clean, "corrupt": of_corrupt},
        parts.coords(clean=clean, corrupt=corrupt),
        normalise=normalise,
        progress=progress,
        checkpoint=checkpoint,
        direction=direction,
        window=window,
    )


def swept_parts(
    technique: Callable[..., Any],
    model: Model,
    parts: Parts,
    base: Tokens,
    source: Run,
    metric: Metric,
    ends: Mapping[str, Float[Tensor, " batch"]],
    coords: Mapping[str, Any],
    *,
    normalise: bool,
    progress: bool,
    checkpoint: str | Path | None,
    **attrs: Any,
) -> xr.Dataset:
    """Each part of a run put into another pass, one at a time: metric, effect, and recovery between the two ends.

    Parameters
    ----------
    technique
        Whose result it is.
    model, parts, base
        What is run, and the parts of it that are patched.
    source
        Where they are taken from.
    metric
        What is measured.
    ends
        The metric where recovery is 1, then where it is 0, by name.
    coords
        Labels of the parts.
    normalise
        Whether there is to be a recovery.
    progress, checkpoint
        As for a sweep.
    **attrs
        What else describes the result.
    """
    variants = parts.edits(partial(Resample, source=source))
    names = [str(i) for i in parts.at]
    swept = model.sweep(base, variants, metric, labels=names, progress=progress, checkpoint=checkpoint)
    values = parts.grid(swept.values)
    # the sweep's own unpatched value, so that a patch that changes nothing has effect 0 to the bit
    variables = {"metric": values, "effect": values - swept["clean"].values}
    if normalise:
        one, zero = (end.numpy() for end in ends.values())
        variables["recovery"] = (values - zero) / (one - zero)
    labels = {**coords, **{name: ("batch", end) for name, end in ends.items()}}
    arrays = {
        name: labelled(
            value,
            [*parts.by, "batch"],
            labels,
            name=name,
            technique=technique,
            model=model,
            metric=metric.name,
            target=metric.target,
            foil=metric.foil,
            site=parts.name,
            noise_floor=swept.attrs.get("noise_floor"),
            **attrs,
        )
        for name, value in variables.items()
    }
    return xr.Dataset(arrays, attrs=arrays["metric"].attrs)


def expect_difference(
    clean: Float[Tensor, " batch"],
    corrupt: Float[Tensor, " batch"],
    dtype: torch.dtype,
    names: tuple[str, str] = ("clean", "corrupt"),
) -> None:
    """Refuse to normalize by a difference of nothing, or of rounding alone.

    Raises
    ------
    CasebackError
        Naming the prompts.
    """
    rounding = 8 * torch.finfo(dtype).eps * torch.maximum(clean.abs(), corrupt.abs())
    same = ((clean - corrupt).abs() <= rounding).nonzero().flatten().tolist()
    if same:
        shown = ", ".join(f"prompt {b}: {float(clean[b]):.6g}" for b in same[:4]) + (" ..." if len(same) > 4 else "")
        one, zero = names
        raise CasebackError(
            f"{one} and {zero} have the same metric ({shown}), so (m - m_{zero}) / (m_{one} - m_{zero}) is not "
            "defined: choose a pair or a metric that differs, or normalise=False for metric and effect alone"
        )
