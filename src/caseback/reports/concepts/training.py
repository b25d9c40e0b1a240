"""How dictionaries' training went, as plain data: each one's curve, and where it ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from caseback.decode.dictionaries import Trained
from caseback.errors import CasebackError
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts

__all__ = ["TRAINING", "training_document"]


def _lengths(document: Any) -> None:
    for one in document["dictionaries"]:
        if len({len(values) for values in one["curve"].values()}) != 1:
            raise CasebackError(f"the curve of {one['name']!r} has more points of one measure than of another")


TRAINING = DocumentKind(
    "caseback.training",
    1,
    "a document of trained dictionaries",
    "training_document",
    sections=("dictionaries", "provenance"),
    lengths=_lengths,
)


@checked
def training_document(model: Model, trained: Sequence[Trained], *, files: Sequence[str] = ()) -> dict[str, Any]:
    """Make the document of a training.

    Parameters
    ----------
    model
        The model.
    trained
        What ``train_dictionaries`` gave.
    files
        What each was written to, if it was.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.decode.dictionaries import Recipe, train_dictionaries
    >>> model = cb.load("meadow")
    >>> recipe = Recipe(site="resid_post.0", width=320, options={"k": 4})
    >>> trained = train_dictionaries(model, ["the cat sat"], recipe, n_tokens=64, step_tokens=32, pool_tokens=64)
    >>> training_document(model, trained)["dictionaries"][0]["curve"]["tokens"][-1] >= 64
    True
    """
    dictionaries = []
    for i, one in enumerate(trained):
        own = one.dictionary
        dictionaries.append(
            {
                "name": one.name,
                "file": files[i] if files else None,
                "architecture": own.architecture,
                "site": own.facts.site,
                "target": own.facts.target or own.facts.site,
                "n_features": own.n_features,
                "options": own.own_options(),
                "curve": {str(name): one.curve.sel(measure=name).values.tolist() for name in one.curve.measure.values},
            }
        )
    facts = model_facts(model, "name", "n_layers", "d_model", "dtype")
    return TRAINING.document(facts, dictionaries=dictionaries, provenance=model.provenance())
