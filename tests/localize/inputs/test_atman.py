"""PRIMER 3.1.11: AtMan is the metric lost to scaled scores; nothing is lost to a factor of 0, or where nobody looks."""

import linear_models
import numpy as np
import pytest
import torch
from linear_models import close

import caseback as cb
import shelf
from caseback.errors import CasebackError, OutOfRange
from caseback.localize.inputs.perturbation.atman import atman
from exact import exact

METRIC = cb.log_prob(3)


def by_hand(model, ids, keys, factor, how, metric=METRIC):
    """The metric lost when, in every layer, the scores of some keys are rewritten wherever they are seen."""
    n = len(ids)
    seen = torch.ones(n, n).tril().bool()

    def rewritten(old):
        # (query, head, key), with a window's or the mask's large negative numbers left as they are
        new = old * (1 - factor) if how == "scale" else old + np.log(1 - factor)
        touched = seen[:, None, :] & torch.isin(torch.arange(n), torch.tensor(keys)) & (old > -1e30)
        return torch.where(touched, new, old)

    edited = model.run([ids], edits=cb.Apply("scores", rewritten))
    return float(metric(model.run([ids]))[0] - metric(edited)[0])


@pytest.mark.parametrize("how", ["scale", "weight"])
@pytest.mark.parametrize("name", shelf.FEW)
def test_3_1_11_is_a_run_with_the_scores_rewritten(name, how):
    model, prompts = shelf.model(name), shelf.ids((6, 4))
    with exact():
        scores = atman(model, prompts, METRIC, factor=0.6, how=how)
        for b, ids in enumerate(prompts):
            told = [by_hand(model, ids, [p], 0.6, how) for p in range(len(ids))]
            assert close(scores.values[b, : len(ids)], told) and np.abs(told).max() > 1e-3


@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "gpt_oss"])
def test_3_1_11_taking_nothing_away_changes_nothing(name):
    model, prompt = shelf.model(name), shelf.ids((6,))
    for how in ("scale", "weight"):
        with exact():
            assert close(atman(model, prompt, METRIC, factor=0.0, how=how), 0, 1e-12)


def test_3_1_11_a_token_that_no_head_attends_to_scores_0():
    """The copier looks at its token alone: the others' weight is below any float's precision, before and after."""
    model = linear_models.copier(7)
    with exact():
        scores = atman(model, [[4, 7, 9, 2, 11]], cb.log_prob(3)).values[0]
        # all of the weight goes to one key whatever its score, unless there is none to be had elsewhere
        cut = atman(model, [[4, 7, 9, 2, 11]], cb.log_prob(3), how="weight", factor=1.0).values[0]
    assert close(scores[[0, 2, 3, 4]], 0, 1e-12)
    assert close(cut[[0, 2, 3, 4]], 0, 1e-12) and abs(cut[1]) > 1e-2


@pytest.mark.parametrize("name", ["gpt2", "mistral", "bloom", "gemma2"])
def test_all_of_the_weight_taken_away_is_a_knockout(name):
    model, ids = shelf.model(name), shelf.ids((7,))[0]
    with exact():
        scores = atman(model, [ids], METRIC, how="weight", factor=1.0)
        clean = METRIC(model.run([ids]))[0]
        # position 0 has only itself to look at
        told = [float(clean - METRIC(model.run([ids], edits=cb.Knockout(key=p)))[0]) for p in range(1, 7)]
    assert close(scores.values[0, 1:], told)


@pytest.mark.parametrize("how", ["scale", "weight"])
def test_a_factor_of_1_leaves_masked_keys_masked(how):
    """With windows and causal masks written as large negative numbers, times 0 would open them."""
    for name in ("gpt2", "mistral", "gemma2", "gpt_oss"):
        model, ids = shelf.model(name), shelf.ids((9,))[0]
        early = cb.logit(3, pos=2)
        with exact():
            scores = atman(model, [ids], early, how=how, factor=1.0).values[0]
        assert (scores[3:] == 0).all()


def test_3_1_11_similar_tokens_are_suppressed_together():
    model, ids = shelf.model("llama"), [7, 9, 7, 4, 9, 2]
    with exact():
        scores = atman(model, [ids], METRIC, similarity=0.999).values[0]
        alone = atman(model, [ids], METRIC).values[0]
        pairs = [by_hand(model, ids, keys, 0.9, "scale") for keys in ([0, 2], [1, 4])]
        everything = atman(model, [ids], METRIC, similarity=-1.0).values[0]
        assert close(scores[[0, 1, 2, 4]], [*pairs, *pairs]) and close(scores[[3, 5]], alone[[3, 5]])
        assert close(everything, by_hand(model, ids, list(range(6)), 0.9, "scale"))


def test_similarity_is_a_cosine_of_embeddings():
    model, ids = shelf.model("gpt2"), shelf.ids((6,))[0]
    with exact():
        e = torch.nn.functional.normalize(model.hf.get_input_embeddings().weight[ids], dim=-1).detach()
        cosine = (e @ e.T)[2]
        least = float(cosine.sort().values[3]) - 1e-3
        like = (cosine >= least).nonzero()[:, 0].tolist()
        scores = atman(model, [ids], METRIC, similarity=least).values[0]
        assert len(like) == 3 and close(scores[2], by_hand(model, ids, like, 0.9, "scale"))


def test_padding_batch_and_groups():
    model, prompts = shelf.model("mistral"), shelf.ids((8, 5))
    tokens = model.tokens(prompts)
    groups = [[[0, 3], [1, 2], [5]], [[4, 0], [2]]]
    with exact():
        how = {"features": groups, "similarity": 0.3}
        scores = atman(model, tokens, METRIC, **how)
        left = atman(model, tokens.padded_on("left"), METRIC, token_budget=9, **how)
        alone = atman(model, [prompts[1]], METRIC, features=groups[1], similarity=0.3)
    assert scores.dims == ("batch", "feature") and close(scores, left)
    assert close(scores.values[1, :2], alone.values[0]) and np.isnan(scores.values[1, 2])


def test_bad_input():
    model, prompt = shelf.model("gpt2"), shelf.ids((4,))
    for bad, kind, said in (
        ({"factor": 1.5}, OutOfRange, "factor is 1.5"),
        ({"similarity": 2.0}, OutOfRange, "similarity is 2.0"),
        ({"how": "shift"}, CasebackError, "how 'shift' is unknown"),
        ({"keep": slice(0, 4)}, CasebackError, "no token to perturb"),
        ({"features": [[0], []]}, CasebackError, "feature 1 of prompt 0 is empty"),
    ):
        with pytest.raises(kind, match=said):
            atman(model, prompt, METRIC, **bad)
