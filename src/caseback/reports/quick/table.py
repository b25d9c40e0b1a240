"""Many prompts as a table: each with its answer, what that is set against, and the metric, as plain data.

    value_b = metric of prompt b under the changes           before_b = the same without them

All prompts are run together, and only the logits that the metric reads are formed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from caseback.errors import CasebackError, TokensError
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.arguments import checked
from caseback.model.running.edits import Edit, listed
from caseback.model.running.measure import measured
from caseback.model.running.metrics import Metric, log_prob, logit_diff, prob
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens, piece
from caseback.reports.document import DocumentKind
from caseback.reports.model_facts import model_facts
from caseback.reports.tables.records import records_of
from caseback.tasks import get

__all__ = ["TABLE", "table_of_records", "table_of_task"]


@checked
def table_of_task(
    model: Model,
    task: str,
    count: int = 24,
    *,
    seed: int = 0,
    measure: str | None = None,
    edits: Edit | Sequence[Edit] = (),
) -> dict[str, Any]:
    """Examples of a task with the metric of each.

    Parameters
    ----------
    model
        The model.
    task
        A task's name; ``caseback tasks`` lists them.
    count, seed
        How many examples, and what their draw follows from.
    measure
        ``"logit_diff"``, ``"log_prob"`` or ``"prob"``; the task's own by default.
    edits
        Interventions under which the model runs; none by default.

    Returns
    -------
    dict
        The document: ``source``, ``measure``, ``columns`` (what rows are told apart by), and ``rows`` with ``prompt``,
        ``target``, ``foil``, ``corrupt``, ``slices`` by column, ``value`` and ``before``.

    Examples
    --------
    >>> import caseback as cb
    >>> table = table_of_task(cb.load("meadow"), "ioi", 3, edits=cb.Zero("mlp_out", layer=3))
    >>> len(table["rows"]), table["measure"], table["columns"]
    (3, 'logit_diff', ['group'])
    """
    drawn = get(task).prompts(model, count, seed=seed)
    own = measure or drawn.measure
    if own != "loss" and own not in ("prob_diff",) and any(len(ids) != 1 for ids in drawn.target):
        raise CasebackError(f"{task}: its answers are of several tokens, choose another measure than {own}")
    texts = {
        name: [[piece(model.tokenizer, t) for t in ids] for ids in getattr(drawn, name)] for name in ("target", "foil")
    }
    rows = [
        {
            "prompt": text,
            "corrupt": other,
            "target": " | ".join(texts["target"][i]),
            "foil": " | ".join(texts["foil"][i]),
            "slices": {"group": pair.group},
        }
        for i, (pair, text, other) in enumerate(
            zip(drawn.pairs, model.text(drawn.clean), model.text(drawn.corrupt), strict=True)
        )
    ]
    return _document(model, task, drawn.clean, drawn.measured(own), own, rows, edits)


@checked
def table_of_records(
    model: Model, lines: str, *, measure: str | None = None, edits: Edit | Sequence[Edit] = ()
) -> dict[str, Any]:
    """Lines of JSON as such a table: each an object with a prompt, its answer, and perhaps what that is set against.

    Parameters
    ----------
    model
        The model.
    lines
        JSON, one object a line, with ``prompt`` (or ``clean``, ``text``), ``target`` (or ``answer``) and ``foil``; what
        else is short text, a number or a truth value is a column to slice by.
    measure
        ``"logit_diff"``, ``"log_prob"`` or ``"prob"``; by default the first where all rows have foils, else the second.
    edits
        Interventions under which the model runs; none by default.

    Returns
    -------
    dict
        The document, as of ``table_of_task``.

    Raises
    ------
    CasebackError
        For a line that is no such object; the message says which, and what it lacks.

    Examples
    --------
    >>> import caseback as cb
    >>> lines = '{"prompt": "Mary went to the", "target": " store", "kind": "place"}'
    >>> table = table_of_records(cb.load("meadow"), lines)
    >>> table["measure"], table["columns"], table["rows"][0]["slices"]
    ('log_prob', ['kind'], {'kind': 'place'})
    """
    records = records_of(lines)
    if len(records) > (most := limit("server_table_rows")):
        raise CasebackError(f"{len(records)} rows: a table has {most} at most")
    foils = [row["foil"] for row in records]
    own = measure or ("logit_diff" if all(foils) else "log_prob")
    if own == "logit_diff" and not all(foils):
        raise CasebackError(f"row {1 + foils.index('')} has no foil: logit_diff sets an answer against one")
    if own not in ("logit_diff", "log_prob", "prob"):
        raise CasebackError(f"measure {own!r}: expected logit_diff, log_prob or prob")
    targets = [row["target"] for row in records]
    metric = logit_diff(targets, foils) if own == "logit_diff" else {"log_prob": log_prob, "prob": prob}[own](targets)
    return _document(model, "", model.tokens([row["prompt"] for row in records]), metric, own, records, edits)


def _document(
    model: Model,
    source: str,
    tokens: Tokens,
    metric: Metric,
    measure: str,
    rows: list[dict[str, Any]],
    edits: Edit | Sequence[Edit],
) -> dict[str, Any]:
    if tokens.shape[0] * tokens.shape[1] > (most := limit("server_table_tokens")):
        raise TokensError(f"{tokens.shape[0]} prompts of up to {tokens.shape[1]} tokens: a table has {most} at most")
    changed = listed(edits)
    passes = progress_bar([[], changed] if changed else [[]], "table", show=False)
    values = [measured(model.anatomy, tokens, metric, read=metric.reads, edits=some)[1].detach() for some in passes]
    before, after = _plain(values[0]), _plain(values[-1])
    columns = sorted({name for row in rows for name in row["slices"]})
    return TABLE.document(
        model_facts(model),
        source=source,
        measure=measure,
        columns=columns,
        rows=[{**row, "value": after[i], "before": before[i]} for i, row in enumerate(rows)],
    )


def _plain(values: Tensor) -> list[float]:
    return values.to(torch.float64).tolist()


def _lengths(document: Mapping[str, Any]) -> None:
    for number, row in enumerate(document["rows"]):
        if missing := {"prompt", "target", "foil", "slices", "value", "before"} - set(row):
            raise CasebackError(f"table: row {number} has no {sorted(missing)[0]}")


TABLE = DocumentKind(
    "caseback.table",
    1,
    "a document of a table",
    "table_of_task",
    sections=("source", "measure", "columns", "rows"),
    lengths=_lengths,
)
