"""The heads of indirect object identification: role, effects, and where they look, for each order of mention apart."""

from __future__ import annotations

from typing import Any

from caseback.behaviors.indirect_object import ioi_by_order, ioi_heads
from caseback.model.arguments import checked
from caseback.model.loading.load import load
from caseback.model.running.model import Model
from caseback.organisms.compiled import build
from caseback.organisms.compiled.indirect_object import NAMES, TEMPLATES
from caseback.tasks.prompts import Prompts
from caseback.tasks.standard.indirect_object import ioi

__all__ = ["ioi_prompts", "ioi_table"]

HAND_MADE = "indirect_object"


@checked
def ioi_prompts(name: str, count: int, *, corruption: str = "abc", seed: int = 0, **how: Any) -> tuple[Model, Prompts]:
    """A model, and the task's prompts in words that it knows.

    Parameters
    ----------
    name
        A bundled model, a folder or a hub id, or ``"indirect_object"``, which is made by hand.
    count, seed
        How many prompts, and what their draw follows from.
    corruption
        As for ``cb.tasks.ioi``.
    **how
        ``gguf_file``, ``allow_pickle`` and ``trust_remote_code``, as for ``cb.load``.
    """
    if name != HAND_MADE:
        model = load(name, **how)
        return model, ioi(corruption=corruption).prompts(model, count, seed=seed)
    model = build(name).model
    spoken = ioi(corruption=corruption, templates=TEMPLATES).with_fillers(names=NAMES)
    return model, spoken.prompts(model, count, seed=seed)


@checked
def ioi_table(model: Model, prompts: Prompts, *, progress: bool = False) -> dict[str, Any]:
    """All heads with their numbers.

    Parameters
    ----------
    model, prompts, progress
        As for ``ioi_heads``.

    Returns
    -------
    dict
        ``model``; how many ``prompts``; ``heads``, each with ``head``, ``role``, effects and looks as means over all
        prompts, and ``by_order``, the same over those of each order of mention (``"ABBA"``: IO first); the mean of the
        metric on ``clean`` and ``corrupt`` prompts; ``orders``, how many ``prompts`` each has and its means of the
        metric.

    Examples
    --------
    >>> heads = ioi_table(*ioi_prompts("indirect_object", 20))["heads"]
    >>> next(head["role"] for head in heads if head["head"] == "L3H0")
    'name mover'
    """
    measured = ioi_heads(model, prompts, progress=progress)
    means, apart = measured.mean("batch"), ioi_by_order(measured)
    orders = [str(order) for order in apart["order"].values]

    def numbers(of: Any, i: int) -> dict[str, float]:
        return {str(key): round(float(of[key][i]), 4) for key in measured.data_vars}

    heads = [
        {
            "head": str(name),
            "role": str(measured.role.values[i]),
            **numbers(means, i),
            "by_order": {order: numbers(apart.sel(order=order), i) for order in orders},
        }
        for i, name in enumerate(measured.component.values)
    ]
    sides = {side: float(measured[side].mean()) for side in ("clean", "corrupt")}
    of_each = {
        order: {
            "prompts": int(apart["prompts"].sel(order=order)),
            **{side: float(apart[side].sel(order=order)) for side in ("clean", "corrupt")},
        }
        for order in orders
    }
    return {"model": model.name, "prompts": len(prompts), "heads": heads, **sides, "orders": of_each}
