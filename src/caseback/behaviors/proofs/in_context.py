"""What heads that find things in the context must do: proofs of ``heads.in_context``.

a question without a view of the text   at the question's tokens the head sees the first four tokens and the question
                                        alone: the logit difference of the word asked for falls
the query of another choice             the head's query at the end is that of another list's prompt, which asks for
                                        the class of another option: the difference of the two options falls
owners exchanged                        at the things, what the head writes is as where the owners have changed
                                        places: the difference of the two people, asked for a thing's owner, falls
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from caseback import lexicon
from caseback.behaviors.context_streams import (
    OPTIONS,
    OWNERS,
    PEOPLE,
    Prompt,
    choice,
    people,
    question,
    single,
    single_classes,
    some_options,
)
from caseback.behaviors.evidence import Evidence
from caseback.behaviors.proofs.experiment import Experiment, Unit
from caseback.model.running.edits import Edit, Replace, Resample
from caseback.model.running.metrics import Metric, logit_diff
from caseback.model.running.model import Model
from caseback.model.running.tokens import Tokens

PROMPTS, FIRST = 32, 4
WHOSE = " The{asked} is with"


def _worth(model: Model, metric: Metric, clean: Tokens, corrupt: Tokens) -> float:
    return float((metric(model.run(clean)) - metric(model.run(corrupt))).mean())


def unseen_text(evidence: Evidence) -> Experiment:
    """Questions whose tokens do not see what was told."""
    model, rng = evidence.model, np.random.default_rng(evidence.seed + 1)
    clean, other, answers, starts = [], [], [], []
    for _ in range(PROMPTS):
        names, words = people(model, rng)
        order, each = int(rng.integers(2**31)), list(zip(names[:PEOPLE], words, strict=True))
        asked, foil = (question(model, np.random.default_rng(order), name, each) for name in names[:2])
        clean.append(asked.ids)
        other.append(foil.ids)
        answers.append(words[:2])
        starts.append(asked.at["asked"])
    tokens = model.tokens(clean)
    metric = logit_diff([target for target, _ in answers], [foil for _, foil in answers])

    def replaced(unit: Unit) -> list[Edit]:
        _, layer, head = unit
        groups: dict[tuple[int, int], list[int]] = {}
        for prompt, (start, row) in enumerate(zip(starts, clean, strict=True)):
            groups.setdefault((start, len(row)), []).append(prompt)
        hidden = {"layer": layer, "head": head, "value": float("-inf")}
        return [
            Replace("scores", unit=slice(FIRST, start), pos=slice(start, end), prompt=prompts, **hidden)
            for (start, end), prompts in groups.items()
        ]

    worth = _worth(model, metric, tokens, model.tokens(other))
    return Experiment("a question without a view of the text", tokens, metric, "logits", replaced, worth=worth)


def other_query(evidence: Evidence) -> Experiment:
    """Choices whose query asks for the class of another option, of another list."""
    model, rng = evidence.model, np.random.default_rng(evidence.seed + 1)
    classes = single_classes(model)
    clean, corrupt, source, answers = [], [], [], []
    for _ in range(PROMPTS):
        kinds, items = some_options(classes, rng)
        right, foil = rng.choice(OPTIONS, 2, replace=False).tolist()
        others = [int(rng.choice(classes[kind])) for kind in kinds]
        clean.append(choice(model, items, kinds[right]).ids)
        corrupt.append(choice(model, items, kinds[foil]).ids)
        source.append(choice(model, [others[i] for i in rng.permutation(OPTIONS)], kinds[foil]).ids)
        answers.append((items[right], items[foil]))
    tokens = model.tokens(clean)
    metric = logit_diff([target for target, _ in answers], [foil for _, foil in answers])
    run = model.run(model.tokens(source), read=["q"])
    rows, last = torch.arange(PROMPTS), run.tokens.column(-1)

    def replaced(unit: Unit) -> Edit:
        _, layer, head = unit
        # lists are of unlike lengths: the query is taken before any rotation by its place
        return Replace("q", layer=layer, head=head, pos=-1, value=run["q", layer][rows, last, head])

    worth = _worth(model, metric, tokens, model.tokens(corrupt))
    return Experiment("the query of another choice", tokens, metric, "logits", replaced, worth=worth)


def exchanged_owners(evidence: Evidence) -> Experiment:
    """Things whose owners change places."""
    model, rng = evidence.model, np.random.default_rng(evidence.seed + 1)
    names, things = single(model, lexicon.WIDE_NAMES, 4), single(model, lexicon.WIDE_THINGS)
    clean, corrupt, answers, places = [], [], [], []
    for _ in range(PROMPTS):
        who, what = (rng.choice(of, n, replace=False).tolist() for of, n in ((names, 4), (things, 2)))
        (one, by_one), (two, by_two) = who[:2], who[2:]
        pairs = []
        for first, second in ((one, two), (two, one)):
            prompt = Prompt.begun(model)
            for i, (owner, near, thing) in enumerate(((first, by_one, what[0]), (second, by_two, what[1]))):
                prompt.add(OWNERS[-1], {"a": owner, "b": near, "x": thing}, str(i))
            prompt.add(WHOSE, {"asked": what[0]})
            pairs.append(prompt)
        clean.append(pairs[0].ids)
        corrupt.append(pairs[1].ids)
        answers.append((one, two))
        places = [pairs[0].at["0x"], pairs[0].at["1x"]]  # the same in all prompts: their words are single tokens
    tokens, exchanged = model.tokens(clean), model.tokens(corrupt)
    metric = logit_diff([target for target, _ in answers], [foil for _, foil in answers])
    run = model.run(exchanged, read=["z"])

    def replaced(unit: Unit) -> Edit:
        _, layer, head = unit
        return Resample("z", layer=layer, head=head, pos=places, source=run)

    worth = _worth(model, metric, tokens, exchanged)
    return Experiment("owners exchanged", tokens, metric, "logits", replaced, worth=worth)


MAKES: dict[str, Callable[[Evidence], Experiment]] = {
    "a question without a view of the text": unseen_text,
    "the query of another choice": other_query,
    "owners exchanged": exchanged_owners,
}
"""What makes each experiment."""
