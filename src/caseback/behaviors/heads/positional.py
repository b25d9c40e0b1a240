"""Heads that look at a fixed distance: the token itself, the one before, two and three before (PRIMER 5.1.1).

    score = min over text and random tokens of ( a(i, i - o) - uniform ) / (1 - sink)

A head that gives most attention to the row's first token and the rest to the token before is a previous-token head: the
first token's share is taken out, where it is below .95. The smaller of the two counts, since in text a token and the
one before it are often alike in kind. The control is the next distance on the same tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, halves, kind, look_at
from caseback.model.findings import band_of_best

NEARLY_ALL = 0.95
"""Beyond this share of attention on the row's first token, what is left says nothing."""


def at_offset(evidence: Evidence, stream: str, offset: int) -> np.ndarray:
    """(head, fold): attention at a distance over its uniform share, of what does not go to the row's first token."""
    read = lambda name, **where: evidence.by_head(stream, "attention_offsets", name, **where)  # noqa: E731
    sink = read("sink")
    bins = {"bin": offset}
    mean = read("mean", **bins)
    uniform = evidence.by_layer(stream, "attention_offsets", "uniform", **bins)
    return np.where(sink < NEARLY_ALL, (mean - uniform) / np.maximum(1 - sink, 1 - NEARLY_ALL), 0.0)


def _look(offset: int) -> Callable[[Evidence], Look]:
    def look(evidence: Evidence) -> Look:
        random = look_at(at_offset(evidence, "fresh", offset), at_offset(evidence, "fresh", offset + 1))
        if TEXT not in evidence.collections:
            return random
        text, shifted = (halves(at_offset(evidence, TEXT, o)) for o in (offset, offset + 1))
        return Look(
            np.minimum(random.ranked_by, text[0].mean(1)),
            np.minimum(random.score, text[1].mean(1)),
            np.minimum(random.control, shifted[1].mean(1)),
            band_of_best(np.minimum(halves(at_offset(evidence, "fresh", offset + 1))[0], shifted[0])),
            {"on text": text[1].mean(1), "on random tokens": random.score},
        )

    return look


for _name, _offset, _proof in (
    ("current token", 0, ""),
    ("previous token", 1, "second copy"),
    ("two back", 2, ""),
    ("three back", 3, ""),
):
    kind(
        _name,
        "head",
        entry="5.1.1",
        citation="Voita et al. 2019, Olsson et al. 2022",
        looks_at=f"attention {_offset} back, over uniform attention, without the first token's share",
        control_is=f"the same {_offset + 1} back",
        threshold=0.4,
        needs={TEXT: ("attention_offsets",), "fresh": ("attention_offsets",)},
        proof=_proof,
    )(_look(_offset))
