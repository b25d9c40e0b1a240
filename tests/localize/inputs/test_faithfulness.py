"""PRIMER 3.1.28: comprehensiveness, sufficiency, AOPC, insertion and deletion are what they are defined to be."""

import numpy as np
import pytest
import torch
import xarray as xr
from additive_model import additive

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.inputs import attribute, faithfulness, gradient_x_input, removal_curves, soft_faithfulness
from caseback.model.prompts.baselines import baseline_embedding
from caseback.model.prompts.granularity import features_of
from exact import exact

METRIC = cb.logit_diff(3, 5)
PROMPTS = [[7, 2, 9, 4, 8, 6], [5, 6, 3, 1]]


def test_3_1_28_aopc_of_an_additive_model_is_known():
    """Where every token adds its score, what is lost is the sum of the scores that are gone."""
    model = additive()
    with exact():
        scores = gradient_x_input(model, PROMPTS, METRIC)
        found = faithfulness(model, PROMPTS, METRIC, scores, baseline="zero", chance=0)
    for b, n in enumerate(map(len, PROMPTS)):
        mine = scores.values[b, :n]
        lost = np.concatenate([[0], np.cumsum(np.sort(mine)[::-1])])
        assert np.allclose(found.comprehensiveness.values[b, : n + 1], lost, atol=1e-10)
        assert np.allclose(found.sufficiency.values[b, : n + 1], mine.sum() - lost, atol=1e-10)
        assert np.isnan(found.comprehensiveness.values[b, n + 1 :]).all()
        # k = 0 is the step at which nothing is gone; for sufficiency that where everything is there takes its place
        assert np.isclose(found.aopc_comprehensiveness[b], lost.sum() / (n + 1), atol=1e-10)
        assert np.isclose(found.aopc_sufficiency[b], (mine.sum() - lost[1:]).sum() / (n + 1), atol=1e-10)
    assert np.abs(lost).max() > 1e-2


@pytest.mark.parametrize("name", shelf.FEW)
def test_3_1_28_every_point_is_a_plain_edited_run(name):
    model = shelf.model(name)
    scores = torch.tensor([[0.3, -1.0, 2.0, 0.1, 0.4, 0.0], [1.0, 2.0, -3.0, 0.5, float("nan"), float("nan")]])
    with exact():
        curves = removal_curves(model, PROMPTS, METRIC, scores, baseline="mean")
        embedding = torch.zeros(1, 1, model.d_model, dtype=torch.float64)
        mean = baseline_embedding(model, "mean", embedding)[0, 0]
        for b, order in enumerate(([2, 4, 0, 3, 5, 1], [1, 0, 3, 2])):
            tokens = model.tokens(PROMPTS[b])
            for k in range(len(order) + 1):
                for curve, gone in ((curves.deletion, order[:k]), (curves.insertion, order[k:])):
                    edits = [cb.Replace("embed", mean, pos=p) for p in gone]
                    assert abs(float(METRIC(model.run(tokens, edits=edits))[0]) - float(curve[b, k])) < 1e-9
    assert float(curves.value[0]) == pytest.approx(float(curves.deletion[0, 0]), abs=1e-12)


def test_3_1_28_insertion_is_deletion_in_the_reverse_order():
    model = shelf.model("mistral")
    scores = torch.randn(3, 2, 6, dtype=torch.float64)
    with exact():
        there = removal_curves(model, PROMPTS, METRIC, scores)
        back = removal_curves(model, PROMPTS, METRIC, -scores)
    for b, n in enumerate(map(len, PROMPTS)):
        insertion, deletion = there.insertion.values[:, b, : n + 1], back.deletion.values[:, b, : n + 1]
        assert np.allclose(insertion, deletion[:, ::-1], atol=1e-12)
    assert np.allclose(there.insertion_area, back.deletion_area, atol=1e-12)


def test_areas_are_trapezoids_over_the_share_and_shares_round_up():
    model = shelf.model("llama")
    scores = torch.tensor([[5.0, 4.0, 3.0, 2.0, 1.0, 0.0], [4.0, 3.0, 2.0, 1.0, 0.0, 0.0]])
    whole = removal_curves(model, PROMPTS, METRIC, scores)
    for b, n in enumerate(map(len, PROMPTS)):
        by_numpy = np.trapezoid(whole.deletion.values[b, : n + 1], whole.share.values[b, : n + 1])
        assert np.isclose(whole.deletion_area[b], by_numpy)
    some = removal_curves(model, PROMPTS, METRIC, scores, shares=[0.5, 0.2])
    assert some.units.values.tolist() == [[2, 3], [1, 2]]
    assert np.allclose(some.deletion.values[0], whole.deletion.values[0, [2, 3]])


def test_words_go_together_and_special_tokens_stay():
    model = cb.load("meadow")
    tokens, metric = model.tokens("Mary Carter went home. John stayed at"), cb.logit(" the")
    scores = gradient_x_input(model, tokens, metric)
    words = features_of(model, tokens, "word")
    curves = removal_curves(model, tokens, metric, scores, features="word")
    assert curves.sizes["k"] == len(words.groups[0]), "all words but the token that begins a text, and none of them"
    all_gone = [
        cb.Replace("embed", baseline_embedding(model, "mean", torch.zeros(1, 1, model.d_model))[0, 0], pos=p)
        for p in range(1, len(tokens.text[0]))
    ]
    assert float(curves.deletion[0, -1]) == pytest.approx(float(metric(model.run(tokens, edits=all_gone))[0]), abs=1e-4)
    by_word = attribute(model, tokens, metric, "gradient_x_input", features="word")
    again = removal_curves(model, tokens, metric, by_word, features="word")
    assert np.allclose(again.deletion.values[0], curves.deletion.values)
    more = removal_curves(model, tokens, metric, scores, features="word", special=True)
    assert more.sizes["k"] == curves.sizes["k"] + 1


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(side):
    model = shelf.model("gpt2")
    scores = torch.randn(2, 6, dtype=torch.float64)
    with exact():
        batch = model.tokens(PROMPTS, padding=side)
        found = faithfulness(model, batch, METRIC, scores, chance=2)
        soft = soft_faithfulness(model, batch, METRIC, scores, samples=3)
        for b, prompt in enumerate(PROMPTS):
            n = len(prompt)
            alone = faithfulness(model, prompt, METRIC, scores[b : b + 1, :n], chance=2)
            assert np.allclose(
                found.comprehensiveness.values[b, : n + 1], alone.comprehensiveness.values[0], atol=1e-10
            )
            lone = soft_faithfulness(model, prompt, METRIC, scores[b : b + 1, :n], samples=3)
            assert np.allclose(soft.sufficiency.values[b], lone.sufficiency.values[0], atol=1e-10)


def test_chance_is_the_mean_of_random_orders_and_does_not_depend_on_neighbours():
    model = shelf.model("llama")
    scores = torch.randn(2, 6, dtype=torch.float64)
    found = faithfulness(model, PROMPTS, METRIC, scores, chance=5, seed=3)
    orders = np.stack([np.random.default_rng((3, i)).random(6) for i in range(5)])
    mine = faithfulness(model, PROMPTS[:1], METRIC, torch.from_numpy(orders)[:, None], chance=0)
    assert np.isclose(found.chance_comprehensiveness[0], mine.aopc_comprehensiveness.values[:, 0].mean())
    assert np.isclose(found.chance_comprehensiveness_sd[0], mine.aopc_comprehensiveness.values[:, 0].std())


def test_soft_masks_keep_what_scores_say():
    """A token of the highest score keeps all for sufficiency and nothing for comprehensiveness, and the other way."""
    model, prompt = additive(), PROMPTS[0]
    scores = torch.tensor([[1.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
    with exact():
        hard = removal_curves(model, prompt, METRIC, scores, baseline="zero")
        soft = soft_faithfulness(model, prompt, METRIC, scores, samples=2)
        half = soft_faithfulness(model, prompt, METRIC, torch.tensor([[1.0, 0.5, 0.0, 0.0, 0.0, 0.0]]), samples=2000)
        exactly = gradient_x_input(model, prompt, METRIC).values[0]
    assert np.isclose(soft.comprehensiveness[0], hard.value[0] - hard.deletion[0, 2], atol=1e-10)
    assert np.isclose(soft.sufficiency[0], hard.value[0] - hard.insertion[0, 2], atol=1e-10)
    assert (soft.comprehensiveness_error.values == 0).all()
    expected = exactly[0] + exactly[1] / 2
    assert abs(half.comprehensiveness[0] - expected) < 4 * half.comprehensiveness_error[0]
    assert half.comprehensiveness_error[0] > 0


def test_tokens_after_the_position_measured_are_left_alone():
    model = shelf.model("llama")
    scores = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    curves = removal_curves(model, PROMPTS[0], cb.logit_diff(3, 5, pos=2), scores)
    assert curves.units.values.tolist() == [[0, 1, 2, 3]]


def test_bad_input_is_told():
    model = shelf.model("llama")
    scores = torch.zeros(2, 6)
    with pytest.raises(OutOfRange, match="shares"):
        removal_curves(model, PROMPTS, METRIC, scores, shares=[0.2, 2.0])
    with pytest.raises(CasebackError, match="attribute these"):
        removal_curves(model, PROMPTS, METRIC, scores[:, :4])
    with pytest.raises(CasebackError, match="not finite"):
        removal_curves(model, PROMPTS, METRIC, scores.fill_(float("nan")))
    with pytest.raises(CasebackError, match="expected \\(batch, pos\\)"):
        removal_curves(model, PROMPTS, METRIC, xr.DataArray(np.zeros((2, 6)), dims=["layer", "pos"]))
    with pytest.raises(OutOfRange, match="samples is 0"):
        soft_faithfulness(model, PROMPTS, METRIC, torch.zeros(2, 6), samples=0)
    with pytest.raises(OutOfRange, match="chance is -1"):
        faithfulness(model, PROMPTS, METRIC, torch.zeros(2, 6), chance=-1)
    with pytest.raises(CasebackError, match="expected a metric"):
        faithfulness(model, PROMPTS, "logit", torch.zeros(2, 6))
    meadow = cb.load("meadow")
    alone = meadow.tokens([[meadow.tokenizer.bos_token_id or meadow.tokenizer.eos_token_id]])
    with pytest.raises(CasebackError, match="no token that may be replaced"):
        removal_curves(meadow, alone, cb.logit(" the"), torch.zeros(1, 1))
