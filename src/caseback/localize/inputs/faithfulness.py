"""Does the metric depend on the tokens that an attribution puts first? (PRIMER 3.1.28; DeYoung et al. 2020)

    deletion_k  = f(x without the k units that score highest)      insertion_k = f(x with only these)
    comprehensiveness_k = f(x) - deletion_k   (high is good)       sufficiency_k = f(x) - insertion_k   (low is good)
    AOPC = 1 / (K + 1) sum_{k=0..K} f(x) - f(x_k), at k = 0 nothing being gone (or, for sufficiency, all being there)

"Without" puts a baseline in a token's place (``kept``), so that positions stay; which baseline is part of the answer,
and prompts with holes are not prompts that the model was trained on. The same numbers for random orders say what an
attribution that knows nothing gets. Highest means most positive: it is the metric, not its size, that should fall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.errors import CasebackError, OutOfRange
from caseback.localize.inputs.baselines import told
from caseback.localize.inputs.granularity import Given
from caseback.localize.inputs.kept import Kept, Units, instead_of, units_of
from caseback.localize.inputs.per_token import expect_metric
from caseback.model.metrics import Metric
from caseback.model.model import Model
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.tokens import Tokens

ERASER = (0.01, 0.05, 0.1, 0.2, 0.5)
"""The shares of tokens at which ERASER measures."""

CITATION = "DeYoung et al. 2020, Samek et al. 2017"
_COST = "2 x tokens (or shares) x methods edited runs, those alike run once"


@technique(entry=("3.1.28",), citation="Samek et al. 2017, Petsiuk et al. 2018", cost=_COST)
def removal_curves(
    model: Model,
    tokens: Any,
    metric: Metric,
    scores: xr.DataArray | Float[Tensor, "*attribution batch pos"],
    *,
    shares: Sequence[float] | None = None,
    baseline: Any = "mean",
    features: Given = "token",
    special: bool = False,
    progress: bool = False,
) -> xr.Dataset:
    """The metric as tokens are taken out from the highest score down, and as they are put in.

    Parameters
    ----------
    model
        The model.
    tokens
        The prompts that were attributed.
    metric
        What is measured; usually the metric that was attributed.
    scores
        (batch, pos) or (attribution, batch, pos), as any input attribution or ``attribute`` returns them. Ties keep
        the prompt's order.
    shares
        At which shares of a prompt's units to measure, each rounded up to whole units; by default after every unit.
    baseline
        What a replaced token's embedding becomes: as in ``integrated_gradients``.
    features
        What is replaced together: ``"token"``, ``"word"``, ``"sentence"`` or groups, as for ``features_of``. Scores of
        tokens are added up; scores (..., batch, feature) of these very features are taken as they are.
    special
        Also replace special tokens such as the one that begins a text.
    progress
        Show a progress bar.

    Returns
    -------
    xr.Dataset
        ``deletion`` and ``insertion`` (attribution if given, batch, k), NaN past a shorter prompt's last unit; how many
        units are out (or in) in the coordinate ``units``, (batch, k), and which share in ``share``;
        ``deletion_area`` and ``insertion_area``, the areas under the curves over the share, by the trapezoid rule;
        ``value``, (batch,), of the prompt as it is.

    Raises
    ------
    CasebackError
        Where scores do not fit the prompts, or no token may be replaced.
    OutOfRange
        For a share outside 0 to 1.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.inputs import gradient_x_input
    >>> model, metric = cb.load("meadow"), cb.logit_diff(" cat", " dog")
    >>> scores = gradient_x_input(model, "the cat and the dog", metric)
    >>> curves = removal_curves(model, "the cat and the dog", metric, scores)
    >>> bool(curves.deletion[0, 0] == curves.value[0]), bool(curves.insertion[0, 0] == curves.deletion[0, -1])
    (True, True)
    """
    metric, tokens = expect_metric(metric), model.tokens(tokens)
    if shares is not None and (not len(shares) or not all(0 <= share <= 1 for share in shares)):
        raise OutOfRange(f"shares {list(shares)}: expected numbers from 0 to 1, such as 0.05, 0.2, 0.5")
    units = units_of(model, tokens, metric, features, special=special)
    rank, count = ranks(scores, units), units.count
    if shares is None:
        out = torch.arange(int(count.max()) + 1).expand(len(tokens), -1)
    else:
        # a share of 0.2 of 5 units is one, whatever rounding made of the product
        out = (torch.tensor(sorted(shares)).double() * count[:, None] - 1e-9).ceil().clamp_min(0).long()
    there = out <= count[:, None]
    measure = _Measure(model, tokens, metric, instead_of(model, tokens, baseline))
    kept = {"deletion": rank[:, :, None] >= out[:, :, None], "insertion": rank[:, :, None] < out[:, :, None]}
    whole = (units.of < 0)[:, None] | ~there[:, :, None]
    asked = {name: measure.ask(keep | whole) for name, keep in kept.items()}
    values, clean = measure.values(progress)
    share = torch.where(there, out.double() / count[:, None], torch.nan)
    made: dict[str, Any] = {"value": (("batch",), clean.numpy())}
    dims = ("attribution", "batch", "k")
    for name, index in asked.items():
        curve = values[index, torch.arange(len(tokens))[:, None]].masked_fill(~there, torch.nan)
        made[name] = (dims, curve.numpy())
        made[f"{name}_area"] = (dims[:2], _area(curve, share.expand_as(curve)).numpy())
    said = {"baseline": told(baseline), "metric": metric.name, "shares": None if shares is None else sorted(shares)}
    return _dataset(removal_curves, model, scores, made, out, share, said)


@technique(entry=("3.1.28",), citation=CITATION, cost=_COST)
def faithfulness(
    model: Model,
    tokens: Any,
    metric: Metric,
    scores: xr.DataArray | Float[Tensor, "*attribution batch pos"],
    *,
    shares: Sequence[float] | None = None,
    baseline: Any = "mean",
    features: Given = "token",
    special: bool = False,
    chance: int = 8,
    seed: int = 0,
    progress: bool = False,
) -> xr.Dataset:
    """Comprehensiveness and sufficiency of an attribution, with what random orders get.

    Parameters
    ----------
    model, tokens, metric, scores, baseline, features, special, progress
        As for ``removal_curves``.
    shares
        Shares of a prompt's units; all counts by default. ``faithfulness.ERASER`` are those of its paper, made for
        documents: of a prompt of ten tokens its four smallest are one token each.
    chance
        How many random orders are averaged; 0 for none.
    seed
        Of the random orders.

    Returns
    -------
    xr.Dataset
        ``comprehensiveness`` and ``sufficiency`` (attribution if given, batch, k), coordinates as in
        ``removal_curves``; their means over k with the 0 for k = 0, ``aopc_comprehensiveness`` (higher is better) and
        ``aopc_sufficiency`` (lower is better), (attribution if given, batch); the same of random orders,
        ``chance_comprehensiveness`` and ``chance_sufficiency``, (batch,), with their standard deviations; ``value``.

    Raises
    ------
    CasebackError, OutOfRange
        As ``removal_curves``; also for fewer than 0 random orders.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.inputs import attribute
    >>> model, metric = cb.load("meadow"), cb.logit_diff(" Mary", " John")
    >>> prompt = "When Mary and John went to the store, John gave a drink to"
    >>> scores = attribute(model, prompt, metric, ["integrated_gradients"])
    >>> found = faithfulness(model, prompt, metric, scores)
    >>> bool(found.aopc_comprehensiveness[0, 0] > found.chance_comprehensiveness[0])
    True
    """
    metric, tokens = expect_metric(metric), model.tokens(tokens)
    if chance < 0:
        raise OutOfRange(f"chance is {chance}: expected a number of random orders, or 0 for none")
    given = as_several(scores)
    both = xr.DataArray(given.numpy(), dims=["attribution", "batch", _last(scores)])
    if chance:
        # random scores depend on the place alone, so that no prompt's chance depends on its neighbours
        drawn = np.stack([np.random.default_rng((seed, i)).random(given.shape[-1]) for i in range(chance)])
        drawn = np.broadcast_to(drawn[:, None], (chance, *given.shape[1:]))
        both = xr.DataArray(np.concatenate([given.numpy(), drawn]), dims=both.dims)
    curves = removal_curves(
        model,
        tokens,
        metric,
        both,
        shares=shares,
        baseline=baseline,
        features=features,
        special=special,
        progress=progress,
    )
    whole = {"comprehensiveness": curves.value - curves.deletion, "sufficiency": curves.value - curves.insertion}
    made: dict[str, Any] = {"value": curves.value}
    for name, found in whole.items():
        at = torch.from_numpy(found.transpose("attribution", "batch", "k").values)
        mean = _aopc(at, torch.from_numpy(curves.units.values))
        made[name] = (("attribution", "batch", "k"), at[: len(given)].numpy())
        made[f"aopc_{name}"] = (("attribution", "batch"), mean[: len(given)].numpy())
        if chance:
            made[f"chance_{name}"] = (("batch",), mean[len(given) :].mean(0).numpy())
            made[f"chance_{name}_sd"] = (("batch",), mean[len(given) :].std(0, correction=0).numpy())
    said = {key: curves.attrs.get(key) for key in ("baseline", "metric", "shares")} | {"chance": chance, "seed": seed}
    units, share = torch.from_numpy(curves.units.values), torch.from_numpy(curves.share.values)
    return _dataset(faithfulness, model, scores, made, units, share, said)


@technique(entry=("3.1.28",), citation="Zhao & Aletras 2023", cost="2 x samples x methods edited runs")
def soft_faithfulness(
    model: Model,
    tokens: Any,
    metric: Metric,
    scores: xr.DataArray | Float[Tensor, "*attribution batch pos"],
    *,
    samples: int = 16,
    seed: int = 0,
    baseline: Any = "zero",
    features: Given = "token",
    special: bool = False,
    progress: bool = False,
) -> xr.Dataset:
    """Comprehensiveness and sufficiency where every token loses dimensions according to its score.

    Scores are brought to 0 (a prompt's lowest) to 1 (its highest), a_i. For sufficiency a token keeps each dimension
    of its embedding with probability a_i, for comprehensiveness with 1 - a_i; nothing depends on a number of tokens,
    and a token in between counts as such.

    Parameters
    ----------
    model, tokens, metric, scores, features, special, progress
        As for ``removal_curves``.
    samples
        Draws that are averaged (the paper takes one). All methods and prompts meet the same random numbers.
    seed
        Of the draws.
    baseline
        What a lost dimension becomes, as in ``integrated_gradients``; the paper's 0.

    Returns
    -------
    xr.Dataset
        ``comprehensiveness`` (higher is better) and ``sufficiency`` (lower is better), (attribution if given, batch):
        f(x) less the mean over draws, with the standard error of that mean; ``value``.

    Raises
    ------
    OutOfRange
        For fewer than one sample.
    CasebackError
        Where scores do not fit the prompts, or no token may be replaced.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.localize.inputs import gradient_norm
    >>> model, metric = cb.load("meadow"), cb.logit(" dog")
    >>> found = soft_faithfulness(model, "the cat and the", metric, gradient_norm(model, "the cat and the", metric))
    >>> found.comprehensiveness.dims
    ('batch',)
    """
    metric, tokens = expect_metric(metric), model.tokens(tokens)
    if samples < 1:
        raise OutOfRange(f"samples is {samples}: expected at least 1")
    units = units_of(model, tokens, metric, features, special=special)
    given = of_units(scores, units)
    low = torch.where(units.free, given, torch.inf).amin(-1, keepdim=True)
    high = torch.where(units.free, given, -torch.inf).amax(-1, keepdim=True)
    of, free = units.of.expand(len(given), -1, -1), units.of >= 0
    # where all score alike there is nothing to tell apart: every token keeps all, or loses all
    share = torch.where(high > low, (given - low) / (high - low), 1.0).gather(-1, of.clamp_min(0))
    share = torch.where(free, share, 1.0)
    measure = _Measure(model, tokens, metric, instead_of(model, tokens, baseline))
    asked = {}
    for name, keep in (("comprehensiveness", torch.where(free, 1 - share, 1.0)), ("sufficiency", share)):
        asked[name] = torch.stack([measure.ask_soft(keep, (seed, i)) for i in range(samples)])
    values, clean = measure.values(progress)
    made: dict[str, Any] = {"value": (("batch",), clean.numpy())}
    for name, index in asked.items():
        lost = clean - values[index, torch.arange(len(tokens))]
        made[name] = (("attribution", "batch"), lost.mean(0).numpy())
        error = lost.std(0) / samples**0.5 if samples > 1 else torch.full_like(lost[0], torch.nan)
        made[f"{name}_error"] = (("attribution", "batch"), error.numpy())
    said = {"baseline": told(baseline), "metric": metric.name, "samples": samples, "seed": seed}
    return _dataset(soft_faithfulness, model, scores, made, None, None, said)


def as_several(scores: xr.DataArray | Tensor) -> Float[Tensor, "attribution batch pos"]:
    """Scores in float64 with a dimension for attributions, be there one or several.

    Raises
    ------
    CasebackError
        For scores of other dimensions.
    """
    if isinstance(scores, xr.DataArray):
        last = _last(scores)
        wanted = ("attribution", "batch", last) if "attribution" in scores.dims else ("batch", last)
        if set(scores.dims) != set(wanted):
            raise CasebackError(
                f"scores of dimensions {scores.dims}: expected (batch, pos) or (attribution, batch, pos)"
            )
        scores = torch.from_numpy(np.array(scores.transpose(*wanted).values))
    scores = torch.as_tensor(scores).detach().cpu().double()
    if scores.ndim not in (2, 3):
        raise CasebackError(
            f"scores of shape {tuple(scores.shape)}: expected (batch, pos) or (attribution, batch, pos)"
        )
    return scores if scores.ndim == 3 else scores[None]


def _last(scores: xr.DataArray | Tensor) -> str:
    return "feature" if isinstance(scores, xr.DataArray) and "feature" in scores.dims else "pos"


def of_units(scores: xr.DataArray | Tensor, units: Units) -> Float[Tensor, "attribution batch feature"]:
    """The score of every feature that may be replaced, the sum of its tokens' where they have the scores; else 0.

    Raises
    ------
    CasebackError
        For scores of other prompts or features, or that are no finite numbers where they are needed.
    """
    given = as_several(scores)
    by_feature = _last(scores) == "feature"
    expected = units.free.shape if by_feature else units.of.shape
    if given.shape[1:] != expected:
        what = "features" if by_feature else "tokens"
        raise CasebackError(
            f"scores of shape {tuple(given.shape[1:])} where (prompts, {what}) are {tuple(expected)}: attribute these "
            "very prompts"
        )
    needed = units.free if by_feature else units.of >= 0
    if not bool(given[:, needed].isfinite().all()):
        raise CasebackError("scores that are no finite numbers at tokens of the prompt: they cannot be ranked")
    given = torch.where(needed, given, 0.0)
    if by_feature:
        return given
    total = torch.zeros(len(given), *units.free.shape, dtype=torch.float64)
    return total.scatter_add_(-1, units.of.clamp_min(0).expand_as(given), given)


def ranks(scores: xr.DataArray | Tensor, units: Units) -> Int[Tensor, "attribution batch pos"]:
    """The rank of each token's feature by score, 0 for the highest; ties are in the prompt's order.

    A token that stays has rank 0 and is to be left out by whoever asks.

    Examples
    --------
    >>> units = Units(torch.tensor([[0, 1, 2, -1]]), torch.tensor([[True, True, True]]))
    >>> ranks(torch.tensor([[0.5, 2.0, 1.0, 9.0]]), units).tolist()
    [[[2, 0, 1, 0]]]
    """
    total = torch.where(units.free, of_units(scores, units), -torch.inf)
    order = total.sort(dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(-1, order, torch.arange(order.shape[-1]).expand_as(order))
    of = units.of.expand(len(rank), -1, -1)
    return torch.where(of >= 0, rank.gather(-1, of.clamp_min(0)), 0)


@dataclass
class _Measure:
    """Prompts of which some tokens are kept, each kind of them measured once however often it is asked for."""

    model: Model
    tokens: Tokens
    metric: Metric
    instead: Float[Tensor, "batch pos d_model"]

    def __post_init__(self) -> None:
        self.known: dict[tuple, int] = {}
        self.variants: list[Kept] = []

    def ask(self, keep: Bool[Tensor, "attribution batch k pos"]) -> Int[Tensor, "attribution batch k"]:
        """For masks of every method, prompt and step: which row of ``values`` will have them."""
        n_methods, n_batch, n_k, _ = keep.shape
        index = torch.empty(n_methods, n_batch, n_k, dtype=torch.long)
        for m in range(n_methods):
            for k in range(n_k):
                index[m, :, k] = self._row(keep[m, :, k], None)
        return index

    def ask_soft(
        self, keep: Float[Tensor, "attribution batch pos"], draw: tuple[int, int]
    ) -> Int[Tensor, "attribution batch"]:
        """The same for shares of dimensions, in one draw."""
        return torch.tensor([self._row(mask, draw) for mask in keep])[:, None].expand(-1, len(self.tokens))

    def _row(self, keep: Tensor, draw: tuple[int, int] | None) -> int:
        key = (keep.contiguous().numpy().tobytes(), draw)
        if key not in self.known:
            self.known[key] = len(self.variants)
            self.variants.append(Kept("embed", keep.clone(), self.instead, draw))
        return self.known[key]

    def values(self, progress: bool) -> tuple[Float[Tensor, "variant batch"], Float[Tensor, " batch"]]:
        """The metric of all that was asked for, and of the prompts as they are."""
        names = [str(i) for i in range(len(self.variants))]
        swept = self.model.sweep(self.tokens, self.variants, self.metric, labels=names, progress=progress)
        return torch.from_numpy(swept.values).double(), torch.from_numpy(swept["clean"].values).double()


def _area(
    curve: Float[Tensor, "attribution batch k"], share: Float[Tensor, "attribution batch k"]
) -> Float[Tensor, "attribution batch"]:
    """Under a curve by the trapezoid rule, over the steps that a prompt has, as a share of their width."""
    steps = share.diff(dim=-1)
    areas = (steps * (curve[..., 1:] + curve[..., :-1]) / 2).nansum(-1)
    width = steps.nansum(-1)
    return torch.where(width > 0, areas / width, curve[..., 0])


def _aopc(
    lost: Float[Tensor, "attribution batch k"], out: Int[Tensor, "batch k"]
) -> Float[Tensor, "attribution batch"]:
    """The mean over steps, with the one at which nothing is lost counted once."""
    counts = (out > 0) & ~lost.isnan()
    return torch.where(counts, lost, 0.0).sum(-1) / (counts.sum(-1) + 1)


def _dataset(
    function: Any,
    model: Model,
    scores: xr.DataArray | Tensor,
    variables: dict[str, Any],
    units: Tensor | None,
    share: Tensor | None,
    said: dict[str, Any],
) -> xr.Dataset:
    """Variables of (method, batch, k) as labelled arrays, without the dimension for methods where none was given."""
    many = scores.ndim == 3
    named = isinstance(scores, xr.DataArray) and "attribution" in scores.coords
    made = {}
    for name, found in variables.items():
        dims, values = (found.dims, found.values) if isinstance(found, xr.DataArray) else found
        coords: dict[str, Any] = {}
        if "attribution" in dims and not many:
            dims, values = dims[1:], values[0]
        elif "attribution" in dims and named:
            coords["attribution"] = scores["attribution"].values
        if "k" in dims and units is not None and share is not None:
            coords |= {"units": (("batch", "k"), units.numpy()), "share": (("batch", "k"), share.numpy())}
        made[name] = labelled(values, dims, coords, name=name, technique=function, model=model, **said)
    first = next(iter(made.values()))
    return xr.Dataset(made, attrs=first.attrs)
