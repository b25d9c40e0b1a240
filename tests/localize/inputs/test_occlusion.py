"""PRIMER 3.1.7: occlusion is x.W on a linear model, and n ablations at once are n runs; captum says the same."""

import linear_models
import numpy as np
import pytest
import torch
from linear_models import close

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.inputs.gradients.gradients import gradient_x_input
from caseback.localize.inputs.perturbation.occlusion import occlusion
from caseback.model.prompts.granularity import features_of
from exact import exact

METRIC = cb.logit_diff(3, 5)


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


def test_3_1_7_equals_x_times_w_on_a_linear_model():
    """The gradient of a linear model is W, wherever it is taken."""
    model, prompt = linear_models.additive(), shelf.ids((7,))
    with exact():
        scores = occlusion(model, prompt, METRIC, baseline="zero")
        told = gradient_x_input(model, prompt, METRIC)
    assert close(scores, told, atol=1e-12) and np.abs(told).min() > 1e-3


def test_3_1_7_is_exact_for_additive_games():
    model, prompt = linear_models.additive(), shelf.ids((7,))
    with exact():
        scores = occlusion(model, prompt, METRIC, baseline=9)
        # nothing left: every token is the baseline's
        empty = occlusion(model, prompt, METRIC, baseline=9, features=[list(range(7))])
    assert close(float(scores.sum()), float(empty[0, 0]), atol=1e-12)


@pytest.mark.parametrize("name", shelf.FEW)
def test_3_1_7_a_batch_of_ablations_is_so_many_single_runs(name):
    model, prompts = shelf.model(name), shelf.ids((7, 5))
    value = torch.randn(model.d_model, dtype=torch.float64)
    with exact():
        scores = occlusion(model, prompts, METRIC, baseline=value)
        for b, ids in enumerate(prompts):
            clean = METRIC(model.run([ids]))[0]
            for p in range(len(ids)):
                without = METRIC(model.run([ids], edits=cb.Replace("embed", value, pos=p)))[0]
                assert close(float(scores[b, p]), float(clean - without), atol=1e-11)
    assert np.isnan(scores.values[1, 5:]).all()


@pytest.mark.parametrize("name", ["gpt2", "llama", "bloom", "gpt_neox", "gemma2"])
def test_3_1_7_deleting_is_running_the_shorter_prompt(name):
    model, (long, short) = shelf.model(name), shelf.ids((7, 4))
    with exact():
        scores = occlusion(model, [long, short], METRIC, removal="delete", window=2)
        clean = [METRIC(model.run([ids]))[0] for ids in (long, short)]
        for b, ids in enumerate((long, short)):
            windows = [(w, w + 2) for w in range(len(ids) - 1)]
            lost = [float(clean[b] - METRIC(model.run([ids[:i] + ids[j:]]))[0]) for i, j in windows]
            told = [
                np.mean([x for x, (i, j) in zip(lost, windows, strict=True) if i <= p < j]) for p in range(len(ids))
            ]
            assert close(scores.values[b, : len(ids)], told, atol=1e-11)


def test_3_1_7_deleting_reads_the_metric_at_the_same_token():
    model, ids = shelf.model("llama"), shelf.ids((7,))[0]
    metric = cb.log_prob(3, pos=4)
    with exact():
        scores = occlusion(model, [ids], metric, removal="delete")
        clean = metric(model.run([ids]))[0]
        last = cb.log_prob(3)
        told = [float(clean - last(model.run([ids[:p] + ids[p + 1 : 5]]))[0]) for p in range(5)]
    assert close(scores.values[0], [*told, 0, 0], atol=1e-11)


@pytest.mark.parametrize("removal", ["replace", "delete"])
def test_padding_and_batch_change_nothing(removal):
    model, prompts = shelf.model("mistral"), shelf.ids((8, 5))
    tokens = model.tokens(prompts)
    metric = cb.logit_diff([3, 4], [5, 6])
    how = {"removal": removal, "window": 3, "stride": 2}
    with exact():
        scores = occlusion(model, tokens, metric, **how)
        left = occlusion(model, tokens.padded_on("left"), metric, token_budget=9, **how)
        alone = occlusion(model, [prompts[1]], cb.logit_diff(4, 6), **how)
    assert close(scores, left, atol=1e-12)
    assert close(scores.values[1, :5], alone.values[0], atol=1e-12)


def test_tokens_that_cannot_matter_get_0_and_kept_ones_none():
    model, prompt = shelf.model("gpt2"), shelf.ids((6,))
    with exact():
        scores = occlusion(model, prompt, cb.logit(3, pos=3), keep=1).values[0]
    assert np.isnan(scores[1]) and (scores[[4, 5]] == 0).all() and (scores[[0, 2, 3]] != 0).all()


def test_words_and_sentences_are_groups_of_tokens(meadow):
    tokens = meadow.tokens("Mary went to the farmhouse. John stayed in the")
    metric = cb.logit(" house")
    words = features_of(meadow, tokens, "sentence")
    named, given = (occlusion(meadow, tokens, metric, features=f) for f in ("sentence", words.groups[0]))
    assert named.dims == ("batch", "feature") and close(named, given)
    assert named.token.values[0].tolist() == words.text[0]


def test_what_stands_in_a_tokens_place_matters(meadow):
    prompt, metric = "Mary and John went to the", cb.logit(" store")
    made = [occlusion(meadow, prompt, metric, baseline=b).values for b in ("mean", "zero", "eos", 7)]
    assert all(not close(a, b, atol=1e-3) for i, a in enumerate(made) for b in made[:i])


def test_bad_input():
    model, prompt = shelf.model("gpt2"), shelf.ids((4,))
    for bad, kind, said in (
        ({"removal": "drop"}, CasebackError, "removal 'drop' is unknown"),
        ({"window": 0}, OutOfRange, "window is 0"),
        ({"window": 2, "stride": 3}, OutOfRange, "stride is 3: expected 1 to window=2"),
        ({"stride": 0}, OutOfRange, "stride is 0"),
        ({"keep": slice(0, 4)}, CasebackError, "has no token to perturb"),
        ({"features": [[0], []]}, CasebackError, "feature 1 of prompt 0 is empty"),
        ({"baseline": torch.zeros(3)}, CasebackError, "does not fit embeddings"),
        ({"baseline": "pad"}, CasebackError, "no tokenizer"),
        ({"removal": "delete", "features": [[0, 1, 2, 3]]}, CasebackError, "no token left to predict from"),
    ):
        with pytest.raises(kind, match=said):
            occlusion(model, prompt, METRIC, **bad)
    with pytest.raises(CasebackError, match="loss reads all positions"):
        occlusion(model, prompt, cb.loss(), removal="delete")
    with pytest.raises(CasebackError, match="expected a metric"):
        occlusion(model, prompt, 1.0)


@pytest.mark.peers
@pytest.mark.parametrize("window, stride", [(1, 1), (3, 1), (3, 2)])
def test_3_1_7_same_numbers_as_captum(window, stride):
    attr = pytest.importorskip("captum.attr", reason="captum is not installed")
    model, prompt = shelf.model("llama"), shelf.ids((8,))
    embeds = model.hf.get_input_embeddings()(torch.tensor(prompt)).detach()

    def forward(x):
        logits = model.hf(inputs_embeds=x).logits[:, -1]
        return logits[:, 3] - logits[:, 5]

    shape = (window, model.d_model)
    with exact(), torch.no_grad():
        theirs = attr.Occlusion(forward).attribute(embeds, shape, strides=(stride, model.d_model), baselines=0.5)
        ours = occlusion(model, prompt, METRIC, window=window, stride=stride, baseline=torch.full((1,), 0.5))
        if window == 1:
            mask = torch.arange(8)[None, :, None].expand_as(embeds)
            ablated = attr.FeatureAblation(forward).attribute(embeds, baselines=0.5, feature_mask=mask)
            assert close(ours, ablated[..., 0], atol=1e-10)
    assert close(ours, theirs[..., 0], atol=1e-10)
