"""Scores of steering against each continuation scored by itself."""

import json

import pytest
import torch

import caseback as cb
from caseback.decode.steering import contrastive_addition, steering_scores
from caseback.errors import CasebackError, OutOfRange, TargetError

PAIRS = [("happy", "sad"), ("lovely", "awful"), ("great", "bad"), ("superb", "poor"), ("charming", "ugly")]
PROMPTS = ["The dog was", "Tom had a", "The film was", "Mary went to the"]


@pytest.fixture(scope="module")
def steered():
    model = cb.load("meadow")
    good, bad = ([f"The {noun} was {pair[i]}" for pair in PAIRS for noun in ("film", "game")] for i in (0, 1))
    found = contrastive_addition(model, good, bad)
    how = {"strengths": [0.5, 1.0], "prefixes": ["Anna was happy. "], "words": [" happy", " the"], "generate": 6}
    direction, judge = found.at("resid_post.2"), found.at("resid_post.3")
    return model, direction, judge, steering_scores(model, direction, PROMPTS, judge, **how)


def by_hand(model, judge, front, bare, answer, edits):
    """The scores of one prompt: what is written after ``front``, judged behind the bare prompt."""
    ids = lambda text: model.tokens(text).ids[0].tolist()  # noqa: E731
    written = model.generate(front, edits=edits, max_new_tokens=6).ids[0].tolist()[len(ids(front)) :]

    def mean_log_p(start, end, edits):
        log_p = model.run([start + end], edits=edits).logits[0].log_softmax(-1)
        return sum(float(log_p[len(start) - 1 + i, token]) for i, token in enumerate(end)) / len(end)

    states = model.run([ids(bare) + written], read=["resid_post"])["resid_post", 3][0, len(ids(bare)) :].mean(0)
    own = mean_log_p(ids(bare), answer, [])
    ratio = lambda log_p: min(1.0, float(torch.tensor(log_p - own).exp()))  # noqa: E731
    return (
        float((states.double() @ judge.detect[0] + judge.bias[0]) > 0),
        ratio(mean_log_p(ids(front), answer, edits)),
        ratio(mean_log_p(ids(bare), written, [])),
        sum(token in (model.token_id(" happy"), model.token_id(" the")) for token in written) / len(written),
    )


def test_each_score_is_its_formula(steered):
    model, direction, judge, scores = steered
    assert scores["variant"].values.tolist() == [
        *("unsteered", "steered +0.5", "steered +1", "random 0 +0.5", "random 0 +1", "prefix 0")
    ]
    for b, prompt in enumerate(PROMPTS):
        n = len(model.tokens(prompt).ids[0])
        answer = model.generate(prompt, max_new_tokens=6).ids[0].tolist()[n:]
        for variant, front, edits in (
            ("unsteered", prompt, []),
            ("steered +0.5", prompt, direction.edits(0.5, unit="norm")),
            ("steered +1", prompt, direction.edits(1.0, unit="norm")),
            ("prefix 0", "Anna was happy. " + prompt, []),
        ):
            here = scores.sel(variant=variant, batch=b)
            concept, instruction, fluency, share = by_hand(model, judge, front, prompt, answer, edits)
            assert float(here.concept) == concept
            assert float(here.instruction) == pytest.approx(instruction, abs=1e-3)
            assert float(here.fluency) == pytest.approx(fluency, abs=1e-3)
            assert float(here.words) == pytest.approx(share)
            three = (concept, instruction, fluency)
            wanted = 3 / sum(1 / x for x in three) if all(three) else 0.0
            assert float(here.overall) == pytest.approx(wanted, abs=1e-3)


def test_one_half_chooses_and_the_other_reports(steered):
    *_, scores = steered
    chosen = json.loads(scores.attrs["chosen"])
    assert set(chosen) == {"unsteered", "steered", "random", "prefix"}
    tried = scores.overall.sel(variant=["steered +0.5", "steered +1"]).isel(batch=slice(0, None, 2)).mean("batch")
    assert chosen["steered"] == str(tried["variant"].values[int(tried.values.argmax())])
    reported = scores.overall.isel(batch=slice(1, None, 2)).mean("batch")
    assert scores.held_out.values.tolist() == pytest.approx(reported.values.tolist())
    assert scores.instruction.sel(variant="unsteered").values.tolist() == pytest.approx([1.0] * 4, abs=1e-4)
    assert scores.fluency.sel(variant="unsteered").values.tolist() == [1.0] * 4


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"prompts": ["The dog"]}, CasebackError, "1 prompts"),
        ({"generate": 0}, OutOfRange, "generate=0|generate"),
        ({"words": ["abcdefgh xyz"]}, TargetError, "tokens"),
        ({"strengths": [0.0]}, OutOfRange, "not 0"),
    ],
)
def test_what_cannot_be_scored_is_refused(steered, change, error, words):
    model, direction, judge, _ = steered
    with pytest.raises(error, match=words):
        steering_scores(model, direction, **{"prompts": PROMPTS, "judge": judge, **change})


def test_a_judge_at_several_places_is_refused(steered):
    model, direction, _, _ = steered
    many = contrastive_addition(model, ["a happy dog"], ["a sad dog"])
    with pytest.raises(CasebackError, match="a judge at 4 places"):
        steering_scores(model, direction, PROMPTS, many)
