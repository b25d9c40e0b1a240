"""Fine-tuned representations in files: an artifact with R, W and b of each place.

rows, weight (place, r, d),   bias (place, r)          places, variant, first, last: facts
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from caseback.artifacts.artifact import Artifact, load, save
from caseback.artifacts.kinds import REFT
from caseback.decode.states import Place, expect_places
from caseback.decode.steering.reft import ReFT
from caseback.model.arguments import checked
from caseback.model.running.model import Model


@checked
def save_reft(reft: ReFT, path: str | Path) -> None:
    """Write a fine-tuned representation to one safetensors file, whole or not at all.

    Parameters
    ----------
    reft
        What ``fit_reft`` gave.
    path
        Where.

    Examples
    --------
    >>> import tempfile, torch
    >>> from caseback.decode import Place
    >>> from caseback.decode.steering import ReFT, load_reft
    >>> one = ReFT(torch.eye(2, 5)[None], torch.ones(1, 2, 5), torch.zeros(1, 2), [Place("resid_post", 1)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_reft(one, f"{folder}/a.safetensors")
    ...     load_reft(f"{folder}/a.safetensors")
    ReFT(loreft, rank 2 at resid_post.1, all positions)
    """
    tensors = {name: getattr(reft, name).detach().cpu().contiguous() for name in ("rows", "weight", "bias")}
    places = json.dumps([list(place) for place in reft.places])
    facts = {"places": places, "variant": reft.variant, "positions": json.dumps([reft.first, reft.last])}
    save(Artifact(tensors, facts, {}, {"losses": [float(x) for x in reft.losses]}), REFT, path)


@checked
def load_reft(path: str | Path, *, model: Model | None = None) -> ReFT:
    """Read what ``save_reft`` wrote.

    Parameters
    ----------
    path
        The file.
    model
        The model that it is to act on, if it is to be held against it.

    Raises
    ------
    LoadError
        For a file that holds none or a damaged one; with ``model``, for places that it lacks or another width.
    """

    def build(artifact: Artifact) -> ReFT:
        places = [Place(*parts) for parts in json.loads(artifact.facts["places"])]
        layout = {"rows": "place r d", "weight": "place r d", "bias": "place r"}
        artifact.expect(layout, place=len(places))
        first, last = json.loads(artifact.facts["positions"])
        rows, weight, bias = (artifact.tensors[name] for name in layout)
        variant: Any = artifact.facts["variant"]
        return ReFT(rows, weight, bias, places, variant, first, last, artifact.checks["losses"])

    def expect(reft: ReFT) -> None:
        if model is not None:
            expect_places(model, reft.places, reft.rows.shape[2], str(path))

    return load(path, REFT, build, expect)
