"""Explanations put to a judge as plain data: each feature's scores beside another's words, and beside chance.

What is said of features comes from people's notes, from a file in Neuronpedia's form, or from lists of conditions that
are fitted here, on every second document of the corpus: then the others are what is asked about.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from caseback.decode.dictionaries import (
    Dictionary,
    dictionary_digest,
    explain_features,
    explanations_of_notes,
    read_explanations,
)
from caseback.errors import CasebackError, OutOfRange
from caseback.model.anatomy.sites import as_site
from caseback.model.arguments import checked
from caseback.model.notes import Notes
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tables.result_of import expect_result
from caseback.stream.documents import Corpus, documents

__all__ = ["JUDGED", "explanations_to_judge", "judged_document"]

QUESTIONS = ("detection", "fuzzing")


def _lengths(document: Mapping[str, Any]) -> None:
    for row in document["features"]:
        if odd := [name for name in QUESTIONS if not {"accuracy", "auroc", "another", "chance"} <= row[name].keys()]:
            raise CasebackError(f"feature {row['feature']} without all scores of {odd[0]}")


JUDGED = DocumentKind(
    "caseback.judged_explanations",
    1,
    "a document of judged explanations",
    "judged_document",
    sections=("dictionary", "how", "means", "features", "provenance"),
    lengths=_lengths,
)


@checked
def explanations_to_judge(
    model: Model,
    dictionary: Dictionary,
    corpus: Corpus,
    given: Notes | Path | None = None,
    *,
    features: Sequence[int] | None = None,
    count: int = 20,
    length: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> tuple[dict[int, str], list[Any]]:
    """What is said of features, and the documents to judge it on.

    Parameters
    ----------
    model
        The model whose states the dictionary reads.
    dictionary
        It must say its site.
    corpus
        Texts, or the path of a file or folder of them.
    given
        People's notes, or a file of explanations in Neuronpedia's form; by default ``explain_features`` fits lists of
        conditions to every second document.
    features
        Which; by default some of those that are explained.
    count
        How many, where ``features`` is not given, drawn at random.
    length
        Tokens of a row at most.
    seed
        Same seed, same features.
    progress
        Show a progress bar.

    Returns
    -------
    tuple
        Words by feature, and the documents that nothing was fitted to.

    Raises
    ------
    CasebackError
        For a feature of which nothing is said, nothing said of any, notes on another model or dictionary, and a
        dictionary that does not say its site.
    OutOfRange
        For fewer than one feature.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK
    >>> one = TopK(160, 320, k=4, facts=Facts(site="resid_post.1"))
    >>> notes = cb.Notes().put("L1F3:resid_post", "names").put("L1F5:resid_post", "places")
    >>> explanations_to_judge(cb.load("meadow"), one, ["Mary went.", "John sat."], notes)[0]
    {3: 'names', 5: 'places'}
    """
    if count < 1:
        raise OutOfRange(f"count is {count}: expected 1 or more")
    texts = [document.content for document in documents(corpus)]
    if given is None:
        how: dict[str, Any] = {"least_windows": 2, "controls": False, "length": length, "progress": progress}
        table = explain_features(model, dictionary, texts[::2], seed=seed, **how)
        judged = np.isfinite(table["detection"].values)
        words = {int(i): str(table["explanation"].values[i]) for i in np.flatnonzero(judged)}
        texts = texts[1::2]
    else:
        words = _words_of(model, dictionary, given)
    if features is not None:
        if silent := [i for i in features if i not in words]:
            raise CasebackError(f"nothing is said of feature {silent[0]}: expected some of {sorted(words)[:20]}")
        return {i: words[i] for i in features}, texts
    if not words:
        raise CasebackError("nothing is said of any feature: expected notes or explanations of some, or more text")
    drawn = np.random.default_rng(seed).permutation(sorted(words))[:count]
    return {i: words[i] for i in sorted(drawn.tolist())}, texts


def _words_of(model: Model, dictionary: Dictionary, given: Notes | Path) -> dict[int, str]:
    """What notes or a file say; of several about one feature all."""
    if isinstance(given, Notes):
        given.expect(model, dictionary_digest(dictionary))
        if not dictionary.facts.site:
            raise CasebackError("the dictionary does not say which site it reads: give it Facts(site='resid_post.5')")
        site = as_site(dictionary.facts.target or dictionary.facts.site)
        explained = explanations_of_notes(given, site.layer or 0, site.name)
    else:
        explained = read_explanations(given)
    words: dict[int, str] = {}
    for one in explained:
        words[one.index] = "; ".join(filter(None, (words.get(one.index), one.description.strip())))
    return words


@checked
def judged_document(
    model: Model, dictionary: Dictionary, judged: xr.Dataset, *, judge: str = "", source: str = ""
) -> dict[str, Any]:
    """What ``judge_explanations`` found as plain data.

    Parameters
    ----------
    model
        The model whose states the dictionary reads.
    dictionary
        The dictionary.
    judged
        What ``judge_explanations`` gave for it.
    judge, source
        Who was asked, and whose words the explanations are.

    Returns
    -------
    dict
        ``features`` has each ``feature`` with its ``explanation``, ``windows`` in which it fires, and of ``detection``
        and ``fuzzing`` the ``accuracy``, the area under the curve (``auroc``), the area with ``another`` feature's
        explanation, the area that ``chance`` passes once in twenty, and whether it is ``above`` that; ``means`` the
        mean ``auroc`` and ``another``, how many are ``judged`` and ``above``. None stands where there is no number.

    Raises
    ------
    CasebackError
        For another dataset, or one of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Facts, TopK, judge_explanations
    >>> model, one = cb.load("meadow"), TopK(160, 320, k=40, facts=Facts(site="resid_post.0"))
    >>> texts = [f"{name} went to the {place}." for name in ("Mary", "John") for place in ("store", "garden")]
    >>> words, undecided = {3: "names", 5: "places"}, lambda questions: [0.5] * len(questions)
    >>> judged = judge_explanations(model, one, texts, words, undecided, n=2, window=4)
    >>> document = judged_document(model, one, judged)
    >>> [row["explanation"] for row in document["features"]], document["means"]["detection"]["above"]
    (['names', 'places'], 0)
    """
    scores = [f"{name}{end}" for name in QUESTIONS for end in ("", "_auroc", "_chance")]
    expect_result(model, judged, (*scores, "windows", "explanation"), "judge_explanations")
    attrs = judged.attrs
    rows = [
        {
            "feature": int(feature),
            "explanation": str(judged["explanation"].values[i]),
            "windows": int(judged["windows"].values[i]),
            **{name: _score(judged, name, i) for name in QUESTIONS},
        }
        for i, feature in enumerate(judged["feature"].values)
    ]
    return JUDGED.document(
        model_facts(model, "name", "n_layers", "d_model", "dtype"),
        dictionary={
            "architecture": dictionary.architecture,
            "site": str(attrs["site"]),
            "n_features": dictionary.n_features,
        },
        how={"judge": judge, "source": source} | {name: int(attrs[name]) for name in ("asked", "n", "window", "seed")},
        means={name: _means([row[name] for row in rows]) for name in QUESTIONS},
        features=rows,
        provenance={**model.provenance(), **{name: str(attrs[name]) for name in ("technique", "entry", "citation")}},
    )


def _score(judged: xr.Dataset, name: str, i: int) -> dict[str, Any]:
    names = {"accuracy": name, "auroc": f"{name}_auroc", "another": f"{name}_auroc_of_another"}
    names["chance"] = f"{name}_chance"
    values = {key: float(judged[of].values[i]) if of in judged else math.nan for key, of in names.items()}
    above = values["auroc"] > values["chance"]
    return {key: value if math.isfinite(value) else None for key, value in values.items()} | {"above": bool(above)}


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = [row for row in rows if row["auroc"] is not None]
    other = [row["another"] for row in own if row["another"] is not None]
    return {
        "auroc": sum(row["auroc"] for row in own) / len(own) if own else None,
        "another": sum(other) / len(other) if other else None,
        "judged": len(own),
        "above": sum(row["above"] for row in own),
    }
