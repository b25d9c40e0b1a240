"""The tasks as rows, and one task's examples with its metric on them, as plain data."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch

from caseback.jobs.budget import limit
from caseback.model.arguments import checked
from caseback.model.running.model import Model
from caseback.model.running.tokens import piece
from caseback.tasks import get, maker, names
from caseback.tasks.task import Task

__all__ = ["task_examples", "task_rows"]


def task_rows() -> list[dict[str, Any]]:
    """All tasks: name, what it is about, entry, metric, citation, options.

    Examples
    --------
    >>> next(row["entry"] for row in task_rows() if row["name"] == "ioi")
    '5.4.4'
    """
    each = [(get(name), signature(maker(name))) for name in names()]
    return [
        {
            "name": task.name,
            "about": task.about,
            "entry": task.entry,
            "metric": task.measure,
            "citation": task.citation,
            "options": list(options.parameters),
        }
        for task, options in each
    ]


@checked
def task_examples(model: Model, task: Task, count: int, *, seed: int = 0) -> dict[str, Any]:
    """Examples with the task's metric on the clean and the corrupt prompt.

    Parameters
    ----------
    model
        The model.
    task
        The task.
    count, seed
        How many examples, and what their draw follows from.

    Returns
    -------
    dict
        About the task; ``mean`` of the metric by side; how many prompts were ``dropped`` for which reason; and
        ``examples`` with their tokens, named positions, answers and metric.

    Examples
    --------
    >>> import caseback as cb
    >>> shown = task_examples(cb.load("meadow"), cb.tasks.get("agreement"), 3)
    >>> len(shown["examples"]), shown["mean"]["clean"] > shown["mean"]["corrupt"]
    (3, True)
    """
    prompts = task.prompts(model, count, seed=seed)
    values: dict[str, list[float]] = {"clean": [], "corrupt": []}
    with torch.no_grad():
        at_once = limit("task_prompts")
        for start in range(0, len(prompts), at_once):
            some = prompts[start : start + at_once]
            for side, measured in values.items():
                measured += some.metric(model.run(getattr(some, side))).tolist()
    positions = {where: span.tolist() for where, span in prompts.spans.items()}
    answers = {
        what: [[piece(model.tokenizer, token) for token in ids] for ids in getattr(prompts, what)]
        for what in ("target", "foil", "corrupt_target")
    }
    examples = [
        {
            "group": pair.group,
            "clean": prompts.clean.text[i],
            "corrupt": prompts.corrupt.text[i],
            "positions": {where: span[i] for where, span in positions.items()},
            **{what: texts[i] for what, texts in answers.items()},
            "metric": {side: measured[i] for side, measured in values.items()},
        }
        for i, pair in enumerate(prompts.pairs)
    ]
    return {
        "task": task.name,
        "about": task.about,
        "entry": task.entry,
        "citation": task.citation,
        "metric": task.measure,
        "seed": seed,
        "mean": {side: sum(measured) / len(measured) for side, measured in values.items()},
        "dropped": dict(prompts.dropped),
        "examples": examples,
    }
