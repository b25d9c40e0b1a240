"""Heads that look at rare tokens (PRIMER 5.1.9).

    score = attention to the quarter of the text whose tokens occur least, over uniform attention

Frequencies are counted in the text itself. What a head gives to the row's first token is to no quarter where the
tokenizer puts one in front. The control deals the quarters out anew among the tokens of each row.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look, kind, look_at
from caseback.behaviors.labelled_streams import MOVED, QUARTERS, RARITY

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
    control_is="the same of quarters dealt out anew among the tokens of each row",
    threshold=0.15,
    needs={RARITY: (TABLE,)},
)
def rare_token(evidence: Evidence) -> Look:
    """Attention to rare tokens."""
    return look_at(to_rare(evidence, RARITY), to_rare(evidence, RARITY + MOVED))
