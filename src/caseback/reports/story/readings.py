"""Where a head looks from the place at which it acts, and which words it writes there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from caseback.localize.circuits.machinery.writes import heads_of
from caseback.model.algebra.promoted import promoted
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.anatomy.sites import Site
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens
from caseback.reports.story import thresholds
from caseback.reports.story.traces import Part

SHOWN = 3


def readings(
    model: Model, tokens: Tokens, heads: list[Part], lost: Mapping[str, Float[np.ndarray, " pos"]]
) -> dict[str, dict[str, Any]]:
    """For each head: the position at which noising it takes away most, what it looks at from there, what it writes."""
    if not heads:
        return {}
    anatomy, last = model.anatomy, model.n_layers - 1
    layers = sorted({part.layer for part in heads})
    patterned = [layer for layer in layers if anatomy.has(Site("pattern", layer))]
    reads = [*((anatomy.head_site, layer) for layer in layers), *(("pattern", layer) for layer in patterned)]
    run = model.run(tokens, read=[*reads, ("resid_post", last)])
    final = at_least_float32(run["resid_post", last].detach())[0]
    by_head = {}
    for part in heads:
        at = int(np.abs(lost[part.name]).argmax())
        write = heads_of(model, run, part.layer)[0, at, part.head]
        words = [] if anatomy.family.unsummed else _words(model, promoted(model, write[None], final[at][None])[0])
        looks = []
        if part.layer in patterned:
            weights = run["pattern", part.layer][0, part.head, at].detach().cpu().double().numpy()
            best = np.argsort(-weights, kind="stable")[:SHOWN]
            looks = [{"pos": int(p), "weight": float(weights[p])} for p in best if weights[p] >= thresholds.LOOKS]
        by_head[part.name] = {"at": at, "share_there": float(lost[part.name][at]), "looks": looks, "writes": words}
    return by_head


def _words(model: Model, logits: Any) -> list[dict[str, Any]]:
    best = logits.topk(min(SHOWN, len(logits)))
    return [
        {"id": i, "text": model.token_text(i), "logit": float(value)}
        for i, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]
