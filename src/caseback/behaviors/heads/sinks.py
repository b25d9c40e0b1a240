"""Heads that rest on the row's first token (PRIMER 5.1.10).

    sink     mean a(i, first) over queries i >= 4, less its uniform share, in text

A head may look at the first token and write something from there at every token. The proof is therefore that replacing
what the head writes by its mean changes the predictions less than the same of heads like it. The control is attention
to the token four back.
"""

from __future__ import annotations

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind, look_at


@kind(
    "attention sink",
    "head",
    entry="5.1.10",
    citation="Xiao et al. 2023, Gu et al. 2024",
    looks_at="attention to the row's first token in text, over uniform attention",
    control_is="attention four back in text, over uniform attention",
    threshold=0.5,
    needs={TEXT: ("attention_offsets",)},
    proof="plain text",
    sign=0,
)
def attention_sink(evidence: Evidence) -> Look:
    """Attention to the first token."""
    read = lambda name, **where: evidence.by_head(TEXT, "attention_offsets", name, **where)  # noqa: E731
    score = read("sink") - evidence.by_layer(TEXT, "attention_offsets", "uniform_sink")
    control = read("mean", bin=4) - evidence.by_layer(TEXT, "attention_offsets", "uniform", bin=4)
    return look_at(score, control, outside=read("outside"))
