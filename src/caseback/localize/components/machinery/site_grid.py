"""The parts of a site, one at a time: a grid of addresses along chosen dimensions.

    by = ("layer", "pos")            one part per layer and position, all of the last dimension together
    by = ("layer", "head", "pos")    one part per head and position
    by = ("layer", "neuron")         one part per neuron, all positions together

Layers may be taken in windows. A window of w around layer l holds l - w // 2 ... l + ceil(w / 2) - 1, cut off at the
model's ends, as in causal tracing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from caseback.errors import EditError, OutOfRange, did_you_mean
from caseback.model.anatomy.sites import Site, kind_of
from caseback.model.prompts.places import addresses, named, placed, text_at
from caseback.model.running.edits import Edit
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import Tokens

_PLACES = ("pos", "query")
_HEADS = ("head", "kv_head")


@dataclass(frozen=True)
class Axis:
    """One dimension of a grid: how its entries are called and what each addresses.

    Attributes
    ----------
    spans
        Along positions: those of each prompt, none where a prompt is too short.
    """

    dim: str
    labels: list[Any]
    values: list[Any]
    spans: list[list[list[int]]] | None = None

    def tokens_of(self, tokens: Tokens) -> np.ndarray:
        """Along positions: the text at each of them in each prompt, (batch, entry)."""
        return np.array([text_at(spans, tokens) for spans in self.spans or ()], dtype=str).T


class Parts:
    """A grid of parts of one site.

    Parameters
    ----------
    model, tokens
        The model and the prompts that are edited.
    sites
        One site in the layers that have it, as ``model.anatomy.sites`` gives it.
    sizes
        (heads, width of the last dimension) of the site in a layer; heads 0 where it has none.
    by, layers, heads, pos, units, window
        As for ``patch``.

    Raises
    ------
    EditError
        For a dimension that the site lacks.
    OutOfRange
        For a layer, head, position or unit that is not there, and a window larger than the model.
    """

    def __init__(
        self,
        model: Model,
        tokens: Tokens,
        sites: Sequence[Site],
        sizes: Callable[[Site], tuple[int, int]],
        *,
        by: str | Sequence[str] | None = None,
        layers: Sequence[int] | None = None,
        heads: Sequence[int] | None = None,
        pos: Any = None,
        units: Sequence[int] | None = None,
        window: int = 1,
    ):
        self.model, self.tokens, self.pos, self.name = model, tokens, pos, sites[0].name
        self.held = {site.layer: sizes(site) for site in sites}
        self.dims = _dims(self.name)
        self.by = _asked(by, self.dims, self.name)
        self.window = expect_window(window, model.n_layers)
        if window > 1 and "layer" not in self.by:
            raise EditError(f"window={window} needs layers that it moves along: put 'layer' into by={list(self.by)}")
        self.layers = self._layers(layers)
        self.heads, self.units = heads, units
        if heads is not None and not any(d in self.dims for d in _HEADS):
            raise EditError(f"{self.name!r} has no heads: leave out heads={list(heads)}, or patch 'z' or 'head_out'")
        self.axes = [self._axis(dim) for dim in self.by]
        cells = itertools.product(*(zip(range(len(a.values)), a.values, strict=True) for a in self.axes))
        self.shape = tuple(len(a.values) for a in self.axes)
        self.at: list[int] = []
        self.addressed: list[list[dict[str, Any]]] = []
        for i, cell in enumerate(cells):
            address = self._address(dict(zip(self.by, (value for _, value in cell), strict=True)))
            if address is not None:
                self.at.append(i)
                self.addressed.append(address)

    def edits(self, make: Callable[..., Edit]) -> list[list[Edit]]:
        """The edits of every part, each made by ``make(site=..., layer=..., head=..., pos=..., unit=...)``."""
        return [[make(site=self.name, **where) for where in part] for part in self.addressed]

    def grid(self, values: np.ndarray) -> np.ndarray:
        """Values of the parts, (part, batch), laid out along the dimensions; NaN where there is no such part."""
        cells = np.full((int(np.prod(self.shape)), values.shape[-1]), np.nan, values.dtype)
        cells[self.at] = values
        cells = cells.reshape(*self.shape, values.shape[-1])
        for dim, axis in enumerate(self.axes):
            for i, spans in enumerate(axis.spans or ()):
                # a variant runs on every prompt of the batch, also where its place is past the end
                short = [b for b, span in enumerate(spans) if not span]
                np.moveaxis(cells, dim, 0)[i][..., short] = np.nan
        return cells

    def coords(self, **prompts: Tokens) -> dict[str, Any]:
        """Labels of the dimensions; along positions also the tokens there, ``{name}_token``, of each set of prompts."""
        labels: dict[str, Any] = {axis.dim: axis.labels for axis in self.axes}
        for axis in self.axes:
            for name, tokens in prompts.items() if axis.spans is not None else ():
                labels[f"{name}_token" if name else "token"] = (("batch", axis.dim), axis.tokens_of(tokens))
        return labels

    def _layers(self, layers: Sequence[int] | None) -> list[Any]:
        if None in self.held:
            if layers is not None:
                raise EditError(f"{self.name!r} is not in a layer: leave out layers={list(layers)}")
            return [None]
        wanted = list(self.held) if layers is None else [self.model.anatomy.layer(int(i)) for i in layers]
        for layer in wanted:
            if layer not in self.held:
                raise OutOfRange(f"layer {layer} has no site {self.name!r}: the layers {list(self.held)} have")
        return wanted

    def _axis(self, dim: str) -> Axis:
        if dim == "layer":
            around = [
                [i for i in windowed(at, self.window, self.model.n_layers) if i in self.held] for at in self.layers
            ]
            return Axis(dim, self.layers, [i[0] if len(i) == 1 else i for i in around])
        if dim in _PLACES:
            return places_axis(dim, self.pos, self.tokens)
        chosen, part = (self.heads, 0) if dim in _HEADS else (self.units, 1)
        size = max(self.held[layer][part] for layer in self.layers)
        wanted = list(range(size)) if chosen is None else [int(i) for i in chosen]
        for i in wanted:
            if not 0 <= i < size:
                raise OutOfRange(f"{dim} {i} is out of range at {self.name!r}: there are {size}, 0 to {size - 1}")
        return Axis(dim, wanted, wanted)

    def _address(self, cell: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """One part's address, in several pieces where its positions differ by prompt; None where it is not there."""
        layer = cell["layer"] if "layer" in cell else (None if self.layers == list(self.held) else self.layers)
        head = next((cell[d] for d in _HEADS if d in cell), self.heads)
        unit = next((cell[d] for d in self.dims[-1:] if d in cell), self.units)
        for part, index in enumerate((head, unit)):
            if isinstance(index, int) and isinstance(layer, int) and index >= self.held[layer][part]:
                return None
        place = next((cell[d] for d in _PLACES if d in cell), None)
        if place is None:
            place = addresses(placed(self.pos, self.tokens)) if isinstance(self.pos, str) else [self.pos]
        return [{"layer": layer, "head": head, "pos": pos, "unit": unit} for pos in place]


def places_axis(dim: str, wanted: Any, tokens: Tokens) -> Axis:
    """Places one at a time: every position, those of a list, or those that a mapping names."""
    lengths = tokens.lengths.tolist()
    if wanted is None:
        labels: list[Any] = list(range(max(lengths)))
        # a slice addresses nothing in a prompt that ends before it
        values = [[p if min(lengths) == max(lengths) else slice(p, p + 1)] for p in labels]
        return Axis(dim, labels, values, [[[p] if p < n else [] for n in lengths] for p in labels])
    if isinstance(wanted, Mapping):
        items = [(str(name), place) for name, place in wanted.items()]
    else:
        alone = isinstance(wanted, int | str | slice) or (isinstance(wanted, Tensor) and wanted.ndim == 0)
        if not alone and not isinstance(wanted, Iterable):
            raise EditError(f"pos={wanted!r}: expected a position, several, a slice, or a text")
        places: list[Any] = [wanted] if alone else [*wanted]  # pyright: ignore[reportGeneralTypeIssues]
        plain = all(isinstance(place, int) for place in places)
        items = [(place if plain else named(place), place) for place in places]
    if not items:
        raise EditError("no position given: the list is empty")
    spans = [placed(place, tokens) for _, place in items]
    return Axis(dim, [label for label, _ in items], [addresses(s) for s in spans], spans)


def sizes_in(run: Run) -> Callable[[Site], tuple[int, int]]:
    """Heads and width of a site as a run holds it."""

    def sizes(site: Site) -> tuple[int, int]:
        shape, dims = run[site].shape, site.kind.dims
        heads = next((shape[1 + dims.index(d)] for d in _HEADS if d in dims), 0)
        return heads, shape[-1]

    return sizes


def windowed(layer: int, window: int, n_layers: int) -> range:
    """The layers of a window around one.

    Examples
    --------
    >>> list(windowed(5, 4, 12)), list(windowed(0, 4, 12)), list(windowed(3, 1, 12))
    ([3, 4, 5, 6], [0, 1], [3])
    """
    return range(max(0, layer - window // 2), min(n_layers, layer + (window + 1) // 2))


def expect_window(window: int, n_layers: int) -> int:
    """A window that fits in the model.

    Raises
    ------
    OutOfRange
        For one that does not.
    """
    if not 1 <= window <= n_layers:
        raise OutOfRange(f"window={window}: this model has {n_layers} layers, so a window holds 1 to {n_layers}")
    return window


def _dims(name: str) -> tuple[str, ...]:
    kind = kind_of(name)
    return ("layer", *kind.dims) if kind.layered else kind.dims


def _asked(by: str | Sequence[str] | None, dims: tuple[str, ...], name: str) -> tuple[str, ...]:
    if by is None:
        heads = [d for d in dims if d in _HEADS]
        return tuple(d for d in dims if d == "layer" or d in (heads or _PLACES))
    wanted = (by,) if isinstance(by, str) else tuple(by)
    for dim in wanted:
        if dim not in dims:
            raise EditError(f"{name!r} has no dimension {dim!r} to patch by. {did_you_mean(dim, dims)}")
    if not wanted or len(set(wanted)) < len(wanted):
        raise EditError(f"by={list(wanted)}: expected one or more of {', '.join(dims)}, each once")
    return wanted
