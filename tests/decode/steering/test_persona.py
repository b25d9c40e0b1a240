"""Persona vectors: means over the answers' own tokens, of those answers that a judge lets count."""

from typing import Any

import pytest
import torch

import caseback as cb
from caseback.decode.steering import persona, persona_vector
from caseback.errors import CasebackError

ASK = ["The dog was", "Tom had a", "The book was", "Mary went to the", "The cat was"]
HOW: Any = {"rollouts": 4, "generate": 3}


@pytest.fixture(scope="module")
def model():
    return cb.load("meadow")


def test_it_is_the_difference_of_the_answers_that_count(model, monkeypatch):
    draw = torch.Generator().manual_seed(0)
    planted = [torch.randint(20, 2000, (1 + i % 3,), generator=draw).tolist() for i in range(60)]
    monkeypatch.setattr(persona, "_sampled", lambda model, fronts, *rest: planted[: len(fronts)])
    judge = _counted()
    found = persona_vector(model, ["Be happy."], ["Be sad.", "Weep."], ASK, judge, **HOW)
    sums: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for i, ids in enumerate(planted):
        question, system = ASK[i // 4 % 5], ("Be happy.", "Be sad.", "Weep.")[i // 20]
        has, sense = (i + 1) % 3 > 0, (i + 1) % 5 > 0
        if sense and has == (i < 20):
            front = model.tokens(f"{system}\n{question}").ids[0].tolist()
            states = model.run([front + ids], read=["resid_post"])["resid_post"][:, 0, len(front) :]
            sums[i < 20].append(states.double().mean(1))
    assert [found.table.attrs[kind] for kind in ("with", "without")] == [len(sums[True]), len(sums[False])]
    wanted = torch.stack(sums[True]).mean(0) - torch.stack(sums[False]).mean(0)
    assert torch.allclose(found.write, wanted, atol=1e-4)


def test_answers_are_drawn_by_the_seed_and_judged_as_text(model):
    seen = []

    def judge(question, answer):
        seen.append((question, answer))
        return _RATINGS[len(seen) % 3], 100.0

    first = persona_vector(model, ["Be happy."], ["Be sad."], ASK, judge, **HOW)
    texts = [answer for _, answer in seen]
    assert [question for question, _ in seen[::4]] == ASK * 2 and len(set(texts)) > 5
    seen.clear()
    again = persona_vector(model, ["Be happy."], ["Be sad."], ASK, judge, **HOW)
    assert torch.equal(again.write, first.write) and [answer for _, answer in seen] == texts
    seen.clear()
    other = persona_vector(model, ["Be happy."], ["Be sad."], ASK, judge, **HOW, seed=1)
    assert not torch.equal(other.write, first.write)


_RATINGS = (20.0, 80.0, 80.0)


def _counted():
    calls = []

    def judge(question, answer):
        calls.append(1)
        return (80.0 if len(calls) % 3 else 20.0), (90.0 if len(calls) % 5 else 10.0)

    return judge


@pytest.mark.parametrize(
    "change, words",
    [
        ({"judge": lambda q, a: 3}, "the judge returned 3"),
        ({"judge": []}, "the judge is a list"),
        ({"judge": lambda q, a: (100.0, 100.0)}, "20 with and 0 without the trait count"),
        ({"judge": lambda q, a: (float("nan"), 100.0)}, "0 with and 0 without"),
        ({"questions": ["Why?"]}, "1 questions"),
        ({"negative": []}, "0 negative"),
        ({"temperature": 0.0}, "temperature"),
        ({"rollouts": 0}, "rollouts"),
    ],
)
def test_what_gives_no_vector_is_refused(model, change, words):
    given = {"positive": ["Be happy."], "negative": ["Be sad."], "questions": ASK, "judge": _counted(), **HOW, **change}
    with pytest.raises(CasebackError, match=words):
        persona_vector(model, **given)
