"""Directions in files: an artifact with what detects and what writes, and what was measured of them.

detect, write (place, d),   bias, norm (place,)        places, classes, model, method: facts and provenance
"""

from __future__ import annotations

import json
from pathlib import Path

from caseback.artifacts.artifact import Artifact, load, save
from caseback.artifacts.kinds import DIRECTIONS
from caseback.decode.directions.directions import Directions
from caseback.decode.saved_tables import table_of, table_parts
from caseback.decode.states import Place, expect_places
from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.model.running.model import Model


@checked
def save_directions(directions: Directions, path: str | Path) -> None:
    """Write directions to one safetensors file, whole or not at all.

    Parameters
    ----------
    directions
        What ``find_directions`` and its like gave.
    path
        Where.

    Raises
    ------
    CasebackError
        For labels that JSON cannot hold.

    Examples
    --------
    >>> import tempfile, torch
    >>> from caseback.decode.directions import find_directions, load_directions
    >>> x = torch.randn(1, 40, 3, generator=torch.Generator().manual_seed(0))
    >>> found = find_directions(x + (torch.arange(40) % 2)[:, None], ["no", "yes"] * 20, sites=["resid_post.2"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_directions(found, f"{folder}/yes.safetensors")
    ...     load_directions(f"{folder}/yes.safetensors").names
    ['resid_post.2']
    """
    try:
        facts = {
            "classes": json.dumps(list(directions.classes), allow_nan=False),
            "places": json.dumps([list(place) for place in directions.places]),
        }
        artifact = Artifact(
            {
                name: getattr(directions, name).detach().cpu().contiguous().clone()  # detect and write may be one
                for name in ("detect", "write", "bias", "norm")
            },
            facts,
            *table_parts(directions.table),
        )
    except (TypeError, ValueError) as error:
        raise CasebackError(f"labels or notes that JSON cannot hold: {error}") from None
    save(artifact, DIRECTIONS, path)


@checked
def load_directions(path: str | Path, *, model: Model | None = None) -> Directions:
    """Read what ``save_directions`` wrote.

    Parameters
    ----------
    path
        The file.
    model
        The model that they are to act on, if they are to be held against it.

    Raises
    ------
    LoadError
        For a file that holds no directions or a damaged one; with ``model``, for places that it lacks or another width.
    """

    def build(artifact: Artifact) -> Directions:
        places = [Place(*parts) for parts in json.loads(artifact.facts["places"])]
        layout = {"detect": "place d", "write": "place d", "bias": "place", "norm": "place"}
        artifact.expect(layout, place=len(places))
        negative, positive = json.loads(artifact.facts["classes"])
        return Directions(
            **{name: artifact.tensors[name] for name in layout},
            places=places,
            classes=(negative, positive),
            table=table_of(artifact, [str(place) for place in places]),
        )

    def expect(directions: Directions) -> None:
        if model is not None:
            expect_places(model, directions.places, directions.detect.shape[1], str(path))

    return load(path, DIRECTIONS, build, expect)
