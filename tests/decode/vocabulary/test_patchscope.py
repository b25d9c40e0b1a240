"""PRIMER 4.3.8: a state written back where it was changes nothing; lenses are patchscopes into the end."""

import sys

import numpy as np
import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary import (
    TargetPrompt,
    description,
    fit_mapping,
    logit_lens,
    patchscope,
    read_lens,
    selfie,
    token_identity,
)
from caseback.decode.vocabulary.lenses.lens import Lens, stream_at
from caseback.decode.vocabulary.lenses.translators import MomentSums
from caseback.errors import CasebackError, OutOfRange, TargetError, TokensError
from exact import exact

# grouped heads, parallel blocks, post-norms with a cap, experts, uncentred norms, ALiBi
NAMES = ("gpt2", "llama", "gptj", "gpt_neox", "gemma2", "mixtral", "bloom")


@pytest.fixture(scope="module")
def meadow():
    return cb.load("meadow")


def a_lens(model, kind, rows, ahead=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    d = model.d_model
    weight = torch.eye(d) + 0.3 * torch.randn(len(rows), d, d, generator=generator, dtype=torch.float64)
    bias = torch.randn(len(rows), d, generator=generator, dtype=torch.float64)
    return Lens(kind, tuple(rows), weight, bias, model.n_layers, ahead)


@pytest.mark.parametrize("name", NAMES)
def test_4_3_8_a_state_written_where_it_was_changes_nothing(name):
    model, prompts = shelf.model(name), shelf.ids((6, 4), seed=1)
    with exact():
        found = patchscope(model, model.tokens(prompts, padding="left"), k=model.d_vocab)
        logits = [model.run([p]).logits[0, -1].softmax(-1).sort(descending=True) for p in prompts]
    for row, expected in enumerate(logits):
        n = len(prompts[row])
        assert np.abs(found["top_prob"].values[:, row, :n] - expected.values.numpy()).max() < 1e-10
        assert (found["top_id"].values[:, row, :n, 0] == int(expected.indices[0])).all()
    assert found["entropy"].isel(batch=1, pos=slice(4, None)).isnull().all()
    assert found.layer.values.tolist() == ["embed", *map(str, range(model.n_layers))]


@pytest.mark.parametrize("name", NAMES)
def test_4_3_8_into_the_end_it_is_the_logit_lens(name):
    model, prompts = shelf.model(name), shelf.ids((5, 3), seed=2)
    # any target prompt: nothing of it is left at its last position's end
    with exact():
        found = patchscope(model, prompts, shelf.ids((4,), seed=9), target_row=model.n_layers, k=3)
        lens = logit_lens(model, prompts, k=3)
    assert np.allclose(found["top_prob"], lens["top_prob"], atol=1e-10, equal_nan=True)
    assert (found["top_id"].values == lens["top_id"].values).all()
    assert np.allclose(found["entropy"], lens["entropy"], atol=1e-10, equal_nan=True)
    # the end's own reading is the source's own prediction
    assert np.allclose(found["hit"].isel(layer=-1, batch=0), 1) and float(found["precision_at_1"][-1].min()) == 1


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gptj"])
@pytest.mark.parametrize(("kind", "ahead"), [("tuned", 0), ("future", 2)])
def test_4_3_8_into_the_end_through_a_lens_it_is_that_lens(name, kind, ahead):
    model, prompts = shelf.model(name), shelf.ids((6, 4), seed=3)
    lens = a_lens(model, kind, range(model.n_layers + (1 if ahead else 0)), ahead)
    with exact():
        read = read_lens(model, prompts, lens, k=4)
        found = patchscope(model, prompts, [1, 2], target_row=model.n_layers, mapping=lens, k=4)
    for row, prompt in enumerate(prompts):
        n = len(prompt) - ahead
        for name in ("top_prob", "top_id"):
            assert np.allclose(found[name].values[:, row, :n], read[name].values[:, row, :n], atol=1e-10)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "gptj", "mixtral"])
def test_4_3_8_any_cell_of_the_grid_is_that_run_with_one_edit(name):
    model, prompts, target = shelf.model(name), shelf.ids((5, 3), seed=4), [3, 1, 4, 1, 5]
    weight = torch.randn(model.d_model, model.d_model, dtype=torch.float64)
    with exact():
        found = patchscope(
            model,
            prompts,
            target,
            rows=[2, 0],
            pos=[-1, 0],
            target_pos=[1, 3],
            mapping=weight,
            answers=[7, 8],
            k=model.d_vocab,
            token_budget=12,
        )
        for i, row in enumerate((2, 0)):
            for j, at in enumerate((-1, 0)):
                for b, prompt in enumerate(prompts):
                    site = stream_at(model, row)
                    h = model.run([prompt], read=[site])[site.name, site.layer][0, at] @ weight
                    edit = cb.Replace(site.name, h, layer=site.layer, pos=[1, 3])
                    log_p = model.run([target], edits=[edit]).logits[0, -1].log_softmax(-1)
                    assert np.allclose(found["top_prob"][i, b, j], log_p.exp().sort(descending=True).values, atol=1e-10)
                    assert np.isclose(found["surprisal"][i, b, j], -float(log_p[7 + b]), atol=1e-9)
                    assert found["rank"][i, b, j] == int((log_p > log_p[7 + b]).sum()) + 1
    assert found.pos.values.tolist() == [-1, 0] and found["answer"].values[1, 0] == "8"


def test_4_3_8_generation_is_under_the_state_written_while_the_prompt_is_read():
    model, prompts, target = shelf.model("llama"), shelf.ids((5, 3), seed=5), [3, 1, 4, 1]
    h = model.run(prompts[:1], read=[("resid_pre", 1)])["resid_pre", 1][0, 2]
    edit = cb.Replace("resid_pre", h, layer=2, pos=1)
    expected = model.generate([target], edits=[edit], max_new_tokens=6)
    found = patchscope(model, prompts, target, rows=[1], target_row=2, target_pos=1, max_new_tokens=6)
    assert found["said"].values[0, 0, 2] == "".join(expected.text[0][4:])
    assert found["said"].values[0, 1, 3] == ""
    # written once: in greedy decoding without a cache it would be the same
    slow = patchscope(model, prompts, target, rows=[1], target_row=2, target_pos=1, max_new_tokens=6, use_cache=False)
    assert (slow["said"].values == found["said"].values).all()
    assert found["top_text"].values[0, 0, 2, 0] == expected.text[0][4]


def test_padding_and_chunks_change_nothing():
    model, prompts = shelf.model("llama"), shelf.ids((6, 3), seed=6)
    targets = shelf.ids((4, 7), seed=7)
    with exact():
        whole = patchscope(model, prompts, targets, k=3, max_new_tokens=2)
        pieces = patchscope(
            model, model.tokens(prompts, padding="left"), targets, k=3, max_new_tokens=2, token_budget=9
        )
        few = patchscope(model, prompts, targets, k=3, max_new_tokens=2, max_logits=3 * model.d_vocab)
        alone = patchscope(model, prompts[1:], targets[1:], k=3, max_new_tokens=2)
    for name in ("top_prob", "entropy", "surprisal"):
        assert np.allclose(whole[name], pieces[name], atol=1e-10, equal_nan=True)
        assert np.allclose(whole[name], few[name], atol=1e-10, equal_nan=True)
        assert np.allclose(whole[name].values[:, 1, :3], alone[name].values[:, 0], atol=1e-10)
    assert (whole["said"].values == pieces["said"].values).all()
    assert (whole["said"].values[:, 1, :3] == alone["said"].values[:, 0]).all()


def test_across_models_through_a_fitted_map():
    small, other = shelf.model("gpt2"), shelf.model("llama")
    corpus = shelf.ids((12,) * 30, seed=8)
    same = fit_mapping(other, other, corpus, row=1, target_row=1, ridge=0.0)
    assert torch.allclose(same.weight, torch.eye(other.d_model, dtype=torch.float64), atol=1e-6)
    assert same.explained > 1 - 1e-9
    across = fit_mapping(small, other, corpus, row=2, target_row=1)
    assert across.weight.shape == (small.d_model, other.d_model)
    prompts = shelf.ids((5,), seed=9)
    found = patchscope(small, prompts, [1, 2, 3], rows=[2], target_row=1, mapping={2: across}, target_model=other)
    h = small.run(prompts, read=[("resid_pre", 2)])["resid_pre", 2][0, 4]
    edit = cb.Replace("resid_pre", across(h), layer=1, pos=-1)
    expected = other.run([[1, 2, 3]], edits=[edit]).logits[0, -1].softmax(-1).max()
    assert np.isclose(found["top_prob"].values[0, 0, 4, 0], float(expected))
    with pytest.raises(CasebackError, match="empty"):
        fit_mapping(other, other, [], row=1, target_row=1)
    with pytest.raises(OutOfRange, match="row 9"):
        fit_mapping(other, other, corpus, row=9, target_row=1)


def test_a_map_between_widths_is_found_exactly():
    x, weight, bias = (torch.randn(*size, dtype=torch.float64) for size in ((40, 5), (5, 3), (3,)))
    sums = MomentSums(5, 3)
    sums.add(x, x @ weight + bias)
    found, shift, explained = sums.solve(bias=True, ridge=0.0)
    assert torch.allclose(found, weight) and torch.allclose(shift, bias) and explained > 1 - 1e-9


def test_ready_targets(meadow):
    for made in (token_identity(), description(), selfie(before="", after=" said", placeholder=" the", times=3)):
        tokens = meadow.tokens(made.text)
        places = made.places(tokens)
        assert all(tokens.text[0][p].strip() == made.placeholder.strip() for p in places)
        assert len(places) == (3 if made.which == "all" else 1)
    found = patchscope(meadow, "Mary went to the store", token_identity(), rows=1, pos=-1, max_new_tokens=3)
    assert found["said"].dims == ("layer", "batch") and found["said"].values[0, 0] != ""
    assert found["token"].values[0] == " store"
    assert found.to_netcdf() is not None and found.attrs["entry"] == "4.3.8, 4.3.7"


def test_bad_input_is_refused():
    model = shelf.model("gpt2")
    narrow = torch.randn(model.d_model, model.d_model + 1, dtype=torch.float64)
    with pytest.raises(CasebackError, match="mapping gave"):
        patchscope(model, [1, 2], [3, 4], mapping=narrow)
    with pytest.raises(CasebackError, match="expected h @ W"):
        patchscope(model, [1, 2], [3, 4], mapping=narrow.T)
    with pytest.raises(CasebackError, match="mapping gave NoneType"):
        patchscope(model, [1, 2], [3, 4], mapping=lambda h: None)
    with pytest.raises(OutOfRange, match="no mapping for row 1"):
        patchscope(model, [1, 2], [3, 4], rows=[1], mapping={0: narrow})
    for wrong in (
        {"rows": [9]},
        {"target_row": 9},
        {"pos": 2},
        {"target_pos": 5},
        {"k": 0},
        {"pos": []},
        {"max_logits": 0},
        {"max_new_tokens": -1},
    ):
        with pytest.raises(OutOfRange):
            patchscope(model, [1, 2], [3, 4], **wrong)
    with pytest.raises(TargetError, match="3 target prompts for 2"):
        patchscope(model, [[1, 2], [3, 4]], [[1], [2], [3]])
    with pytest.raises(TargetError, match=r"answers of shape \(1, 1\)"):
        patchscope(model, [1, 2], [3, 4], answers=torch.tensor([[1]]))
    with pytest.raises(TargetError, match="outside the vocabulary"):
        patchscope(model, [1, 2], [3, 4], answers=torch.tensor([[1, 10**6]]))


def nothing_runs(monkeypatch):
    from caseback.decode.vocabulary import patchscope as module

    def ran(*_, **__):
        raise AssertionError("the model was run")

    monkeypatch.setattr(sys.modules[module.__module__], "execute", ran)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2"])
def test_what_is_generated_must_fit_the_context(name, monkeypatch):
    model = shelf.model(name)
    room = model.context
    long, short = shelf.ids((room - 2, 3), seed=1)
    # the last token generated is not read again
    found = patchscope(model, [1, 2], long, rows=1, pos=-1, max_new_tokens=3, min_new_tokens=3)
    assert found["said"].shape == (1, 1)
    patchscope(model, long, short, rows=1, pos=-1, max_new_tokens=room - 2)
    nothing_runs(monkeypatch)
    for target in (long, [long], [short, long], None):
        source = [[1, 2], long] if target is None else [[1, 2], [3, 4]]
        with pytest.raises(OutOfRange, match=rf"4 tokens .* target prompt of {room - 2}: .* {room + 1} .* {room}:"):
            patchscope(model, source, target, rows=1, max_new_tokens=4)
    past = cb.Tokens(torch.ones(1, room + 1, dtype=torch.long), torch.ones(1, room + 1).bool(), [["1"] * (room + 1)])
    for source, target in ((past, short), (short, past), (short, [1] * (room + 1))):
        with pytest.raises(TokensError, match=f"{room + 1} tokens, the model's context is {room}"):
            patchscope(model, source, target, rows=1)


def test_a_model_without_a_declared_context_has_no_limit():
    model = shelf.model("bloom")
    assert model.context is None
    found = patchscope(model, [1, 2], [3, 4], rows=1, pos=-1, max_new_tokens=3)
    assert found["said"].shape == (1, 1)


def test_widths_that_differ_and_no_mapping_are_refused(assets, meadow):
    other = cb.load(assets / "models" / "stories260K")
    assert other.d_model != meadow.d_model
    with pytest.raises(CasebackError, match="give a mapping"):
        patchscope(meadow, "Mary went", "Once upon a", target_model=other, rows=[1])
    with pytest.raises(CasebackError, match="is the placeholder 'zebra'"):
        patchscope(meadow, "Mary went", TargetPrompt("Mary went to", "zebra"))
    found = patchscope(
        meadow, "Mary went", "Once upon a", target_model=other, rows=[1], mapping=lambda h: h[:, : other.d_model]
    )
    # another vocabulary, so nothing is known that should be said
    assert "surprisal" not in found and "top_text" in found
