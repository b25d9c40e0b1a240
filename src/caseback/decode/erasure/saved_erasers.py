"""Erasers in files, each with its sites and classes as JSON.

an eraser        proj_left (place, d, r), proj_right (place, r, d), mean (place, d) unless it is linear
OracleLEACE      coef (place, d, k), target_mean (k)
quadratic LEACE  maps (place, class, d, d), means (place, class, d), mean (place, d)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from caseback.artifacts.artifact import Artifact, load, save
from caseback.artifacts.kinds import ERASER, ORACLE_ERASER
from caseback.decode.erasure.eraser import Eraser
from caseback.decode.erasure.oracle import OracleEraser
from caseback.decode.erasure.quadratic import QuadraticEraser
from caseback.decode.states import Place, expect_places
from caseback.errors import CasebackError, LoadError
from caseback.model.arguments import checked
from caseback.model.running.model import Model


@checked
def save_eraser(
    eraser: Eraser | OracleEraser | QuadraticEraser, path: str | Path, *, model: Model | None = None
) -> None:
    """Write an eraser to one safetensors file, whole or not at all.

    Parameters
    ----------
    eraser
        What ``leace`` and its like gave, which ``load_eraser`` reads; or one that takes labels, from ``oracle_leace``
        or ``quadratic_leace``, which ``load_oracle_eraser`` reads.
    path
        Where.
    model
        The model whose states it was fitted to, which is then named in the file.

    Raises
    ------
    WriteError
        Where the file cannot be written.
    CasebackError
        For classes that are neither text, numbers nor truth.

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
    kind, method, origin, checks = ORACLE_ERASER, "oracle_leace", {}, {}
    if isinstance(eraser, Eraser):
        tensors = {"proj_left": eraser.proj_left, "proj_right": eraser.proj_right}
        if eraser.mean is not None:
            tensors["mean"] = eraser.mean
        kind, method, origin, checks = ERASER, eraser.method, eraser.provenance, eraser.checks
    elif isinstance(eraser, OracleEraser):
        tensors = {"coef": eraser.coef, "target_mean": eraser.target_mean}
        checks = {"change": eraser.change}
    else:
        tensors = {"maps": eraser.maps, "means": eraser.means, "mean": eraser.mean}
        method = "quadratic_leace"
    places = [list(place) if isinstance(place, Place) else str(place) for place in eraser.places]
    try:
        facts = {
            "method": method,
            "places": json.dumps(places),
            "classes": json.dumps(eraser.classes, allow_nan=False),
        }
    except (TypeError, ValueError):
        raise CasebackError(f"the classes {eraser.classes} are no JSON data: expected text, numbers or truth") from None
    provenance = {**origin, **({} if model is None else model.provenance())}
    save(Artifact(tensors, facts, provenance, dict(checks)), kind, path)


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
        places = _places(artifact)
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

    return load(path, ERASER, build, lambda eraser: _expect(eraser, eraser.proj_left.shape[1], path, model))


@checked
def load_oracle_eraser(path: str | Path, model: Model | None = None) -> OracleEraser | QuadraticEraser:
    """Read an eraser that takes labels, which ``save_eraser`` wrote.

    Parameters
    ----------
    path
        The file.
    model
        The model that it is for: an eraser of sites that it lacks, or of another width, is refused.

    Returns
    -------
    OracleEraser or QuadraticEraser
        As it was saved: ``apply(x, z)`` and ``edits(z)`` take the labels.

    Raises
    ------
    LoadError
        For a file that holds no such eraser, a damaged one, or one that does not fit the model.

    Examples
    --------
    >>> import tempfile, torch
    >>> from caseback.decode.erasure import quadratic_leace, save_eraser
    >>> eraser = quadratic_leace(torch.randn(50, 4), ["he", "she"] * 25)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_eraser(eraser, Path(folder) / "a.safetensors")
    ...     load_oracle_eraser(Path(folder) / "a.safetensors")
    QuadraticEraser(1 places of width 4, 2 classes)
    """

    def build(artifact: Artifact) -> OracleEraser | QuadraticEraser:
        tensors, places = artifact.tensors, _places(artifact)
        classes = json.loads(artifact.facts["classes"])
        sizes = {"place": len(places)} | ({} if classes is None else {"class": len(classes)})
        if not places:
            raise ValueError("places")
        if classes is not None and artifact.facts["method"] == "quadratic_leace":
            artifact.expect({"maps": "place class d d", "means": "place class d", "mean": "place d"}, **sizes)
            return QuadraticEraser(tensors["maps"], tensors["means"], tensors["mean"], places, list(classes))
        k = "numbers" if classes is None else "class"
        artifact.expect({"coef": f"place d {k}", "target_mean": k}, **sizes)
        change = [float(value) for value in artifact.checks["change"]]
        if len(change) != len(places):
            raise ValueError("checks")
        return OracleEraser(tensors["coef"], tensors["target_mean"], places, classes, change)

    def expect(eraser: OracleEraser | QuadraticEraser) -> None:
        width = eraser.coef.shape[1] if isinstance(eraser, OracleEraser) else eraser.mean.shape[1]
        _expect(eraser, width, path, model)

    return load(path, ORACLE_ERASER, build, expect)


def _places(artifact: Artifact) -> list[Any]:
    return [Place(*p) if isinstance(p, list) else p for p in json.loads(artifact.facts["places"])]


def _expect(eraser: Eraser | OracleEraser | QuadraticEraser, width: int, path: str | Path, model: Model | None) -> None:
    """Refuse an eraser that does not fit the model, where one is given."""
    if model is None:
        return
    if odd := [place for place in eraser.places if not isinstance(place, Place)]:
        raise LoadError(f"{path} was fitted to representations named {odd[0]!r}, which are no places of a model")
    expect_places(model, eraser.places, width, str(path))
