"""What a neuron is worth to the answers that its look names.

a fact's answer   share of P(answer) that is left with the neuron at 0 at the last token, in all wordings of the
fact, less that of other facts of the relation;  along its own path this is -Attr / P(answer)
the right form    logit difference of minimal pairs of the phenomenon, with the neuron as in the sentence that
asks for the other form; pairs that the look has not seen
"""

from __future__ import annotations

import torch
from torch import Tensor

from caseback.behaviors.answers import GRAMMAR
from caseback.behaviors.evidence import Evidence
from caseback.behaviors.kinds import Look
from caseback.behaviors.proofs.experiment import SITES, Experiment, Unit, address
from caseback.behaviors.proofs.of_task import of_task
from caseback.model.anatomy.coerce import widened
from caseback.model.anatomy.norms import at_least_float32
from caseback.model.running.edits import Edit, Replace
from caseback.model.running.metrics import Bound, Metric, prob


def nought_at_last(unit: Unit) -> Edit:
    """The unit at 0, at the last token."""
    sort, layer, _ = unit
    return Replace(SITES[sort], layer=layer, value=0.0, pos=-1, **address(unit))


def fact(evidence: Evidence, look: Look, unit: int) -> Experiment:
    """The wordings of one fact, and as many of the relation's other facts."""
    number = int(look.beside["fact"][unit])
    for one in evidence.of_answers("facts"):
        if number < len(one.names):
            break
        number -= len(one.names)
    n = len(one.names)
    wordings = range(len(one.tokens) // n)
    own = [w * n + number for w in wordings]
    others = [w * n + (number + 1 + w % (n - 1)) % n for w in wordings]
    rows = own + others
    tokens = one.tokens[rows]
    answers = torch.tensor([one.answers[i] for i in rows])
    clean = widened(prob(answers.tolist())(evidence.model.run(tokens)).detach())
    sign = torch.tensor([1.0] * len(own) + [-1.0] * len(others)).to(clean)

    def left(x: Tensor, rows: Tensor) -> Tensor:
        log_p = at_least_float32(x).log_softmax(-1).gather(-1, answers.to(x.device)[rows][:, None])[:, 0]
        return sign[rows] * widened(log_p).exp() / clean[rows]

    metric = Metric("share of P that is left", lambda tokens, tokenizer, d_vocab: Bound(tokens.column(-1), None, left))
    # over as many of either, half of the difference is the mean
    return Experiment("a fact's answer", tokens, metric, "of P(answer)", nought_at_last, 0.5, worth=1.0)


def right_form(evidence: Evidence, look: Look, unit: int) -> Experiment:
    """Minimal pairs of the phenomenon that the look names."""
    return of_task("the right form", GRAMMAR[look.classes[unit]], evidence.seed + 1)(evidence)
