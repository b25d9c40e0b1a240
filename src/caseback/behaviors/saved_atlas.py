"""An atlas in a folder: what was found as JSON, and every look at every unit as a table for machines.

FOLDER/atlas.json       kinds, candidates, facts, what it is of
FOLDER/units.csv.gz     unit, kind, score, control, ranked_by, band, class: a line for every unit and kind
"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from caseback.artifacts.artifact import load_json, save_json
from caseback.artifacts.hub import file_in
from caseback.artifacts.kinds import ATLAS
from caseback.behaviors.atlas import Atlas, KindReport
from caseback.behaviors.stream.fact import Fact
from caseback.errors import CasebackError, LoadError
from caseback.jobs.whole_file import make_folder, whole_file
from caseback.model.arguments import checked
from caseback.model.findings import Findings

UNITS = "units.csv.gz"
COLUMNS = ["unit", "kind", "score", "control", "ranked_by", "band"]
CLASS = "class"  # of the kinds whose units are of one; files of earlier versions have no such column


@checked
def save_atlas(atlas: Atlas, folder: str | Path) -> None:
    """Write an atlas to a folder.

    Parameters
    ----------
    atlas
        What ``atlas`` gave.
    folder
        Made where it does not exist; an atlas in it is replaced.

    Raises
    ------
    WriteError
        Where it cannot be written.
    """
    at = make_folder(folder, "the atlas")
    columns = [*COLUMNS, CLASS]
    frames = [frame.assign(kind=kind).reindex(columns=columns) for kind, frame in atlas.scores.items()]
    table = pd.concat(frames) if frames else pd.DataFrame(columns=columns)
    with whole_file(at / UNITS) as draft:
        # no time in its header, so that the same atlas is the same bytes
        table.to_csv(draft, index=False, float_format="%.7g", compression={"method": "gzip", "mtime": 0})
    save_json(_plain(atlas), ATLAS, at / "atlas.json")


def _plain(atlas: Atlas) -> dict[str, Any]:
    return {
        "about": dict(atlas.about),
        "kinds": [asdict(report) for report in atlas.kinds],
        "candidates": atlas.candidates.to_json(),
        "facts": [fact.to_json() for fact in atlas.facts],
        "cards": dict(atlas.cards),
    }


@checked
def load_atlas(folder: str | Path) -> Atlas:
    """Read what ``save_atlas`` wrote.

    Parameters
    ----------
    folder
        The folder, or its address on the hub (``hf://owner/name/folder``).

    Raises
    ------
    LoadError
        Where there is none, it cannot be fetched, or a file of it is damaged or does not fit the other.
    """
    described, units = (file_in(folder, name) for name in ("atlas.json", UNITS))
    if not os.path.isfile(described):
        raise LoadError(f"there is no atlas in {str(folder)!r}: expected a folder that save_atlas or --out wrote")
    data = load_json(described, ATLAS)
    try:
        reports = tuple(KindReport(**one) for one in data["kinds"])
        candidates, about = Findings.from_json(data["candidates"]), dict(data["about"])
        facts = tuple(Fact(**one) for one in data["facts"])
        table = pd.read_csv(units, compression="gzip")
        columns = [*COLUMNS, *(CLASS for _ in {CLASS} & set(table))]
        by_kind = pd.DataFrame(table[columns]).groupby("kind", sort=False)
        scores = {str(kind): _of_kind(pd.DataFrame(part)) for kind, part in by_kind}
    except (KeyError, TypeError, ValueError, OSError, CasebackError) as error:
        raise LoadError(f"{str(folder)!r} holds no whole atlas ({error}): make it again") from error
    if odd := sorted(set(scores) ^ {report.kind for report in reports if not report.missing}):
        raise LoadError(f"{str(folder)!r}: its two files are of different atlases ({odd[0]!r} is in one of them)")
    return Atlas(reports, candidates, scores, facts, about, dict(data.get("cards", {})))  # earlier versions have none


def _of_kind(part: pd.DataFrame) -> pd.DataFrame:
    """The lines of one kind as ``atlas`` has them."""
    none = [CLASS] if CLASS in part and not part[CLASS].notna().to_numpy().any() else []
    return part.drop(columns=["kind", *none])
