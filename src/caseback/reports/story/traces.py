"""Where the answer goes: places of the stream, heads and MLPs of one prompt exchanged with those of its counterfactual.

    denoising   (m(counterfactual with the part as in the prompt) - m') / (m - m')       brings the answer back
    noising     (m - m(prompt with the part as in the counterfactual)) / (m - m')        takes it away
    direct      the same as noising, of the logits' reading of the part alone

m and m' are the logit differences after the prompt and after the counterfactual. One sweep for each of the first two.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float

from caseback.errors import CasebackError
from caseback.localize.circuits.path_patching import path_patch
from caseback.model.anatomy.sites import Site
from caseback.model.graph.names import Name, head_name
from caseback.model.running.edits import Edit, Resample
from caseback.model.running.metrics import Metric
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
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
class Traces:
    """What exchanging parts does.

    Attributes
    ----------
    stream
        (layer, pos), the share that the stream before a layer brings back; the last row is what the logits read.
    parts
        All heads and MLPs, in the order of computation.
    clean_run, corrupt_run
        The runs that parts were taken from.
    clean, corrupt
        m and m'.
    """

    stream: Float[np.ndarray, "layer pos"]
    parts: tuple[Part, ...]
    clean_run: Run
    corrupt_run: Run
    clean: float
    corrupt: float

    @property
    def named(self) -> list[Part]:
        """Those that a story names, the largest first."""
        return sorted((part for part in self.parts if part.role), key=lambda part: -abs(part.share))


def traced(model: Model, clean: Tokens, corrupt: Tokens, metric: Metric) -> Traces:
    """Exchange every place of the stream from the first difference on, every head and every MLP."""
    layers = range(model.n_layers)
    has = lambda name, layer: model.anatomy.has(Site(name, layer))  # noqa: E731
    of_heads = model.anatomy.head_site
    reads = [Site(name, layer) for name in ("resid_pre", of_heads, "mlp_out") for layer in layers if has(name, layer)]
    here, there = (execute(model.anatomy, tokens, read=reads, logits=False) for tokens in (clean, corrupt))
    differs = (clean.ids[0] != corrupt.ids[0]).nonzero()[:, 0].tolist()
    places = [(layer, p) for layer in layers for p in range(differs[0], len(clean.text[0]))]
    units = [
        *(
            (layer, h)
            for layer in layers
            if has(of_heads, layer)
            for h in range(model.anatomy.layers[layer].dims.n_heads)
        ),
        *((layer, -1) for layer in layers if has("mlp_out", layer)),
    ]
    units.sort(key=lambda unit: (unit[0], unit[1] < 0, unit[1]))

    back = [Resample("resid_pre", here, layer=layer, pos=p) for layer, p in places]
    denoised = model.sweep(corrupt, [*back, *(_of(here, unit, of_heads) for unit in units)], metric)
    noised = model.sweep(clean, [_of(there, unit, of_heads) for unit in units], metric)
    of_clean, of_corrupt = float(noised["clean"][0]), float(denoised["clean"][0])
    change = of_clean - of_corrupt
    regained = (denoised.values[:, 0] - of_corrupt) / change
    stream = np.zeros((model.n_layers + 1, len(clean.text[0])))
    stream[tuple(np.array(places).T)] = regained[: len(places)]
    stream[-1, -1] = 1.0  # the metric reads the last token alone
    lost = (of_clean - noised.values[:, 0]) / change
    direct = _direct(model, clean, corrupt, metric, change)
    parts = []
    for (layer, h), gain, loss in zip(units, regained[len(places) :], lost, strict=True):
        name = str(Name("mlp", layer)) if h < 0 else head_name(layer, h)
        parts.append(Part(name, layer, h, float(gain), float(loss), direct.get(name)))
    return Traces(stream, tuple(parts), here, there, of_clean, of_corrupt)


def hops(stream: Float[np.ndarray, "layer pos"]) -> list[Hop]:
    """The runs of layers in which a position carries the answer, in the order in which they end.

    Examples
    --------
    >>> hops(np.array([[0.0, 1.0, 0.0], [0.0, 0.6, 0.4], [0.0, 0.1, 0.9]]))
    [Hop(pos=1, first=0, last=1, share=1.0), Hop(pos=2, first=1, last=2, share=0.9)]
    """
    listed = []
    for pos, column in enumerate(stream.T):
        carries = np.flatnonzero(column >= thresholds.HOP)
        for run in np.split(carries, np.flatnonzero(np.diff(carries) > 1) + 1):
            if len(run):
                listed.append(Hop(pos, int(run[0]), int(run[-1]), float(column[run].max())))
    # what carries it in one layer out of many is a passing sum rather than a place
    lasting = [hop for hop in listed if hop.last > hop.first or len(stream) <= 8]
    return sorted(lasting, key=lambda hop: (hop.last, hop.first, hop.pos))


def by_position(
    model: Model, clean: Tokens, metric: Metric, traces: Traces, heads: list[Part]
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


def _of(source: Run, unit: tuple[int, int], of_heads: str) -> Edit:
    layer, h = unit
    return Resample("mlp_out", source, layer=layer) if h < 0 else Resample(of_heads, source, layer=layer, head=h)


def _direct(model: Model, clean: Tokens, corrupt: Tokens, metric: Metric, change: float) -> dict[str, float]:
    try:
        effects = path_patch(model, clean, corrupt, metric, receivers=["logits"])
    except CasebackError:  # a family whose stream is no sum of writes
        return {}
    return {
        str(name): -float(effect) / change for name, effect in zip(effects.writer.values, effects[:, 0], strict=True)
    }
