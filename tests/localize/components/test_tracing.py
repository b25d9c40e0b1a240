"""PRIMER 3.2.11, causal tracing: restored runs one by one, the same noise for all of them, windows that fit."""

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.errors import CasebackError, EditError, OutOfRange, TokensError
from caseback.localize.components.machinery.noise import noised
from caseback.localize.components.tracing import causal_trace
from exact import exact
from kept_state import rewritten

METRIC = cb.prob(3)
PROMPTS = shelf.ids((7, 5))
SPANS = [[1, 2], [1, 2]]
HOW = {"subject": [1, 2], "samples": 3, "sigma": 0.8, "seed": 5}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gptj", "bloom", "opt_projected"])
def test_every_restoration_is_a_run_under_the_same_noise(name, side):
    model = shelf.model(name)
    with exact():
        tokens = model.tokens(PROMPTS, padding=side)
        found = causal_trace(model, tokens, METRIC, window=2, **HOW)
        copies, noise = noised(model, tokens, SPANS, sigma=0.8, samples=3, seed=5)
        corrupted = METRIC(model.run(copies, edits=noise)).view(2, 3)
        clean = METRIC(model.run(tokens))
        np.testing.assert_allclose(found.total, clean - corrupted.mean(1), atol=1e-9)
        np.testing.assert_allclose(found.total_spread, corrupted.std(1, correction=0), atol=1e-9)
        source = model.run(copies, read=["resid_post", "mlp_out", "attn_out"])
        for state, layer, layers, pos in (
            ("resid_post", 1, 1, 2),
            ("mlp_out", 1, [0, 1], 1),
            ("mlp_out", 0, 0, 3),
            ("attn_out", 2, [1, 2], 4),
        ):
            put = cb.Resample(state, source, layer=layers, pos=pos)
            each = METRIC(model.run(copies, edits=[noise, put])).view(2, 3) - corrupted
            said = found.sel(component=state, layer=layer, pos=pos)
            np.testing.assert_allclose(said.indirect, each.mean(1), atol=1e-9)
            np.testing.assert_allclose(said.indirect_spread, each.std(1, correction=0), atol=1e-9)
        # before the subject nothing is corrupted; the last state after all layers is all there is to restore
        assert np.abs(found.indirect.sel(pos=0)).max() < 1e-12
        last = found.indirect.sel(component="resid_post", layer=2)
        np.testing.assert_allclose([last[6, 0], last[4, 1]], found.total, atol=1e-9)
        assert np.isnan(found.indirect[..., 5:, 1]).all()
        alone = causal_trace(model, PROMPTS[1], METRIC, window=2, **HOW)
        np.testing.assert_allclose(found.indirect[:, :, :5, 1], alone.indirect[..., 0], atol=1e-9)
    assert found.subject.values.tolist() == [[0, 1, 1, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0, 0]]


def test_a_subject_is_named_by_its_text():
    model = cb.load("meadow")
    prompts = ["Mary and John went to the park. Mary gave", "The cow saw Lily. Lily gave"]
    metric, how = cb.prob([" John", " the"]), {"samples": 2, "layers": [1], "restore": "resid_post"}
    found = causal_trace(model, prompts, metric, subject=["Mary", "Lily"], **how)
    for b, name in enumerate(("Mary", "Lily")):
        row = model.tokens(prompts[b]).text[0]
        first = next(i for i, token in enumerate(row) if name in token)
        alone = causal_trace(model, prompts[b], cb.prob([" John", " the"][b]), subject=[first], **how)
        np.testing.assert_allclose(found.total[b], alone.total[0], atol=1e-5)
        assert found.subject.values[b].argmax() == first
    with pytest.raises(TokensError, match="prompt 1 does not hold 'Mary'"):
        causal_trace(model, prompts, metric, subject="Mary", **how)
    with pytest.raises(CasebackError, match="1 subjects for 2 prompts"):
        causal_trace(model, prompts, metric, subject=["Mary"], **how)


def test_windows_fit_the_model_by_default_and_are_refused_when_larger():
    model = shelf.model("gpt2")
    assert causal_trace(model, PROMPTS, METRIC, **{**HOW, "samples": 1}).attrs["window"] == 1
    with pytest.raises(OutOfRange, match="window=10: this model has 3 layers"):
        causal_trace(model, PROMPTS, METRIC, window=10, **HOW)
    for given, error, told in (
        ({"restore": "z"}, EditError, "not the state of a position"),
        ({"restore": []}, CasebackError, "each once"),
        ({"sigma": -1.0}, CasebackError, "sigma=-1"),
        ({"samples": 0}, CasebackError, "samples=0"),
        ({"subject": [9]}, OutOfRange, "position 9"),
    ):
        with pytest.raises(error, match=told):
            causal_trace(model, PROMPTS, METRIC, **{**HOW, **given})


def test_an_interrupted_trace_goes_on_and_another_noise_is_another_trace(tmp_path):
    model, path = shelf.model("llama"), tmp_path / "trace.npz"
    whole = causal_trace(model, PROMPTS, METRIC, **HOW)
    causal_trace(model, PROMPTS, METRIC, checkpoint=path, **HOW)

    def lose(kept):
        kept["done"][::2] = False
        kept["values"][::2] = 0.0

    rewritten(path, lose)
    resumed = causal_trace(model, PROMPTS, METRIC, checkpoint=path, **HOW)
    np.testing.assert_allclose(resumed.indirect, whole.indirect, atol=1e-6)
    with pytest.raises(CasebackError, match="belongs to another sweep"):
        causal_trace(model, PROMPTS, METRIC, checkpoint=path, **{**HOW, "seed": 6})


def test_edits_given_to_all_variants_are_of_the_embeddings():
    from caseback.model.sweeping.sweep import sweep

    model = shelf.model("gpt2")
    tokens = model.tokens(PROMPTS)
    with exact():
        given = [cb.Add("embed", 0.3, pos=2), cb.Zero("pos_embed", pos=-1)]
        variants = [
            [cb.Zero("z", layer=1, head=0)],
            [cb.Scale("embed", 2.0, pos=2)],
            [cb.Zero("mlp_out", layer=0, pos=1)],
        ]
        values, base, *_ = sweep(model.anatomy, tokens, variants, METRIC, given=given)
        torch.testing.assert_close(base, METRIC(model.run(tokens, edits=given)))
        for value, edits in zip(values, variants, strict=True):
            torch.testing.assert_close(value, METRIC(model.run(tokens, edits=[*given, *edits])))
    for edit, told in ((cb.Zero("z"), "of 'embed' or 'pos_embed'"), (cb.Mean("embed"), "refers to the unedited run")):
        with pytest.raises(EditError, match=told):
            sweep(model.anatomy, tokens, variants, METRIC, given=edit)
