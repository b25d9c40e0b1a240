"""What a unit is worth to texts of its class: their log probability without it, less that of other texts.

    effect = mean over texts of the class of D - mean over others of D
    D = mean over the text's tokens of log p, with the unit at its mean (an expert: taken out) - as it is

Below 0 where the class loses more than the rest; a unit that all texts need is at 0. As many texts of either, each of a
document of its own, of the half that units were scored on.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.kinds import Look
from caseback.behaviors.proofs.experiment import Experiment, Recipe, by_means
from caseback.errors import SiteAbsent
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.metrics import Bound, Metric
from caseback.model.running.tokens import Tokens
from caseback.stream.documents import documents
from caseback.stream.packing import rows_of

TEXTS, FEWEST = 16, 4
LENGTH, SHORTEST = 64, 8


def prompts_of(evidence: Evidence, label: str, name: str) -> tuple[list[list[int]], list[list[int]]]:
    """Rows of texts of a class, and as many of others.

    Raises
    ------
    SiteAbsent
        For fewer than four of either.
    """
    classes, codes = evidence.labels.coded(label)
    wanted = classes.index(name)
    room = min(LENGTH, evidence.model.context or LENGTH)
    parts: tuple[list[list[int]], list[list[int]]] = ([], [])
    last = -1
    for row in rows_of(evidence.model, documents(evidence.documents[1]), length=room, least=min(SHORTEST, room)):
        code = codes[1][row.document]
        if row.document != last and code >= 0 and len(own := parts[int(code != wanted)]) < TEXTS:
            own.append(row.ids)
            last = row.document
    n = min(map(len, parts))
    if n < FEWEST:
        raise SiteAbsent(f"{n} texts of {SHORTEST} tokens are {name!r}, or are not: expected {FEWEST} of either")
    return parts[0][:n], parts[1][:n]


def mean_log_prob(sign: Tensor) -> Metric:
    """The mean log probability of a prompt's tokens, with a sign for each prompt."""

    def bind(tokens: Tokens, tokenizer: object, d_vocab: int) -> Bound:
        counts = tokens.mask[:, 1:] & tokens.mask[:, :-1]

        def value(x: Tensor, rows: Tensor) -> Tensor:
            ids, counted, own = (t.to(x.device)[rows] for t in (tokens.ids[:, 1:], counts, sign))
            log_p = at_least_float32(x[:, :-1]).log_softmax(-1).gather(-1, ids[..., None])[..., 0]
            return own * torch.where(counted, log_p, 0.0).sum(-1) / counted.sum(-1)

        return Bound(None, None, value)

    return Metric("mean log probability", bind)


def loss_by(label: str) -> Callable[[Evidence, Look, int], Experiment]:
    """The experiment of one candidate, whose class the look has chosen."""

    def make(evidence: Evidence, look: Look, unit: int) -> Experiment:
        name = look.classes[unit]
        own, others = prompts_of(evidence, label, name)
        sign = torch.tensor([1.0] * len(own) + [-1.0] * len(others), dtype=torch.float64)
        tokens = evidence.model.tokens([*own, *others])
        # over as many of either, half of the difference is the mean
        return Experiment(
            f"loss by {label}", tokens, mean_log_prob(sign), "nats a token", by_means(evidence, TEXT), 0.5
        )

    return make


def recipe(label: str) -> Recipe:
    """How the experiment is made."""
    return Recipe(None, {TEXT: ()}, each=loss_by(label))
