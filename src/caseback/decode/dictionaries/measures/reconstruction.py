"""What a dictionary makes of states: how much it explains, with how many features, and how often each is active.

    L0 = E #{i: a_i != 0}         gamma = E |t^|^2 / E <t, t^>         density_i = P(a_i != 0)

gamma is 1 where no length is lost on average, and below 1 where features are shrunk (Rajamanoharan et al. 2024). One
pass over the states for all dictionaries; sums are in float64 and do not depend on the pieces that states come in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.decode.dictionaries.dictionary import Dictionary
from caseback.decode.dictionaries.measures.decoder_rows import encoder_agreement, nearest_rows
from caseback.decode.dictionaries.measures.explained import explained_variance
from caseback.decode.dictionaries.measures.given import (
    Dictionaries,
    StatesLike,
    expect_widths,
    named,
    paired_blocks,
)
from caseback.decode.dictionaries.measures.sums import Sums, bin_of, coded, edge
from caseback.errors import OutOfRange
from caseback.model.registry import technique
from caseback.model.results import labelled

DENSITY_EDGES = np.arange(-8.0, 0.01, 0.25)
"""Where bins of log10 density begin and end; what is never active has none and is counted as dead."""

WORTH_A_NOTE = 0.02
"""A difference between explained variances with long tokens and without them that is worth saying."""


@technique(
    entry=("4.2.15", "B.11"),
    citation="Bricken et al. 2023; Rajamanoharan et al. 2024; Karvonen et al. 2025",
    cost="one encoding and decoding of all states by each dictionary",
)
def reconstruction_measures(
    dictionaries: Dictionaries,
    states: StatesLike,
    targets: StatesLike | None = None,
    *,
    norm_multiple: float = 10.0,
    block: int = 4096,
) -> xr.Dataset:
    """Measure reconstructions of states by dictionaries, all in one pass.

    Parameters
    ----------
    dictionaries
        One, or several by name, that read the same states.
    states
        (token, d), whole or in pieces: a tensor, ``read_states`` of one place with ``pos=None``, or an iterable such as
        ``stream.from_store(store)``.
    targets
        What transcoders are to reconstruct, token by token; the states themselves unless given.
    norm_multiple
        Tokens longer than about so many median norms are left out of the explained variance that is the default, and
        of all means but ``l0`` and densities. Ten is what training code leaves out.
    block
        Tokens over which the two means of ratios take their mean state; the peers' batch.

    Returns
    -------
    xr.Dataset
        By ``dictionary``: ``explained_variance`` (the corpus ratio without long tokens), the other definitions as
        ``explained_variance_corpus``, ``_tokens``, ``_batches`` and ``_of_error``; ``l0``; ``cosine``; ``norm_ratio``
        E|t^|/|t|; ``relative_bias`` gamma; ``error`` E|t - t^|^2; ``dead_share``, features that were active at none
        of the ``tokens``; ``above_1_percent`` and ``above_10_percent``, shares of features that dense;
        ``nearest_row`` and ``encoder_agreement``, the means over features of the highest cosine with another row and
        of the encoder's with the decoder's. By ``feature``: ``density``, NaN beyond a dictionary's own number of
        features. By ``bin``: ``density_histogram``, how many features have a log10 density from ``bin`` on, a quarter
        wide. Attributes name the definition, the norm from which tokens were left out and how many those are; ``note``
        says where leaving them out moves explained variance by more than .02.

    Raises
    ------
    TokensError
        For no states, states that are not finite, or of another width than a dictionary's, and targets of another
        number.
    OutOfRange
        For a ``norm_multiple`` or ``block`` that is not above 0.

    Notes
    -----
    Entries 4.2.15 and B.11. Norms are sorted into bins of a factor 2^(1/4) as they pass; the edge nearest to
    ``norm_multiple`` medians is where tokens are left out, so one pass is enough. A dictionary that is dead after a
    million tokens may not be so after ten million: compare dead shares at the same number of tokens.

    Examples
    --------
    >>> from caseback.decode.dictionaries import TopK
    >>> x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    >>> table = reconstruction_measures({"a": TopK(8, 32, k=4), "b": TopK(8, 32, k=8)}, x)
    >>> bool(table.l0.sel(dictionary="a") <= 4), table.attrs["tokens"]
    (True, 1000)
    """
    if not norm_multiple > 0 or block < 1:
        raise OutOfRange(f"norm_multiple {norm_multiple}, block {block}: expected more than 0, and 1 or more")
    several = named(dictionaries)
    sums = {name: Sums.of(one) for name, one in several.items()}
    for x, target in paired_blocks(states, targets, block):
        expect_widths(several, x.shape[1], target.shape[1])
        for name, one in several.items():
            written, fired = coded(one, x)
            sums[name].add(target.to(written.device), written, fired)
    return _table(several, sums, norm_multiple, block)


def _table(
    dictionaries: Mapping[str, Dictionary], sums: Mapping[str, Sums], norm_multiple: float, block: int
) -> xr.Dataset:
    first = next(iter(sums.values()))
    up_to = long_from(first, norm_multiple)
    left_out = int(first.numbers[up_to:, 0].sum())
    rows = [_measures(one, sums[name], up_to) for name, one in dictionaries.items()]
    density = by_feature([s.fired.cpu().double() / s.tokens for s in sums.values()])
    differ = [
        name for name, row in zip(dictionaries, rows, strict=True)
        if abs(row["explained_variance"] - row["explained_variance_corpus"]) > WORTH_A_NOTE
    ]  # fmt: skip
    note = f"explained variance with long tokens differs by more than {WORTH_A_NOTE}: {', '.join(differ)}"
    attrs = {
        "tokens": first.tokens,
        "explained_variance": "corpus ratio, long tokens left out",
        "longer_than": edge(up_to),
        "long_tokens": left_out,
        "block": block,
        "note": note if differ else None,
    }
    arrays: dict[str, tuple[list[str], Any]] = {name: (["dictionary"], [row[name] for row in rows]) for name in rows[0]}
    arrays["density"] = ["dictionary", "feature"], density
    with np.errstate(divide="ignore"):
        arrays["density_histogram"] = ["dictionary", "bin"], np.stack([_histogram(d) for d in density])
    coords = {"dictionary": list(dictionaries), "feature": np.arange(density.shape[1]), "bin": DENSITY_EDGES[:-1]}
    of = labelled(density, ["dictionary", "feature"], technique=reconstruction_measures, **attrs).attrs
    return xr.Dataset(arrays, coords, of)


def long_from(sums: Sums, norm_multiple: float) -> int:
    """The bin of norms from which tokens are left out: the edge nearest to so many medians."""
    return int(bin_of(torch.tensor([norm_multiple * sums.median_norm()], dtype=torch.float64))) + 1


def _measures(dictionary: Dictionary, sums: Sums, up_to: int) -> dict[str, float]:
    of_rows = {"nearest_row": nearest_rows(dictionary), "encoder_agreement": encoder_agreement(dictionary)}
    return measures_of(sums, up_to) | {name: float(value.mean()) for name, value in of_rows.items()}


def measures_of(sums: Sums, up_to: int) -> dict[str, float]:
    """What sums over tokens say, those of the bins of norms below ``up_to`` where long ones are left out."""
    total = sums.total(up_to)
    count = max(total["count"], 1.0)
    density = sums.fired.double() / sums.tokens
    variances = explained_variance(sums, up_to)
    return {
        "explained_variance": variances.pop("masked"),
        **{f"explained_variance_{name}": value for name, value in variances.items()},
        "l0": float(density.sum()),
        "cosine": total["cosine"] / count,
        "norm_ratio": total["norm_ratio"] / count,
        "relative_bias": total["written"] / total["product"] if total["product"] else float("nan"),
        "error": total["error"] / count,
        "dead_share": float((density == 0).double().mean()),
        "above_1_percent": float((density > 0.01).double().mean()),
        "above_10_percent": float((density > 0.1).double().mean()),
    }


def by_feature(rows: Sequence[Tensor]) -> np.ndarray:
    """Numbers by feature of several dictionaries as one table, NaN beyond each one's own."""
    table = np.full((len(rows), max(map(len, rows))), np.nan)
    for own, row in zip(table, rows, strict=True):
        own[: len(row)] = row.cpu().numpy()
    return table


def _histogram(density: np.ndarray) -> np.ndarray:
    active = density[density > 0]
    return np.histogram(np.log10(active).clip(DENSITY_EDGES[0], -1e-9), DENSITY_EDGES)[0]
