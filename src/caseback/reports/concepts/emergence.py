"""What emerges in training as a document: kinds of heads and when each arises, and curves over the checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.behaviors.growth.report import Emergence
from caseback.errors import CasebackError
from caseback.reports.document import DocumentKind, checked

__all__ = ["EMERGENCE", "emergence_document"]


def _lengths(document: Mapping[str, Any]) -> None:
    n = len(document["steps"])
    lines = [kind[name] for kind in document["kinds"] for name in ("score", "control", "band", "best", "seen")]
    lines += [curve[name] for curve in document["curves"] for name in ("values", "beside")]
    if odd := [len(line) for line in lines if len(line) not in (0, n)]:
        raise CasebackError(f"a curve of {odd[0]} values over {n} steps: pass what emergence_document returned")


EMERGENCE = DocumentKind(
    "caseback.emergence",
    1,
    "a document of emergence",
    "emergence_document",
    sections=("steps", "kinds", "curves", "provenance"),
    lengths=_lengths,
)


@checked
def emergence_document(emergence: Emergence) -> dict[str, Any]:
    """What was measured over a run's checkpoints, as plain data.

    Parameters
    ----------
    emergence
        What ``caseback.behaviors.emergence`` gave.

    Returns
    -------
    dict
        ``steps``; ``kinds``: what ``KindCurve`` has of each, and ``curves``: what ``Curve`` has.

    Examples
    --------
    >>> import caseback as cb
    >>> grown = cb.behaviors.emergence("induction", kinds="previous token", rows=8)
    >>> document = emergence_document(grown)
    >>> document["kinds"][0]["kind"], len(document["steps"]) == len(document["kinds"][0]["score"])
    ('previous token', True)
    """
    plain, about = emergence.to_json(), {name: one for name, one in emergence.about.items() if one is not None}
    facts = {"name": about.get("model", "a run"), "n_layers": about.get("layers")}
    return EMERGENCE.document(
        facts, steps=plain["steps"], kinds=plain["kinds"], curves=plain["curves"], provenance=about
    )
