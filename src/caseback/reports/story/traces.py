"""Where the answer goes: places of the stream, heads and MLPs of one prompt exchanged with those of its counterfactual.

    denoising   (m(counterfactual with the part as in the prompt) - m') / (m - m')       brings the answer back
    noising     (m - m(prompt with the part as in the counterfactual)) / (m - m')        takes it away
    direct      the same as noising, of the logits' reading of the part alone

m and m' are the logit differences after the prompt and after the counterfactual. One sweep for each of the first two.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Float
from torch import Tensor

from caseback.errors import CasebackError
from caseback.localize.circuits.path_patching import path_patch
from caseback.localize.components.machinery.first_order import difference
from caseback.model.anatomy.sites import Site
from caseback.model.graph.names import Name, head_name
from caseback.model.running.edits import Edit, Resample
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run
from caseback.model.running.tokens import Tokens
from caseback.reports.story import thresholds


@dataclass(frozen=True)
class Part:
    """A head (or an MLP, of head -1) and its shares; ``direct`` is None where a family has no sums."""

    name: str
    layer: int
    head: int
    denoising: float
    noising: float
    direct: float | None

    @property
    def share(self) -> float:
        """The larger of denoising and noising, with its sign."""
        return max(self.denoising, self.noising, key=abs)

    @property
    def role(self) -> str:
        """``"carrier"``, ``"opponent"``, or nothing where neither shows."""
        if abs(self.share) < thresholds.PART:
            return ""
        return "carrier" if self.share > 0 else "opponent"


@dataclass(frozen=True)
class Hop:
    """A place that carries the answer alone: a position, the layers before which it does, and the largest share."""

    pos: int
    first: int
    last: int
    share: float


@dataclass(frozen=True)
class Exchange:
    """What exchanging heads and MLPs does.

    Attributes
    ----------
    parts
        Those exchanged, in the order of computation.
    n_parts
        How many the model has.
    clean_run, corrupt_run
        The runs that parts were taken from.
    clean, corrupt
        m and m'.
    """

    parts: tuple[Part, ...]
    n_parts: int
    clean_run: Run
    corrupt_run: Run
    clean: float
    corrupt: float

    @property
    def named(self) -> list[Part]:
        """Those that a story names, the largest first."""
        return sorted((part for part in self.parts if part.role), key=lambda part: -abs(part.share))


@dataclass(frozen=True)
class Traces(Exchange):
    """What exchanging places of the stream does too.

    Attributes
    ----------
    stream
        (row, pos), the share that the stream before a layer brings back; the last row is what the logits read.
    layers
        The layer of each row of ``stream``; the last is the number of layers.
    indirect
        Why no direct effects were measured; empty where they were.
    """

    stream: Float[np.ndarray, "row pos"]
    layers: tuple[int, ...]
    indirect: str = ""


def traced(model: Model, clean: Tokens, corrupt: Tokens, metric: Metric, *, rows: int, most: int) -> Traces:
    """Exchange places of the stream from the first difference on, in so many layers at most, and heads and MLPs."""
    n = model.n_layers
    layers = range(0, n, -(-n // rows))
    layers = [layer for layer in layers if model.anatomy.has(Site("resid_pre", layer))]
    differs = (clean.ids[0] != corrupt.ids[0]).nonzero()[:, 0].tolist()
    places = [(layer, p) for layer in layers for p in range(differs[0], len(clean.text[0]))]
    exchange, regained = _exchanged(model, clean, corrupt, metric, places, most, ())
    stream = np.zeros((len(layers) + 1, len(clean.text[0])))
    stream[[layers.index(layer) for layer, _ in places], [p for _, p in places]] = regained
    stream[-1, -1] = 1.0  # the metric reads the last token alone
    direct, why = _direct(model, clean, corrupt, metric, exchange.clean - exchange.corrupt)
    parts = tuple(replace(part, direct=direct.get(part.name)) for part in exchange.parts)
    ends = (exchange.n_parts, exchange.clean_run, exchange.corrupt_run, exchange.clean, exchange.corrupt)
    return Traces(parts, *ends, stream, (*layers, n), why)


def exchanged(
    model: Model, clean: Tokens, corrupt: Tokens, metric: Metric, *, most: int, always: Collection[str] = ()
) -> Exchange:
    """Exchange heads and MLPs alone, without their direct effects.

    Where there are more than ``most``, those are exchanged that attribution patching ranks first in either direction,
    and those named in ``always``.
    """
    return _exchanged(model, clean, corrupt, metric, [], most, always)[0]


def _exchanged(
    model: Model,
    clean: Tokens,
    corrupt: Tokens,
    metric: Metric,
    places: Sequence[tuple[int, int]],
    most: int,
    always: Collection[str],
) -> tuple[Exchange, Float[np.ndarray, " place"]]:
    layers, anatomy = range(model.n_layers), model.anatomy
    of_heads = anatomy.head_site
    heads = [
        Part(head_name(layer, h), layer, h, 0.0, 0.0, None)
        for layer in layers
        if anatomy.has(Site(of_heads, layer))
        for h in range(anatomy.layers[layer].dims.n_heads)
    ]
    mlps = [
        Part(str(Name("mlp", layer)), layer, -1, 0.0, 0.0, None)
        for layer in layers
        if anatomy.has(Site("mlp_out", layer))
    ]
    every = sorted([*heads, *mlps], key=lambda part: (part.layer, part.head < 0, part.head))
    sites = [Site("resid_pre", layer) for layer in dict.fromkeys(layer for layer, _ in places)]
    of_parts = list(dict.fromkeys(_site(part, of_heads) for part in every))
    screen = len(every) > most
    runs = [measured(anatomy, tokens, metric, read=[*sites, *of_parts], grad=screen) for tokens in (clean, corrupt)]
    parts = every
    if screen:
        first, second = runs
        estimate = np.maximum(*(_first_order(*ends, every, of_heads) for ends in ((first, second), (second, first))))
        best = set(np.argsort(-estimate, kind="stable")[:most].tolist())
        parts = [part for i, part in enumerate(every) if i in best or part.name in always]
    here, there = (run for run, _ in runs)
    # the embeddings of a token that both have are the same, and exchanging them does nothing
    start = Site("resid_pre", 0)
    alike = (here["resid_pre", 0] == there["resid_pre", 0]).all(-1)[0].tolist() if start in sites else []
    unlike = [i for i, (layer, p) in enumerate(places) if layer > 0 or not alike[p]]
    back = [Resample("resid_pre", here, layer=places[i][0], pos=places[i][1]) for i in unlike]
    denoised = model.sweep(corrupt, [*back, *(_of(here, part, of_heads) for part in parts)], metric)
    noised = model.sweep(clean, [_of(there, part, of_heads) for part in parts], metric)
    of_clean, of_corrupt = float(noised["clean"][0]), float(denoised["clean"][0])
    change = of_clean - of_corrupt
    regained = (denoised.values[:, 0] - of_corrupt) / change
    lost = (of_clean - noised.values[:, 0]) / change
    shares = zip(parts, regained[len(back) :].tolist(), lost.tolist(), strict=True)
    parts = tuple(replace(part, denoising=gain, noising=loss) for part, gain, loss in shares)
    of_places = np.zeros(len(places))
    of_places[unlike] = regained[: len(back)]
    return Exchange(parts, len(every), here, there, of_clean, of_corrupt), of_places


def _first_order(
    base: tuple[Run, Tensor], source: tuple[Run, Tensor], parts: Sequence[Part], of_heads: str
) -> Float[np.ndarray, " part"]:
    """How far patching each part moves the metric to first order (3.2.15), without its sign."""
    (run, value), (other, _) = base, source
    sites = list(dict.fromkeys(_site(part, of_heads) for part in parts))
    gradients = run.grad(value, sites)
    moved = {
        site: difference(site, site, run, other).estimate(gradients)[0].sum(0).abs().reshape(-1).tolist()
        for site in sites
    }
    return np.array([moved[_site(part, of_heads)][max(part.head, 0)] for part in parts])


def _site(part: Part, of_heads: str) -> Site:
    return Site("mlp_out" if part.head < 0 else of_heads, part.layer)


def hops(stream: Float[np.ndarray, "row pos"], layers: Sequence[int]) -> list[Hop]:
    """The runs of measured layers in which a position carries the answer, in the order in which they end.

    Examples
    --------
    >>> hops(np.array([[0.0, 1.0, 0.0], [0.0, 0.6, 0.4], [0.0, 0.1, 0.9]]), [0, 1, 2])
    [Hop(pos=1, first=0, last=1, share=1.0), Hop(pos=2, first=1, last=2, share=0.9)]
    """
    listed = []
    for pos, column in enumerate(stream.T):
        carries = np.flatnonzero(column >= thresholds.HOP)
        for run in np.split(carries, np.flatnonzero(np.diff(carries) > 1) + 1):
            if len(run):
                listed.append(Hop(pos, layers[run[0]], layers[run[-1]], float(column[run].max())))
    # what carries it in one layer out of many is a passing sum rather than a place
    lasting = [hop for hop in listed if hop.last > hop.first or len(layers) <= 8]
    return sorted(lasting, key=lambda hop: (hop.last, hop.first, hop.pos))


def by_position(
    model: Model, clean: Tokens, metric: Metric, traces: Exchange, heads: list[Part]
) -> dict[str, Float[np.ndarray, " pos"]]:
    """For each of some heads, what noising its write at one position takes away, position by position."""
    if not heads:
        return {}
    n = len(clean.text[0])
    source = partial(Resample, model.anatomy.head_site, traces.corrupt_run)
    edits = [source(layer=part.layer, head=part.head, pos=p) for part in heads for p in range(n)]
    swept = model.sweep(clean, edits, metric)
    lost = (traces.clean - swept.values[:, 0].reshape(len(heads), n)) / (traces.clean - traces.corrupt)
    return {part.name: row for part, row in zip(heads, lost, strict=True)}


def _of(source: Run, part: Part, of_heads: str) -> Edit:
    site = _site(part, of_heads)
    return Resample(site.name, source, layer=part.layer, head=None if part.head < 0 else part.head)


def _direct(
    model: Model, clean: Tokens, corrupt: Tokens, metric: Metric, change: float
) -> tuple[dict[str, float], str]:
    """Direct effects by name as shares of the change, or why there are none."""
    try:
        effects = path_patch(model, clean, corrupt, metric, receivers=["logits"])
    except CasebackError as error:  # a family whose stream is no sum of writes
        return {}, str(error)
    writers = zip(effects.writer.values, effects.values[:, 0], strict=True)
    return {str(name): -float(effect) / change for name, effect in writers}, ""
