"""Heads that work against what is predicted (PRIMER 5.1.7).

    copy suppression    a(i, the earlier token that the stream predicts most) - uniform, of heads that lower what they
                        look at (``anti-copying``)
    negative            -sum of d / sum of |d|,    d the head's direct effect on the token that the model predicts

Both controls take the token that is predicted eight tokens before: it is as frequent and as near, and not what this
query predicts. What proves copy suppression is that most of what a head does is left when nothing but it is left: see
the experiment ``only suppression``.
"""

from __future__ import annotations

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.heads.vocabulary import of_lowering
from caseback.behaviors.kinds import Look, kind, look_at


@kind(
    "copy suppression",
    "head",
    entry="5.1.7",
    citation="McDougall et al. 2023",
    looks_at="attention to the earlier token that is predicted most, over uniform attention, of heads that lower what "
    "they look at",
    control_is="the same of the token that another query predicts",
    threshold=0.05,
    needs={TEXT: ("attention_predicted",)},
    works=("tokens that heads write",),
    proof="only suppression",
    sign=1,
)
def copy_suppression(evidence: Evidence) -> Look:
    """Looking at what is predicted, and lowering it."""
    uniform = evidence.by_layer(TEXT, "attention_predicted", "uniform")
    own, other = (evidence.by_head(TEXT, "attention_predicted", name) - uniform for name in ("attention", "other"))
    return of_lowering(evidence, own, other)


@kind(
    "negative",
    "head",
    entry="5.1.7",
    citation="Wang et al. 2023, McDougall et al. 2023",
    looks_at="how far the head's direct effect on the predicted token is below 0, of its size (1: always below)",
    control_is="the same of the token that another query predicts",
    threshold=0.3,
    needs={TEXT: ("head_direct",)},
    proof="likeliest token",
    sign=1,
)
def negative(evidence: Evidence) -> Look:
    """Writing against what the model predicts."""
    return look_at(*(-evidence.by_head(TEXT, "head_direct", name) for name in ("own", "other")))
