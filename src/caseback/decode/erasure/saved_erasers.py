"""Erasers in files: proj_left (place, d, r), proj_right (place, r, d), mean (place, d); sites and classes as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from caseback.artifacts.artifact import Artifact, load, save
from caseback.artifacts.kinds import ERASER
from caseback.decode.erasure.eraser import Eraser
from caseback.decode.states import Place, expect_places
from caseback.errors import CasebackError, LoadError
from caseback.model.arguments import checked
from caseback.model.running.model import Model


@checked
def save_eraser(eraser: Eraser, path: str | Path, *, model: Model | None = None) -> None:
    """Write an eraser to one safetensors file, whole or not at all.

    Parameters
    ----------
    eraser
        What ``leace`` and its like gave.
    path
        Where.
    model
        The model whose states it was fitted to, which is then named in the file.

    Raises
    ------
    WriteError
        Where the file cannot be written.

    Examples
    --------
    >>> import tempfile, torch
    >>> from caseback.decode.erasure import leace
    >>> eraser = leace(torch.randn(50, 4), [i % 2 for i in range(50)], svd_tol=1e-6)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_eraser(eraser, Path(folder) / "a.safetensors")
    ...     load_eraser(Path(folder) / "a.safetensors").method
    'leace'
    """
    tensors = {"proj_left": eraser.proj_left, "proj_right": eraser.proj_right}
    if eraser.mean is not None:
        tensors["mean"] = eraser.mean
    places = [list(place) if isinstance(place, Place) else str(place) for place in eraser.places]
    try:
        facts = {
            "method": eraser.method,
            "places": json.dumps(places),
            "classes": json.dumps(eraser.classes, allow_nan=False),
        }
    except (TypeError, ValueError):
        raise CasebackError(f"the classes {eraser.classes} are no JSON data: expected text, numbers or truth") from None
    provenance = {**eraser.provenance, **({} if model is None else model.provenance())}
    save(Artifact(tensors, facts, provenance, dict(eraser.checks)), ERASER, path)


@checked
def load_eraser(path: str | Path, model: Model | None = None) -> Eraser:
    """Read what ``save_eraser`` wrote.

    Parameters
    ----------
    path
        The file.
    model
        The model that it is for: an eraser of sites that it lacks, or of another width, is refused.

    Raises
    ------
    LoadError
        For a file that holds no eraser, a damaged one, or one that does not fit the model.
    """

    def build(artifact: Artifact) -> Eraser:
        layout = {"proj_left": "place d r", "proj_right": "place r d"}
        if "mean" in artifact.tensors:
            layout["mean"] = "place d"
        places = [Place(*p) if isinstance(p, list) else p for p in json.loads(artifact.facts["places"])]
        artifact.expect(layout, place=len(places))
        checks = {name: [float(value) for value in values] for name, values in artifact.checks.items()}
        if (
            not places
            or {"rank", "removed", "change"} - set(checks)
            or {len(v) for v in checks.values()} != {len(places)}
        ):
            raise ValueError("checks")
        return Eraser(
            artifact.tensors["proj_left"],
            artifact.tensors["proj_right"],
            artifact.tensors.get("mean"),
            places,
            artifact.facts["method"],
            json.loads(artifact.facts["classes"]),
            dict(artifact.provenance),
            checks,
        )

    def expect(eraser: Eraser) -> None:
        if model is None:
            return
        if odd := [place for place in eraser.places if not isinstance(place, Place)]:
            raise LoadError(f"{path} was fitted to representations named {odd[0]!r}, which are no places of a model")
        expect_places(model, eraser.places, eraser.proj_left.shape[1], str(path))

    return load(path, ERASER, build, expect)
