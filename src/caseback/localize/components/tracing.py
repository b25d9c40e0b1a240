"""Causal tracing: where does the model recall what it knows of a subject? (PRIMER 3.2.11)

    corrupted   noise e ~ N(0, sigma^2) on the embeddings of the subject's tokens
    total       TE = m(x) - E_e m(x + e)
    indirect    IE(l, i) = E_e [ m(x + e | do(h_i^l = clean h_i^l)) - m(x + e) ]

The stream is restored at one layer; an MLP or attention output in a window of layers around it, since one alone does
little. All restorations of one draw meet the same noise. Where a prompt and its corruption differ only in e, a large
IE says that the clean state at (l, i) carries what the noise destroyed, not that it is the only place that does.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError, EditError, did_you_mean
from caseback.localize.components.machinery.noise import noised, sigma_of
from caseback.localize.components.machinery.site_grid import Parts, expect_window, sizes_in
from caseback.model.anatomy.coerce import in_float64
from caseback.model.prompts.copies import repeated, repeated_metric, repeated_run
from caseback.model.prompts.places import Place, placed
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.edits import Resample
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike, Tokens
from caseback.model.sweeping.sweep import sweep

STATES = ("resid_post", "mlp_out", "attn_out")
SHARE = 10 / 48  # of GPT-2 XL's 48 layers the paper restores 10


@technique(
    role="component effect",
    entry=("3.2.11",),
    citation="Meng et al. 2022",
    cost="a sweep: draws x layers x positions x restored states x (the forward pass from there on)",
)
def causal_trace(
    model: Model,
    tokens: PromptsLike,
    metric: Metric,
    *,
    subject: Place | Sequence[str],
    restore: str | Sequence[str] = STATES,
    sigma: float | None = None,
    samples: int = 10,
    window: int | None = None,
    layers: Sequence[int] | None = None,
    pos: Any = None,
    seed: int = 0,
    progress: bool = False,
    checkpoint: str | Path | None = None,
) -> xr.Dataset:
    """Corrupt a subject with noise, restore one clean state at a time, and measure what comes back.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    metric
        What is measured, per prompt: such as ``cb.logit_diff(target, foil)``. The paper takes the probability of the
        answer, ``cb.prob(answer)``.
    subject
        Where the noise goes: a text that stands in every prompt, one text per prompt, or positions.
    restore
        The sites restored, each by itself: ``"resid_post"`` at one layer, others in windows of layers.
    sigma
        The noise's standard deviation; three times that of the embeddings by default, as in the paper.
    samples
        Draws of noise, 10 in the paper.
    window
        Layers restored together around each, cut off at the model's ends. None: as large a share of the layers as the
        paper's 10 of 48, so 1 of 4 and 6 of 30.
    layers, pos
        The layers and positions restored, as for ``patch``; all by default.
    seed
        Same seed, same result. The noise is drawn with it.
    progress
        Show a progress bar.
    checkpoint
        A file that keeps what is done; the same call with it goes on after an interruption.

    Returns
    -------
    xr.Dataset
        ``indirect`` and ``indirect_spread`` (component, layer, pos, batch), mean and standard deviation over draws,
        NaN past a shorter prompt's end; ``total`` and ``total_spread`` (batch). Beside them the metrics ``clean``
        and ``corrupt`` (batch), the ``token`` of each position and whether it is of the ``subject`` (batch, pos).

    Raises
    ------
    TokensError
        For a subject that a prompt does not hold.
    OutOfRange
        For a position that a prompt lacks, or a window of more layers than the model has.
    CasebackError
        For noise that is not positive, no draw, or a site that is not a position's state.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> trace = causal_trace(
    ...     model, "Mary gave the ball to", cb.prob(" the"), subject="Mary", samples=2, layers=[0, 3]
    ... )
    >>> trace.indirect.dims, bool((trace.total + trace.corrupt == trace.clean).all())
    (('component', 'layer', 'pos', 'batch'), True)
    """
    tokens = model.tokens(tokens)
    states = (restore,) if isinstance(restore, str) else tuple(restore)
    if not states or len(set(states)) < len(states):
        raise CasebackError(f"restore={list(states)}: expected one or more sites, each once")
    whole = max(1, round(SHARE * model.n_layers)) if window is None else expect_window(window, model.n_layers)
    sigma = sigma_of(model, sigma)
    spans = _subject(subject, tokens)
    metric_of_copies = repeated_metric(metric, tokens, samples)
    copies, noise = noised(model, tokens, spans, sigma=sigma, samples=samples, seed=seed)
    run = model.run(tokens, read=[*states, *metric.reads])
    # tokens of its own, so that the sweep sees how far the unedited run is the same
    source = repeated_run(run, repeated(tokens, samples), samples)
    grids = []
    for state in states:
        sites = list(model.anatomy.sites(state))
        if sites[0].kind.dims != ("pos", "d_model") or not sites[0].kind.layered:
            raise EditError(f"{state!r} is not the state of a position in a layer. {did_you_mean(state, STATES)}")
        size = 1 if sites[0].name.startswith("resid") else whole
        grids.append(
            Parts(model, copies, sites, sizes_in(run), by=("layer", "pos"), layers=layers, pos=pos, window=size)
        )
    variants = [edits for grid in grids for edits in grid.edits(partial(Resample, source=source))]
    values, corrupted, *_ = sweep(
        model.anatomy,
        copies,
        variants,
        metric_of_copies,
        given=noise,
        labels=[str(i) for i in range(len(variants))],
        progress=progress,
        checkpoint=checkpoint,
    )
    clean = in_float64(metric(run)).cpu().numpy()
    corrupt = in_float64(corrupted).cpu().numpy().reshape(-1, samples)
    gained = in_float64(values - corrupted).cpu().numpy()
    # one sweep has the variants of all states; they are cut apart again here
    cut = np.cumsum([len(grid.addressed) for grid in grids])[:-1]
    each = [grid.grid(part) for grid, part in zip(grids, np.split(gained, cut), strict=True)]
    effects = np.stack(each).reshape(len(states), *grids[0].shape, len(tokens), samples)
    coords: dict[str, Any] = {
        "component": list(states),
        "layer": grids[0].axes[0].labels,
        "pos": grids[0].axes[1].labels,
        "token": (("batch", "pos"), grids[0].coords(**{"": copies})["token"][1][::samples]),
        "subject": (("batch", "pos"), _of_subject(grids[0], spans, samples)),
    }
    of_prompts = {"clean": ("batch", clean), "corrupt": ("batch", corrupt.mean(-1))}
    total = clean - corrupt.mean(-1)
    variables = {
        "indirect": (effects.mean(-1), ["component", "layer", "pos", "batch"], coords | of_prompts),
        "indirect_spread": (effects.std(-1), ["component", "layer", "pos", "batch"], coords | of_prompts),
        "total": (total, ["batch"], of_prompts),
        "total_spread": (corrupt.std(-1), ["batch"], of_prompts),
    }
    arrays = {
        name: labelled(
            value,
            dims,
            labels,
            name=name,
            technique=causal_trace,
            model=model,
            metric=metric.name,
            target=metric.target,
            foil=metric.foil,
            sigma=sigma,
            samples=samples,
            window=whole,
            seed=seed,
        )
        for name, (value, dims, labels) in variables.items()
    }
    return xr.Dataset(arrays, attrs=arrays["total"].attrs)


def _subject(subject: Any, tokens: Tokens) -> list[list[int]]:
    """The subject's positions in each prompt, from a text, one text per prompt, or positions."""
    texts = not isinstance(subject, str) and isinstance(subject, Sequence) and any(isinstance(s, str) for s in subject)
    if not texts:
        return placed(subject, tokens)
    if len(subject) != len(tokens):
        raise CasebackError(f"{len(subject)} subjects for {len(tokens)} prompts: give one, or one per prompt")
    return [placed(text, tokens[b])[0] for b, text in enumerate(subject)]


def _of_subject(grid: Parts, spans: list[list[int]], samples: int) -> np.ndarray:
    """Whether a position is one of the subject's, (batch, pos)."""
    places = grid.axes[1].spans or []
    inside = [[int(bool(set(at[b * samples]) & set(span))) for at in places] for b, span in enumerate(spans)]
    return np.array(inside)
