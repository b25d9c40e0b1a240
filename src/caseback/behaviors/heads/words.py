"""Heads that look back within the word (PRIMER 5.1.2).

    joiner    a(i, earlier tokens of the word) - a(i, the token before a word's first),    both over uniform attention

A previous-token head does both alike. The control puts the last token of the word before in the place of the word's
own. A word is what stands between spaces, as the tokens' text has them.
"""

from __future__ import annotations

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.heads.repeats import excess
from caseback.behaviors.kinds import Look, kind, look_at
from caseback.errors import SiteAbsent


@kind(
    "joiner",
    "head",
    entry="5.1.2",
    citation="Correia et al. 2019, Ferrando & Voita 2024",
    looks_at="attention to earlier tokens of the word, less that of a word's first token to the one before",
    control_is="the same of the last token of the word before",
    threshold=0.4,
    needs={TEXT: ("attention_relations",)},
    proof="plain text",
    sign=1,
)
def joiner(evidence: Evidence) -> Look:
    """Attention within the word."""
    if any(int(fold["n"].min()) == 0 for fold in evidence.folds(TEXT, "attention_relations")):
        raise SiteAbsent("the text has no words of several tokens, or this model has no tokenizer that knows of words")
    within, outside, across = (excess(evidence, TEXT, name) for name in ("same_word", "before_word", "before_start"))
    return look_at(within - across, outside - across, within=within, across=across)
