"""Heads that need only the first token and the nearest ones, and heads that fetch what is asked for (beyond: B.18).

    streaming    1 - far / uniform far,    far = attention neither to the row's first token nor to the nearest 16
    retrieval    a(end, the word that is asked for) - uniform, in prompts that tell two people's words

The control of streaming is the 16 keys before those; that of retrieval is the other person's word, so a head that looks
at any such word has no label. Both are proved by a window: behind the first four tokens a head sees the nearest 16
alone. That must not matter to a streaming head's text, and must cost the answer where a head retrieves.
"""

from __future__ import annotations

import numpy as np

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.heads.repeats import excess
from caseback.behaviors.kinds import Look, kind, look_at

NEAR = 16


def share_of_window(evidence: Evidence, first: int, *, sink: bool) -> np.ndarray:
    """(head, fold): of the attention that is left after uniform, how much goes to 16 keys from a distance on."""
    shares = []
    for fold in evidence.folds(TEXT, "attention_offsets"):
        bins = fold.sel(bin=slice(first, first + NEAR - 1))
        own = bins["mass"].sum("bin")
        uniform = (bins["uniform"] * bins["pairs"]).sum("bin") / fold["mass"].attrs["n"]
        if sink:
            own, uniform = own + fold["sink"], uniform + fold["uniform_sink"]
        share = (own - uniform) / np.maximum(1 - uniform, 1e-9)
        shares.append(share.transpose("layer", "head").values.reshape(-1))
    return np.stack(shares, 1)


@kind(
    "streaming",
    "head",
    entry="5.1.10",
    citation="Xiao et al. 2024",
    looks_at="share of attention to the first token and the nearest 16, between uniform (0) and all",
    control_is="the same of the 16 keys before those",
    threshold=0.9,
    needs={TEXT: ("attention_offsets",)},
    proof="a window of text",
    sign=0,
)
def streaming(evidence: Evidence) -> Look:
    """Near keys and the first."""
    return look_at(share_of_window(evidence, 0, sink=True), share_of_window(evidence, NEAR, sink=False))


@kind(
    "retrieval",
    "head",
    entry="5.4.25",
    citation="Wu et al. 2024, Xiao et al. 2024",
    looks_at="attention from the end of a question to the word that it asks for, over uniform attention",
    control_is="the same of another person's word",
    threshold=0.1,
    needs={"needle": ("attention_relations",)},
    proof="a window of a question",
)
def retrieval(evidence: Evidence) -> Look:
    """Looking at what is asked for."""
    return look_at(*(excess(evidence, "needle", f"to:{name}") for name in ("word", "distractor")))
