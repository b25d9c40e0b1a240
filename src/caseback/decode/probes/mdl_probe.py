"""MDL probes: not how well a label can be read, but how much it takes to send all labels to somebody who has x.

    compression = n log2 K / L           L: the code's length; uniform code n log2 K

A label that is easy to read costs few bits; one that a large probe learns by heart costs what it takes to learn it, so
that labels at random are not compressed, however powerful the probe. Voita & Titov 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from caseback.decode.probes.codes import PRECISIONS, laplace_bits, online_bits, variational_bits
from caseback.decode.probes.setting import Given, Labels
from caseback.decode.probes.splits import say_repeated_later
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.model.registry import technique

PORTIONS = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.25, 12.5, 25.0, 50.0, 100.0)
"""In percent of all examples: where the online code's probe is fitted anew."""


@technique(
    entry=("4.1.5",),
    citation="Voita & Titov 2020",
    cost="some logistic regressions at each of eleven portions (online), or of all examples (laplace, variational)",
)
def mdl_probe(
    x: Any,
    y: Labels,
    *,
    code: Literal["online", "variational", "laplace"] = "online",
    groups: Labels | None = None,
    types: Labels | None = None,
    sites: Sequence[Any] | None = None,
    portions: Sequence[float] = PORTIONS,
    seed: int = 0,
) -> xr.Dataset:
    """Measure how many bits the labels take, given representations at many sites.

    Parameters
    ----------
    x
        Representations (site, example, d_model), or (example, d_model) of one site.
    y
        A label for each example.
    code
        ``"online"`` sends portion after portion, each by a probe of those before; ``"laplace"`` and ``"variational"``
        send a probe with its labels, in closed form at its optimum or trained by noise. See ``codes``.
    groups
        What each example belongs to: the online code sends whole groups, so that nothing of a document is known before
        it comes. Without it examples come in random order.
    types
        A type for each example (its word), for the control task.
    sites
        Names of the sites; by default their numbers.
    portions
        Of the online code, rising, in percent of the examples; the last is 100. Those of the paper.
    seed
        Same seed, same result.

    Returns
    -------
    xr.Dataset
        By site: ``bits`` of all labels, ``bits_per_example``, ``compression``, ``precision`` (of the prior, chosen and
        paid for), ``shuffled`` (compression of shuffled labels, about 1 or below), and with ``types`` ``control``
        (compression of labels drawn for each type). ``uniform_bits`` is what n log2 K labels cost without a probe.
        Attribute ``repeated``: of the online code, how many examples are the same, at every site, as one that was sent
        in an earlier portion, which is said.

    Raises
    ------
    CasebackError
        For one class, counts that differ, portions that do not rise, numbers that are not finite, and features that
        never vary.

    Notes
    -----
    Entry 4.1.5: Voita & Titov 2020. The first portion is sent uniformly over all K classes. The paper stops its
    training early, on labels that it does not send; here a prior does, and its strength is paid for. Its variational
    code has a prior that prunes inputs; this one has one strength for all.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> x = torch.randn(2, 400, 8, generator=draw)
    >>> y = (x[1, :, 0] > 0).tolist()
    >>> mdl = mdl_probe(x, y, sites=["before", "after"])
    >>> [bool(compression > 2) for compression in mdl.compression], float(mdl.uniform_bits)
    ([False, True], 400.0)
    """
    given = Given.of(x, y, groups=groups, sites=sites)
    n, n_classes = len(given.labels), len(given.classes)
    random = np.random.default_rng(seed)
    tasks = given.tasks(types, random)
    order, ends = _order(given.groups, n, random)
    cuts = _cuts(portions, ends, n) if code == "online" else []
    data = given.x
    step = max(1, limit("probe_numbers", data.device) // data[0].numel())
    in_order = torch.from_numpy(order).to(data.device)
    portion = np.searchsorted(cuts, np.argsort(order), side="right")
    repeated = say_repeated_later(data, torch.from_numpy(portion).to(data.device), stacklevel=5) if cuts else 0

    def bits_of(labels: np.ndarray) -> tuple[Tensor, Tensor]:
        known = torch.from_numpy(labels).to(data.device)
        parts = []
        for some in data.split(step):
            if code == "online":
                parts.append(online_bits(some[:, in_order], known[in_order], n_classes, cuts))
            elif code == "laplace":
                parts.append(laplace_bits(some, known, n_classes))
            else:
                parts.append(variational_bits(some, known, n_classes, seed))
        best = torch.cat(parts, 1).min(0)
        return best.values.cpu() + math.log2(len(PRECISIONS)), best.indices.cpu()

    uniform = n * math.log2(n_classes)
    bits, chosen = bits_of(tasks["task"])
    columns = {
        "bits": bits,
        "bits_per_example": bits / n,
        "compression": uniform / bits,
        "precision": torch.tensor(PRECISIONS)[chosen],
    }
    columns |= {name: uniform / bits_of(tasks[name])[0] for name in tasks if name != "task"}
    table = xr.Dataset({k: ("site", v.double().numpy()) for k, v in columns.items()}, {"site": given.names})
    table["uniform_bits"] = uniform
    table.attrs |= {"code": code, "seed": seed, "n": n, "classes": n_classes, "repeated": repeated}
    return table


def _order(groups: np.ndarray | None, n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Examples in the order in which they are sent, whole groups in a random order, and where each group ends."""
    if groups is None:
        return random.permutation(n), np.arange(1, n + 1)
    place = random.permutation(int(groups.max()) + 1)[groups]
    return np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))


def _cuts(portions: Sequence[float], ends: np.ndarray, n: int) -> list[int]:
    """Where portions end, each where a group does."""
    shares = np.asarray(portions, dtype=float)
    if len(shares) < 2 or (np.diff(shares) <= 0).any() or shares[0] <= 0 or shares[-1] != 100:
        raise OutOfRange(
            f"portions {tuple(portions)}: expected two or more rising percentages, of which the last is 100"
        )
    cuts = sorted({int(ends[np.searchsorted(ends, max(2, round(share / 100 * n)))]) for share in shares})
    if len(cuts) < 2:
        raise CasebackError(f"{n} examples in {len(ends)} groups are one portion: expected more, or smaller groups")
    return cuts
