"""A head that sees the first four tokens and the nearest 16 alone, at the end of a prompt (beyond: B.18).

text        KL from the unedited predictions: of a streaming head hardly any
question    logit difference of the word that is asked for, over another person's; it falls without a retrieval head
"""

from __future__ import annotations

from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.heads.reach import WINDOW
from caseback.behaviors.matching_streams import NEEDLE_TOKENS
from caseback.behaviors.proofs.ends import kl_at_last, prefixes
from caseback.behaviors.proofs.experiment import Experiment, Unit
from caseback.errors import CasebackError, SiteAbsent
from caseback.model.running.edits import Edit, Knockout
from caseback.tasks.standard.needle import needle

FIRST = 4
PROMPTS = 32


def windowed(unit: Unit) -> Edit:
    """Keys between the first four tokens and the window are out of the head's sight."""
    _, layer, head = unit
    return Knockout(layer=layer, head=head, query=-1, key=slice(FIRST, -WINDOW))


def of_text(evidence: Evidence) -> Experiment:
    """Prefixes of text that are longer than what a head may see."""
    every = prefixes(evidence)
    long = [i for i, n in enumerate(every.lengths.tolist()) if n > FIRST + WINDOW]
    if not long:
        raise SiteAbsent(f"no text of more than {FIRST + WINDOW} tokens was read")
    tokens = every[long]
    return Experiment("a window of text", tokens, kl_at_last(evidence, tokens), "nats", windowed)


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
    return Experiment("a window of a question", prompts.clean, metric, "logits", windowed, worth=worth)
