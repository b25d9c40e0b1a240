"""Scores on the tokens that they are of: orange for the target, blue against it, with the number on each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.reports.document import checked
from caseback.reports.maps import as_map
from caseback.reports.tokens_text import visible
from caseback.views.figure.figure import Figure, of_prompts
from caseback.views.figure.grid import Grid, scale_bar
from caseback.views.figure.svg import clipped, rect, text, width_of
from caseback.views.numbers_text import signed

__all__ = ["tokens"]

_ROOM, _LINE, _LONGEST = 860.0, 46.0, 40


@checked
def tokens(
    scores: Any, texts: Sequence[str] | None = None, *, batch: int = 0, title: str = "", value: str = "score"
) -> Figure:
    """Draw a score for each token of a prompt.

    Parameters
    ----------
    scores
        A labeled result over ``pos`` (or ``key``) with its tokens, as the attributions of ``localize.inputs`` return
        it, of one prompt or several; or numbers, with ``texts``.
    texts
        The tokens, for scores that have none of their own.
    batch
        Which prompt, of a result of several.
    title
        The figure's title; by default none.
    value
        What the numbers are.

    Raises
    ------
    CasebackError
        For scores without tokens, or as many as there are not tokens, or none that are numbers.

    Examples
    --------
    >>> tokens([0.5, -1.0], ["Mary", " ran"]).maps[0]["cols"]
    ['Mary', '␣ran']
    """
    values, words = _read(scores, texts, batch)
    there = np.isfinite(values)
    if not there.any():
        raise CasebackError("nothing to draw: no score is a number")
    most = float(np.abs(values[there]).max()) or 1.0
    parts, x, y = [scale_bar(2, 2, most, value, is_signed=True)], 2.0, 44.0
    wide = 166 + width_of(value, 11)
    for score, word in zip(values.tolist(), words, strict=True):
        shown = clipped(word, _LONGEST)
        number = signed(score) if np.isfinite(score) else "–"
        room = max(width_of(shown, 13), width_of(number, 10)) + 10
        if x > 2 and x + room > _ROOM:
            x, y = 2.0, y + _LINE
        kind = "foil" if score < 0 else "target"
        share = abs(score) / most if np.isfinite(score) else 0.0
        more = f"{word}\n{value} {number}"
        parts.append(rect(x, y, room - 2, 24, more=more, class_=kind, fill_opacity=f"{0.6 * share:.3f}", rx=3))
        parts.append(text(shown, x + room / 2 - 1, y + 17, class_="mono mid", font_size=13, pointer_events="none"))
        parts.append(text(number, x + room / 2 - 1, y + 36, class_="small faint mid", font_size=10))
        x += room
        wide = max(wide, x)
    n_prompts = scores.sizes.get("batch", 1) if isinstance(scores, xr.DataArray) else 1
    table, caption = [_table(values, words, value)], of_prompts(batch, n_prompts)
    return Figure(
        "".join(parts), wide + 6, y + _LINE, title, scores, table, caption=caption, question="Which tokens count?"
    )


def _read(scores: Any, texts: Sequence[str] | None, batch: int) -> tuple[np.ndarray, list[str]]:
    """Numbers and visible tokens."""
    if isinstance(scores, xr.DataArray):
        one = scores
        if "batch" in one.dims:
            if not 0 <= batch < one.sizes["batch"]:
                raise CasebackError(f"prompt {batch}: there are {one.sizes['batch']}, 0 to {one.sizes['batch'] - 1}")
            one = one.isel(batch=batch)
        if one.ndim != 1:
            raise CasebackError(f"scores of tokens have one dimension besides batch, not {one.dims}: select the others")
        values = one.values.astype(np.float64)
        if texts is None:
            if "token" in one.coords and one.coords["token"].dims == one.dims:
                words = [visible(str(token)) for token in one["token"].values.tolist()]
            else:
                words = as_map(one).rows.labels
            # padding has neither a score nor a text
            real = np.isfinite(values) | np.array([bool(str(w).strip("∅")) for w in words])
            return values[real], [word for word, ok in zip(words, real.tolist(), strict=True) if ok]
    else:
        try:
            values = np.asarray(scores.detach().cpu() if hasattr(scores, "detach") else scores, dtype=np.float64)
        except (TypeError, ValueError):
            raise CasebackError("these scores are no numbers: expected a labeled result, or a number a token") from None
        if texts is None:
            raise CasebackError("numbers alone say no tokens: give them as texts=[...]")
    words = [visible(str(word)) for word in texts]
    if values.ndim != 1 or len(values) != len(words):
        raise CasebackError(f"scores of the shape {values.shape} for {len(words)} tokens: expected one for each")
    return values, words


def _table(values: np.ndarray, words: list[str], value: str) -> dict[str, Any]:
    """The numbers for the file that the script writes; outside of the drawing, where no pointer comes."""
    grid = Grid([value], words)
    return grid.for_script(-1e6, -1e6, [grid.numbers(value, values[None], "signed")])
