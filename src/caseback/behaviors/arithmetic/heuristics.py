"""A bag of heuristics: neurons that fire for simple rules about operands, and sums without them (PRIMER 5.4.10).

    effect(n)   = mean over prompts of |(f_n(other pair) - f_n(pair)) . d logit difference / d f_n|,  at the last token
    share(n, h) = |top k pairs of n that satisfy h| / k,    k = |pairs that satisfy h|;    score = share - k / pairs
    matched     = share >= threshold, and above the share of h in every one of some permuted maps
    without     = right answers when h's matched neurons write nothing, where h holds and where not,
                  beside as many other important neurons

The largest activations come first; where an MLP is gated, so that a neuron writes with either sign, the smallest too.
One half of the pairs gives effects and matches, the other judges: there ``held_out`` is the score again, and neurons
are silenced, at the last token, on the pairs that the model answers.

Nikankin et al. 2024, "Arithmetic without algorithms: language models solve math with a bag of heuristics".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from torch import Tensor

from caseback.behaviors.arithmetic.rules import places, rules, shares
from caseback.errors import CasebackError, OutOfRange, SiteAbsent, TokensError, did_you_mean
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.localize.components.attribution_patching import attribution_patching
from caseback.model.anatomy.coerce import in_float64
from caseback.model.graph.units import Neuron, name_of
from caseback.model.registry import technique
from caseback.model.results import labelled_set
from caseback.model.running.edits import Edit, Zero
from caseback.model.running.metrics import is_first, log_prob, logit_diff
from caseback.model.running.model import Model
from caseback.tasks.standard.sums import RESULTS

LEAST = 8
"""Pairs that are answered in each half."""
MEASURES = ("right", "log_prob")
VARIANTS = ("as it is", "without its neurons", "without others")


@dataclass(frozen=True)
class Sums:
    """Prompts for all pairs of operands: their ids, the first token of each answer that tells results apart."""

    a: np.ndarray
    b: np.ndarray
    result: np.ndarray
    ids: list[list[int]]
    answer: list[int]
    shared: int
    cut: float

    def of(self, rows: Sequence[int]) -> tuple[list[list[int]], list[int]]:
        """Prompts and answers of some pairs."""
        return [self.ids[i] for i in rows], [self.answer[i] for i in rows]


@technique(
    entry=("5.4.10",),
    citation="Nikankin et al. 2024",
    cost="a forward of all pairs, attribution patching, and two sweeps of most x (1 + draws) variants on half of them",
)
def arithmetic_heuristics(
    model: Model,
    template: str = "{a} + {b} =",
    *,
    operator: str = "+",
    largest: int = 20,
    layers: Sequence[int] | None = None,
    top: int = 200,
    count: int = 50,
    threshold: float = 0.6,
    permuted: int = 500,
    most: int = 8,
    draws: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Find neurons that fire for rules about operands and results, and ablate those of a rule.

    Parameters
    ----------
    model
        The model.
    template
        A prompt with ``{a}`` and ``{b}``, which the result follows after a space.
    operator
        ``"+"``, ``"-"`` (pairs whose difference is 0 or more) or ``"*"``.
    largest
        Operands are 1 to this; all their pairs are run.
    layers
        Whose neurons; all layers with dense MLPs by default.
    top
        Important neurons of a layer; 200 is the published number.
    count
        Prompts that effects are estimated on; 50 is the published number.
    threshold
        The least share of a match; .6 is the published one.
    permuted
        Permuted maps for the band, and as many again for how often they match.
    most
        How many rules are judged by ablation: those with the most matched neurons.
    draws
        Random sets of as many other important neurons.
    seed
        Same seed, same result. It draws halves, prompts, permuted maps, and neurons.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``score``, ``held_out`` and ``matched`` (heuristic, component), of the end that scores higher, 0 or 1 for a
        match; ``effect`` (component,), in logits; ``support`` and ``band`` (heuristic,), the pairs of the first half
        that satisfy a rule and the share that permuted maps reach; ``by_chance`` (draw,), matches of one permuted map
        each; of the judged rules, NaN for others, ``satisfied`` and ``others`` (measure, variant, heuristic), where the
        rule holds and where not, and ``random`` (measure, draw, heuristic), the former without other neurons. Beside
        components ``layer`` and ``neuron``. Attributes: ``answered`` of ``pairs``; ``cut``, the share of results that
        the tokenizer cuts, of which only the first token that differs is asked for; ``shared_tokens`` before it.

    Raises
    ------
    CasebackError
        For an unknown operator or a template without its operands, and where the model answers fewer than 8 pairs of
        each half.
    OutOfRange
        For numbers below their least.
    TokensError
        Where a result's tokens depend on the prompt.
    SiteAbsent
        For a model without dense MLPs.

    Notes
    -----
    Entry 5.4.10: Nikankin et al. 2024, with operands to 300. Their score is the share alone, which a wide rule reaches
    by chance. Their rules of several values, chosen by looking at a neuron, are not tried. Maps of all important
    neurons are held: neurons x pairs numbers.

    Examples
    --------
    >>> import caseback as cb
    >>> table = arithmetic_heuristics(cb.load("meadow"), largest=8, layers=[3], top=20, most=2, draws=2)
    >>> table["score"].dims, table.sizes["component"], table.attrs["answered"]
    (('heuristic', 'component'), 20, 64)
    """
    _expect(template, operator, largest, threshold, top=top, count=count, permuted=permuted, most=most, draws=draws)
    dense = [i for i, p in enumerate(model.anatomy.layers) if p.w_out is not None]
    if not dense:
        raise SiteAbsent(f"this model ({model.anatomy.model_type}) has no neurons: {model.anatomy.lacks['mlp_post']}")
    layers = dense if layers is None else list(layers)
    if not layers or set(layers) - set(dense):
        raise OutOfRange(f"layers={layers}: expected some of those with dense MLPs, {dense}")
    rng = np.random.default_rng(seed)
    sums = _sums(model, template, operator, largest)
    first = np.isin(np.arange(len(sums.ids)), rng.permutation(len(sums.ids))[::2])
    right = _right(model, sums)
    if min(right[first].sum(), right[~first].sum()) < LEAST:
        raise CasebackError(
            f"the model answers {right.sum()} of {len(right)} sums such as {template.format(a=2, b=1)!r}: expected "
            f"{LEAST} or more in each half of them. Give smaller operands or another template; what is not answered "
            "has no heuristics"
        )
    effect, names = _important(model, sums, np.flatnonzero(first & right), layers, top, count, rng)
    maps = _maps(model, sums, names, progress)
    by_name = rules(sums.a, sums.b, sums.result, first)
    masks = torch.from_numpy(np.stack(list(by_name.values())))
    halves = [torch.from_numpy(np.flatnonzero(half)) for half in (first, ~first)]
    parts = [model.anatomy.layers[i] for i in layers]
    ends = 2 if any(part.w_gate is not None or part.gate_up is not None for part in parts) else 1
    share, band, chance = _shares(maps[:, halves[0]], masks[:, halves[0]], ends, permuted, rng)
    held, _, _ = _shares(maps[:, halves[1]], masks[:, halves[1]], ends, 0, rng)
    end = share.argmax(0, keepdim=True)
    support = [masks[:, half].double().mean(1)[:, None] for half in halves]
    best, again = (of.gather(0, end)[0] for of in (share, held))
    matched = (best >= threshold) & (best > band[:, None])
    judged = _judge(model, sums, np.flatnonzero(~first & right), masks, matched, names, most, draws, rng, progress)
    by_chance = ((chance >= threshold) & (chance > band[:, None])).sum(0)
    arrays: dict[str, tuple[Any, tuple[str, ...]]] = {
        "score": (best - support[0], ("heuristic", "component")),
        "held_out": (again - support[1], ("heuristic", "component")),
        "matched": (matched.long(), ("heuristic", "component")),
        "effect": (effect, ("component",)),
        "support": (masks[:, halves[0]].sum(1), ("heuristic",)),
        "band": (band, ("heuristic",)),
        "by_chance": (by_chance, ("map",)),
        "satisfied": (judged[0], ("measure", "variant", "heuristic")),
        "others": (judged[1], ("measure", "variant", "heuristic")),
        "random": (judged[2], ("measure", "draw", "heuristic")),
    }
    beside = {"layer": ("component", [i for i, _ in names]), "neuron": ("component", [n for _, n in names])}
    return labelled_set(
        arrays,
        {
            "heuristic": list(by_name),
            "component": [name_of(Neuron(*at)) for at in names],
            "measure": list(MEASURES),
            "variant": list(VARIANTS),
            **beside,
        },
        technique=arithmetic_heuristics,
        model=model,
        **{"template": template, "operator": operator, "largest": largest, "threshold": threshold, "seed": seed},
        **{"answered": int(right.sum()), "pairs": len(right), "cut": sums.cut, "shared_tokens": sums.shared},
    )


def _sums(model: Model, template: str, operator: str, largest: int) -> Sums:
    """All pairs; the tokens with which all results begin stand at the prompts' ends."""
    a, b = (x.ravel() for x in np.meshgrid(*[np.arange(1, largest + 1)] * 2, indexing="ij"))
    result = np.array([RESULTS[operator](int(x), int(y)) for x, y in zip(a, b, strict=True)])
    a, b, result = (x[result >= 0] for x in (a, b, result))
    texts = [template.format(a=x, b=y) for x, y in zip(a, b, strict=True)]
    asked, whole = (_ids(model, some) for some in (texts, [f"{t} {r}" for t, r in zip(texts, result, strict=True)]))
    if odd := [t for t, x, y in zip(texts, asked, whole, strict=True) if y[: len(x)] != x or len(y) == len(x)]:
        raise TokensError(
            f"the tokens of {odd[0]!r} change where its result follows: expected another end of the prompt"
        )
    rest = [y[len(x) :] for x, y in zip(asked, whole, strict=True)]
    least = min(map(len, rest))
    shared = next((i for i in range(least) if len({row[i] for row in rest}) > 1), least - 1)
    ids = [x + row[:shared] for x, row in zip(asked, rest, strict=True)]
    cut = float(np.mean([len(row) > shared + 1 for row in rest]))
    return Sums(a, b, result, ids, [row[shared] for row in rest], shared, cut)


def _ids(model: Model, texts: list[str]) -> list[list[int]]:
    tokens = model.tokens(texts)
    return [row[mask].tolist() for row, mask in zip(tokens.ids.cpu(), tokens.mask.bool().cpu(), strict=True)]


def _batches(model: Model, sums: Sums) -> list[slice]:
    step = max(1, limit("stream_tokens", model.device) // max(map(len, sums.ids)))
    return [slice(start, start + step) for start in range(0, len(sums.ids), step)]


def _right(model: Model, sums: Sums) -> Bool[np.ndarray, " pair"]:
    parts = [is_first(sums.answer[rows])(model.run(sums.ids[rows])).bool().cpu() for rows in _batches(model, sums)]
    return torch.cat(parts).numpy()


def _important(
    model: Model,
    sums: Sums,
    rows: np.ndarray,
    layers: list[int],
    top: int,
    count: int,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, " component"], list[tuple[int, int]]]:
    """Effects of the most important neurons of each layer, and who they are."""
    chosen, foils = [], []
    lengths, answers = np.array([len(x) for x in sums.ids]), np.array(sums.answer)
    for row in rng.permutation(rows):
        fitting = rows[(lengths[rows] == lengths[row]) & (answers[rows] != answers[row])]
        if len(fitting) and len(chosen) < count:
            chosen.append(int(row))
            foils.append(int(rng.choice(fitting)))
    if not chosen:
        raise CasebackError("no two answered sums are as long and have other answers: give more pairs of operands")
    (clean, answer), (corrupt, foil) = sums.of(chosen), sums.of(foils)
    sites = [("mlp_post", i) for i in layers]
    estimate = attribution_patching(model, clean, corrupt, logit_diff(answer, foil), sites=sites)["mlp_post"]
    values = torch.as_tensor(estimate.transpose("batch", "pos", "layer", "neuron").values).double()
    ends = torch.tensor([len(x) - 1 for x in clean])
    by_layer = values[torch.arange(len(clean)), ends].abs().mean(0).nan_to_num(-1)
    labels = [int(i) for i in estimate["layer"].values] if "layer" in estimate.coords else list(range(len(by_layer)))
    of = by_layer[[labels.index(i) for i in layers]]
    best = of.topk(min(top, of.shape[1]), dim=1)
    names = [(i, n) for i, row in zip(layers, best.indices.tolist(), strict=True) for n in row]
    real = best.values.flatten() >= 0  # layers narrower than the widest
    return best.values.flatten()[real], [at for at, is_real in zip(names, real.tolist(), strict=True) if is_real]


def _maps(model: Model, sums: Sums, names: list[tuple[int, int]], progress: bool) -> Float[Tensor, "component pair"]:
    """What each neuron is at the last token of every pair."""
    units = {i: torch.tensor([n for j, n in names if j == i]) for i in dict.fromkeys(i for i, _ in names)}
    parts = []
    for rows in progress_bar(_batches(model, sums), "pairs", show=progress):
        tokens = model.tokens(sums.ids[rows])
        run = model.run(tokens, read=[("mlp_post", i) for i in units])
        at, end = torch.arange(len(tokens), device=model.device), tokens.column(-1).to(model.device)
        columns = [run["mlp_post", i][at, end][:, some.to(model.device)] for i, some in units.items()]
        parts.append(torch.cat(columns, 1).cpu())
    return torch.cat(parts).T


def _shares(
    maps: Float[Tensor, "component pair"],
    masks: Bool[Tensor, "heuristic pair"],
    ends: int,
    permuted: int,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, "end heuristic component"], Float[Tensor, " heuristic"], Float[Tensor, "heuristic map"]]:
    """Shares of both ends; the most of some permuted maps, and the shares of as many others.

    A permuted map is a random order of the pairs, the same for every neuron. A neuron's better end counts, and so does
    a permuted map's.
    """
    real = torch.stack([shares(places(values, rng), masks) for values in (maps, -maps)[:ends]])
    if not permuted:
        return real, real.new_zeros(len(masks)), real.new_zeros(len(masks), 0)
    values = torch.from_numpy(rng.random((2 * permuted, maps.shape[1])))
    place = places(values, rng)
    reverse = [place, place.shape[1] - 1 - place][:ends]
    drawn = torch.stack([shares(order, masks) for order in reverse]).amax(0)
    return real, drawn[:, :permuted].amax(1), drawn[:, permuted:]


def _judge(
    model: Model,
    sums: Sums,
    rows: np.ndarray,
    masks: Bool[Tensor, "heuristic pair"],
    matched: Bool[Tensor, "heuristic component"],
    names: list[tuple[int, int]],
    most: int,
    draws: int,
    rng: np.random.Generator,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where a rule holds and where not, (measure, variant, heuristic); without others, (measure, draw, heuristic)."""
    n = len(masks)
    holds, fails = (np.full((len(MEASURES), len(VARIANTS), n), np.nan) for _ in range(2))
    random = np.full((len(MEASURES), draws, n), np.nan)
    number, satisfies = matched.sum(1), masks[:, rows].numpy()
    able = (number > 0).numpy() & (2 * number <= len(names)).numpy() & satisfies.any(1) & (~satisfies).any(1)
    order = [h for h in (-number).argsort(stable=True).tolist() if able[h]][:most]
    if not order:
        return holds, fails, random
    variants = []
    for h in order:
        own = matched[h].nonzero()[:, 0].tolist()
        left = np.flatnonzero(~matched[h].numpy())
        sets = [own, *(rng.permutation(left)[: len(own)].tolist() for _ in range(draws))]
        variants += [_silenced([names[i] for i in some]) for some in sets]
    ids, answer = sums.of(rows.tolist())
    for m, metric in enumerate((is_first(answer), log_prob(answer))):
        swept = model.sweep(ids, variants, metric, progress=progress)
        clean = in_float64(torch.as_tensor(swept["clean"].values)).numpy()
        values = in_float64(torch.as_tensor(swept.values)).numpy().reshape(len(order), 1 + draws, len(rows))
        for h, (own, *others) in zip(order, values, strict=True):
            on = satisfies[h]
            for table, where in ((holds, on), (fails, ~on)):
                table[m, :, h] = clean[where].mean(), own[where].mean(), np.mean([x[where].mean() for x in others])
            random[m, :, h] = [x[on].mean() for x in others]
    return holds, fails, random


def _silenced(neurons: list[tuple[int, int]]) -> list[Edit]:
    by_layer: dict[int, list[int]] = {}
    for layer, neuron in neurons:
        by_layer.setdefault(layer, []).append(neuron)
    return [Zero("mlp_post", layer=i, unit=units, pos=-1) for i, units in by_layer.items()]


def _expect(template: str, operator: str, largest: int, threshold: float, **least_one: int) -> None:
    if operator not in RESULTS:
        raise CasebackError(f"operator {operator!r} is unknown. {did_you_mean(operator, RESULTS)}")
    if "{a}" not in template or "{b}" not in template:
        raise CasebackError(f"template {template!r}: expected {{a}} and {{b}}, where the operands stand")
    if largest < 5:
        raise OutOfRange(f"largest={largest}: expected 5 or more, so that a rule has pairs in each half")
    if not 0 < threshold <= 1:
        raise OutOfRange(f"threshold={threshold}: expected more than 0, up to 1")
    for name, value in least_one.items():
        if value < 1:
            raise OutOfRange(f"{name}={value}: expected 1 or more")
