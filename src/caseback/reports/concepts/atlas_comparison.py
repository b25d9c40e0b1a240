"""Two atlases side by side as a document: which units kept, gained and lost each label."""

from __future__ import annotations

from typing import Any

from caseback.behaviors.compared_atlases import AtlasComparison
from caseback.reports.document import DocumentKind, checked

__all__ = ["ATLAS_COMPARISON", "atlas_comparison_document"]

ATLAS_COMPARISON = DocumentKind(
    "caseback.atlas_comparison",
    1,
    "a document of two atlases",
    "atlas_comparison_document",
    sections=("first", "second", "kinds", "only"),
)


@checked
def atlas_comparison_document(comparison: AtlasComparison, *, folders: tuple[str, str] = ("", "")) -> dict[str, Any]:
    """What differs between two atlases, as plain data.

    Parameters
    ----------
    comparison
        What ``compare_atlases`` gave.
    folders
        Where the first atlas and the second are kept; empty for one that is not.

    Returns
    -------
    dict
        ``model``: the second atlas's; ``first`` and ``second``: what each is of; ``kinds``: what ``KindChange`` has of
        each; ``only``: kinds that one alone looked for; ``provenance``: what the second is of, and which two atlases
        there are, by model, folder, seed and tokens.

    Examples
    --------
    >>> import caseback as cb
    >>> one = cb.behaviors.atlas(cb.load("meadow"), kinds=["induction"], proofs=False)
    >>> document = atlas_comparison_document(cb.behaviors.compare_atlases(one, one))
    >>> document["kinds"][0]["jaccard"], document["kinds"][0]["lost"]
    (1.0, [])
    """
    first, second = ({name: value for name, value in about.items() if value is not None} for about in comparison.about)
    plain = comparison.to_json()
    listed = ("sizes", "shared", "gained", "lost")
    kinds = [
        kind | {name: list(kind[name]) for name in listed} | {"proved": list(map(list, kind["proved"]))}
        for kind in plain["kinds"]
    ]
    which = {
        f"{place} {name}": value
        for place, about, folder in zip(("first", "second"), (first, second), folders, strict=True)
        for name, value in {"folder": folder, **{name: about.get(name) for name in ("model", "seed", "tokens")}}.items()
        if value not in (None, "")
    }
    return ATLAS_COMPARISON.document(
        {"name": second.get("model", "a model"), **second},
        first=first,
        second=second,
        kinds=kinds,
        only=plain["only"],
        provenance={**second, **which},
    )
