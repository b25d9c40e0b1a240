"""Token-frequency neurons: what they write moves the logits towards or away from the unigrams (PRIMER 5.2.10).

    score = | cos( w_out W_U, log unigram ) |,    both centered over the vocabulary; unigram = (count + 1) / (n + V)

Counts are of the text that the model read, those of one half for ranking and those of the other for scoring.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import look_at_rows
from caseback.behaviors.neurons.unembedding import Cosines


def log_unigrams(evidence: Evidence) -> Tensor:
    """(vocab, fold): the smoothed log count of every logit's token."""
    n = evidence.folded.W_U.shape[1]
    counts = [torch.as_tensor(fold["unigram"].values).double() for fold in evidence.folds(TEXT, "token_counts")]
    # a table of embeddings may be longer or shorter than that of logits
    sized = [torch.nn.functional.pad(own, (0, max(0, n - len(own))))[:n] for own in counts]
    return (torch.stack(sized, 1) + 1).log()


@kind(
    "token frequency",
    "neuron",
    entry="5.2.10",
    citation="Stolfo et al. 2024",
    looks_at="size of the cosine between the logits that the neuron writes and the tokens' log frequencies in the text",
    control_is="the layer's output rows in another basis",
    threshold=0.3,
    needs={TEXT: ("token_counts",)},
    works=("squares of the unembedding", "rows along unigrams"),
    proof="unigrams",
    sign=1,
)
def token_frequency(evidence: Evidence) -> Look:
    """Writing along the unigrams."""
    cosines = Cosines(evidence.folded, log_unigrams(evidence))
    signed = {"cosine": lambda _, rows: cosines(rows)[:, -1]}
    return look_at_rows(evidence, lambda _, rows: cosines(rows).abs()[:, [0, -1]], signed)
