"""Nonnegative factors of a prompt's neurons in the terminal: the prompt once for each factor, what it writes below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import xarray as xr
from rich.console import Console
from rich.text import Text

from caseback.reports.document import checked, drawn_from
from caseback.reports.tokens_text import visible
from caseback.views.numbers_text import percent

__all__ = ["print_factors"]


@checked
@drawn_from("factors", "neuron_factors")
def print_factors(factors: xr.Dataset, console: Console | None = None) -> None:
    """Print what ``neuron_factors`` gave.

    Parameters
    ----------
    factors
        The factors.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.

    Examples
    --------
    ::

        print_factors(neuron_factors(model, prompt, 6))
    """
    console = console or Console()
    columns = (factors[name].values.tolist() for name in ("share", "activation", "top_neuron", "up_token"))
    parts = [
        {"share": share, "values": values, "neurons": names, "up": [visible(str(word)) for word in words]}
        for share, values, names, words in zip(*columns, strict=True)
    ]
    tokens = [visible(str(token)) for token in factors["token"].values]
    for line in factor_lines(tokens, parts, float(factors.attrs["explained"])):
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def factor_lines(tokens: Sequence[str], parts: Sequence[Mapping[str, Any]], explained: float) -> Iterator[Text]:
    """The prompt once for each factor, the neurons that it is made of, and the words that it raises."""
    yield Text(f"{len(parts)} factors explain {percent(explained)} of the squares of the prompt's neurons")
    for i, part in enumerate(parts):
        values = part["values"]
        largest = max(*values, 1e-300)
        line = Text.assemble((f"{i:>3} {percent(part['share']):>6}  ", "bold"))
        for token, value in zip(tokens, values, strict=True):
            share = value / largest
            line.append(token, style="bold dark_orange" if share > 0.5 else "dark_orange" if share > 0.15 else "dim")
        yield line
        strongest = max(range(len(values)), key=values.__getitem__)
        yield Text(f"{'':12}most at {tokens[strongest]} ({strongest})   raises {'  '.join(part['up'])}")
        yield Text(f"{'':12}{' '.join(part['neurons'])}", style="dim")
