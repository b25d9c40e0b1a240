"""Whether a dataset is what a technique returned for a model, before a document is made of it."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from caseback.errors import CasebackError
from caseback.model.running.model import Model


def expect_result(model: Model, result: xr.Dataset, names: Sequence[str], technique: str) -> None:
    """Refuse a dataset without some variables or coordinates, or of another model.

    Raises
    ------
    CasebackError
        Naming what is missing, or the other model.
    """
    if missing := [name for name in names if name not in result and name not in result.coords]:
        raise CasebackError(f"a dataset without {', '.join(missing)}: expected what {technique} returned")
    if result.attrs.get("model") != model.name:
        raise CasebackError(
            f"a dataset of {result.attrs.get('model')!r}: expected what {technique} returned for {model.name!r}"
        )
