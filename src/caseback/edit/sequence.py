"""Facts written one after another, and what is left after 1, 2, 4 … of them: the curve on which editing collapses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from caseback.edit.facts import Fact
from caseback.edit.knowledge_edit import KnowledgeEdit
from caseback.edit.rome import listed_facts
from caseback.edit.scores import MEASURES, scores, summary
from caseback.edit.side_effects import on_plain_text
from caseback.errors import EditError
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.results import labelled
from caseback.model.running.affine import SideTerm
from caseback.model.running.model import Model

Write = Callable[[Model, Sequence[Fact], KnowledgeEdit | None], KnowledgeEdit]
"""From the model under all earlier edits, new facts, and these edits (None at first), to the edit of the new facts."""


@technique(
    entry=("5.4.26",),
    citation="Meng et al. 2023; Yang et al. 2024",
    cost="the edits, and scores of all facts so far at each count",
)
def sequential(
    model: Model,
    facts: Sequence[Fact],
    write: Write,
    *,
    texts: Sequence[str] = (),
    one_by_one: bool = False,
    progress: bool = False,
) -> tuple[KnowledgeEdit, xr.DataArray]:
    """Write facts in the order given and score all that were written after 1, 2, 4 … of them.

    Parameters
    ----------
    model
        The model, not under edits.
    facts
        What is to be written.
    write
        The method: ``lambda model, facts, before: memit(model, facts, ...)``. It is given the model as it stands.
    texts
        Plain texts, on which the divergence from the unedited model and the perplexity are measured.
    one_by_one
        Whether facts are given to ``write`` singly, as methods of single facts need them; else all that come between
        two counts together.
    progress
        Show a progress bar.

    Returns
    -------
    KnowledgeEdit
        All edits as one.
    xr.DataArray
        (k, measure): k facts written; the measures of ``scores``, of ``on_plain_text``, and ``change``, the mean over
        edited matrices of the Frobenius norm of dW.

    Examples
    --------
    >>> import caseback as cb
    >>> from caseback.edit import relation_facts, rome
    >>> model = cb.load("meadow")
    >>> write = lambda model, facts, before: rome(model, facts, 0, contexts=[], check=False)[0]
    >>> edit, curve = sequential(model, relation_facts("capital", count=3), write, one_by_one=True)
    >>> curve["k"].values.tolist(), len(edit.facts)
    ([1, 2, 3], 3)
    """
    facts = listed_facts(facts)
    counts = sorted({*(2**i for i in range(len(facts).bit_length()) if 2**i <= len(facts)), len(facts)})
    sofar: KnowledgeEdit | None = None
    names = [*MEASURES, "change", *(["kl", "perplexity_before", "perplexity_after"] if texts else [])]
    rows = []
    with progress_bar(total=len(facts), show=progress, what="facts") as bar:
        for start, stop in zip([0, *counts], counts, strict=False):
            new = facts[start:stop]
            for some in [[fact] for fact in new] if one_by_one else [new]:
                now = model if sofar is None else sofar.on(model)
                edit = write(now, some, sofar)
                if not isinstance(edit, KnowledgeEdit):
                    raise EditError(f"write gave a {type(edit).__name__}: expected a KnowledgeEdit, as rome(...)[0] is")
                # a codebook that grew holds the earlier facts too
                grew = sofar is None or list(edit.facts[: len(sofar.facts)]) == list(sofar.facts)
                sofar = edit if grew or sofar is None else sofar + edit
                bar.update(len(some))
            assert sofar is not None
            after = sofar.on(model)
            row = summary(scores(after, facts[:stop])).values.tolist()
            row.append(float(np.mean(sizes_of(sofar) or [np.nan])))
            if texts:
                row += on_plain_text(model, after, texts).values.tolist()
            rows.append(row)
    assert sofar is not None
    coords = {"k": counts, "measure": names}
    curve = labelled(
        rows, ("k", "measure"), coords, name="score", technique=sequential, model=model, method=sofar.method
    )
    return sofar, curve


def sizes_of(edit: KnowledgeEdit) -> list[float]:
    """The Frobenius norm of each side term, from its two sides: |L^T R|^2 = sum of (L L^T) * (R R^T)."""
    sides = [(in_float64(one.left), in_float64(one.right)) for one in edit.edits if isinstance(one, SideTerm)]
    return [float(((a @ a.T) * (b @ b.T)).sum().clamp_min(0).sqrt()) for a, b in sides]
