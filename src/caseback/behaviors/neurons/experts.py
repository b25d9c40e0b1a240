"""Experts of a mixture by the tokens and texts that they are added at (beyond: B.33).

    domain expert    2 AUROC - 1, over documents, of the expert's mean weight
    token expert     share of the variance of "it is added" that one kind of tokens explains, of the token itself or of
                     the one before:  q (1 - q) (p1 - p0)^2 / (p (1 - p))

The kind of tokens is chosen on the half that experts are ranked on. Most experts that look like those of a domain are
those of its tokens, so both stand side by side. Controls: the domains of other documents, the kinds of other tokens of
the row.
"""

from __future__ import annotations

import numpy as np

from caseback.behaviors.by_class import auroc, look_at_classes
from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.by_groups import FEWEST
from caseback.behaviors.neurons.families import NAMES
from caseback.behaviors.neurons.rows import best
from caseback.errors import CasebackError


@kind(
    "domain expert",
    "expert",
    entry="B.33",
    citation="Muennighoff et al. 2024",
    looks_at="how well the expert's mean weight in a text tells one domain from the others (AUROC, between chance and "
    "1)",
    control_is="the same with the domains of other documents",
    threshold=0.6,
    needs={TEXT: ("expert_documents", "router_counts")},
    proof="loss by domain",
)
def domain_expert(evidence: Evidence) -> Look:
    """Added in one domain."""
    return look_at_classes(evidence, "expert_documents", "domain", auroc)


def explained(chosen: np.ndarray, n: np.ndarray, total: float, overall: np.ndarray) -> np.ndarray:
    """The share of variance that each group explains, (group, expert); 0 where a group or its rest is too small.

    Examples
    --------
    >>> explained(np.array([[1.0, 0.5]]), np.array([50.0]), 100.0, np.array([0.5, 0.5])).tolist()
    [[1.0, 0.0]]
    """
    rest = total - n
    enough = np.minimum(n, rest) >= FEWEST
    between = (chosen - overall) ** 2 * (n / np.maximum(rest, 1))[:, None]
    variance = overall * (1 - overall)
    share = np.divide(between, variance, out=np.zeros_like(between), where=variance > 1e-12)
    return np.where(enough[:, None], share, 0.0)


@kind(
    "token expert",
    "expert",
    entry="B.33",
    citation="Jiang et al. 2024",
    looks_at="share of the variance of whether the expert is added, explained by a kind of tokens, of it or before it",
    control_is="the same with the kinds of other tokens of the row",
    threshold=0.1,
    needs={TEXT: ("router_counts",)},
    proof="plain text",
    sign=1,
)
def token_expert(evidence: Evidence) -> Look:
    """Added at one kind of tokens."""
    names = [name for bit in NAMES for name in (bit, f"after {bit}")]
    others = [f"permuted {bit}" for bit in NAMES]
    own, control = [], []
    for table in evidence.folds(TEXT, "router_counts"):
        by_group = table.transpose("group", "layer", "expert", "other")
        total = float(table["n"].sel(group="any"))
        overall = by_group["chosen"].sel(group="any").values.reshape(-1)
        for into, groups in ((own, names), (control, others)):
            some = by_group.sel(group=groups)
            chosen = np.nan_to_num(some["chosen"].values.reshape(len(groups), -1))
            into.append(explained(chosen, some["n"].values.astype(float), total, overall))
    if not any(part.any() for part in own):
        raise CasebackError(f"no kind of tokens has {FEWEST} tokens: this text is too short, or has no words")
    at, units = own[0].argmax(0), np.arange(own[0].shape[1])
    layer = np.array([layer for layer, _ in evidence.experts])
    parts = [control[0].max(0)[layer == one] for one in np.unique(layer)]
    beside = {name: own[-1][i] for i, name in enumerate(names)}
    return Look(
        own[0][at, units], own[-1][at, units], control[-1].max(0), best(parts), beside, tuple(names[i] for i in at)
    )
