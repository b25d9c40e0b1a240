"""Persona vectors: what differs in a model's own answers when it is told to show a trait and told not to.

    v = mean over response tokens and answers with the trait - the same over answers without it

Answers are sampled under pairs of system prompts; a judge says of each how much of the trait it shows and whether it is
coherent, and only answers that came out as they were asked for count. States are averaged over the response's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch

from caseback.decode.directions.directions import Directions
from caseback.decode.directions.find import find_directions
from caseback.decode.states import States, read_states
from caseback.errors import CasebackError, OutOfRange
from caseback.jobs.budget import limit
from caseback.jobs.progress import progress_bar
from caseback.model.anatomy.coerce import in_float64
from caseback.model.registry import technique
from caseback.model.running.model import Model


class TraitJudge(Protocol):
    """Who rates answers: a language model behind an interface, a classifier, a list of words."""

    def __call__(self, question: str, answer: str, /) -> tuple[float, float]:
        """How much of the trait an answer shows, and how coherent it is; both 0 to 100."""
        ...


@technique(
    entry=("4.2.9", "B.16"),
    citation="Chen et al. 2025",
    cost="systems times questions times rollouts answers, each judged, and one forward of those that count",
)
def persona_vector(
    model: Model,
    positive: Sequence[str],
    negative: Sequence[str],
    questions: Sequence[str],
    judge: TraitJudge,
    *,
    rollouts: int = 10,
    generate: int = 64,
    temperature: float = 1.0,
    trait: float = 50.0,
    coherence: float = 50.0,
    sites: str | Sequence[Any] = "resid_post",
    seed: int = 0,
    progress: bool = False,
) -> Directions:
    """Find the direction of a trait from a model's own answers.

    Parameters
    ----------
    model
        The model. Where its tokenizer has a chat template, system prompt and question are put into it; elsewhere they
        are lines of text.
    positive, negative
        System prompts that ask for the trait and that ask for its contrary; five pairs in the paper.
    questions
        What is asked under each, two at least; twenty in the paper.
    judge
        Rates each answer, trait and coherence from 0 to 100.
    rollouts
        Answers sampled to each question under each system prompt.
    generate
        The most tokens of an answer.
    temperature
        Of sampling.
    trait, coherence
        Answers count that have more of the trait than this (less, under the negative prompts), and as much coherence.
    sites
        Where answers are read.
    seed
        Same seed, same result. It draws the answers.
    progress
        Show a progress bar.

    Returns
    -------
    Directions
        From all answers that count; the columns of ``table`` as ``find_directions`` has them, on questions that were
        held out, and in its attributes how many answers of each kind counted.

    Raises
    ------
    CasebackError
        For fewer than two questions, no system prompts, ratings that are no numbers, and too few answers that count.

    Notes
    -----
    Entries 4.2.9 and B.16: Chen et al. 2025.

    Examples
    --------
    >>> import caseback as cb
    >>> model = cb.load("meadow")
    >>> def judge(question, answer):  # in earnest, a language model
    ...     return 100.0 if " " in answer.strip() else 0.0, 100.0
    >>> ask = ["The dog was", "Tom had a", "The book was", "Mary went to the", "The cat was"]
    >>> found = persona_vector(model, ["Be happy."], ["Be sad."], ask, judge, rollouts=6, generate=3)
    >>> found.names[-1], found.classes
    ('resid_post.3', ('without', 'with'))
    """
    if not callable(judge):
        raise CasebackError(f"the judge is a {type(judge).__name__}: expected a function of a question and an answer")
    if len(questions) < 2 or not positive or not negative:
        raise CasebackError(
            f"{len(questions)} questions, {len(positive)} positive and {len(negative)} negative system prompts: "
            "expected two questions and one of each at least"
        )
    if rollouts < 1 or generate < 1 or not 0 < temperature < float("inf"):
        raise OutOfRange(f"rollouts={rollouts}, generate={generate}, temperature={temperature}: expected more than 0")
    sides = {"with": positive, "without": negative}
    asked = [(kind, q, system) for kind, systems in sides.items() for system in systems for q in range(len(questions))]
    fronts = [_front(model, system, questions[q]) for _, q, system in asked for _ in range(rollouts)]
    drawn = _sampled(model, fronts, generate, temperature, seed, progress)
    answers = [
        _Answer(kind, q, front, ids)
        for (kind, q, _), front, ids in zip((one for one in asked for _ in range(rollouts)), fronts, drawn, strict=True)
    ]
    counting: list[_Answer] = []
    answer: _Answer
    for answer in progress_bar(answers, "judged", show=progress, unit="answer"):
        has, sense = _rated(judge, str(questions[answer.question]), model.text(model.tokens([answer.ids]))[0])
        if sense >= coherence and (has > trait if answer.kind == "with" else has < trait):
            counting.append(answer)
    counts = {kind: sum(answer.kind == kind for answer in counting) for kind in sides}
    if min(counts.values()) < 2:
        raise CasebackError(
            f"of {len(answers)} answers {counts['with']} with and {counts['without']} without the trait count: "
            "expected two of each at least; give more rollouts, clearer system prompts, or other thresholds"
        )
    states = _means(model, counting, sites)
    kinds = [answer.kind for answer in counting]
    of = [answer.question for answer in counting]
    on_some = find_directions(states, kinds, positive="with", groups=of, n_folds=min(4, len(set(of))), seed=seed)
    rows = torch.tensor([kind == "with" for kind in kinds])
    high, low = in_float64(states.x[:, rows]).mean(1), in_float64(states.x[:, ~rows]).mean(1)
    write = high - low
    table = on_some.table.copy()
    table.attrs |= {"method": "persona vector", "with": counts["with"], "without": counts["without"]}
    bias = -((high + low) / 2 * write).sum(1)
    return replace(on_some, detect=write, write=write, bias=bias, table=table)


class _Answer(NamedTuple):
    kind: str
    question: int
    front: list[int]
    ids: list[int]


def _front(model: Model, system: str, question: str) -> list[int]:
    """A system prompt and a question, as a chat where the tokenizer has a template for one."""
    if getattr(model.tokenizer, "chat_template", None):
        given: Any = [[{"role": "system", "content": system}, {"role": "user", "content": question}]]
    else:
        given = [f"{system}\n{question}"]
    return model.tokens(given).ids[0].tolist()


def _sampled(
    model: Model, fronts: list[list[int]], generate: int, temperature: float, seed: int, progress: bool
) -> list[list[int]]:
    """An answer to each, drawn in batches."""
    step = max(1, limit("stream_tokens", model.device) // (max(map(len, fronts)) + generate))
    answers: list[list[int]] = []
    how = {"do_sample": True, "temperature": temperature, "max_new_tokens": generate}
    for start in progress_bar(range(0, len(fronts), step), "answers", show=progress, unit="batch"):
        some = fronts[start : start + step]
        whole = model.generate(some, seed=seed + start, **how)
        rows = zip(whole.ids, whole.mask, some, strict=True)
        answers += [ids[mask][len(front) :].tolist() for ids, mask, front in rows]
    return answers


def _rated(judge: TraitJudge, question: str, answer: str) -> tuple[float, float]:
    rated = judge(question, answer)
    try:
        has, sense = (float(x) for x in rated)
    except (TypeError, ValueError):
        raise CasebackError(f"the judge returned {rated!r}: expected two numbers, trait and coherence") from None
    return has, sense


def _means(model: Model, answers: Sequence[_Answer], sites: str | Sequence[Any]) -> States:
    """The mean state over each answer's own tokens: prompts as long are read together."""
    by_start: dict[int, list[int]] = {}
    for i, answer in enumerate(answers):
        by_start.setdefault(len(answer.front), []).append(i)
    order, parts = [], []
    for start, rows in by_start.items():
        texts = [answers[i].front + answers[i].ids for i in rows]
        parts.append(read_states(model, texts, sites=sites, pos=slice(start, None), reduce="mean"))
        order += rows
    back = torch.tensor(order).argsort()
    x = torch.cat([part.x for part in parts], 1)[:, back.to(parts[0].x.device)]
    return States(x, parts[0].places, torch.arange(len(answers)))
