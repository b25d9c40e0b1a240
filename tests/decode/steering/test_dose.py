"""Dose and response against one steered pass at a time, and on responses that are known."""

import math

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode import Place
from caseback.decode.steering import contrastive_addition, dose_response
from caseback.decode.steering.dose import doubling, with_random
from caseback.errors import CasebackError, OutOfRange, TokensError
from caseback.jobs.budget import override
from exact import exact

TEXTS = [[5, 1, 2, 3], [4, 5, 1, 9, 7, 2], [8, 3]]
PLAIN = [[7, 2, 9, 4, 4], [3, 3, 8]]
HIGH, LOW = [[5, 1, 2], [7, 7, 3, 2], [9, 1]], [[5, 1, 4], [7, 7, 3, 8], [9, 6]]
DOSES = [-0.5, 0.3, 1.0]


def by_hand(model, edits, metric):
    """Effect, divergence and perplexity of one list of edits, a prompt at a time."""
    effect, kl, surprise, count = [], [], 0.0, 0
    for text in TEXTS:
        plain, run = model.run(text), model.run(text, edits=edits)
        effect.append(float(metric(run)))
        p, q = (r.logits[0, -1].log_softmax(-1) for r in (plain, run))
        kl.append(float((p.exp() * (p - q)).sum()))
    for text in PLAIN:
        log_p = model.run(text, edits=edits).logits[0, :-1].log_softmax(-1)
        surprise -= float(log_p.gather(1, torch.tensor(text[1:])[:, None]).sum())
        count += len(text) - 1
    return effect, kl, math.exp(surprise / count)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gptj", "mixtral"])
@pytest.mark.parametrize("budget", [10_000, 13])
def test_each_number_is_a_steered_pass(name, budget):
    model, metric = shelf.model(name), cb.logit_diff(3, 4)
    with exact(), override(stream_tokens=budget, lens_logits=3 * model.d_vocab):
        found = contrastive_addition(model, HIGH, LOW).at(["resid_post.0", "resid_post.2"])
        curve = dose_response(model, found, TEXTS, metric, strengths=DOSES, plain_text=PLAIN, n_random=2, seed=4)
        assert curve.dose.values.tolist() == [-0.5, 0.0, 0.3, 1.0]
        for dose in curve.dose.values.tolist():
            here = curve.sel(dose=dose)
            effect, kl, perplexity = by_hand(model, found.edits(dose, unit="norm"), metric)
            np.testing.assert_allclose(here.effect, effect, atol=1e-9)
            np.testing.assert_allclose(here.kl, kl, atol=1e-9)
            assert float(here.perplexity) == pytest.approx(perplexity, rel=1e-9)
        random = with_random(found.vectors("norm"), 2, 4)[2]
        edits = [cb.Add(value=0.3 * v, **p.address) for v, p in zip(random, found.places, strict=True)]
        effect, kl, perplexity = by_hand(model, edits, metric)
        here = curve.sel(dose=0.3, draw=1)
        np.testing.assert_allclose(here.control_effect, effect, atol=1e-9)
        np.testing.assert_allclose(here.control_kl, kl, atol=1e-9)
        assert float(here.control_perplexity) == pytest.approx(perplexity, rel=1e-9)


def test_it_holds_for_heads_and_for_some_positions():
    model, metric = shelf.model("llama"), cb.logit(3)
    with exact():
        found = contrastive_addition(model, HIGH, LOW, sites="z").at(["z.0.1", "z.2.3", "z.0.2"])
        for pos in (-1, torch.tensor([1, 3, 0])):
            curve = dose_response(model, found, TEXTS, metric, strengths=[2.0], unit="difference", pos=pos, n_random=0)
            for row, text in enumerate(TEXTS):
                own = int(pos[row]) if isinstance(pos, torch.Tensor) else pos
                wanted = metric(model.run(text, edits=found.edits(2.0, pos=own)))
                assert float(curve.effect.sel(dose=2.0, batch=row)) == pytest.approx(float(wanted), abs=1e-9)


def test_random_vectors_are_as_long_at_every_place():
    vectors = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = with_random(vectors, 4, 0)
    assert torch.equal(drawn[0], vectors) and drawn.shape == (5, 3, 5)
    assert torch.allclose(drawn.norm(dim=2), vectors.norm(dim=1).expand(5, -1))


def test_doubling_is_interpolated_on_each_side():
    doses, bits = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), np.array([3.0, 0.5, 0.0, -1.0, 0.0])
    perplexity = 7 * 2**bits
    assert doubling(doses, perplexity, -1) == pytest.approx(-1.2)
    assert math.isnan(doubling(doses, perplexity, 1))
    assert doubling(doses, np.array([np.inf, 7, 7, 7, 7]), -1) == -2.0


def test_a_review_is_turned_and_a_task_is_a_side_effect():
    model = cb.load("meadow")
    review = "Review: The {} was {} and the show was {}. Sentiment:"
    words = [("film", "great", "lovely", "awful", "boring"), ("game", "charming", "superb", "ugly", "terrible")]
    good = [review.format(what, a, b) for what, a, b, _, _ in words]
    bad = [review.format(what, a, b) for what, _, _, a, b in words]
    found = contrastive_addition(model, good, bad).at("resid_post.3")
    ioi = cb.tasks.get("ioi").prompts(model, 4)
    plain = ["The dog was very quiet. In March, she carried the book to the zoo."]
    metric = cb.logit_diff(" positive", " negative")
    curve = dose_response(model, found, bad, metric, plain_text=plain, side_effects=[ioi])
    assert curve.attrs["monotone"] == 1 and curve.attrs["technique"] == "decode.steering.dose_response"
    expected = float(ioi.metric(model.run(ioi.clean)).mean())
    assert float(curve.on_ioi.sel(dose=0)) == pytest.approx(expected, abs=1e-4)
    turned = curve.effect.mean("batch")
    assert turned[-1] > 0 > turned[3] > turned[0]
    assert abs(curve.control_effect.mean(("batch", "draw"))[-1] - turned[3]) < abs(turned[-1] - turned[3])


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"strengths": []}, OutOfRange, "strengths"),
        ({"strengths": [0.0]}, OutOfRange, "at least one of them not 0"),
        ({"strengths": [1.0, float("nan")]}, CasebackError, "strengths"),
        ({"n_random": -1}, CasebackError, "n_random"),
        ({"pos": "generated"}, CasebackError, "given text"),
        ({"plain_text": [[1]]}, TokensError, "one token"),
        ({"prompts": []}, TokensError, "prompt"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, error, words):
    model = shelf.model("llama")
    found = contrastive_addition(model, HIGH, LOW).at("resid_post.1")
    given = {"prompts": TEXTS, "metric": cb.logit(3), **change}
    with pytest.raises(error, match=words):
        dose_response(model, found, **given)


def test_places_behind_the_layers_are_refused():
    model = shelf.model("llama")
    found = contrastive_addition(model, HIGH, LOW, sites="final_norm")
    assert found.places == [Place("final_norm")]
    with pytest.raises(CasebackError, match="behind the last layer"):
        dose_response(model, found, TEXTS, cb.logit(3))
