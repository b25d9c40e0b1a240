"""What patches, ablations, traces and interchanges came to, in the terminal: the metric above a map of effects."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr
from rich.console import Console

from caseback.reports.document import checked
from caseback.reports.maps import Map, ablation_map, as_map
from caseback.views.numbers_text import number
from caseback.views.text.bars import ASCII, UNICODE
from caseback.views.text.heatmap import map_text, print_map, ranked_text

__all__ = ["print_ablation", "print_interchanges", "print_patching", "print_trace"]

_VALUES_SHOWN = 6


@checked
def print_patching(result: xr.Dataset, words: str, *, top: int = 10, console: Console | None = None) -> None:
    """Print what ``patch`` or ``patch_models`` gave.

    Parameters
    ----------
    result
        With ``recovery`` and the metric of both runs.
    words
        The metric in words.
    top
        How many of the largest numbers are listed.
    console
        Where to print; by default a new ``rich`` console, which obeys ``NO_COLOR``.
    """
    console = console or Console()
    between_models = "other_model" in result.attrs
    one, zero = ("other", "own") if between_models else ("clean", "corrupt")
    _line(console, f"{words}: {', '.join(f'{name} {number(float(result[name][0]))}' for name in (one, zero))}")
    if between_models:
        how = f"parts of {result.attrs['other_model']}"
    else:
        direction = result.attrs["direction"]
        how = f"{direction} ({'clean into corrupt' if direction == 'denoising' else 'corrupt into clean'})"
    title = f"Recovery (1 as {one}, 0 as {zero}), {how} at {result.attrs['site']}"
    print_map(as_map(result.recovery), title, console, top=top)


@checked
def print_ablation(effects: xr.DataArray, words: str, *, top: int = 12, console: Console | None = None) -> None:
    """Print what ``ablate`` gave: a map of layers and heads, and the largest effects.

    Parameters
    ----------
    effects
        (component, batch), with ``metric_value``.
    words, top, console
        As for ``print_patching``.
    """
    console = console or Console()
    glyphs = ASCII if console.options.ascii_only else UNICODE
    values = ", ".join(number(value) for value in effects.metric_value.values.tolist()[:_VALUES_SHOWN])
    _line(console, f"{words}: {values}{' ...' if effects.sizes['batch'] > _VALUES_SHOWN else ''}")
    kind = effects.attrs["ablation"]
    console.print(f"Effect of {kind}-ablation (lost without the component)", style="bold", highlight=False)
    if "neuron" not in effects["kind"].values:  # thousands of them make a list, not a map
        for part in map_text(ablation_map(effects), width=console.width, glyphs=glyphs):
            console.print(part, highlight=False, markup=False)
    ranked = ranked_text(as_map(effects), top, width=console.width, glyphs=glyphs)
    console.print(ranked, highlight=False, markup=False)


@checked
def print_trace(
    result: xr.Dataset, maps: Mapping[str, Map], words: str, *, top: int = 3, console: Console | None = None
) -> None:
    """Print what ``causal_trace`` gave.

    Parameters
    ----------
    result
        With the metric clean and corrupted.
    maps
        What ``trace_maps`` made of it.
    words, top, console
        As for ``print_patching``.
    """
    console = console or Console()
    m = {name: number(float(result[name][0])) for name in ("clean", "corrupt", "total", "total_spread")}
    noise = f"{result.attrs['samples']} draws of noise, sigma {number(result.attrs['sigma'])}"
    _line(console, f"{words}: clean {m['clean']}, corrupted {m['corrupt']} (sd {m['total_spread']} over {noise})")
    console.print(f"Total effect {m['total']}", highlight=False)
    for name, drawn in maps.items():
        console.print()
        print_map(drawn, f"Restoring {name}: indirect effect", console, top=top)


@checked
def print_interchanges(accuracy: xr.DataArray, title: str, *, top: int = 5, console: Console | None = None) -> None:
    """Print what ``das_map`` or ``interchange_map`` gave.

    Parameters
    ----------
    accuracy
        By layer and position.
    title
        What was interchanged, where, in which task.
    top, console
        As for ``print_patching``.
    """
    console = console or Console()
    if "random" in accuracy.coords:
        held_out = f"{accuracy.attrs['held_out']} examples held out"
        nothing = f"swapping nothing {accuracy.attrs['no_swap_accuracy']:.2f}"
        _line(console, f"{held_out}; {nothing}; a random subspace {float(accuracy.random.max()):.2f} at best")
    print_map(as_map(accuracy), title, console, top=top)


def _line(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
