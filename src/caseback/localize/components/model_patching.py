"""Cross-model patching: one part of another model's pass put into this one's, on the same prompts (5.4.9, B.26).

    m(x | do(c = c'(x)))        c' the same part of the other model, a fine-tuned one say
    recovery = (m_patched - m_own) / (m_other - m_own)

1 where the part alone makes the model behave as the other does: what tuning changed is done there or before it, and
what comes after reads it as the other's own layers do. Between equal models every effect is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from caseback.errors import CasebackError, EditError, TokensError
from caseback.localize.components.machinery.site_grid import Parts, sizes_in
from caseback.localize.components.patching import expect_difference, swept_parts
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens


@technique(
    role="component effect",
    entry=("5.4.9", "B.26"),
    citation="Prakash et al. 2024",
    cost="a sweep: parts x (the forward pass from there on), and a forward of the other model",
)
def patch_models(
    model: Model,
    other: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    site: str = "z",
    by: Sequence[str] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    pos: Any = None,
    units: Sequence[int] | None = None,
    window: int = 1,
    normalise: bool = True,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.Dataset:
    """Put each part of another model's pass into this model's, one part at a time, and measure.

    Parameters
    ----------
    model
        The model.
    other
        A model of the same tokenizer and widths: a fine-tuned one, another checkpoint.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``.
    site, by, layers, heads, pos, units, window
        As for ``patch``: what is patched, and along which dimensions one part is told from another.
    normalise
        Give the recovery too, which needs models whose metrics differ.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    xr.Dataset
        ``metric`` of the patched passes, ``effect`` (that less the model's own) and ``recovery``, each (*by, batch).
        Beside them the metrics ``other`` and ``own`` (batch).

    Raises
    ------
    TokensError
        For models that cut the prompts into different tokens.
    UnknownSite, EditError, OutOfRange
        For a site that either model lacks, or that has another width in the other.
    CasebackError
        Where both models have the same metric, so that a recovery is not defined.

    References
    ----------
    Prakash et al. 2024, "Fine-tuning enhances existing mechanisms: a case study on entity tracking".

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.organisms import checkpoints
    >>> late, early = (cb.load(str(checkpoints("induction")[step])) for step in (1100, 600))
    >>> prompt = [5, 9, 20, 31, 5]
    >>> patched = patch_models(early, late, [prompt], cb.logit_diff(9, 20), pos=-1)
    >>> patched.recovery.dims
    ('layer', 'head', 'batch')
    """
    whole = model.tokens(tokens)
    _expect_same_tokens(other, tokens, whole)
    sites = list(model.anatomy.sites(site))
    if not sites[0].kind.editable:
        raise EditError(f"{sites[0].name!r} is read-only and cannot be patched")
    source, theirs = measured(other.anatomy, whole.to(other.device), metric, read=sites)
    _, own = measured(model.anatomy, whole, metric)
    theirs, own = in_float64(theirs).cpu(), in_float64(own).cpu()
    if normalise:
        expect_difference(theirs, own, model.dtype, ("other", "own"))
    parts = Parts(
        model,
        whole,
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
        patch_models,
        model,
        parts,
        whole,
        source,
        metric,
        {"other": theirs, "own": own},
        parts.coords(**{"": whole}),
        normalise=normalise,
        progress=progress,
        checkpoint=checkpoint,
        other_model=other.name,
        window=window,
    )


def _expect_same_tokens(other: Model, given: PromptsLike, whole: Tokens) -> None:
    """Refuse another model that reads the prompts as other tokens.

    Raises
    ------
    TokensError
        With the first prompt that differs.
    """
    try:
        theirs = other.tokens(given)
    except CasebackError as error:
        raise TokensError(f"{other.name} cannot read the prompts: {error}") from error
    for i, (mine, there) in enumerate(zip(whole.host_ids, theirs.host_ids, strict=True)):
        if mine.tolist() != there.tolist():
            raise TokensError(
                f"prompt {i} is {len(mine)} tokens of the model and {len(there)} of {other.name}, or other ones: "
                "expected models of one tokenizer"
            )
