"""Directions of a label, as plain data: found in several ways at every place, how well each tells, how far they agree.

Agreement is of what is written and of what detects, way by way at each place, and of one way place by place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from caseback.decode.directions import Directions, direction_agreement, find_directions, place_agreement
from caseback.decode.directions.find import Way
from caseback.decode.states import read_means, read_states
from caseback.errors import CasebackError, did_you_mean
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.tasks.labeled_texts import LabeledTexts

__all__ = ["DIRECTIONS", "WAYS", "directions_report"]

WAYS: tuple[str, ...] = get_args(Way)
SHOWN = ("mean_difference", "lda", "logistic", "pca")
_COLUMNS = ("auroc", "shuffled", "random", "separation", "length", "cosine")


def _lengths(document: Mapping[str, Any]) -> None:
    places, ways = len(document["places"]), len(document["ways"])
    for way in document["ways"]:
        for name in _COLUMNS:
            if len(document["table"][way][name]) != places:
                raise CasebackError(f"{len(document['table'][way][name])} values of {name} for {places} places")
    for of in ("write", "detect"):
        shape = np.shape(document["agreement"][of]), np.shape(document["over_places"][of])
        if shape != ((places, ways, ways), (places, places)):
            raise CasebackError(f"cosines of shapes {shape} for {places} places and {ways} ways")


DIRECTIONS = DocumentKind(
    "caseback.directions",
    1,
    "a document of directions",
    "directions_report",
    sections=("label", "classes", "read", "split", "ways", "places", "table", "agreement", "over_places", "by_chance"),
    lengths=_lengths,
)


@checked
def directions_report(
    model: Model,
    labeled: LabeledTexts,
    *,
    sites: str | Sequence[Any] = "resid_post",
    pos: int = -1,
    reduce: Literal["mean"] | None = None,
    ways: Sequence[str] = SHOWN,
    positive: Any = None,
    label: str = "label",
    seed: int = 0,
    progress: bool = False,
) -> tuple[dict[str, Any], dict[str, Directions]]:
    """Find the direction between two labels of some texts in several ways, and set them beside each other.

    Parameters
    ----------
    model
        The model.
    labeled
        Texts with one of two labels each.
    sites
        As for ``read_states``.
    reduce
        ``"mean"``: in place of one position the mean over all, without a text's first where it has another.
    pos
        The position of each text that is read; by default its last.
    ways
        Of ``find_directions``; the agreement over places is of the first.
    positive
        The label that directions point to; by default the later one, sorted.
    label
        What the labels are called.
    seed
        Same seed, same result.
    progress
        Show a progress bar.

    Returns
    -------
    dict, dict
        The document, and the directions by way. ``table`` has by way and place what ``find_directions`` measures;
        ``agreement`` the cosines of ways at each place, (place, way, way), of what is written (``"write"``) and of
        what detects (``"detect"``); ``over_places`` those of the first way's directions at all places, (place, place).

    Raises
    ------
    CasebackError
        As ``find_directions``, and for an unknown way, none, or one twice.

    Examples
    --------
    >>> import caseback as cb
    >>> names = {"Mary": "she", "Anna": "she", "John": "he", "Tom": "he"}
    >>> texts = [f"{name} went to the {place}" for name in names for place in ("store", "park", "house", "city")]
    >>> labeled = LabeledTexts(texts, [names[text.split()[0]] for text in texts])
    >>> document, found = directions_report(cb.load("meadow"), labeled, ways=["mean_difference", "lda"])
    >>> document["classes"], len(document["places"]), list(found)
    (['he', 'she'], 4, ['mean_difference', 'lda'])
    """
    for way in ways:
        if way not in WAYS:
            raise CasebackError(f"method {way!r} is unknown. {did_you_mean(way, WAYS)}")
    if not ways or len(set(ways)) != len(ways):
        raise CasebackError(f"methods {list(ways)}: expected one at least, each once")
    if reduce == "mean":
        states = read_means(model, labeled.texts, sites, progress=progress)
    else:
        states = read_states(model, labeled.texts, sites=sites, pos=pos, progress=progress)
    options: dict[str, Any] = {"positive": positive, "groups": labeled.groups, "seed": seed}
    known: Any = ways  # each is a Way
    by_way = {way: find_directions(states, labeled.labels, method=way, **options) for way in known}
    first = by_way[ways[0]]
    cosines: dict[str, Any] = {"agreement": {}, "over_places": {}}
    for of in ("write", "detect"):
        agreement = direction_agreement(by_way, of=of)
        cosines["agreement"][of] = agreement.values.tolist()
        cosines["over_places"][of] = place_agreement(first, of=of).values.tolist()
        by_chance = agreement.attrs["by_chance"]
    document = DIRECTIONS.document(
        model_facts(model),
        label=label,
        classes=[str(name) for name in first.classes],
        read="the mean over all tokens but the first" if reduce == "mean" else f"token {pos}",
        split={"n_train": int(first.table.attrs["n_train"]), "n_test": int(first.table.attrs["n_test"])},
        ways=list(ways),
        places=[
            {"name": str(place), "site": place.site, "layer": place.layer, "head": place.head} for place in first.places
        ],
        table={way: {name: one.table[name].values.tolist() for name in _COLUMNS} for way, one in by_way.items()},
        **cosines,
        by_chance=float(by_chance),
        provenance=model.provenance(),
    )
    return document, by_way
