"""Progress bars of long work: the one place that makes them, in terminals and notebooks alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def progress_bar(
    items: Iterable[Any] | None = None,
    what: str | None = None,
    *,
    show: bool,
    total: int | None = None,
    initial: int = 0,
    unit: str = "it",
    unit_scale: bool = False,
) -> tqdm:
    """A bar over items, or one that is moved by hand with ``update``.

    Parameters
    ----------
    items
        What is iterated over; None for a bar that is moved by hand.
    what
        The name in front of the bar.
    show
        Whether there is anything to see: without it the items are iterated over all the same.
    total, initial
        How many there are, where the items do not tell, and how many were done by an earlier call.
    unit, unit_scale
        What is counted, and whether thousands are written as k.

    Examples
    --------
    >>> list(progress_bar([1, 2, 3], "squares", show=False))
    [1, 2, 3]
    """
    return tqdm(
        items,
        desc=what,
        disable=not show,
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=unit_scale,
    )
