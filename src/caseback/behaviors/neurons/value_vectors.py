"""Neurons that write for tokens that are alike (PRIMER 5.2.5).

    coherence = mean cos(E_s, E_t) over pairs of the 10 tokens that w_out W_U raises most, of a sample of 4,096
    with ten rows of length 1:  (|sum of rows|^2 - 10) / 90,    E centered over the vocabulary

or that it lowers most, where that is higher: what a gated neuron writes has either sign. What a neuron promotes on a
text is its activation times this. The control are rows in another basis, whose highest tokens are as alike as the
layer's subspace makes any.
"""

from __future__ import annotations

import torch
from torch import Tensor

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import look_at_rows
from caseback.errors import SiteAbsent
from caseback.jobs.budget import limit
from caseback.tasks.standard.repeats import ordinary_tokens

HIGHEST, SAMPLE = 10, 4096
TRAINED = 0.5
"""Tokens that training hardly met lie near the mean and all alike: an embedding has this share of the median length."""


def coherence(logits: Tensor, embedding: Tensor) -> Tensor:
    """Of the tokens with the highest logits, (row, token), whose embeddings have length 1.

    Examples
    --------
    >>> table = torch.eye(4).repeat_interleave(HIGHEST, 0)
    >>> logits = torch.arange(40.0)[None]
    >>> coherence(logits, table).tolist(), coherence(logits[:, torch.arange(40) * 7 % 40], table).item() < 0.5
    ([1.0], True)
    """
    at = logits.topk(HIGHEST, dim=1).indices
    return (embedding[at].sum(1).square().sum(1) - HIGHEST) / (HIGHEST * (HIGHEST - 1))


@kind(
    "coherent value vector",
    "neuron",
    entry="5.2.5",
    citation="Geva et al. 2022",
    looks_at="mean cosine between the embeddings of the ten tokens that the neuron raises, or lowers, most",
    control_is="the layer's output rows in another basis",
    threshold=0.2,
    needs={},
)
def coherent_value_vector(evidence: Evidence) -> Look:
    """Writing for tokens that are alike."""
    ids = torch.as_tensor(ordinary_tokens(evidence.model))
    draw = torch.Generator().manual_seed(evidence.seed)
    ids = ids[torch.randperm(len(ids), generator=draw)[:SAMPLE]]
    table = evidence.folded.W_U
    ids = ids[ids < table.shape[1]].to(table.device)
    if len(ids) < 5 * HIGHEST:
        raise SiteAbsent(f"{len(ids)} ordinary tokens: expected {5 * HIGHEST}, of which ten are few")
    rows = evidence.model.weights.W_E.detach().to(table)
    rows = rows[ids] - rows.mean(0)
    size = rows.norm(dim=1)
    trained = size >= TRAINED * size.median()
    ids, rows = ids[trained], rows[trained] / size[trained, None].clamp_min(torch.finfo(rows.dtype).tiny)
    table = table[:, ids]
    step = max(1, limit("weight_products", table.device) // len(ids))

    def score(_: int, written: Tensor) -> Tensor:
        parts = []
        for some in written.split(step):
            logits = some @ table
            parts.append(torch.maximum(coherence(logits, rows), coherence(-logits, rows)))
        return torch.cat(parts)

    return look_at_rows(evidence, score)
