"""Neurons that promote a concept: words that are alike, raised far above the others (PRIMER 5.2.5).

    z = w_out W_U over words, in deviations from their mean;    the ten words raised most:  t_1 .. t_10
    score = mean over pairs s, t of the ten of  z_s z_t cos(e_s, e_t)
    e = a word's column of W_U, centered, without its part along w_out

Words that one direction raises are alike along it, so that part is no evidence and is taken out: what is left says
whether they are alike besides. Ten words that are alike and hardly raised, as random rows have them too where
words lie in clusters, score little, and so do ten that are raised and not alike. A word counts once, in one token
with a space before it, whatever its case. Where the MLP is gated the row is turned by the sign that two thirds of the
neuron's large activations have, and the score is 0 where they do not agree.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look, kind
from caseback.behaviors.neurons.rows import beside_controls, best, draws
from caseback.behaviors.neurons.vocabulary_shapes import agreed_signs, mean_signs
from caseback.errors import SiteAbsent
from caseback.jobs.budget import limit
from caseback.model.running.model import Model
from caseback.model.running.tokens import piece
from caseback.tasks.standard.repeats import ordinary_tokens

HIGHEST, SHOWN = 10, 3
TRAINED = 0.5
"""Tokens that training hardly met lie near the mean and all alike: a column has this share of the median length."""


def words_of(model: Model) -> list[int]:
    """One token for each word: a space and letters. Without a tokenizer all tokens are words."""
    ids = ordinary_tokens(model)
    if model.tokenizer is None:
        return ids
    first: dict[str, int] = {}
    for token in ids:
        text = piece(model.tokenizer, token)
        if len(text) > 2 and text[0] == " " and text[1:].isalpha():
            first.setdefault(text.lower(), token)
    return list(first.values())


class Words:
    """The words of a model, what a row of numbers adds to their logits, and how alike they are.

    Attributes
    ----------
    ids
        Their tokens.
    read
        (d_model, word), their columns of the unembedding.
    alike
        (word, d_model), the same less their mean.

    Raises
    ------
    SiteAbsent
        Where there are hardly any.
    """

    def __init__(self, evidence: Evidence):
        table = evidence.folded.W_U
        known = [token for token in words_of(evidence.model) if token < table.shape[1]]
        ids = torch.tensor(known, device=table.device)
        if len(ids) < 5 * HIGHEST:
            raise SiteAbsent(f"{len(ids)} words of one token: expected {5 * HIGHEST}, of which ten are few")
        alike = table[:, ids].T - table[:, ids].mean(1)
        size = alike.norm(dim=1)
        trained = size >= TRAINED * size.median()
        self.ids, self.alike, self.read = ids[trained], alike[trained], table[:, ids[trained]]

    def raised(
        self, rows: Float[Tensor, "row d_model"]
    ) -> tuple[Float[Tensor, "row word"], Float[Tensor, "row ten"], Int[Tensor, "row ten"]]:
        """How far rows raise each word, in deviations; of the ten raised most that number, and which they are."""
        z = rows @ self.read
        z = z - z.mean(1, keepdim=True)
        z = z / z.square().mean(1, keepdim=True).sqrt().clamp_min(torch.finfo(z.dtype).tiny)
        far, at = z.topk(HIGHEST, dim=1)
        return z, far, at

    def scores(self, rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row 8"]:
        """The score of rows, and of rows turned around; then of either the three words raised most."""
        parts = []
        for some in rows.split(max(1, limit("weight_products", rows.device) // len(self.ids))):
            z, *raised = self.raised(some)
            lowered = (-z).topk(HIGHEST, dim=1)
            shared = torch.nn.functional.normalize(some, dim=1)
            both = (raised, (lowered.values, lowered.indices))
            scores = [promotion(far, at, self.alike, shared)[:, None] for far, at in both]
            parts.append(torch.cat([*scores, *(at[:, :SHOWN].to(z) for _, at in both)], 1))
        return torch.cat(parts)


def promotion(
    z: Float[Tensor, "row ten"],
    at: Int[Tensor, "row ten"],
    alike: Float[Tensor, "word d_model"],
    shared: Float[Tensor, "row d_model"],
) -> Float[Tensor, " row"]:
    """Mean over pairs of z_s z_t cos(e_s, e_t), without what words share along a direction of length 1.

    Examples
    --------
    >>> alike = torch.tensor([[1.0, 2.0], [3.0, 2.0], [5.0, -2.0]])
    >>> z, shared = torch.tensor([[3.0, 2.0]]), torch.tensor([[1.0, 0.0]])
    >>> [promotion(z, torch.tensor([pair]), alike, shared).item() for pair in ([0, 1], [0, 2])]
    [6.0, -6.0]
    """
    e = alike[at]
    e = torch.nn.functional.normalize(e - (e @ shared[:, :, None]) * shared[:, None], dim=2)
    together = (z[:, :, None] * e).sum(1).square().sum(1) - (z * (e.square().sum(2) > 0.5)).square().sum(1)
    return together / (z.shape[1] * (z.shape[1] - 1))


def words(evidence: Evidence) -> Words:
    """The model's words; held, since the experiment reads them too."""
    if (key := (__name__, "words")) not in evidence.computed:
        evidence.computed[key] = Words(evidence)
    return evidence.computed[key]


def promoted(evidence: Evidence, unit: int) -> Int[Tensor, " ten"]:
    """The tokens of the ten words that a neuron promotes when it fires."""
    layer, neuron = evidence.neurons[unit]
    row = evidence.folded.W_out[layer][[neuron]] * float(agreed_signs(evidence)[unit, -1] or 1)
    return words(evidence).ids[words(evidence).raised(row)[2][0]]


@kind(
    "concept promoting",
    "neuron",
    entry="5.2.5",
    citation="Geva et al. 2022",
    looks_at="how far the neuron raises ten words, times how alike these are beyond what it writes",
    control_is="an eighth as many of the layer's output rows in another basis",
    threshold=3.0,
    needs={TEXT: ("neuron_groups", "neuron_histograms")},
    works=("words that rows raise",),
    proof="promoted words",
    sign=1,
)
def concept_promoting(evidence: Evidence) -> Look:
    """Writing for words that are alike."""
    draw, many = torch.Generator().manual_seed(evidence.seed), draws(evidence)
    own, first, second = beside_controls(evidence, lambda _, rows: words(evidence).scores(rows), draw, many)
    signs = agreed_signs(evidence)
    ranked_by, scored = (np.where(signs[:, i] > 0, own[:, 0], own[:, 1]) * np.abs(signs[:, i]) for i in (0, -1))
    shown = np.where(signs[:, [-1]] < 0, own[:, 2 + SHOWN :], own[:, 2 : 2 + SHOWN]).astype(int)
    texts = [piece(evidence.model.tokenizer, int(token)).strip() for token in words(evidence).ids]
    classes = [", ".join(texts[i] for i in three) for three in shown]
    # rows in another basis have no activations: either sign is as good
    band = best([part[:, 0] for part in first], draws=many)
    return Look(ranked_by, scored, second[:, 0], band, {"mean sign": mean_signs(evidence)[:, -1]}, classes)
