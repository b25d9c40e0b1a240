"""Weights as words, as a document that can be drawn: panels of tokens at both ends of a direction, or pairs of tokens.

Plain JSON data. Every number is the result's own, unrounded; nothing is computed anew. A result about neurons or a
head's directions has one panel per unit, with one side; one about singular vectors has one panel per pair of vectors,
with two sides, and a side that is not in the stream is described by the numbers of its units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from caseback.decode.vocabulary import weights_as_words
from caseback.decode.vocabulary.weights.named_matrices import MATRICES
from caseback.errors import CasebackError, OutOfRange, SiteAbsent
from caseback.model.arguments import checked
from caseback.model.graph.names import head_name
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts

__all__ = ["OF_MLP", "WEIGHTS", "neuron_words", "weights_document"]

WEIGHTS = DocumentKind(
    "caseback.weights",
    1,
    "a document of weights",
    "weights_document",
    sections=("layer", "head", "expert", "folded", "entry", "form", "of", "neuron", "title", "provenance"),
)
_ENDS = ("top", "bottom")
_SIDES = {"in": "reads", "out": "writes", "neuron": "neurons", "d_head": "dimensions of the head"}
_QK = ("asks", "is asked for")


OF_MLP = ("in", "gate", "out")


@checked
def neuron_words(
    model: Model,
    layer: int,
    neuron: int,
    *,
    matrix: str | None = None,
    expert: int | None = None,
    k: int = 10,
    folded: bool = True,
) -> dict[str, xr.Dataset]:
    """What each matrix of the MLP holds for one neuron, as words.

    Parameters
    ----------
    model, layer, expert, k, folded
        As for ``weights_as_words``.
    neuron
        Which neuron.
    matrix
        One of ``OF_MLP``; by default all that the model has.

    Raises
    ------
    SiteAbsent
        Where the model lacks the matrix that is asked for.

    Examples
    --------
    >>> import caseback as cb
    >>> list(neuron_words(cb.load("meadow"), 1, 5, k=2))
    ['in', 'out']
    """
    words = {}
    for name in OF_MLP if matrix is None else (matrix,):
        try:
            of_matrix = weights_as_words(model, name, layer, expert=expert, units=[neuron], k=k, folded=folded)
        except SiteAbsent:
            if matrix is not None or name != "gate":
                raise
            continue
        words[name] = of_matrix.isel(neuron=0)
    return words


@checked
def weights_document(model: Model, results: xr.Dataset | Mapping[str, xr.Dataset], *, most: int = 10) -> dict[str, Any]:
    """Put together what the page of weights shows.

    Parameters
    ----------
    model
        The model.
    results
        What ``weights_as_words``, ``circuit_pairs`` or ``weight_svd_words`` returns; or, for one neuron, what
        ``weights_as_words`` returns for each matrix, by the matrix's name and without the dimension ``neuron``.
    most
        How many units of a matrix are shown.

    Returns
    -------
    dict
        The document, plain JSON data: ``form`` is ``"units"``, ``"singular"`` or ``"pairs"``. Units and singular
        vectors have ``panels``, each with ``name``, ``value`` and ``share`` (None for units) and ``sides``; a side has
        a ``label``, what its entries are (``of``: ``"token"``, ``"neuron"`` or ``"d_head"``) and the entries at both
        ends. Pairs are under ``pairs``.

    Raises
    ------
    CasebackError
        For results of other functions, or a number that is not finite.
    OutOfRange
        For ``most`` below 1.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> vectors = cb.decode.vocabulary.weight_svd_words(model, "ov", 2, head=4, top=2, k=3)
    >>> document = weights_document(model, vectors)
    >>> [side["label"] for side in document["panels"][0]["sides"]]
    ['reads', 'writes']
    >>> document["panels"][1]["value"] == float(vectors["value"][1])
    True
    """
    if most < 1:
        raise OutOfRange(f"most={most}: expected at least 1 unit")
    parts = [results] if isinstance(results, xr.Dataset) else list(results.values())
    techniques = {str(part.attrs.get("technique")).rpartition(".")[2] for part in parts}
    shown: dict[str, Any]
    if techniques == {"weight_svd_words"} and len(parts) == 1:
        shown = {"form": "singular", "of": parts[0].attrs["matrix"], **_singular(parts[0])}
    elif techniques == {"circuit_pairs"} and len(parts) == 1:
        shown = {"form": "pairs", "of": parts[0].attrs["matrix"], **_pairs(parts[0])}
    elif techniques == {"weights_as_words"}:
        shown = {"form": "units", **(_units(parts[0], most) if isinstance(results, xr.Dataset) else _neuron(results))}
    else:
        raise CasebackError(
            f"results of {', '.join(sorted(techniques)) or 'nothing'}: expected one of weights_as_words, circuit_pairs "
            "or weight_svd_words, or one of weights_as_words for each matrix of a neuron"
        )
    attrs = parts[0].attrs
    where = {name: _plain(attrs.get(name)) for name in ("layer", "head", "expert")}
    return WEIGHTS.document(
        model_facts(model, "name", "n_layers", "n_heads", "d_model", "vocab", "dtype"),
        **where,
        folded=bool(attrs["folded"]),
        entry=str(attrs["entry"]),
        **shown,
        provenance={**model.provenance(), **{k: v for k, v in attrs.items() if k.endswith("_version")}},
        title=_title({**where, **shown}),
    )


def _title(document: Mapping[str, Any]) -> str:
    """The title, the same as in the terminal."""
    of, layer, head = document["of"], document["layer"], document["head"]
    where = head_name(layer, head) if head is not None else f"layer {layer}"
    if document["expert"] is not None:
        where += f", expert {document['expert']}"
    if document["form"] == "singular":
        return f"Singular vectors of {of}, {where}"
    if document["form"] == "pairs":
        return f"{of.upper()} of {where}"
    if document["neuron"] is not None:
        return f"Neuron {document['neuron']} of {where}"
    return f"{'Directions' if head is not None else 'Neurons'} of {of}, {where}"


def _singular(result: xr.Dataset) -> dict[str, Any]:
    matrix = result.attrs["matrix"]
    kind = MATRICES[matrix]
    names = _QK if matrix == "qk" else (_SIDES[kind.left], _SIDES[kind.right])
    panels = []
    for i in range(result.sizes["rank"]):
        here = result.isel(rank=i)
        sides = [_side(here, name, label) for name, label in zip(("left_", "right_"), names, strict=True)]
        for side, of in zip(sides, (kind.left, kind.right), strict=True):
            side["of"] = "token" if of in ("in", "out") else of
        rank = int(here["rank"])
        panels.append(
            {"name": f"vector {rank}", "value": float(here["value"]), "share": float(here["share"]), "sides": sides}
        )
    return {"neuron": None, "panels": panels}


def _units(result: xr.Dataset, most: int) -> dict[str, Any]:
    matrix = result.attrs["matrix"]
    unit = MATRICES[matrix].unit
    numbers = result[unit].values.tolist()
    panels = [_panel(result.isel({unit: i}), f"{matrix} {number}") for i, number in enumerate(numbers[:most])]
    return {"of": matrix, "neuron": None, "units": len(numbers), "panels": panels}


def _neuron(by_matrix: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    wrong = [name for name, words in by_matrix.items() if words["top_id"].dims != ("k",)]
    if wrong:
        raise CasebackError(f"{', '.join(wrong)} of several neurons: choose one, as with .isel(neuron=0)")
    panels = [_panel(words, name) for name, words in by_matrix.items()]
    neuron = {int(words["neuron"]) for words in by_matrix.values()}
    if len(neuron) > 1:
        raise CasebackError(f"matrices of neurons {sorted(neuron)}: expected all of one")
    return {"of": None, "neuron": neuron.pop(), "units": 1, "panels": panels}


def _panel(words: xr.Dataset, name: str) -> dict[str, Any]:
    side = {**_side(words, "", _SIDES[words.attrs["side"]]), "of": "token"}
    return {"name": name, "value": None, "share": None, "sides": [side]}


def _side(words: xr.Dataset, name: str, label: str) -> dict[str, Any]:
    """Both ends of one side: tokens with id and text, or units with their number."""
    side: dict[str, Any] = {"label": label}
    for end in _ENDS:
        key = f"{name}{end}"
        values = words[f"{key}_value"].values.tolist()
        if f"{key}_unit" in words:
            units = words[f"{key}_unit"].values.tolist()
            side[end] = [{"unit": u, "value": v} for u, v in zip(units, values, strict=True)]
        else:
            side[end] = _tokens(words, key, values)
    return side


def _tokens(words: xr.Dataset, key: str, values: list[float]) -> list[dict[str, Any]]:
    ids, texts = words[f"{key}_id"].values.tolist(), words[f"{key}_text"].values.tolist()
    return [{"id": i, "text": t, "value": v} for i, t, v in zip(ids, texts, values, strict=True)]


def _pairs(result: xr.Dataset) -> dict[str, Any]:
    pairs: dict[str, Any] = {}
    for end in _ENDS:
        sides = []
        for side in ("from", "to"):
            ids, texts = (result[f"{end}_{side}_{what}"].values.tolist() for what in ("id", "text"))
            sides.append([{"id": i, "text": t} for i, t in zip(ids, texts, strict=True)])
        values = result[f"{end}_value"].values.tolist()
        pairs[end] = [{"from": a, "to": b, "value": v} for a, b, v in zip(*sides, values, strict=True)]
    own = result["own_value"]
    entries = zip(own["vocab"].values.tolist(), own["token"].values.tolist(), own.values.tolist(), strict=True)
    pairs["own"] = [{"id": i, "text": t, "value": v} for i, t, v in entries]
    numbers = {name: result.attrs[name] for name in ("copying", "own_mean", "mean", "rows")}
    return {"neuron": None, "pairs": {**pairs, **numbers}}


def _plain(value: Any) -> Any:
    return None if value is None else int(value)
