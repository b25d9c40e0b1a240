"""Experiments that a label must survive, by name.

second copy              log probability of the second half of a repeated span, nats a token
named twice              logit difference of indirect objects; the run in which nobody is named twice
succession               logit difference of the next member of a series; the run of another place in it
plain text               KL from the unedited predictions, nats; mean over text
entropy, unigrams        see ``ends``; so is the likeliest token
written tokens, promoted words, class of tokens, attention to the first token      see ``clamped``
only suppression         see ``only_suppression``
a window of text, of a question      see ``windows``
loss by a label      see ``by_class``
a fact's answer, the right form      see ``answers``
a function without examples, a claim that agrees, the same claim of another subject      see ``answers_of_heads``
a question without a view of the text, the query of another choice, owners exchanged      see ``in_context``
agreement            logit difference of a verb's number; the run with the other subject
"""

from __future__ import annotations

from caseback import tasks
from caseback.behaviors.evidence import TEXT, Evidence
from caseback.behaviors.labelled import CLASSES
from caseback.behaviors.proofs import (
    answers,
    answers_of_heads,
    by_class,
    clamped,
    ends,
    in_context,
    only_suppression,
    windows,
)
from caseback.behaviors.proofs.experiment import Experiment, Recipe, by_means
from caseback.behaviors.proofs.of_task import of_task
from caseback.behaviors.synthetic import streams
from caseback.errors import SiteAbsent
from caseback.model.running.answer_metrics import answer_log_prob
from caseback.model.running.metrics import Metric, kl
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

PROMPTS = 32


def second_copy(evidence: Evidence) -> Experiment:
    """A random span again: how likely is its second half?"""
    model = evidence.model
    drawn = streams(model, rows=PROMPTS // 4, seed=evidence.seed + 1)
    labeled, others = ([row for fold in drawn[name] for row in fold] for name in ("repeated", "fresh"))
    n = sum(place >= 0 for place in labeled[0][1]["same"]) - 1
    tokens, metric = _ending(model, [ids for ids, _ in labeled], n)
    control, same = _ending(model, [ids for ids, _ in others], n)
    as_it_is, without = (float(of(model.run(t)).mean()) / n for of, t in ((metric, tokens), (same, control)))
    means = by_means(evidence, "fresh")
    return Experiment("second copy", tokens, metric, "nats a token", means, n, as_it_is - without, -as_it_is)


def _ending(model: Model, rows: list[list[int]], n: int) -> tuple[Tokens, Metric]:
    """Rows, and the log probability of their last n tokens."""
    return model.tokens(rows), answer_log_prob([ids[-n:] for ids in rows])


def plain_text(evidence: Evidence) -> Experiment:
    """Text: do predictions change at all?"""
    model = evidence.model
    if TEXT not in evidence.collections:
        raise SiteAbsent("no text was read")
    tokens = model.tokens(evidence.prompts)
    return Experiment("plain text", tokens, kl(model.run(tokens)), "nats", by_means(evidence, TEXT))


EXPERIMENTS: dict[str, Recipe] = {
    "second copy": Recipe(second_copy, {"fresh": ("head_moments",)}),
    "plain text": Recipe(plain_text, {TEXT: ("head_moments",)}),
    "named twice": Recipe(of_task("named twice", lambda: tasks.ioi(corruption="abc")), {TEXT: ("head_moments",)}),
    "succession": Recipe(of_task("succession", tasks.successor), {TEXT: ("head_moments",)}),
    "entropy": Recipe(ends.entropy, ends.NEEDS),
    "unigrams": Recipe(ends.unigrams, ends.NEEDS),
    "likeliest token": Recipe(ends.likeliest, {TEXT: ("head_moments",)}),
    "written tokens": Recipe(clamped.written_tokens, ends.NEEDS),
    "promoted words": Recipe(None, ends.NEEDS, each=clamped.promoted_words),
    "class of tokens": Recipe(clamped.class_of_tokens, ends.NEEDS),
    "attention to the first token": Recipe(None, ends.NEEDS, each=clamped.attention_to_first),
    "only suppression": Recipe(only_suppression.only_suppression, {TEXT: ("head_moments",)}),
    "a window of text": Recipe(windows.of_text, {TEXT: ("head_moments",)}),
    "a window of a question": Recipe(windows.of_question, {TEXT: ("head_moments",)}),
    "agreement": Recipe(of_task("agreement", tasks.agreement), {TEXT: ("head_moments",)}),
    **{name: Recipe(make, {"fresh": ("head_moments",)}) for name, make in in_context.MAKES.items()},
    **{name: Recipe(make, {TEXT: ("head_moments",)}) for name, make in answers_of_heads.MAKES.items()},
    "a fact's answer": Recipe(None, {TEXT: ()}, each=answers.fact),
    "the right form": Recipe(None, {TEXT: ()}, each=answers.right_form),
    **{f"loss by {label}": by_class.recipe(label) for label in CLASSES},
}
"""Every experiment by its name."""
