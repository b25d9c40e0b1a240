"""Text known by heart, as plain data: ranks and gradients by layer, of texts continued verbatim and of two controls.

    difference = mean over texts of (own - matched),   error = its standard error;   past where |difference| > 2 error

It is taken of the layer from which on the continuation is the first choice, and of the mean layer of the gradient.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.jobs.text_file import read_texts
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tables.result_of import expect_result
from caseback.tasks.formats import word_functions
from caseback.tasks.idioms import IDIOMS, PLAIN_SENTENCES

__all__ = ["MEMORIZATION", "memorization_document", "texts_by_heart"]

ERRORS = 2
LEAST = 4
"""Pairs of texts of which a difference is taken."""
ASKED, CONTINUED = 24, 38
"""Words of a passage: about the 32 tokens that are given and the 50 that are to be extracted (Carlini et al. 2023)."""


def _lengths(document: Mapping[str, Any]) -> None:
    n, curves = len(document["layers"]), document["curves"]
    of_all = [curve for curve in (*curves["rank"].values(), *curves["gradient"].values()) if curve is not None]
    if odd := [len(curve) for curve in of_all if len(curve) != n]:
        raise CasebackError(f"a curve of {odd[0]} values over {n} layers: pass what memorization_document returned")


MEMORIZATION = DocumentKind(
    "caseback.memorization",
    1,
    "a document of memorized text",
    "memorization_document",
    sections=("name", "counts", "layers", "curves", "settled", "gradient", "loss", "texts", "provenance"),
    lengths=_lengths,
)


@checked
def memorization_document(model: Model, known: xr.Dataset, name: str = "") -> dict[str, Any]:
    """What ``memorization`` measured as plain data.

    Parameters
    ----------
    model
        The model.
    known
        What ``caseback.behaviors.memorization`` gave for it.
    name
        What the texts are called.

    Returns
    -------
    dict
        ``counts`` of texts, of those continued ``verbatim``, of these with a ``matched`` text, and of these whose
        continuation is the first choice behind the ``shuffled`` prompt too. Of texts continued verbatim, by variant:
        ``curves`` by layer, the geometric mean ``rank`` and the mean share of the ``gradient``, None where there is no
        text; ``settled`` and ``gradient``, the mean layer of the ``own`` and of the ``matched`` texts with the
        ``difference``, its ``error``, ``n``, and whether it is ``past`` two errors, None with fewer than four pairs;
        ``loss`` in nats a piece. ``texts`` is a row for each text.

    Raises
    ------
    CasebackError
        For another dataset, or one of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> known = cb.behaviors.memorization(model, [("The capital of France is", "Paris")])
    >>> memorization_document(model, known)["counts"]
    {'texts': 1, 'verbatim': 1, 'matched': 0, 'shuffled': 1}
    """
    expect_result(model, known, ("verbatim", "written", "rank", "settled", "gradient", "loss"), "memorization")
    verbatim = known["verbatim"].values == 1
    settled, loss = known["settled"].values, known["loss"].values
    rank, gradient = (known[name].transpose("variant", "layer", "batch").values for name in ("rank", "gradient"))
    layers = known["layer"].values
    depth = np.einsum("vlb,l->vb", gradient, layers.astype(float))
    variants = known["variant"].values.tolist()
    by_variant = lambda table: {  # noqa: E731
        name: _mean(table[i][..., verbatim]) for i, name in enumerate(variants)
    }
    ranks = by_variant(np.log(rank))
    return MEMORIZATION.document(
        model_facts(model),
        name=name,
        counts={
            "texts": len(verbatim),
            "verbatim": int(verbatim.sum()),
            "matched": int((verbatim & (known["matched"].values != "")).sum()),
            "shuffled": int((verbatim & (rank[1, -1] == 1)).sum()),
        },
        layers=layers.tolist(),
        curves={
            "rank": {name: None if one is None else np.exp(one).tolist() for name, one in ranks.items()},
            "gradient": {name: None if one is None else one.tolist() for name, one in by_variant(gradient).items()},
        },
        settled=_difference(settled[0], settled[2], verbatim),
        gradient=_difference(depth[0], depth[2], verbatim),
        loss={name: None if one is None else float(one) for name, one in by_variant(loss).items()},
        texts=[
            {
                **{"prompt": str(known["prompt"].values[i]), "continuation": str(known["continuation"].values[i])},
                **{"verbatim": bool(verbatim[i]), "written": int(known["written"].values[i])},
                **{"pieces": int(known["pieces"].values[i]), "settled": _layer(settled[0, i])},
                **{"rank": int(rank[0, -1, i]), "shuffled_rank": int(rank[1, -1, i])},
                **{"matched": str(known["matched"].values[i]), "matched_settled": _layer(settled[2, i])},
            }
            for i in range(len(verbatim))
        ],
        provenance={
            **model.provenance(),
            **{key: str(known.attrs[key]) for key in ("technique", "entry", "citation")},
        },
    )


@checked
def texts_by_heart(name: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]] | None]:
    """Texts that may be known by heart, and others beside them; None where those not known by heart are taken.

    Parameters
    ----------
    name
        ``idioms``, which stand beside plain sentences; or a file: JSON of pairs with ``input`` and ``output``, or text
        with a passage a line, of which the first 24 words ask for the next 38. Shorter passages are left out.

    Raises
    ------
    CasebackError
        If it is neither, or no passage is long enough.

    Examples
    --------
    >>> texts, others = texts_by_heart("idioms")
    >>> texts[0]
    ("The apple doesn't fall far from the", 'tree')
    """
    if name == "idioms":
        return list(IDIOMS), list(PLAIN_SENTENCES)
    if not os.path.isfile(name):
        raise CasebackError(f"{name!r} is neither idioms nor a file: expected JSON of pairs, or text")
    if name.endswith((".json", ".jsonl")):
        return list(word_functions(name)), None
    passages = [words for text in read_texts(name) if len(words := text.split()) >= ASKED + CONTINUED]
    if not passages:
        raise CasebackError(f"{name} has no passage of {ASKED + CONTINUED} words: expected one a line")
    return [(" ".join(one[:ASKED]), " ".join(one[ASKED : ASKED + CONTINUED])) for one in passages], None


def _layer(value: float) -> int | None:
    return None if np.isnan(value) else int(value)


def _mean(table: np.ndarray) -> np.ndarray | None:
    """The mean over texts, of those that have a number; None where none has."""
    has = ~np.isnan(np.atleast_2d(table)).any(0)
    return table[..., has].mean(-1) if has.any() else None


def _difference(own: np.ndarray, matched: np.ndarray, verbatim: np.ndarray) -> dict[str, Any] | None:
    both = verbatim & ~np.isnan(own) & ~np.isnan(matched)
    if both.sum() < LEAST:
        return None
    differences = (own - matched)[both]
    mean, error = float(differences.mean()), float(differences.std(ddof=1) / np.sqrt(both.sum()))
    return {
        **{"own": float(own[both].mean()), "matched": float(matched[both].mean()), "n": int(both.sum())},
        **{"difference": mean, "error": error, "past": bool(abs(mean) > ERRORS * error)},
    }
