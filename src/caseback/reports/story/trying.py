"""Does the story hold elsewhere? The same measurements on fresh prompts of the pattern and under other counterfactuals.

the same parts carry it     of the parts named, how many are among as many that carry most there
noising them takes it away  what is lost when those of them that do not carry all of it alone have the counterfactual's
values together, beside as many random parts of the same layers
the circuit keeps it        what the circuit recovers there
another counterfactual      of the parts named, how many are among as many that carry most under it
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from caseback.errors import CasebackError
from caseback.localize.counterfactuals.fresh import Fresh
from caseback.localize.counterfactuals.results import Counterfactual
from caseback.model.running.edits import Resample
from caseback.model.running.metrics import logit_diff
from caseback.model.running.model import Model
from caseback.model.running.run import execute
from caseback.model.running.tokens import Tokens
from caseback.reports.story import thresholds
from caseback.reports.story.depths import Depth
from caseback.reports.story.smallest_circuit import recovered_by
from caseback.reports.story.traces import Exchange, Part, Traces, exchanged

_DRAWS = 4


def tried(
    model: Model,
    tokens: Tokens,
    target: int,
    traces: Traces,
    named: Sequence[Part],
    fresh: Fresh | None,
    others: Sequence[Counterfactual],
    mask: Bool[Tensor, "writer reader"] | None,
    depth: Depth,
) -> list[dict[str, Any]]:
    """The checks that the story's parts allow, each with its number, its limit and whether it held."""
    rows: list[dict[str, Any]] = []
    carriers = [part for part in named if part.role == "carrier"]
    again = partial(exchanged, model, most=depth.again, always=[part.name for part in carriers])
    if fresh is not None and carriers:
        elsewhere = [
            again(fresh.clean[b : b + 1], fresh.corrupt[b : b + 1], fresh.metric.of_rows(fresh.clean, [b]))
            for b in range(len(fresh.clean))
        ]
        shared = [_shared(carriers, other) for other in elsewhere]
        words = f"of the {len(carriers)} parts that carry it, how many are among as many that carry most; {len(shared)}"
        rows.append(_row("the same parts on fresh prompts", shared, thresholds.SAME, f"{words} prompts"))
    some = [part for part in carriers if part.noising < thresholds.WHOLE]
    if fresh is not None and some:
        lost, chance = _together(model, fresh, traces, some)
        detail = (
            f"what is lost of the answer when the {len(some)} that do not carry all of it alone have the "
            f"counterfactual's values, mean over {len(lost)} fresh prompts; as many random parts of these layers: "
            f"{np.mean(chance):+.2f}"
        )
        rows.append(_row("noising them breaks fresh prompts", lost, thresholds.SAME, detail))
    if fresh is not None and mask is not None:
        regained = recovered_by(model, fresh.clean, fresh.corrupt, fresh.metric, mask)
        detail = f"what the circuit recovers on {len(regained)} fresh prompts, mean"
        rows.append(_row("the circuit on fresh prompts", regained, thresholds.FAITHFUL, detail))
    for one in others:
        if not carriers:
            break
        try:
            other = again(tokens, one.tokens, logit_diff(target, one.foil))
        except CasebackError:
            continue
        changed = ", ".join(map(str, one.changes))
        detail = f"of the {len(carriers)} parts, how many are among as many that carry most with {changed}"
        rows.append(_row("another counterfactual", [_shared(carriers, other)], thresholds.SAME, detail))
    return rows


def _row(name: str, values: Sequence[float], limit: float, detail: str) -> dict[str, Any]:
    value = float(np.mean(values))
    verdict = thresholds.verdict(value if value <= 1 or limit < thresholds.FAITHFUL else 2 - value, limit)
    return {
        "name": name,
        "value": value,
        "least": float(np.min(values)),
        "most": float(np.max(values)),
        "limit": limit,
        "verdict": verdict,
        "passed": verdict == "held",
        "detail": detail,
    }


def _shared(carriers: Sequence[Part], other: Exchange) -> float:
    best = sorted(other.parts, key=lambda part: -part.share)[: len(carriers)]
    names = {part.name for part in best}
    return sum(part.name in names for part in carriers) / len(carriers)


def _together(model: Model, fresh: Fresh, traces: Traces, carriers: Sequence[Part]) -> tuple[list[float], list[float]]:
    """What noising all carriers at once takes away, and as many random parts of the same kind and layers."""
    rng = np.random.default_rng(0)
    site = {True: "mlp_out", False: model.anatomy.head_site}
    sources = sorted({(site[part.head < 0], part.layer) for part in traces.parts})
    run = execute(model.anatomy, fresh.corrupt, read=sources, logits=False)
    groups = [list(carriers)]
    whole = {part.name for part in traces.parts if part.noising >= thresholds.WHOLE}
    names = {part.name for part in carriers} | whole
    for _ in range(_DRAWS):
        group: list[Part] = []
        for part in carriers:
            alike = [
                o for o in traces.parts if (o.head < 0) == (part.head < 0) and o.name not in names and o not in group
            ]
            if alike:
                near = sorted(alike, key=lambda o: abs(o.layer - part.layer))[: max(1, model.n_heads)]
                group.append(near[int(rng.integers(len(near)))])
        if group:
            groups.append(group)
    edits = [
        [Resample(site[p.head < 0], run, layer=p.layer, head=None if p.head < 0 else p.head) for p in group]
        for group in groups
    ]
    swept = model.sweep(fresh.clean, edits, fresh.metric)
    lost = (swept["clean"].values - swept.values) / (fresh.clean_value - fresh.corrupt_value)
    return lost[0].tolist(), lost[1:].ravel().tolist() or [0.0]
