"""Heads that work in texts of one domain (PRIMER 5.1.9).

    score = 2 AUROC - 1, over documents, of   s_d = sum_i d_i / sum over heads and i of |d_i|

d the head's direct effect on the token that comes next: the share of all heads' effects that this one adds to what is
right, document by document. So texts that are easier, or longer, are no domain. The domain is chosen on the half that
heads are ranked on; band and control permute documents.
"""

from __future__ import annotations

from collections.abc import Callable

from caseback.behaviors.by_class import Half, Members, Scores, look_at_classes, rank_sums
from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind


def share_of_effects(half: Half, _: Half) -> Callable[[Members], Scores]:
    """How well a head's share of the direct effects tells the class."""
    whole = half.values["size"].sum(1, keepdims=True)
    return rank_sums(half.values["mean"] / whole.clip(1e-300))


@kind(
    "domain-specialised",
    "head",
    entry="5.1.9",
    citation="Ferrando & Voita 2024",
    looks_at="how well the head's share of what heads add to the right next token tells one domain from the others "
    "(AUROC, between chance and 1)",
    control_is="the same with the domains of other documents",
    threshold=0.9,
    needs={TEXT: ("head_documents",)},
    proof="loss by domain",
)
def domain_specialised(evidence: Evidence) -> Look:
    """Adding to what is right in one domain."""
    return look_at_classes(evidence, "head_documents", "domain", share_of_effects)
