"""What of a context a generation relies on, as plain data: the tokens that it moved, and where in it they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caseback.errors import CasebackError
from caseback.localize.inputs.context_reliance import ContextReliance
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.reports.comparison import plain_matrix
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts

__all__ = ["CONTEXT", "context_document"]


def _lengths(document: Mapping[str, Any]) -> None:
    shape = {len(row) for row in document["cues"]}
    if len(document["cues"]) != len(document["generated"]) or shape - {len(document["context"])}:
        raise CasebackError("the map of cues does not fit the generated tokens and the context")


CONTEXT = DocumentKind(
    "caseback.context_reliance",
    1,
    "a document of a context",
    "context_document",
    sections=("context", "current", "generated", "cues", "pairs", "how", "provenance"),
    lengths=_lengths,
)


@checked
def context_document(model: Model, reliance: ContextReliance, *, current: str = "") -> dict[str, Any]:
    """What ``pecore`` found as plain data.

    Parameters
    ----------
    model
        The model.
    reliance
        What ``caseback.localize.inputs.pecore`` gave for it.
    current
        The text between the context and the generation, to be shown.

    Returns
    -------
    dict
        ``context``, the texts of its tokens; ``generated``, of each token its ``text``, what would have been written
        ``without`` the context, the ``score`` of how much the context moved it, and whether it is ``selected``;
        ``cues``, a row for each generated token and a column for each of the context, None where nothing was
        attributed; ``pairs``, the cues that stand out; ``how`` they were measured.

    Raises
    ------
    CasebackError
        For a result of another model.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> context, current = "Mary and John went to the store.", " John gave a drink to"
    >>> reliance = cb.localize.inputs.pecore(model, context, current, " Mary", target=" Mary")
    >>> document = context_document(model, reliance, current=current)
    >>> document["generated"][0]["text"], document["pairs"][0]["context_token"]
    (' Mary', 'Mary')
    """
    sensitivity, cues = reliance.sensitivity, reliance.cues
    if sensitivity.attrs.get("model") != model.name:
        raise CasebackError(
            f"a result of {sensitivity.attrs.get('model')!r}: expected what pecore returned for {model.name!r}"
        )
    generated = zip(
        *(sensitivity[name].values.tolist() for name in ("token", "without", "selected")),
        sensitivity.values.tolist(),
        strict=True,
    )
    names = ("technique", "entry", "citation")
    return CONTEXT.document(
        model_facts(model),
        context=cues["key_token"].values.tolist(),
        current=current,
        generated=[
            {"text": text, "without": without, "selected": bool(chosen), "score": float(score)}
            for text, without, chosen, score in generated
        ],
        cues=plain_matrix(cues.values),
        pairs=[vars(pair) for pair in reliance.pairs],
        how={
            **{"measure": sensitivity.attrs["measure"], "threshold": sensitivity.attrs.get("threshold")},
            **{name: cues.attrs[name] for name in ("method", "cue_std")},
        },
        provenance={**model.provenance(), **{name: str(cues.attrs[name]) for name in names}},
    )
