"""A direction taken out of weights and out of runs: the same to rounding, or refused."""

import copy

import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.steering import directional_ablation, orthogonalized
from caseback.errors import CasebackError, EditError
from exact import exact

TEXTS = [[5, 1, 2, 3], [4, 5, 1, 9, 7, 2], [8, 3]]


def direction(d, seed=0):
    return torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def behind_a_norm(model):
    a = model.anatomy
    return a.embed_norm is not None or any(p.attn_post_norm or p.mlp_post_norm for p in a.layers)


@pytest.mark.parametrize("name", shelf.DISTINCT)
def test_weights_do_what_edits_do_or_are_refused(name):
    model = shelf.model(name)
    before, r = shelf.tensors(model.anatomy), direction(model.d_model)
    with exact():
        if behind_a_norm(model):
            with pytest.raises(CasebackError, match="norm behind .* directional_ablation gives edits"):
                orthogonalized(model, r, untie=True)
            return
        twin = orthogonalized(model, r, untie=True)
        edits = directional_ablation(model, r)
        for side in ("left", "right"):
            tokens = model.tokens(TEXTS, padding=side)
            wanted = model.run(tokens, edits=edits).logits[tokens.mask]
            assert torch.allclose(twin.run(tokens).logits[tokens.mask], wanted, atol=1e-10)
        plain = model.run(tokens).logits[tokens.mask]
        assert not torch.allclose(plain, wanted, atol=1e-3)
        whole, twins = (m.generate(TEXTS[0], max_new_tokens=5) for m in (model.edited(edits), twin))
        assert torch.equal(whole.ids, twins.ids)
    after = shelf.tensors(model.anatomy)
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gpt2", "gemma2"])
def test_the_stream_and_its_writes_are_one_where_writes_are_added(name):
    model = shelf.model(name)
    r = direction(model.d_model)
    with exact():
        runs = [
            model.run(TEXTS, edits=directional_ablation(model, r, where=where), read=["resid_post"])
            for where in ("writes", "stream")
        ]
        mask = model.tokens(TEXTS).mask
        assert torch.allclose(runs[0].logits[mask], runs[1].logits[mask], atol=1e-10)
        assert (runs[0]["resid_post"] @ r)[:, mask].abs().max() < 1e-10


def naive(model, r):
    """W_E, W_O and W_out by their projected matrices alone, in an untied copy: what circulates."""
    twin = copy.deepcopy(model)
    hf = twin.hf
    hf.lm_head.weight = torch.nn.Parameter(hf.lm_head.weight.detach().clone())
    unit = r / r.norm()
    with torch.no_grad():
        for tensor in (
            hf.model.embed_tokens.weight,
            *(m.weight.T for layer in hf.model.layers for m in (layer.self_attn.o_proj, layer.mlp.down_proj)),
        ):
            tensor -= (tensor @ unit)[:, None] * unit
    return twin


@pytest.mark.parametrize("name, exactly", [("llama", True), ("gemma2", False), ("llama_biased", False)])
def test_naive_weights_fail_behind_norms_and_with_biases(name, exactly):
    model = shelf.model(name)
    r = direction(model.d_model)
    with exact():
        wanted = model.run(TEXTS[1], edits=directional_ablation(model, r)).logits
        given = naive(model, r).run(TEXTS[1]).logits
    gap = float((given - wanted).abs().max())
    assert (gap < 1e-10) if exactly else (gap > 1e-2)


def test_a_tied_unembedding_is_parted_on_request_alone():
    model = shelf.model("llama_tied")
    r = direction(model.d_model)
    with pytest.raises(CasebackError, match="is its embedding.* untie=True"):
        orthogonalized(model, r)
    twin = orthogonalized(model, r, untie=True)
    assert torch.equal(twin.hf.lm_head.weight, model.hf.lm_head.weight)
    assert not twin.hf.config.tie_word_embeddings and model.hf.config.tie_word_embeddings


def test_a_copy_that_is_kept_is_the_same_when_it_is_read(tmp_path):
    model = shelf.model("llama_tied")
    twin = orthogonalized(model, direction(model.d_model), untie=True)
    twin.hf.save_pretrained(tmp_path)
    again = cb.load(tmp_path, attn_implementation="eager")
    assert torch.equal(again.run(TEXTS[0]).logits, twin.run(TEXTS[0]).logits)


@pytest.mark.parametrize(
    "vector, words",
    [
        (torch.ones(7), "a direction of width 7: the stream of .* is 32 wide"),
        (torch.zeros(32), "a direction of length 0.0"),
        (torch.full((32,), torch.nan), "a direction of length nan"),
        (torch.ones(2, 32), "2 directions: take one"),
        (torch.ones(32, dtype=torch.bool), "a direction of torch.bool"),
    ],
)
def test_what_is_no_direction_is_refused(vector, words):
    for act in (directional_ablation, orthogonalized):
        with pytest.raises(EditError, match=words):
            act(shelf.model("llama"), vector)
    with pytest.raises(EditError, match="where='everywhere'"):
        directional_ablation(shelf.model("llama"), torch.ones(32), where="everywhere")
