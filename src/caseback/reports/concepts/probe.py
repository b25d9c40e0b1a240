"""What a page of probes shows, as plain data: how well a label is read at each place, and what else tells it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import xarray as xr

from caseback.decode.probes import Probe, linear_probe, probe_baselines
from caseback.decode.states import Place, read_means, read_states
from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.model.running.tokens import PromptsLike
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts

__all__ = ["PROBES", "probe_document", "probe_prompts"]

COLUMNS = ("accuracy", "low", "high", "train_accuracy", "shuffled", "bits", "control", "selectivity")


def _lengths(document: Any) -> None:
    for row in (*document["places"], *document["baselines"]):
        if not 0 <= row["low"] <= row["high"] <= 1 or not 0 <= row["accuracy"] <= 1:
            raise CasebackError(f"{row['name']!r} has accuracies beyond 0 and 1")


PROBES = DocumentKind(
    "caseback.probe",
    1,
    "a document of probes",
    "probe_document",
    sections=("label", "classes", "method", "split", "read", "majority", "places", "baselines"),
    lengths=_lengths,
)


@checked
def probe_prompts(
    model: Model,
    tokens: PromptsLike,
    labels: Sequence[Any],
    *,
    sites: str | Sequence[Any] = "resid_post",
    pos: int = -1,
    reduce: Literal["mean"] | None = None,
    method: Literal["logistic", "ridge", "mass_mean", "lda"] = "logistic",
    groups: Sequence[Any] | None = None,
    types: Sequence[Any] | None = None,
    baselines: bool = True,
    label: str = "label",
    seed: int = 0,
    progress: bool = False,
) -> tuple[dict[str, Any], Probe]:
    """Read a model's states of some prompts, fit linear probes to them, and make the document of both.

    Parameters
    ----------
    model
        The model.
    tokens
        Prompts: ``Tokens``, or anything that ``Model.tokens`` takes.
    labels
        One for each prompt.
    sites
        Where states are read, as ``read_states`` takes them.
    pos
        At which position of each prompt; by default its last.
    reduce
        ``"mean"``: instead, the mean over its positions, without the first where it has another.
    method, groups, types
        As for ``linear_probe``.
    baselines
        Whether to probe the words alone, the embeddings and an untrained model too.
    label
        What the labels are called.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    tuple
        The document, as ``probe_document`` makes it, and the probe.

    Raises
    ------
    CasebackError
        As ``read_states`` and ``linear_probe``.

    Examples
    --------
    >>> import caseback as cb
    >>> names, places = ["Mary", "Anna", "John", "Paul"], ["store", "park", "school", "house", "garden", "city"]
    >>> prompts = [f"{name} went to the {place}" for name in names for place in places]
    >>> document, probe = probe_prompts(cb.load("meadow"), prompts, [name for name in names for _ in places])
    >>> len(document["places"]), [row["name"] for row in document["baselines"]][:2]
    (4, ['bag of tokens', 'embed'])
    """
    prompts = model.tokens(tokens)
    if reduce == "mean":
        states = read_means(model, prompts, sites, progress=progress)
    else:
        states = read_states(model, prompts, sites=sites, pos=pos, progress=progress)
    options: dict[str, Any] = {"method": method, "groups": groups, "types": types, "seed": seed}
    probe = linear_probe(states, labels, **options)
    beside = None
    if baselines and reduce is None:
        beside = probe_baselines(model, prompts, labels, pos=pos, **options)
    read = "the mean over all tokens but the first" if reduce == "mean" else f"token {pos}"
    return probe_document(model, probe, baselines=beside, label=label, read=read), probe


@checked
def probe_document(
    model: Model,
    probe: Probe,
    *,
    baselines: xr.Dataset | None = None,
    label: str = "label",
    read: str = "",
) -> dict[str, Any]:
    """Make the document of a linear probe.

    Parameters
    ----------
    model
        The model whose states were probed.
    probe
        What ``linear_probe`` gave, of ``States``: its sites are named after their places.
    baselines
        What ``probe_baselines`` gave for the same labels.
    label, read
        What the labels are called, and where states were read, in words.

    Returns
    -------
    dict
        Plain JSON data: per place its ``accuracy``, the interval ``low`` and ``high``, ``train_accuracy``,
        ``shuffled``, ``bits`` and what else was measured; the same of the ``baselines``; and the ``majority``.

    Examples
    --------
    ::

        write_page(probe_document(model, linear_probe(states, labels)), "probes.html")
    """
    table = probe.table
    places = [Place.of(str(name)) for name in table.site.values]
    rows = [
        {"name": str(place), "site": place.site, "layer": place.layer, "head": place.head, **_row(table, i)}
        for i, place in enumerate(places)
    ]
    beside = (
        []
        if baselines is None
        else [{"name": str(name), **_row(baselines, i)} for i, name in enumerate(baselines.site.values)]
    )
    split = {name: int(table.attrs[name]) for name in ("n_train", "n_test", "repeated", "seed") if name in table.attrs}
    return PROBES.document(
        model_facts(model),
        label=label,
        classes=[str(c) for c in probe.classes],
        method=str(table.attrs["method"]),
        split=split,
        read=read,
        majority=float(table.majority),
        places=rows,
        baselines=beside,
        provenance=model.provenance(),
    )


def _row(table: xr.Dataset, i: int) -> dict[str, Any]:
    """What was measured at one site; what is not a number (bits of a method without log odds) is left out."""
    values = {name: float(table[name].values[i]) for name in COLUMNS if name in table}
    return {name: value for name, value in values.items() if not math.isnan(value)}
