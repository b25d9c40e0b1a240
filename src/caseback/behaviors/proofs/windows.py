"""A head that sees the first four tokens and the nearest 16 alone, at the end of a prompt (beyond: B.18).

text        KL from the unedited predictions: of a streaming head hardly any
question    logit difference of the word that is asked for, over another person's; it falls without a retrieval head
"""

from __future__ import annotations

from collections.abc import Callable

from caseback.behaviors.evidence import Evidence
from caseback.behaviors.heads.reach import NEAR
from caseback.behaviors.matching_streams import NEEDLE_TOKENS
from caseback.behaviors.proofs.ends import kl_at_last, prefixes
from caseback.behaviors.proofs.experiment import Experiment, Unit
from caseback.errors import CasebackError, SiteAbsent
from caseback.model.running.edits import Edit, Replace
from caseback.model.running.tokens import Tokens
from caseback.tasks.standard.needle import needle

FIRST = 4
PROMPTS = 32


def windowed(tokens: Tokens) -> Callable[[Unit], list[Edit]]:
    """Keys between the first four tokens and the window are out of the head's sight, prompts of a length at a time."""
    by_length: dict[int, list[int]] = {}
    for prompt, length in enumerate(tokens.lengths.tolist()):
        by_length.setdefault(length, []).append(prompt)

    def edits(unit: Unit) -> list[Edit]:
        _, layer, head = unit
        hidden = {"layer": layer, "head": head, "pos": -1, "value": float("-inf")}
        return [
            Replace("scores", unit=slice(FIRST, length - NEAR), prompt=prompts, **hidden)
            for length, prompts in by_length.items()
            if length > FIRST + NEAR
        ]

    return edits


def of_text(evidence: Evidence) -> Experiment:
    """Prefixes of text that are longer than what a head may see."""
    tokens = prefixes(evidence, longer_than=FIRST + NEAR)
    return Experiment("a window of text", tokens, kl_at_last(evidence, tokens), "nats", windowed(tokens))


def of_question(evidence: Evidence) -> Experiment:
    """A word told among other sentences, and asked for at the end."""
    model = evidence.model
    length = min(NEEDLE_TOKENS, model.context or NEEDLE_TOKENS)
    try:
        prompts = needle(length=length).prompts(model, PROMPTS, seed=evidence.seed + 1)
    except CasebackError as error:
        raise SiteAbsent(f"the task needle does not fit this tokenizer: {error}") from error
    metric = prompts.measured("logit_diff")
    worth = float((metric(model.run(prompts.clean)) - metric(model.run(prompts.corrupt))).mean())
    return Experiment("a window of a question", prompts.clean, metric, "logits", windowed(prompts.clean), worth=worth)
