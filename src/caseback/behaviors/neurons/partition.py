"""Partition neurons: they raise one class of tokens against the others (PRIMER 5.2.11).

    share of the variance over the vocabulary that a class c of tokens explains = (v . c)^2 / (V^2 q (1 - q) Var v)

with v = w_out W_U, centered, and q the class's share of the vocabulary. The score is the largest over the classes that
follow from a token's text (``KINDS``): whether it begins a word, is capitalized, a number.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import look_at_rows
from caseback.behaviors.neurons.unembedding import Cosines
from caseback.errors import CasebackError
from caseback.stream.marks import KINDS, token_kinds

FEWEST = 0.002
"""A class has this share of the vocabulary at least, and so have the others."""


def classes(evidence: Evidence) -> dict[str, Tensor]:
    """By name, which tokens are of each class that is large enough, as numbers (vocab).

    Raises
    ------
    CasebackError
        Where there is none.
    """
    n = evidence.folded.W_U.shape[1]
    bits = token_kinds(evidence.model).long()
    bits = torch.nn.functional.pad(bits, (0, max(0, n - len(bits))))[:n]
    every = {name: ((bits >> i) & 1).double() for i, name in enumerate(KINDS) if name != "special"}
    large = {name: own for name, own in every.items() if FEWEST <= own.mean() <= 1 - FEWEST}
    if not large:
        raise CasebackError("no class of tokens is large enough: this model has no tokenizer with words")
    return large


@kind(
    "partition",
    "neuron",
    entry="5.2.11",
    citation="Gurnee et al. 2024",
    looks_at="share of the variance of the logits that the neuron writes, explained by one class of tokens",
    control_is="the layer's output rows in another basis",
    threshold=0.3,
    needs={},
    works=("squares of the unembedding", "rows along classes"),
    proof="class of tokens",
    sign=1,
)
def partition(evidence: Evidence) -> Look:
    """One class of tokens against the others."""
    by_name = classes(evidence)
    cosines = Cosines(evidence.folded, torch.stack(list(by_name.values()), 1))
    beside = {name: lambda _, rows, i=i: cosines(rows)[:, i] for i, name in enumerate(by_name)}
    # a centered class has length sqrt(V q (1 - q)): the squared cosine is the share
    return look_at_rows(evidence, lambda _, rows: cosines(rows).square().amax(1), beside, power=1)
