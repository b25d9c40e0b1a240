"""Expected weights: virtual weights by how active both ends are together, on a corpus (Ameisen et al. 2025).

    ERA_ij   = V_ij E[1(a_j > 0) a_i]                   what target j gets of source i where j is active
    TWERA_ij = V_ij E[a_j a_i] / E[a_j]                 the same, by how active the target is

Expectations are over tokens. A pair that is never active together has a weight that does nothing: interference. Only
active entries of the targets are looked at, and of each its few sources.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from caseback.errors import ArgumentError, OutOfRange, ResultError, TokensError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.localize.circuits.attribution_graphs.stream_places import Features, features_of
from caseback.localize.circuits.attribution_graphs.virtual_weights import sites_of_weights
from caseback.model.anatomy.coerce import float64_device, in_float64
from caseback.model.anatomy.feature_reads import FeatureDictionary
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.model import Model
from caseback.model.running.run import Run, execute
from caseback.stream.documents import Corpus
from caseback.tasks.corpus import corpus_rows, counted_tokens


@technique(
    entry=("3.2.30",),
    citation="Ameisen et al. 2025",
    cost="one forward pass over the corpus + both encoders + active targets x k",
)
def expected_weights(
    model: Model,
    virtual: xr.Dataset,
    source: Any,
    target: Any,
    texts: Corpus,
    *,
    skip_first: int = 1,
    skip_special: bool = True,
    length: int | None = None,
    batch: int | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Weight virtual weights by how active both of their features are at one token: ERA, TWERA and interference.

    Parameters
    ----------
    model, source, target
        Those that the virtual weights were found with.
    virtual
        What ``virtual_weights`` gives, without ``through``.
    texts
        The corpus: texts, lists of token ids, or a file of them.
    skip_first
        Tokens at the beginning of each row that are not counted: dictionaries are mostly trained without the first,
        whose states are unlike all others.
    skip_special
        Whether special tokens are not counted either.
    length
        Tokens of a row at most, as ``caseback.tasks.corpus_rows`` cuts them.
    batch
        Rows of a pass.
    progress
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        (feature, k) as ``virtual`` has them: ``weight``, ``source``, ``era`` and ``twera``, and ``together``, at how
        many tokens both are active. By ``feature``: ``active``, at how many tokens the target is, and ``interference``,
        the share of its |V| that pairs hold which were never active together. ``twera`` and ``interference`` are NaN
        for targets that were never active. The attribute ``interference`` is that share of all others' |V|, NaN if
        none was active; ``n_tokens`` is how many tokens were counted.

    Raises
    ------
    ArgumentError
        For dictionaries that are not those of the weights, or weights through a head, which join two positions.
    ResultError
        For what is no result of ``virtual_weights``.
    TokensError
        For a corpus of which no token counts.
    OutOfRange
        For sizes below what they can be.

    Notes
    -----
    Entry 3.2.30. Active is what is not 0; where codes may be negative TWERA weighs by |a_j|. ERA and TWERA leave out
    the denominators of norms, as V does. Sums are in float64.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> from caseback.localize.circuits import virtual_weights
    >>> model = cb.load("meadow")
    >>> of_mlp = lambda layer: Facts(site=f"mlp_norm.{layer}", target=f"mlp_out.{layer}")
    >>> early, late = (TopK(model.d_model, 64, k=4, seed=layer, facts=of_mlp(layer)) for layer in (0, 2))
    >>> weights = virtual_weights(model, early, late, top=3)
    >>> expected = expected_weights(model, weights, early, late, ["Mary went to the store.", "John gave a drink."])
    >>> sorted(expected.data_vars)
    ['active', 'era', 'interference', 'source', 'together', 'twera', 'weight']
    >>> bool(((expected.together > 0) | (expected.era == 0)).all())
    True
    """
    if skip_first < 0:
        raise OutOfRange(f"skip_first={skip_first}: expected 0 or more tokens")
    sources, targets = features_of(model, source, "source"), features_of(model, target, "target")
    weight, pairs = _given(virtual, source, target, model.device)
    sums = _Sums(pairs, target.n_features)
    places = list(dict.fromkeys(group.site for group in (*sources, *targets)))
    with torch.no_grad():
        for tokens in progress_bar(
            corpus_rows(model, texts, length=length, batch=batch, least=skip_first + 1),  # pyright: ignore[reportArgumentType]
            "expected weights",
            unit="batch",
            show=progress,
        ):
            counted = counted_tokens(model, tokens, skip_first, skip_special)
            if not bool(counted.any()):
                continue
            run = execute(model.anatomy, tokens, read=places, logits=False)
            read, others = _states(run, sources, counted), _states(run, targets, counted)
            size = max(1, limit("feature_scores", model.device) // (source.n_features + target.n_features))
            for mine, its in zip(read.split(size), others.split(size), strict=True):
                codes = _codes(source, mine)
                sums.add(codes, codes if source is target else _codes(target, its))
    if not sums.n_tokens:
        raise TokensError(
            f"no token of the corpus counts: the first {skip_first} of each row, and special ones, do not"
        )
    how = {**sites_of_weights(source, target), "skip_first": skip_first, "skip_special": skip_special}
    return _labelled(model, virtual, weight, sums, how)


class _Sums:
    """What pairs' expectations are made of, in float64.

    Parameters
    ----------
    pairs
        Of each target the numbers of its sources, -1 for none.
    n_targets
        How many targets.
    """

    def __init__(self, pairs: Int[Tensor, "target k"], n_targets: int):
        self.pairs, self.n_tokens = pairs, 0
        kind: dict[str, Any] = {"dtype": torch.float64, "device": float64_device(pairs.device)}
        self.plain, self.weighted, self.together = (torch.zeros(pairs.shape, **kind) for _ in range(3))
        self.active, self.total = (torch.zeros(n_targets, **kind) for _ in range(2))

    def add(self, sources: Float[Tensor, "token source"], targets: Float[Tensor, "token target"]) -> None:
        """The codes of some tokens more."""
        self.n_tokens += len(targets)
        token, feature = targets.nonzero(as_tuple=True)
        strength, place = in_float64(targets[token, feature]).abs(), self.total.device
        self.active += torch.bincount(feature, minlength=len(self.active)).to(place)
        self.total.index_add_(0, feature.to(place), strength)
        size = max(1, limit("contraction_numbers") // max(1, self.pairs.shape[1]))
        for at, j, a_j in zip(token.split(size), feature.split(size), strength.split(size), strict=True):
            i = self.pairs[j]
            a_i = in_float64(sources[at[:, None], i.clamp_min(0)]).masked_fill_(i.to(place) < 0, 0)
            j = j.to(place)
            self.plain.index_add_(0, j, a_i)
            self.weighted.index_add_(0, j, a_i * a_j[:, None])
            self.together.index_add_(0, j, (a_i != 0).double())


def _given(virtual: Any, source: Any, target: Any, device: Any) -> tuple[Tensor, Tensor]:
    """The weights and the sources' numbers, once they are known to be of these dictionaries."""
    names = {"weight", "source"}
    arrays = isinstance(virtual, xr.Dataset) and names <= {*virtual.data_vars}
    if not arrays or any(virtual[name].dims != ("feature", "k") for name in names):
        raise ResultError("virtual is no result of virtual_weights: it has no weight and source by (feature, k)")
    if virtual.attrs.get("through"):
        raise ArgumentError(
            f"these weights are through {virtual.attrs['through']}, which joins two positions: expectations are over "
            "features at one token. Give virtual_weights without through"
        )
    for name, site in sites_of_weights(source, target).items():
        if virtual.attrs.get(name, site) != site:
            raise ArgumentError(f"virtual weights have {name}={virtual.attrs[name]}, the dictionary given {site}")
    weight, number = (np.asarray(virtual[name].values) for name in ("weight", "source"))
    if weight.dtype.kind != "f" or not np.isfinite(weight).all() or number.dtype.kind not in "iu":
        raise ResultError("virtual weights must be finite numbers, and their sources whole ones")
    beyond = number.size and (number.min() < -1 or number.max() >= source.n_features)
    if len(weight) != target.n_features or beyond:
        raise ArgumentError(
            f"virtual weights are of {len(weight)} targets and sources up to {number.max(initial=-1)}; {target!r} has "
            f"{target.n_features} features and {source!r} {source.n_features}: give the dictionaries that they are of"
        )
    return torch.tensor(weight, dtype=torch.float64), torch.tensor(number, dtype=torch.long, device=device)


def _states(run: Run, groups: list[Features], counted: Bool[Tensor, "batch pos"]) -> Float[Tensor, "token ..."]:
    """What a dictionary reads at the tokens that count: of one layer, or of all side by side."""
    counted = counted.to(run[groups[0].site.key].device)
    states = [run[group.site.key].detach()[counted] for group in groups]
    return torch.stack(states, 1) if getattr(groups[0].dictionary, "n_layers", 0) else states[0]


def _codes(dictionary: FeatureDictionary, states: Tensor) -> Float[Tensor, "token feature"]:
    return dictionary.encode(states).detach()


def _labelled(model: Model, virtual: xr.Dataset, weight: Tensor, sums: _Sums, how: dict[str, Any]) -> xr.Dataset:
    plain, weighted, together, active, total = (
        each.cpu() for each in (sums.plain, sums.weighted, sums.together, sums.active, sums.total)
    )
    size = weight.abs()
    alone = (size * (together == 0)).sum(1)
    was = active > 0
    share = torch.where(was & (size.sum(1) > 0), alone / size.sum(1), torch.nan)
    attrs = {
        "technique": expected_weights,
        "model": model,
        **how,
        "n_tokens": sums.n_tokens,
        "interference": float(alone[was].sum() / size[was].sum()),
    }
    era = labelled(weight * plain / sums.n_tokens, ["feature", "k"], name="era", **attrs)
    pair = ("feature", "k")
    arrays: dict[str, Any] = {
        "weight": (pair, virtual["weight"].values),
        "source": (pair, virtual["source"].values),
        "era": era,
        "twera": (pair, (weight * weighted / total[:, None]).numpy()),
        "together": (pair, together.long().numpy()),
        "active": ("feature", active.long().numpy()),
        "interference": ("feature", share.numpy()),
    }
    return xr.Dataset(arrays, attrs=era.attrs)
