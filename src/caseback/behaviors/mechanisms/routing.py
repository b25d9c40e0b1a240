"""Attention to MLP routing: neurons that fire only where a head has written (PRIMER 5.4.3, 5.2.19).

    fires    t: n_u(t) past half of its largest activation
    lost     of the tokens where u fires, the share where it does not once h's write is out of this MLP's input alone

Pairs (h, u) are chosen on some texts by (tokens lost + 1) / (tokens + 2), so that a neuron of few tokens is not first
by chance, and judged on the others, beside the other heads of h's layer and neurons that fire about as often.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.behaviors.mechanisms.mlp_inputs import Mlp, MlpInputs, mlp_inputs
from caseback.errors import CasebackError, OutOfRange, SiteAbsent, did_you_mean
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import in_float64
from caseback.model.graph.names import head_name
from caseback.model.graph.units import Neuron, name_of
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.stream.documents import Corpus, documents
from caseback.stream.packing import rows_of

KINDS, NORMS = ("mean", "zero"), ("frozen", "recomputed")
HALF = 0.5
"""Of a neuron's firing: pairs of less are not chosen."""
SHOWN = 6
"""Tokens of a text that are shown before the one where a neuron fires."""


@technique(
    entry=("5.4.3", "5.2.19"),
    citation="Neo et al. 2024, Quirke et al. 2023",
    cost="one forward per token of text, and for each layer of heads one product with every later layer's neurons",
)
def neuron_routing(
    model: Model,
    corpus: Corpus,
    *,
    kind: str = "mean",
    norm: str = "frozen",
    n_tokens: int | None = 4000,
    length: int | None = None,
    skip_first: int = 1,
    threshold: float = 0.5,
    least: int = 5,
    top: int = 20,
    matched: int = 10,
    progress: bool = False,
) -> xr.Dataset:
    """Take each head's write out of what each later MLP reads, and see which neurons no longer fire.

        pre'_u = pre_u - (w_h M gamma / s) w_in_u        n'_u = act(pre'_u)

    Only the path from the head into that MLP is cut: whatever else reads the head still has its write.

    Parameters
    ----------
    model
        The model.
    corpus
        Texts, or what else ``caseback.stream.documents`` takes. Pairs are chosen on every other document (of one
        document on every other row), and judged on the rest.
    kind
        What stands for a head's write: ``"mean"``, its mean over the texts, so that what it always writes is left;
        or ``"zero"``, nothing.
    norm
        ``"frozen"``: the norm before the MLP divides by what it did. ``"recomputed"``: by what it would.
    n_tokens
        How many tokens are read, about; None for all.
    length
        Tokens of a row at most; 128 by default, or the model's context where that is shorter.
    skip_first
        First positions of each row that do not count: what heads write at a sink is no routing.
    threshold
        A neuron fires past this share of its largest activation on the texts that pairs are chosen on, on the side of
        zero where that is.
    least
        Tokens of those texts at which a neuron must fire to be looked at.
    top
        How many pairs are judged at most, of those where half the firing is lost on the texts that they are chosen on.
    matched
        How many neurons of the same MLP, the nearest in how often they fire, stand beside each pair.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        By pair (rank), on held-out texts: ``lost``, the share of tokens where the neuron no longer fires, with the
        lower end of Wilson's interval (``low``) and the count of tokens (``fires``); ``change``, the mean share of its
        activation there that is gone; ``r``, over all tokens, the correlation of what the head gives to what the
        activation reads with that sum. Beside them ``lost_heads`` (rank, head) of the other heads of that layer on the
        same neuron, and ``lost_matched`` (rank, control) of the same head on other neurons. ``above`` is 1 where
        ``low`` is past the 95th percentile of both, the attributes ``band_heads`` and ``band_matched``. Coordinates
        name the ``sender`` and the ``unit``; ``context`` is a text that ends at the strongest token that was lost, and
        ``attended`` what the head attends to most there.
        ``routed`` (writer, layer): the share of each MLP's neurons of which at least half the firing is lost without
        that head, on the texts that pairs are chosen on; NaN where the MLP does not read it, or none fires.

    Raises
    ------
    CasebackError
        For unknown options, too short a corpus, or texts on which no neuron fires often enough.
    OutOfRange
        For numbers that leave nothing.
    SiteAbsent
        For models without dense MLPs, or whose heads' writes are not products with W_O.

    References
    ----------
    Neo et al. 2024, "Interpreting context look-ups in transformers: investigating attention-MLP interactions";
    Quirke et al. 2023, "Training dynamics of contextual n-grams in language models".

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.tasks.passages import PASSAGES
    >>> routed = neuron_routing(cb.load("meadow"), PASSAGES, n_tokens=1000, top=5)
    >>> routed["lost"].dims, routed["routed"].dims
    (('rank',), ('writer', 'layer'))
    """
    _expect(kind, norm, n_tokens, threshold, least, top, matched)
    layers = [i for i, p in enumerate(model.anatomy.layers) if p.w_out is not None]
    if not layers:
        raise SiteAbsent(f"{model.name} has no neurons: {model.anatomy.lacks['mlp_post']}")
    rows, judged_rows = _rows(model, corpus, n_tokens, length, skip_first)
    inputs = mlp_inputs(model, rows, layers, kind, skip_first, progress)
    judged = torch.tensor(judged_rows)[inputs.row.cpu()]
    chosen, held = ((judged == side).nonzero()[:, 0].to(inputs.streams[0].device) for side in (False, True))
    if not len(chosen) or not len(held):
        raise CasebackError("texts without tokens that count to choose on, or to judge on: give more or longer texts")
    bars = progress_bar(layers, "layers", unit="layer", show=progress)
    looked = {layer: _look(inputs, layer, chosen, threshold, least, norm == "recomputed") for layer in bars}
    if not any(len(of.neurons) and of.lost for of in looked.values()):
        raise CasebackError(
            f"no neuron that reads a head fires at {least} or more of {len(chosen)} tokens: give more text, or a "
            "smaller least or threshold"
        )
    pairs = _chosen(looked, top)
    tables = _judge(inputs, looked, pairs, held, matched, norm == "recomputed")
    contexts = _contexts(model, rows, inputs, pairs, tables["at"])
    about = {
        **{"technique": neuron_routing, "model": model, "ablation": kind, "norm": norm, "threshold": threshold},
        **{"least": least, "matched": matched, "tokens_chosen": len(chosen), "tokens_judged": len(held)},
    }
    return _dataset(model, looked, pairs, tables, contexts, about)


def _expect(kind: str, norm: str, n_tokens: int | None, threshold: float, least: int, top: int, matched: int) -> None:
    for name, value, known in (("kind", kind, KINDS), ("norm", norm, NORMS)):
        if value not in known:
            raise CasebackError(f"{name} {value!r} is unknown. {did_you_mean(value, known)}")
    if not 0 < threshold < 1:
        raise OutOfRange(f"threshold={threshold}: expected a share between 0 and 1")
    for name, value in (("n_tokens", n_tokens), ("least", least), ("top", top), ("matched", matched)):
        if value is not None and value < 1:
            raise OutOfRange(f"{name}={value}: expected 1 or more")


def _rows(
    model: Model, corpus: Corpus, n_tokens: int | None, length: int | None, skip_first: int
) -> tuple[list[list[int]], list[bool]]:
    """Rows of token ids, and which of them pairs are judged on."""
    if skip_first < 0:
        raise OutOfRange(f"skip_first={skip_first}: expected 0 or more")
    some, so_far = [], 0
    for row in rows_of(model, documents(corpus), length=length, least=skip_first + 1):
        some.append(row)
        so_far += len(row.ids)
        if n_tokens is not None and so_far >= n_tokens:
            break
    if len(some) < 2:
        raise CasebackError(
            f"a corpus of {len(some)} rows: expected two or more, some to choose pairs on and others to judge them on; "
            "give more text or shorter rows"
        )
    number = {document: i for i, document in enumerate(dict.fromkeys(row.document for row in some))}
    sides = [number[row.document] if len(number) > 1 else i for i, row in enumerate(some)]
    return [list(row.ids) for row in some], [side % 2 == 1 for side in sides]


@dataclass(frozen=True)
class _Layer:
    """One MLP on the texts that pairs are chosen on.

    Attributes
    ----------
    neurons
        Those that fire often enough; all else is of these only.
    count, bar, side
        At how many tokens, past which activation, and on which side of zero.
    lost
        By source layer (head, neuron) the tokens where it no longer fires.
    """

    neurons: Tensor
    count: Tensor
    bar: Tensor
    side: Tensor
    lost: list[Tensor]


@torch.no_grad()
def _look(inputs: MlpInputs, layer: int, tokens: Tensor, threshold: float, least: int, recomputed: bool) -> _Layer:
    mlp, x = Mlp.of(inputs.anatomy, layer), inputs.streams[layer][tokens]
    post = mlp.post(mlp.pre(x))
    side = torch.where(post.amax(0) >= -post.amin(0), 1.0, -1.0).to(post)
    bar = threshold * post.abs().amax(0)
    fires = (post * side >= bar) & (bar > 0)
    neurons = (fires.sum(0) >= least).nonzero()[:, 0]
    fires, side, bar, mlp = fires[:, neurons], side[neurons], bar[neurons], mlp.of_neurons(neurons)
    lost = []
    for source in inputs.sources(layer):
        n_heads = len(inputs.weights[source])
        sums = torch.zeros(n_heads, len(neurons), dtype=torch.int64, device=x.device)
        at_once = max(1, limit("neuron_numbers") // max(1, n_heads * len(neurons)))
        for start in range(0, len(tokens), at_once):
            some = slice(start, start + at_once)
            _, after = inputs.without_heads(mlp, layer, source, tokens[some], recomputed)
            sums += (fires[some] & (after * side < bar)).sum(1)
        lost.append(sums)
    return _Layer(neurons, fires.sum(0), bar, side, lost)


@dataclass(frozen=True)
class _Pair:
    """A head and a neuron, this one by its place among those of its layer that are looked at."""

    layer: int
    source: int
    head: int
    place: int


def _chosen(looked: dict[int, _Layer], top: int) -> list[_Pair]:
    """The pairs of the largest scores of those that lose half the firing, the best first; of equal ones the earlier."""
    scored: list[tuple[float, _Pair]] = []
    for layer, of in looked.items():
        for source, lost in enumerate(of.lost):
            if lost.numel():
                score = torch.where(lost >= HALF * of.count, (lost + 1) / (of.count + 2), 0).flatten().cpu()
                best = score.sort(descending=True, stable=True)
                width = lost.shape[1]
                scored += [
                    (value, _Pair(layer, source, i // width, i % width))
                    for value, i in zip(best.values[:top].tolist(), best.indices[:top].tolist(), strict=True)
                    if value
                ]
    return [pair for _, pair in sorted(scored, key=lambda one: -one[0])[:top]]


def _groups(pairs: list[_Pair]) -> Iterator[tuple[int, int, list[int]]]:
    """Pairs by the layers of their neurons and heads: numbers of the pairs."""
    for layer, source in sorted({(pair.layer, pair.source) for pair in pairs}):
        yield layer, source, [i for i, pair in enumerate(pairs) if (pair.layer, pair.source) == (layer, source)]


@torch.no_grad()
def _judge(
    inputs: MlpInputs, looked: dict[int, _Layer], pairs: list[_Pair], tokens: Tensor, matched: int, recomputed: bool
) -> dict[str, np.ndarray]:
    """Pairs, other heads on their neurons and their heads on other neurons, on held-out tokens."""
    n_heads = max(len(weight) for weight in inputs.weights)
    out = {name: np.full(len(pairs), np.nan) for name in ("lost", "fires", "change", "r")}
    out |= {"heads": np.full((len(pairs), n_heads), np.nan), "matched": np.full((len(pairs), matched), np.nan)}
    out["at"] = np.zeros(len(pairs), dtype=int)
    for layer, source, numbers in _groups(pairs):
        of = looked[layer]
        taken = list(dict.fromkeys(pairs[i].place for i in numbers))
        near = [_nearest(of.count, pairs[i].place, taken, matched) for i in numbers]
        places = list(dict.fromkeys([*taken, *(place for some in near for place in some)]))
        column = {place: i for i, place in enumerate(places)}
        side, bar = of.side[places], of.bar[places]
        mlp = Mlp.of(inputs.anatomy, layer).of_neurons(of.neurons[places])
        read = mlp.pre(inputs.streams[layer][tokens])
        before = mlp.post(read) * side
        given, after = inputs.without_heads(mlp, layer, source, tokens, recomputed)
        fires = before >= bar
        gone, count = fires & (after * side < bar), fires.sum(0)
        share = (gone.sum(1) / count.to(before)).cpu().numpy()  # NaN where the neuron does not fire
        heads, columns = [pairs[i].head for i in numbers], [column[pairs[i].place] for i in numbers]
        strong, own_gone, own_fires = before[:, columns].T, gone[heads, :, columns], fires[:, columns].T
        left = (after * side)[heads, :, columns]
        lost_first = torch.where(own_gone, strong, strong - strong.amax() - 1).argmax(-1)
        values = {
            "fires": own_fires.sum(-1),
            "change": torch.where(own_fires, 1 - left / strong, 0.0).sum(-1) / own_fires.sum(-1),
            "r": _correlation(given[heads, :, columns], read[-1][:, columns].T),
            "at": tokens[torch.where(own_gone.any(-1), lost_first, strong.argmax(-1))],
        }
        for name, value in values.items():
            out[name][numbers] = value.cpu().numpy()
        out["lost"][numbers] = share[heads, columns]
        out["heads"][numbers, : len(share)] = share[:, columns].T
        out["heads"][numbers, heads] = np.nan
        for i, head, some in zip(numbers, heads, near, strict=True):
            out["matched"][i, : len(some)] = share[head, [column[place] for place in some]]
    return out


def _nearest(count: Tensor, place: int, taken: list[int], matched: int) -> list[int]:
    """Other neurons that fire about as often, those of no chosen pair of these layers."""
    order = (count - count[place]).abs().sort(stable=True).indices.tolist()
    return [other for other in order if other not in taken][:matched]


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Of rows."""
    a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def _contexts(
    model: Model, rows: list[list[int]], inputs: MlpInputs, pairs: list[_Pair], at: np.ndarray
) -> list[tuple[str, str]]:
    """The text up to each pair's token, and the token that its head attends to most from there."""
    if not pairs:
        return []
    which, place = inputs.row[at].tolist(), inputs.pos[at].tolist()
    tokens = model.tokens([rows[i] for i in which])
    patterns = model.run(tokens, read=[("pattern", i) for i in sorted({pair.source for pair in pairs})])
    texts = []
    for i, (pair, pos) in enumerate(zip(pairs, place, strict=True)):
        first = int(tokens.first[i])
        row = patterns["pattern", pair.source][i, pair.head, first + pos, first : first + pos + 1]
        text = tokens.text[i]
        texts.append(("".join(text[max(0, pos - SHOWN) : pos + 1]), text[int(row.argmax())]))
    return texts


def _dataset(
    model: Model,
    looked: dict[int, _Layer],
    pairs: list[_Pair],
    tables: dict[str, np.ndarray],
    contexts: list[tuple[str, str]],
    about: dict[str, Any],
) -> xr.Dataset:
    from scipy.stats import binomtest

    low = [
        float(binomtest(round(lost * fires), int(fires)).proportion_ci(method="wilson").low) if fires else np.nan
        for lost, fires in zip(tables["lost"], tables["fires"], strict=True)
    ]
    bands = {name: _percentile(tables[name]) for name in ("heads", "matched")}
    above = np.array(low) > max((band for band in bands.values() if band is not None), default=np.inf)
    about |= {f"band_{name}": band for name, band in bands.items()}
    coords: dict[str, Any] = {
        "sender": ("rank", [head_name(pair.source, pair.head) for pair in pairs]),
        "unit": ("rank", [name_of(Neuron(p.layer, int(looked[p.layer].neurons[p.place]))) for p in pairs]),
        "context": ("rank", [text for text, _ in contexts]),
        "attended": ("rank", [token for _, token in contexts]),
    }
    own = {name: tables[name] for name in ("lost", "fires", "change", "r")} | {"low": low, "above": above.astype(int)}
    arrays = {name: labelled(value, ["rank"], coords, name=name, **about) for name, value in own.items()}
    beside = (("lost_heads", "heads", "head"), ("lost_matched", "matched", "control"))
    for name, key, dim in beside:
        arrays[name] = labelled(tables[key], ["rank", dim], coords, name=name, **about)
    writers = [(i, head) for i, p in enumerate(model.anatomy.layers) for head in range(p.dims.n_heads)]
    share = np.full((len(writers), len(looked)), np.nan)
    for column, of in enumerate(looked.values()):
        if len(of.neurons) and of.lost:
            half = torch.cat([in_float64(lost >= HALF * of.count).mean(1) for lost in of.lost])
            share[: len(half), column] = half.cpu().numpy()
    coords = {"layer": list(looked), "looked_at": ("layer", [len(of.neurons) for of in looked.values()])}
    coords["writer"] = [head_name(*writer) for writer in writers]
    arrays["routed"] = labelled(share, ["writer", "layer"], coords, name="routed", **about)
    return xr.Dataset(arrays, attrs=arrays["lost"].attrs)


def _percentile(values: np.ndarray) -> float | None:
    """The 95th, of those that there are."""
    some = values[~np.isnan(values)]
    return float(np.percentile(some, 95)) if len(some) else None
