"""Synthesised inputs: a higher activation than at the start, the planted trigger found, no special tokens (4.3.15)."""

import pytest
import torch

import caseback as cb
import shelf
from caseback.decode.vocabulary.activating import synthesise_input
from caseback.decode.vocabulary.activating.synthesise import _replacements
from caseback.errors import OutOfRange, SiteAbsent, TokensError
from caseback.organisms.compiled import build
from exact import exact


@pytest.mark.parametrize(
    ("family", "site"),
    [("gpt2", "mlp_post"), ("llama", "mlp_post"), ("gemma2", "resid_post"), ("gptj", "z"), ("mixtral", "expert")]
    + [("bloom", "mlp_post"), ("llama", "logits")],
)
def test_the_activation_rises_and_is_the_model_s_own(family, site):
    model = shelf.model(family)
    layer = None if site == "logits" else 1
    with exact():
        made = synthesise_input(model, site, 2, layer=layer, heads="flat", length=4, steps=5, candidates=16)
        run = model.run([made.ids], read=[(site, layer)] if layer else [site])
        value = (run[site, layer] if layer else run.logits)[0, -1].flatten()[2]
    assert made.history == sorted(made.history) and made.history[-1] > made.history[0]
    assert made.value == pytest.approx(float(value), rel=1e-9) and len(made.history) == 6


def test_the_gradient_proposes_what_is_best_where_all_is_linear():
    """Of one token the embedding's own dimension is linear: the first step finds the largest of the vocabulary."""
    model = shelf.model("llama")
    matrix = model.hf.get_input_embeddings().weight.detach()
    made = synthesise_input(model, "embed", 5, length=1, steps=1, proposals=1, candidates=1)
    assert made.value == pytest.approx(float(matrix[: model.d_vocab, 5].max()))
    assert made.ids == [int(matrix[: model.d_vocab, 5].argmax())]


def test_the_planted_trigger_is_found():
    organism = build("planted_neurons")
    node = next(n for n, role in organism.circuit.roles.items() if role == "bigram: new york (5.2.12)")
    bos, *start = organism.tokens([["the", "old", "city"]]).ids[0].tolist()
    # at a bias of -1 either word alone does nothing: begin with one of the two
    new = organism.tokens([["new"]]).ids[0].tolist()[-1]
    made = synthesise_input(
        organism.model,
        "mlp_pre",
        node.index,
        layer=0,
        start=[bos, start[0], new, start[2]],
        fixed=1,
        steps=4,
        candidates=100,
    )
    assert made.text[-2:] == ["new", "york"] and made.value == pytest.approx(1)


def test_a_seed_repeats_a_search():
    model = cb.load("meadow")
    options = {"layer": 1, "length": 5, "steps": 2, "candidates": 8}
    first, again = (synthesise_input(model, "mlp_post", 7, seed=3, **options) for _ in range(2))
    assert first == again
    assert first.ids != synthesise_input(model, "mlp_post", 7, seed=4, **options).ids
    special = set(model.tokenizer.all_special_ids)
    assert first.ids[0] in special and not special & set(first.ids[1:])


def test_bad_input_says_what_is_wrong():
    model = cb.load("meadow")
    with pytest.raises(TokensError, match="is a special one"):
        synthesise_input(model, "mlp_post", 0, layer=0, start=[model.tokenizer.bos_token_id, 5])
    with pytest.raises(OutOfRange, match="0 steps"):
        synthesise_input(model, "mlp_post", 0, layer=0, steps=0)
    with pytest.raises(OutOfRange, match="3 fixed tokens of 2"):
        synthesise_input(model, "mlp_post", 0, layer=0, start=[5, 6], fixed=3)
    with pytest.raises(OutOfRange, match="unit 99999"):
        synthesise_input(model, "mlp_post", 99999, layer=0)
    with pytest.raises(SiteAbsent, match="has no units"):
        synthesise_input(model, "pattern", 0, layer=0)
    assert torch.is_grad_enabled() and all(p.requires_grad for p in model.hf.parameters())


def test_no_special_token_is_proposed_however_large_its_gain():
    gains = torch.tensor([[9.0, 8.0, 1.0, 0.5, 7.0]] * 2)
    made = _replacements([3, 4, 2], [1, 2], gains, [0, 1], 5, 100, torch.Generator().manual_seed(0))
    # at position 1 token 4 stands already, at position 2 token 2
    assert sorted(made) == [[3, 2, 2], [3, 3, 2], [3, 4, 3], [3, 4, 4]]
