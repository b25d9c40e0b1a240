"""Is a concept in one feature, or in a few? Sparse probes of codes, beside the states', neurons and chance (B.11).

    codes of an example = mean over its tokens;   k features by the difference of class means;   logistic regression

Of the measures of use it is the one that told dictionaries apart best in a public audit (arXiv 2605.18229), and even so
variants of one architecture hardly. A dense probe of the states stands beside: it is seldom beaten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.measures.controls import random_dictionary
from caseback.decode.dictionaries.measures.given import Dictionaries, StatesLike, named, rows_in_hand, whole
from caseback.decode.probes.linear_probe import linear_probe
from caseback.decode.probes.setting import Labels
from caseback.decode.probes.sparse_probe import sparse_probe
from caseback.decode.states import States
from caseback.errors import TokensError
from caseback.model.registry import technique
from caseback.model.results import labelled


@technique(
    entry=("4.2.22", "4.2.23", "B.11"),
    citation="Gurnee et al. 2023; Kantamneni et al. 2025; Karvonen et al. 2025",
    cost="one encoding of the states by each dictionary, and sparse probes of its codes; no model is run",
)
def probe_features(
    dictionaries: Dictionaries,
    states: StatesLike,
    labels: Labels,
    *,
    k: Sequence[int] = (1, 2, 5),
    random: bool = True,
    n_folds: int = 4,
    resamples: int = 200,
    seed: int = 0,
) -> xr.Dataset:
    """Read a label from k features of each dictionary, of a random one, and from k coordinates of the states.

    Parameters
    ----------
    dictionaries
        One, or several by name; they read the same states.
    states
        (token, d), a label for each; or what ``read_states(..., pos=slice(1, None))`` gives of one place, whose codes
        are then averaged over each prompt's tokens, a label for each prompt.
    labels
        Two classes or more.
    k
        How many features probes read; more than a dictionary has are refused.
    random
        Whether a ``random_dictionary`` stands beside each.
    n_folds, resamples, seed
        As in ``sparse_probe``: how groups are dealt, resamples of the interval, the same seed for the same result.

    Returns
    -------
    xr.Dataset
        By ``dictionary`` and ``k``: ``f1``, ``auroc``, ``accuracy`` with ``low`` and ``high``, ``shuffled``; the rows
        are the dictionaries, each with ``", random"`` behind it, and last ``"states"``, the coordinates of the states
        (neurons, at ``mlp_post``). By ``dictionary``: ``best_feature``, the first that is chosen. Attributes:
        ``dense_accuracy`` of a probe of all coordinates, and ``majority``.

    Raises
    ------
    CasebackError
        For another number of labels, one class, ``k`` beyond a dictionary's features, and states that cannot be read.

    Examples
    --------
    >>> from caseback.decode.dictionaries.measures import neuron_dictionary
    >>> x = torch.randn(400, 12, generator=torch.Generator().manual_seed(0))
    >>> table = probe_features({"all": neuron_dictionary(12)}, x, (x[:, 7] > 0).tolist(), k=(1, 2))
    >>> int(table.best_feature.sel(dictionary="all")), bool(table.auroc.sel(dictionary="all", k=1) > 0.95)
    (7, True)
    """
    several = named(dictionaries)
    prompt = states.prompt if isinstance(states, States) else None
    x = whole(states)
    if random:
        several = {
            name: each
            for own, one in several.items()
            for name, each in ((own, one), (f"{own}, random", random_dictionary(one, x, seed=seed)))
        }
    columns = {name: _by_example(codes_of(one, x), prompt) for name, one in several.items()}
    columns["states"] = _by_example(x, prompt)
    how: dict[str, Any] = {"n_folds": n_folds, "resamples": resamples, "seed": seed}
    tables = [sparse_probe(values, labels, k=k, **how).isel(site=0, drop=True) for values in columns.values()]
    dense = linear_probe(columns["states"], labels, **how).table
    names = ["f1", "auroc", "accuracy", "low", "high", "shuffled"]
    arrays = {name: (["dictionary", "k"], np.stack([table[name].values for table in tables])) for name in names}
    best = ["dictionary"], np.array([int(table.feature[0]) for table in tables])
    attrs = {"dense_accuracy": float(dense.accuracy[0]), "majority": float(dense.majority), **how}
    of = labelled(arrays["f1"][1], ["dictionary", "k"], technique=probe_features, **attrs).attrs
    coords = {"dictionary": list(columns), "k": tables[0].k.values}
    return xr.Dataset({**arrays, "best_feature": best}, coords, of)


@torch.no_grad()
def codes_of(dictionary: Dictionary, x: Float[Tensor, "token d"]) -> Float[Tensor, "token feature"]:
    """Codes of all tokens, some rows at a time."""
    if x.shape[1] != dictionary.d_in:
        raise TokensError(f"states of {x.shape[1]} numbers: the dictionary reads {dictionary.d_in}")
    at = x.to(dictionary.W_enc.device)
    return torch.cat([dictionary.encode(some) for some in at.split(rows_in_hand(dictionary))])


def _by_example(values: Tensor, prompt: Int[Tensor, " token"] | None) -> Float[Tensor, "example d"]:
    """The mean over the tokens of each prompt; each token by itself where there are none."""
    if prompt is None:
        return values
    _, row = prompt.to(values.device).unique(return_inverse=True)
    sums = values.new_zeros(int(row.max()) + 1, values.shape[1]).index_add_(0, row, values)
    return sums / torch.bincount(row)[:, None]
