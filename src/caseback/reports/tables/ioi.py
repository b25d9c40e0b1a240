"""The heads of indirect object identification, one a row: role, effects, and where they look, means over prompts."""

from __future__ import annotations

from typing import Any

from caseback.behaviors.indirect_object import ioi_heads
from caseback.model.running.load import load
from caseback.model.running.model import Model
from caseback.organisms.compiled import build
from caseback.organisms.compiled.indirect_object import NAMES, TEMPLATES
from caseback.tasks.prompts import Prompts
from caseback.tasks.standard.indirect_object import ioi

__all__ = ["ioi_prompts", "ioi_table"]

HAND_MADE = "indirect_object"


def ioi_prompts(
    name: str, count: int, *, corruption: str = "abc", seed: int = 0, gguf_file: str | None = None
) -> tuple[Model, Prompts]:
    """A model, and the task's prompts in words that it knows.

    Parameters
    ----------
    name
        A bundled model, a folder or a hub id, or ``"indirect_object"``, which is made by hand.
    count, seed
        How many prompts, and what their draw follows from.
    corruption
        As for ``cb.tasks.ioi``.
    gguf_file
        As for ``cb.load``.
    """
    if name != HAND_MADE:
        model = load(name, gguf_file=gguf_file)
        return model, ioi(corruption=corruption).prompts(model, count, seed=seed)
    model = build(name).model
    spoken = ioi(corruption=corruption, templates=TEMPLATES).with_fillers(names=NAMES)
    return model, spoken.prompts(model, count, seed=seed)


def ioi_table(model: Model, prompts: Prompts, *, progress: bool = False) -> dict[str, Any]:
    """All heads with their numbers.

    Parameters
    ----------
    model, prompts, progress
        As for ``ioi_heads``.

    Returns
    -------
    dict
        ``model``; how many ``prompts``; ``heads``, each with ``head``, ``role``, effects and looks; the mean of the
        metric on ``clean`` and ``corrupt`` prompts.

    Examples
    --------
    >>> heads = ioi_table(*ioi_prompts("indirect_object", 20))["heads"]
    >>> next(head["role"] for head in heads if head["head"] == "L3H0")
    'name mover'
    """
    measured = ioi_heads(model, prompts, progress=progress)
    means = measured.mean("batch")
    heads = [
        {
            "head": str(name),
            "role": str(measured.role.values[i]),
            **{key: round(float(means[key][i]), 4) for key in measured.data_vars},
        }
        for i, name in enumerate(measured.component.values)
    ]
    sides = {side: float(measured[side].mean()) for side in ("clean", "corrupt")}
    return {"model": model.name, "prompts": len(prompts), "heads": heads, **sides}
