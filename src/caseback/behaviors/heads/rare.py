"""Heads that look at rare tokens (PRIMER 5.1.9).

    score = attention to the quarter of the text whose tokens occur least, over uniform attention

Frequencies are counted in the text itself. What a head gives to the row's first token is to no quarter where the
tokenizer puts one in front. Controls are quarters by ids in a random order: of few ids some head prefers those of any
quarter.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look, halves, kind, look_at
from caseback.behaviors.labelled_streams import MOVED, QUARTERS, RARITY, SHUFFLES
from caseback.model.findings import band_of_best

TABLE = "attention_received"


def to_rare(evidence: Evidence, label: str) -> Float[np.ndarray, "head fold"]:
    """Attention to the rarest quarter over its uniform share."""
    at = {"query": "any", "key": f"{label} {QUARTERS - 1}"}
    return evidence.by_head(RARITY, TABLE, "attention", **at) - evidence.by_layer(RARITY, TABLE, "uniform", **at)


@kind(
    "rare token",
    "head",
    entry="5.1.9",
    citation="Stoehr et al. 2024",
    looks_at="attention to the rarest quarter of the text's tokens, over uniform attention",
    control_is="the same of quarters whose ids are drawn at random",
    threshold=0.2,
    needs={RARITY: (TABLE,)},
)
def rare_token(evidence: Evidence) -> Look:
    """Attention to rare tokens."""
    drawn = [to_rare(evidence, f"{RARITY}{MOVED} {i}") for i in range(SHUFFLES)]
    look = look_at(to_rare(evidence, RARITY), drawn[0])
    return replace(look, band=band_of_best(np.concatenate([halves(one)[0] for one in drawn[1:]])))
