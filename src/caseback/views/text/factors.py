"""Nonnegative factors of a prompt's neurons in the terminal: the prompt once for each factor, what it writes below."""

from __future__ import annotations

import numpy as np
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
    tokens = [visible(str(token)) for token in factors["token"].values]
    lines = [Text(f"{factors.sizes['component']} factors explain {percent(factors.attrs['explained'])} of the squares")]
    for i in range(factors.sizes["component"]):
        own = factors.isel(component=i)
        values = own["activation"].values
        level = values / max(float(values.max()), 1e-300)
        line = Text.assemble((f"{i:>3} {percent(float(own['share'])):>6}  ", "bold"))
        for token, share in zip(tokens, level, strict=True):
            line.append(token, style="bold dark_orange" if share > 0.5 else "dark_orange" if share > 0.15 else "dim")
        lines.append(line)
        strongest = int(np.argmax(values))
        words = "  ".join(visible(str(word)) for word in own["up_token"].values)
        lines.append(Text(f"{'':12}most at {tokens[strongest]} ({strongest})   raises {words}"))
        lines.append(Text(f"{'':12}{' '.join(own['top_neuron'].values)}", style="dim"))
    for line in lines:
        console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)
