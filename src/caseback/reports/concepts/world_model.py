"""A board in a model's stream, as plain data: read by layer in two conventions, and changed, beside controls.

    layer = argmax of the errors that turning a stone takes away, on one half of the edits;    gain, error  on the other

It is steered where this gain, less two standard errors, is past that of random directions; the conventions differ where
the mean over squares of their difference, at each one's best layer, is past two standard errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tables.result_of import expect_result

__all__ = ["WORLD_MODEL", "world_model_document"]

ERRORS = 2


def _lengths(document: Mapping[str, Any]) -> None:
    n = len(document["layers"])
    curves = [*document["reading"].values(), *document["edited"].values()]
    if odd := [len(curve) for curve in curves if len(curve) != n]:
        raise CasebackError(f"a curve of {odd[0]} values over {n} layers: pass what world_model_document returned")


WORLD_MODEL = DocumentKind(
    "caseback.world_model",
    1,
    "a document of a world model",
    "world_model_document",
    sections=("how", "counts", "layers", "reading", "squares", "verdict", "plain", "edited", "steered", "provenance"),
    lengths=_lengths,
)


@checked
def world_model_document(model: Model, read: xr.Dataset) -> dict[str, Any]:
    """What ``world_model`` measured as plain data.

    Parameters
    ----------
    model
        The model.
    read
        What ``caseback.behaviors.world_model`` gave for it.

    Returns
    -------
    dict
        ``reading``: by layer, the mean over squares of how often a stone is read rightly, as one's ``own`` or by
        ``color``, of an ``untrained`` model and of ``other`` games' boards (both as one's own). ``squares``: for each
        its ``name``, that share at the best layer in both conventions, and the ``majority``. ``verdict``: the best
        layer's share of ``own`` and ``color``, the ``gap`` with its ``error`` over squares, whether it ``differs``,
        and the ``control``, the largest of the untrained model, other games and the majority. ``plain``: the mean
        probability of moves that are legal on edited boards (``legal``), and ``errors``, without an edit. ``edited``:
        both by layer, and the least and the largest mean of random directions. ``steered``: the ``layer`` chosen on
        one half of the edits, the ``gain`` in errors taken away on the other with its ``error``, the largest of
        random ones there (``control``), and whether it is ``above``.

    Raises
    ------
    CasebackError
        For another dataset, or one of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("spread")
    >>> read = cb.behaviors.world_model(model, cb.behaviors.spread_games(20), edits=8, draws=2)
    >>> len(world_model_document(model, read)["reading"]["own"])
    4
    """
    expect_result(model, read, ("stones", "stones_control", "majority", "errors", "legal_control"), "world_model")
    stones = read["stones"].transpose("variant", "layer", "feature").values
    controls = read["stones_control"].sel(variant="own").transpose("control", "layer", "feature").values.mean(-1)
    majority = read["majority"].values
    best = stones.mean(-1).argmax(-1)
    own, color = (stones[i, layer] for i, layer in enumerate(best))
    error = float((own - color).std(ddof=1) / np.sqrt(len(own)))
    gap = float((own - color).mean())
    errors = read["errors"].transpose("layer", "batch").values
    random = read["errors_control"].transpose("draw", "layer", "batch").values
    before = read["plain_errors"].values
    judged = np.arange(len(before)) >= len(before) // 2
    chosen = int((errors[:, ~judged] if (~judged).any() else errors).mean(-1).argmin())
    taken = (before - errors[chosen])[judged]
    spread = float(taken.std(ddof=1) / np.sqrt(len(taken))) if len(taken) > 1 else 0.0
    control = float((before - random[:, chosen])[:, judged].mean(-1).max())
    legal = read["legal_control"].transpose("draw", "layer", "batch").values.mean(-1)
    return WORLD_MODEL.document(
        model_facts(model),
        how={name: read.attrs[name] for name in ("draws", "factor", "penalty", "seed")},
        counts={"games": int(read.attrs["games"]), "edits": len(before), "legal": float(read.attrs["legal"])},
        layers=read["layer"].values.tolist(),
        reading={
            **{name: stones[i].mean(-1).tolist() for i, name in enumerate(("own", "color"))},
            **{name: controls[i].tolist() for i, name in enumerate(("untrained", "other"))},
        },
        squares=[
            {"name": str(name), "own": float(a), "color": float(b), "majority": float(c)}
            for name, a, b, c in zip(read["feature"].values, own, color, majority[0], strict=True)
        ],
        verdict={
            **{"own": float(own.mean()), "color": float(color.mean()), "layers": [int(i) for i in best]},
            **{"gap": gap, "error": error, "differs": bool(abs(gap) > ERRORS * error)},
            "control": float(max(controls.max(), majority[0].mean())),
        },
        plain={"legal": float(read["plain_legal"].values.mean()), "errors": float(before.mean())},
        edited={
            "legal": read["legal"].transpose("layer", "batch").values.mean(-1).tolist(),
            "errors": errors.mean(-1).tolist(),
            **{"legal_low": legal.min(0).tolist(), "legal_high": legal.max(0).tolist()},
            **{"errors_low": random.mean(-1).min(0).tolist(), "errors_high": random.mean(-1).max(0).tolist()},
        },
        steered={
            **{"layer": chosen, "gain": float(taken.mean()), "error": spread, "control": control},
            **{"before": float(before[judged].mean()), "judged": int(judged.sum())},
            "above": bool(taken.mean() - ERRORS * spread > max(control, 0.0)),
        },
        provenance={
            **model.provenance(),
            **{name: str(read.attrs[name]) for name in ("technique", "entry", "citation")},
        },
    )
