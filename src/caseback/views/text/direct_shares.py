"""Direct shares in the terminal: a waterfall, and below it what the sum leaves out and what later parts take back."""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr
from rich.console import Console

from caseback.reports.direct_shares import taken_back
from caseback.reports.document import checked
from caseback.reports.waterfall import Waterfall
from caseback.views.numbers_text import number, percent, signed
from caseback.views.text.waterfall import print_waterfall

__all__ = ["print_direct_shares"]

_VALUES_SHOWN = 6


@checked
def print_direct_shares(
    shares: xr.DataArray,
    drawn: Waterfall,
    title: str,
    words: str,
    values: Sequence[float],
    *,
    erased: xr.Dataset | None = None,
    console: Console | None = None,
) -> None:
    """Print direct shares.

    Parameters
    ----------
    shares, drawn
        What ``direct_shares`` and ``share_waterfall`` gave.
    title
        What the shares are of.
    words, values
        The metric in words, and its value on each prompt.
    erased
        What ``erased_writes`` gave.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    first = ", ".join(number(value) for value in values[:_VALUES_SHOWN])
    more = " ..." if len(values) > _VALUES_SHOWN else ""
    console.print(f"{words}: {first}{more}", highlight=False, markup=False, soft_wrap=True)
    print_waterfall(drawn, title, console)
    for line in [*_beside_the_sum(shares), *([] if erased is None else _erased(erased))]:
        console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)


def _beside_the_sum(shares: xr.DataArray) -> list[str]:
    """What the final norm and the unembedding do to the sum, and by how much it misses the model's own number."""
    attrs = shares.attrs

    def mean(key: str) -> float:
        return sum(attrs[key]) / len(attrs[key])

    lines = []
    if "norm_bias" in attrs:
        scale = f"divides by {number(mean('norm_scale'))}, " if "norm_scale" in attrs else ""
        biases = f"its bias gives {signed(mean('norm_bias'))}, the unembedding's {signed(mean('unembed_bias'))}"
        lines.append(f"final norm: {scale}{biases}")
    gap = attrs["gap"]
    lines.append(f"sum less the model's own number: {signed(max(gap if isinstance(gap, list) else [gap], key=abs))}")
    if "softcap" in attrs:
        lines.append(f"the logits before their soft cap of {number(attrs['softcap'])}")
    return lines


def _erased(writes: xr.Dataset) -> list[str]:
    lines = [
        f"{name} {signed(share)} ({percent(fraction)}, most by {most})"
        for name, share, fraction, most in taken_back(writes)
    ]
    if not lines:
        return []
    return [
        f"direct shares that later parts take back: {'; '.join(lines)}",
        "A share is what a part writes for the output itself. What it does through later parts is not in it, and may "
        "be far more: `caseback ablate` measures what the prediction loses without it.",
    ]
