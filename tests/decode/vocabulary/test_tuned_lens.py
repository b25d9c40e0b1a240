"""PRIMER 4.3.3: begins at the logit lens and only improves; the written-out gradient is autograd's."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary import fit_tuned_lens, lens_quality, logit_lens, read_lens
from caseback.decode.vocabulary.lenses.lens import Lens, fingerprint
from caseback.decode.vocabulary.lenses.vocabulary_kl import VocabularyKL
from caseback.errors import CasebackError, OutOfRange
from caseback.model.running.verify import unembed
from caseback.organisms.prose.text import documents
from exact import exact

# post-norms with a cap, logit scale, bias of the head, projection before the head, centred and uncentred norms
HEADS = ("gpt2", "llama", "gemma2", "cohere", "phi", "opt_projected", "gpt_neox", "granite")


def texts(count, seed=0):
    kinds = ("giving", "fact", "story", "series", "agreement", "years", "pronoun", "errand")
    return [d.text for kind in kinds for d in documents(kind, count, seed, heldout=False)]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("max_logits", [2**24, 100])
def test_4_3_3_divergence_and_gradient_are_autograds(name, max_logits):
    model = shelf.model(name)
    generator = torch.Generator().manual_seed(0)
    t = torch.randn(3, 5, model.d_model, generator=generator, dtype=torch.float64).requires_grad_()
    final = torch.randn(5, model.d_model, generator=generator, dtype=torch.float64)
    with exact():
        log_p = unembed(model.anatomy, final).detach().log_softmax(-1)
        expected = (log_p.exp() * (log_p - unembed(model.anatomy, t).log_softmax(-1))).sum(-1)
        (gradient,) = torch.autograd.grad(expected.sum(), t)
        kl = VocabularyKL(model.anatomy, max_logits)
        found, at_stream = kl(t.detach(), log_p)
    assert torch.allclose(kl.log_probs(final), log_p, atol=1e-10)
    assert torch.allclose(found, expected.detach(), atol=1e-10)
    assert torch.allclose(at_stream, gradient, atol=1e-10)


def test_a_prediction_that_rules_its_best_word_out_is_still_measured():
    model = shelf.model("gpt2")
    kl = VocabularyKL(model.anatomy)
    t = torch.randn(1, 2, model.d_model, dtype=torch.float64) * 10
    kl.norm = None
    log_p = (-kl.log_probs(t[0])).log_softmax(-1)
    found, _ = kl(t * 400, log_p)
    expected = (log_p.exp() * (log_p - kl.log_probs(t[0] * 400))).sum(-1)
    assert torch.isfinite(found).all() and torch.allclose(found[0], expected)


def test_4_3_3_it_begins_as_the_logit_lens():
    model = shelf.model("gemma2")
    zero = torch.zeros(model.n_layers, model.d_model, model.d_model, dtype=torch.float64)
    lens = Lens(
        "tuned", tuple(range(model.n_layers)), zero + torch.eye(model.d_model), zero[:, 0], model.n_layers,
        fingerprint=fingerprint(model),
    )  # fmt: skip
    prompts = shelf.ids((6, 4), seed=2)
    with exact():
        ours, plain = read_lens(model, prompts, lens), logit_lens(model, prompts)
    for name in ("kl", "entropy", "js", "surprise"):
        assert np.allclose(ours[name], plain[name], atol=1e-10, equal_nan=True)
    assert float(ours["kl"].isel(layer=-1).max()) < 1e-12


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


@pytest.fixture(scope="module")
def small(meadow):
    return fit_tuned_lens(meadow, texts(60), recipe="small", steps=25, tokens_per_step=1024, batch=32)


@pytest.mark.slow
def test_4_3_3_a_trained_lens_beats_the_logit_lens_at_every_depth_in_divergence_and_bias(meadow, small):
    held_out = texts(12, seed=9)
    tuned, plain = lens_quality(meadow, held_out, small), lens_quality(meadow, held_out)
    for name in ("kl", "bias"):
        assert (tuned[name].values[:-1] < plain[name].values[:-1]).all(), (tuned[name], plain[name])
    assert float(plain["kl"][-1]) < 1e-6 and float(plain["bias"][-1]) < 1e-9


def test_a_lens_is_measured_token_by_token_whatever_the_batch(meadow):
    some = texts(2, seed=4)
    whole = lens_quality(meadow, some, batch=64)
    by_one = lens_quality(meadow, some, batch=1, max_logits=5000)
    read = [logit_lens(meadow, t) for t in some]
    for name in ("kl", "surprise"):
        each = [r[name].values[:, 0] for r in read]
        assert np.allclose(whole[name], np.nanmean(np.concatenate(each, -1), -1), atol=1e-5)
    for name in whole:
        assert np.allclose(whole[name], by_one[name], atol=1e-6)


def test_the_papers_recipe_lowers_the_divergence_step_by_step(meadow):
    lens = fit_tuned_lens(meadow, texts(20), steps=12, tokens_per_step=512, batch=16)
    start = fit_tuned_lens(meadow, texts(20), steps=1, tokens_per_step=512, batch=16)
    assert all(after < before for after, before in zip(lens.provenance["kl"], start.provenance["kl"], strict=True))


def test_an_interrupted_training_goes_on_to_the_same_lens(meadow, tmp_path, monkeypatch):
    from caseback.decode.vocabulary.lenses import tuned_lens

    how = {"recipe": "small", "steps": 6, "tokens_per_step": 64, "batch": 4, "checkpoint": tmp_path / "lens.part"}
    corpus = texts(4)
    whole = fit_tuned_lens(meadow, corpus, **{**how, "checkpoint": None})
    monkeypatch.setattr(tuned_lens, "SAVE_EVERY", 2)
    real, done = tuned_lens._Training.step, []

    def interrupted(self, step, batches):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(step)
        return real(self, step, batches)

    monkeypatch.setattr(tuned_lens._Training, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit_tuned_lens(meadow, corpus, **how)
    monkeypatch.setattr(tuned_lens._Training, "step", real)
    resumed = fit_tuned_lens(meadow, corpus, **how)
    assert torch.equal(resumed.weight, whole.weight) and resumed.provenance == whole.provenance
    with pytest.raises(CasebackError, match="another training"):
        fit_tuned_lens(meadow, corpus, **{**how, "seed": 1})
    with pytest.raises(CasebackError, match="another training"):
        fit_tuned_lens(meadow, [*corpus[:-1], "Mary went home"], **how)


def test_what_cannot_be_trained_is_refused(meadow, small):
    with pytest.raises(CasebackError, match="empty"):
        fit_tuned_lens(meadow, [], steps=1)
    with pytest.raises(OutOfRange, match="recipe"):
        fit_tuned_lens(meadow, ["Mary went home"], recipe="quick")
    for wrong in ({"steps": 0}, {"tokens_per_step": -1}, {"lr": 0.0}):
        with pytest.raises(OutOfRange, match="more than 0"):
            fit_tuned_lens(meadow, ["Mary went home"], **wrong)
    with pytest.raises(CasebackError, match="width"):
        read_lens(shelf.model("gpt2"), [1, 2], small)
