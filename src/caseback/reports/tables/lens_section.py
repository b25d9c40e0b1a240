"""What each layer already knew, for an explanation: the logit lens of its run, or a fitted lens."""

from __future__ import annotations

from typing import Any

import xarray as xr

from caseback.decode.vocabulary.lenses.lens import Lens, read_lens
from caseback.decode.vocabulary.lenses.lens_statistics import OF_TARGETS, TOP
from caseback.decode.vocabulary.lenses.logit_lens import lens_of_run
from caseback.errors import CasebackError
from caseback.model.running.model import Model
from caseback.model.running.run import Run

SHOWN = (*TOP, "entropy", "kl", *OF_TARGETS)


def lens_readings(model: Model, run: Run, contrast: tuple[int, int], lens: Lens | None, k: int) -> xr.Dataset:
    """The logit lens, or a fitted one.

    Raises
    ------
    CasebackError
        For a fitted lens of another model, one of tokens to come, or one that lacks layers.
    """
    if lens is None:
        return lens_of_run(model, run, targets=[*contrast], k=k, names=SHOWN)
    if lens.ahead or [row for row in lens.rows if row < model.n_layers] != list(range(model.n_layers)):
        raise CasebackError(
            f"a lens of kind {lens.kind!r} with maps for the rows {', '.join(map(str, lens.rows))}"
            f"{f' and {lens.ahead} tokens ahead' if lens.ahead else ''}: expected one of the next token with a map for "
            f"every row from 0 to {model.n_layers - 1}"
        )
    return read_lens(model, run.tokens, lens, targets=[*contrast], k=k)


def lens_section(lens: xr.Dataset) -> dict[str, Any]:
    """The readings of one prompt as plain data, those of target and foil by name."""
    one = lens.isel(batch=0)
    section = {
        "kind": lens["top_prob"].attrs.get("lens") or "logit",
        "layers": one.layer.values.tolist(),
        "k": int(one.sizes["k"]),
        "top_text": one.top_text.values.tolist(),
        "top_prob": one.top_prob.values.tolist(),
        "entropy": one.entropy.values.tolist(),
        "kl": one.kl.values.tolist(),
        "logit_diff": (one.logit.isel(vocab=0, pos=-1) - one.logit.isel(vocab=1, pos=-1)).values.tolist(),
    }
    for i, name in enumerate(("target", "foil")):
        section[f"{name}_prob"] = one.prob.isel(vocab=i).values.tolist()
        section[f"{name}_rank"] = one["rank"].isel(vocab=i).values.tolist()
    return section
