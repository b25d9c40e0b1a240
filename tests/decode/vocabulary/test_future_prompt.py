"""PRIMER 4.3.5: a trained prompt says what the model will predict; on a series, position t encodes what follows."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary import FuturePrompt, fit_future_prompt, patchscope, read_future_prompt
from caseback.decode.vocabulary.lenses.future_prompt import _Training
from caseback.decode.vocabulary.lenses.lens import fingerprint, stream_at
from caseback.errors import CasebackError, OutOfRange
from exact import exact


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gptj", "bloom", "opt_projected"])
def test_4_3_5_the_gradient_is_that_of_the_divergence(name):
    model = shelf.model(name)
    with exact():
        training = _Training(model, 2, 1, 1)
        vectors = training.start(3, torch.Generator().manual_seed(0))
        tokens = model.tokens(shelf.ids((6, 4), seed=1), padding="left")
        h, log_p = training.states([tokens], 100, torch.Generator().manual_seed(1))
        assert len(h) == 5 + 3
        kl, gradient = training.gradient(vectors, h, log_p)
        # central differences along random directions, through the edits alone
        site = stream_at(model, 1)

        def divergence(e):
            edits = [cb.Replace("embed", e, pos=[0, 1, 2]), cb.Replace(site.name, h, layer=site.layer, pos=-1)]
            log_q = model.run([[0, 0, 0]] * len(h), edits=edits).logits[:, -1].log_softmax(-1)
            return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())

        assert kl == pytest.approx(divergence(vectors), abs=1e-10)
        for seed in range(3):
            step = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            slope = (divergence(vectors + 1e-5 * step) - divergence(vectors - 1e-5 * step)) / 2e-5
            assert float((gradient * step).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-9)


def test_4_3_5_states_go_with_the_predictions_that_many_positions_later():
    model, prompts = shelf.model("llama"), shelf.ids((5,), seed=2)
    with exact():
        training = _Training(model, 1, 1, 2)
        h, log_p = training.states([model.tokens(prompts)], 100, torch.Generator().manual_seed(0))
        run = model.run(prompts, read=[("resid_pre", 1)])
    for state, own in zip(h, log_p, strict=True):
        t = int((run["resid_pre", 1][0] - state).abs().sum(-1).argmin())
        assert torch.allclose(own, run.logits[0, t + 2].log_softmax(-1), atol=1e-10)


def test_reading_is_a_patchscope_with_later_answers():
    model, prompts = shelf.model("gpt2"), shelf.ids((6, 3), seed=3)
    vectors = torch.randn(4, model.d_model, dtype=torch.float64)
    prompt = FuturePrompt(vectors, 2, 2, 2, fingerprint(model))
    with exact():
        found = read_future_prompt(model, model.tokens(prompts, padding="left"), prompt)
        plain = patchscope(model, prompts, [0] * 4, rows=[2], target_row=2, target_edits=prompt.edits)
        said = [model.run([p]).logits[0].argmax(-1).tolist() for p in prompts]
    assert np.allclose(found["top_prob"], plain["top_prob"], equal_nan=True)
    for row, prompt_of in enumerate(prompts):
        n = len(prompt_of)
        assert found["answer"].values[row, : n - 2].tolist() == [str(x) for x in said[row][2:]]
        assert (found["answer"].values[row, n - 2 :] == "").all() and found["hit"][0, row, n - 2 :].isnull().all()
        assert (found["rank"].values[0, row, n - 2 :] == 0).all() and (found["rank"].values[0, row, : n - 2] > 0).all()


def test_4_3_5_on_a_series_it_learns_what_comes_after_the_next_token():
    model = cb.load("meadow")
    series = ["Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday, Monday, Tuesday"]
    fitted = fit_future_prompt(model, series, row=3, steps=40, states_per_step=24, lr=0.1)
    assert np.mean(fitted.provenance["kl"][-5:]) < 0.5 * np.mean(fitted.provenance["kl"][:2])
    before = FuturePrompt(
        _Training(model, 3, 3, 1).start(10, torch.Generator().manual_seed(0)), 3, 3, 1, fitted.fingerprint
    )
    hits = [float(read_future_prompt(model, series, p)["hit"].mean()) for p in (before, fitted)]
    assert hits[1] > hits[0]
    again = fit_future_prompt(model, series, row=3, steps=2, states_per_step=24, lr=0.1)
    assert again.provenance["kl"][:1] == fitted.provenance["kl"][:1]


def test_a_state_written_at_the_end_leaves_the_prompt_nothing_to_do():
    model = shelf.model("llama")
    fitted = fit_future_prompt(
        model, shelf.ids((5, 5)), row=model.n_layers, ahead=0, steps=2, states_per_step=4, decay=0.0, size=2
    )
    assert max(fitted.provenance["kl"]) < 1e-6


def test_bad_input_is_refused():
    model = shelf.model("gpt2")
    wrong = ({"row": 9}, {"row": 1, "target_row": -1}, {"row": 1, "ahead": -1}, {"row": 1, "size": 0})
    for each in (*wrong, {"row": 1, "states_per_step": 0}, {"row": 1, "steps": 0}, {"row": 1, "lr": 0.0}):
        with pytest.raises(OutOfRange):
            fit_future_prompt(model, [[1, 2, 3]], **each)
    with pytest.raises(CasebackError, match="empty"):
        fit_future_prompt(model, [[1, 2]], row=1, ahead=5)
    prompt = FuturePrompt(torch.zeros(2, model.d_model), 1, 1, 3, "other")
    with pytest.raises(CasebackError, match="not trained for"):
        read_future_prompt(model, [1, 2], prompt)
    with pytest.raises(OutOfRange, match="longer prompts"):
        read_future_prompt(model, [1, 2], FuturePrompt(prompt.vectors, 1, 1, 3, fingerprint(model)))
