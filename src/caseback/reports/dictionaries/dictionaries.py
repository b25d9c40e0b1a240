"""What dictionaries are worth, as plain data: a row for each, with a random and a frozen-decoder one beside it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import xarray as xr

from caseback.decode.dictionaries import Crosscoder, Dictionary, latent_scaling
from caseback.decode.dictionaries.architectures.several_sources import SeveralSources
from caseback.decode.dictionaries.features.places import source_names
from caseback.decode.dictionaries.measures import compare_dictionaries, source_measures
from caseback.decode.dictionaries.measures.source_measures import source_states
from caseback.errors import CasebackError, OutOfRange
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.reports.dictionaries.dictionary_uses import attribute_rows, forgetting_rows
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.stream.documents import documents
from caseback.stream.packing import rows_of

__all__ = ["DICTIONARIES", "dictionaries_document"]

MEASURES = (
    *("l0", "explained_variance", "explained_variance_tokens", "explained_variance_of_error", "cosine"),
    *("relative_bias", "dead_share", "nearest_row", "encoder_agreement"),
    *("ce_increase", "ce_recovered", "kl", "kl_ratio"),
)


def _lengths(document: Any) -> None:
    for row in document["rows"]:
        if missing := [name for name in MEASURES if name not in row]:
            raise CasebackError(f"the row of {row['name']!r} lacks {missing[0]}")


DICTIONARIES = DocumentKind(
    "caseback.dictionaries",
    1,
    "a document of measured dictionaries",
    "dictionaries_document",
    sections=("rows", "tokens", "skipped", "ce_clean", "definition", "provenance"),
    lengths=_lengths,
)


@checked
def dictionaries_document(
    model: Model,
    dictionaries: Mapping[str, Dictionary],
    corpus: Iterable[Any] | Path,
    *,
    models: Mapping[str, Model] | None = None,
    rows: int = 200,
    frozen: bool = False,
    length: int | None = None,
    entities: Mapping[str, Any] | None = None,
    attribute: str = "Country",
    examples: int = 400,
    epochs: int = 5,
    forgetting: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure dictionaries on text that none of them was trained on, and make the document of it.

    Parameters
    ----------
    model
        The model.
    dictionaries
        By name; each says its site. Crosscoders of layers and cross-layer transcoders have a row for each target.
    corpus
        Texts, or the path of a file of them.
    models
        Both models of crosscoders of two, by the names that their sources begin with.
    rows
        Rows of tokens that are measured; with ``frozen`` as many more train the frozen decoders' encoders.
    frozen
        Whether a dictionary whose decoder is random and stays so is trained and measured beside each.
    length
        Tokens of a row at most; 128 by default, or the model's context where that is shorter.
    entities, attribute, examples, epochs
        Each entity's attributes, which one is to be moved alone, and how ``disentangling`` searches: ``{"entities":
        {name: {attribute: word}}, "templates": {attribute: text with {entity}}}``; without templates those of RAVEL's
        cities. The dictionaries must be of one site.
    forgetting
        What is to be forgotten and retained, for ``unlearning``: ``{"forget": {"texts": …, "questions": [[prompt,
        answer], …]}, "retain": the same}``.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    dict
        The document, plain JSON data: ``model``, ``rows`` with the measures of ``compare_dictionaries``, and of
        ``source_measures`` for those of several sources, ``tokens``,
        what was ``skipped``, the model's own loss ``ce_clean``, which ``definition`` of explained variance comes first,
        ``attributes`` and ``forgotten`` where asked for, ``shared`` for crosscoders: how many features are of which
        sources (``latent_scaling``), and ``provenance``.

    Raises
    ------
    CasebackError
        As ``compare_dictionaries``; and for a corpus with too few rows.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> one = TopK(160, 320, k=8, facts=Facts(site="resid_post.2"))
    >>> document = dictionaries_document(cb.load("meadow"), {"new": one}, ["Mary went to the store.", "the cat sat"])
    >>> [row["name"] for row in document["rows"]]
    ['new', 'new, random']
    """
    if rows < 1:
        raise OutOfRange(f"rows is {rows}: expected 1 or more")
    if not dictionaries:
        raise CasebackError("there is nothing to measure: give a dictionary")
    taken = [row.ids for row in islice(rows_of(model, documents(corpus), length=length), rows * (2 if frozen else 1))]
    training = taken[len(taken) // 2 :] if frozen else None
    judged = taken[: len(taken) // 2] if frozen else taken
    if not judged:
        raise CasebackError("the corpus has too few rows: give more text")
    alone, together = _by_sources(dictionaries)
    tables = []
    if alone:
        tables.append(compare_dictionaries(model, alone, judged, train_prompts=training, seed=seed, progress=progress))
    for of in (model, models):
        some = {name: one for name, one in together.items() if _of_two(one) == (of is models)}
        if some and of is None:
            raise CasebackError(f"{next(iter(some))!r} is of two models: give both, models= (in commands --other)")
        if some and of is not None:
            tables.append(source_measures(of, some, judged, seed=seed, progress=progress))
    measured = [row for table in tables for row in _rows(table)]
    table = tables[0]
    return DICTIONARIES.document(
        model_facts(model, "name", "n_layers", "d_model", "dtype"),
        rows=measured,
        tokens=int(table.attrs["tokens"]),
        skipped=str(table.attrs["skipped"]),
        ce_clean=float(table.attrs["ce_clean"]),
        definition="over the corpus, without tokens many times longer than the median",
        attributes=None
        if entities is None
        else attribute_rows(
            model,
            dictionaries,
            entities,
            attribute,
            count=examples,
            epochs=epochs,
            seed=seed,
            progress=progress,
        ),
        forgotten=None
        if forgetting is None
        else forgetting_rows(model, dictionaries, forgetting, seed=seed, progress=progress),
        shared=[_shared(models or model, name, one, judged) for name, one in together.items() if _comparable(one)]
        or None,
        provenance=model.provenance(),
    )


def _by_sources(dictionaries: Mapping[str, Dictionary]) -> tuple[dict[str, Dictionary], dict[str, SeveralSources]]:
    """Those of one source, and those of several."""
    together = {name: one for name, one in dictionaries.items() if isinstance(one, SeveralSources)}
    return {name: one for name, one in dictionaries.items() if name not in together}, together


def _of_two(dictionary: SeveralSources) -> bool:
    return any(":" in name for name in source_names(dictionary))


def _comparable(dictionary: SeveralSources) -> bool:
    return isinstance(dictionary, Crosscoder) and dictionary.n_sources > 1


def _shared(model: Any, name: str, dictionary: Any, rows: Any) -> dict[str, Any]:
    """Which source has a crosscoder's features: by its rows, and of those of one source alone what the states say."""
    names = source_names(dictionary)
    if not _of_two(dictionary) and isinstance(model, Mapping):
        model = next(iter(model.values()))
    table = latent_scaling(dictionary, source_states(model, name, dictionary, rows), sources=names)
    kinds = dict(Counter(table["kind"].values.tolist()).most_common())
    return {"name": name, "kinds": kinds, "exclusive": int(table["exclusive"].sum())}


def _rows(table: xr.Dataset) -> list[dict[str, Any]]:
    """A table's rows as plain data."""
    rows = []
    for i, name in enumerate(table.dictionary.values.tolist()):
        numbers = {measure: float(table[measure].values[i]) for measure in MEASURES}
        facts = {
            "name": name,
            "kind": str(table["kind"].values[i]),
            "of": str(table["of"].values[i]),
            "site": str(table["site"].values[i]),
            "frontier": bool(table["frontier"].values[i]) if "frontier" in table else False,
        }
        rows.append(facts | {key: x if math.isfinite(x) else None for key, x in numbers.items()})
    return rows
